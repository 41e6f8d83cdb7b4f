//! Compressed batches: all codecs of Kafka, each in Rust, never to more bytes than are allowed. Pure.

use std::io::Read;

/// What Java producers put before blocks of snappy.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// Their version and the oldest that can read it come after it.
const XERIAL_HEADER: usize = XERIAL.len() + 8;

/// Why a batch could not be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("it is compressed by the unknown codec {0}")]
    Unknown(u8),
    #[error("it is longer than {0} bytes when it is unpacked")]
    TooLong(usize),
    #[error("it cannot be unpacked: {0}")]
    Broken(String),
}

fn broken(error: impl ToString) -> CodecError {
    CodecError::Broken(error.to_string())
}

/// The bytes of a batch whose codec is this, at most `most`; as they are where there is none.
pub(super) fn unpacked(codec: u8, data: &[u8], most: usize) -> Result<Vec<u8>, CodecError> {
    match codec {
        1 => read(flate2::read::MultiGzDecoder::new(data), most),
        2 => snappy(data, most),
        3 => read(lz4_flex::frame::FrameDecoder::new(data), most),
        4 => read(ruzstd::decoding::StreamingDecoder::new(data).map_err(broken)?, most),
        codec => Err(CodecError::Unknown(codec)),
    }
}

fn read(packed: impl Read, most: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    packed.take(most as u64 + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() > most { Err(CodecError::TooLong(most)) } else { Ok(bytes) }
}

/// Blocks as Java producers write them, or one block.
fn snappy(data: &[u8], most: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    let mut block = |block: &[u8]| {
        let length = snap::raw::decompress_len(block).map_err(broken)?;
        let start = bytes.len();
        if length > most - start {
            return Err(CodecError::TooLong(most));
        }
        bytes.resize(start + length, 0);
        snap::raw::Decoder::new().decompress(block, &mut bytes[start..]).map_err(broken).map(drop)
    };
    if !data.starts_with(XERIAL) {
        block(data)?;
        return Ok(bytes);
    }
    let mut rest = data.get(XERIAL_HEADER..).ok_or_else(|| broken("a header that is cut off"))?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (one, after) = after.split_at_checked(length).ok_or_else(|| broken("a block that is cut off"))?;
        block(one)?;
        rest = after;
    }
    if rest.is_empty() { Ok(bytes) } else { Err(broken("a length that is cut off")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MOST: usize = 1 << 20;

    fn packed(codec: u8, data: &[u8]) -> Vec<u8> {
        match codec {
            1 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(data).unwrap();
                gzip.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(data).unwrap(),
            3 => {
                let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
                lz4.write_all(data).unwrap();
                lz4.finish().unwrap()
            }
            _ => ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest),
        }
    }

    #[test]
    fn each_codec_gives_back_what_was_packed_and_not_more_than_is_allowed() {
        for data in [Vec::new(), b"x".to_vec(), b"abcd".repeat(50_000)] {
            for codec in 1..=4 {
                let packed = packed(codec, &data);
                assert_eq!(unpacked(codec, &packed, MOST).as_ref(), Ok(&data), "codec {codec}");
                if data.len() > 10 {
                    assert_eq!(
                        unpacked(codec, &packed, 1000),
                        Err(CodecError::TooLong(1000)),
                        "codec {codec}"
                    );
                    let cut = unpacked(codec, &packed[..packed.len() / 2], MOST);
                    assert!(matches!(cut, Err(CodecError::Broken(_))), "codec {codec}: {cut:?}");
                }
            }
        }
        assert_eq!(unpacked(5, b"", MOST), Err(CodecError::Unknown(5)));
    }

    #[test]
    fn snappy_of_java_comes_in_blocks() {
        let mut blocks = [XERIAL, &[0, 0, 0, 1, 0, 0, 0, 1][..]].concat();
        for part in ["one ", "two"] {
            let block = packed(2, part.as_bytes());
            blocks.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes());
            blocks.extend_from_slice(&block);
        }
        assert_eq!(unpacked(2, &blocks, MOST).unwrap(), b"one two");
        assert_eq!(unpacked(2, &blocks, 5), Err(CodecError::TooLong(5)));
        for length in XERIAL.len()..blocks.len() {
            let cut = unpacked(2, &blocks[..length], MOST);
            assert!(cut.is_err() || length == XERIAL_HEADER || cut.as_deref() == Ok(b"one "), "{length}");
        }
    }
}
