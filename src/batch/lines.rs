//! The lines of an object, within limits: whoever can write to the lake can write anything.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;

use flate2::bufread::MultiGzDecoder;

/// A record has at most 10 MiB, and its base64 may be in base64 once more.
const LINE_BYTES_MAX: usize = 32 << 20;
/// A batch has at most 1 GiB of rows and one more.
pub const OBJECT_BYTES_MAX: u64 = 2 << 30;

/// The object cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BrokenObject {
    /// Not gzip, or cut off.
    #[error("the object is not a complete gzip file")]
    Gzip(#[source] std::io::Error),
    /// Something behind the last line end.
    #[error("the last line of the object has no line end")]
    NoLineEnd,
    /// It unpacks to more than any object of ours.
    #[error("the object decompresses to more than 2 GiB, which no object of kinetide does")]
    TooLarge,
}

/// A line that is longer than any of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Gives `each` the lines of a gzip object of one or more members, numbered from 1, until it breaks.
///
/// # Errors
/// When the object is broken; the lines before that were given.
pub fn each_line(
    object: &[u8],
    mut each: impl FnMut(u64, Result<&[u8], TooLong>) -> ControlFlow<()>,
) -> Result<(), BrokenObject> {
    let mut gzip = BufReader::with_capacity(64 << 10, MultiGzDecoder::new(object));
    let mut line = Vec::new();
    let (mut number, mut bytes) = (0, 0);
    // The line goes on, or has become too long.
    let (mut begun, mut too_long) = (false, false);
    loop {
        let chunk = gzip.fill_buf().map_err(BrokenObject::Gzip)?;
        if chunk.is_empty() {
            return if begun { Err(BrokenObject::NoLineEnd) } else { Ok(()) };
        }
        let end = memchr::memchr(b'\n', chunk);
        let text = &chunk[..end.unwrap_or(chunk.len())];
        if too_long || line.len() + text.len() > LINE_BYTES_MAX {
            too_long = true;
            line.clear();
        } else {
            line.extend_from_slice(text);
        }
        begun = end.is_none();
        let taken = text.len() + usize::from(end.is_some());
        bytes += taken as u64;
        gzip.consume(taken);
        if bytes > OBJECT_BYTES_MAX {
            return Err(BrokenObject::TooLarge);
        }
        if !begun {
            number += 1;
            if each(number, if too_long { Err(TooLong) } else { Ok(&line) }).is_break() {
                return Ok(());
            }
            line.clear();
            too_long = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    type Seen = Vec<(u64, Result<String, TooLong>)>;

    fn lines(object: &[u8]) -> (Seen, Result<(), BrokenObject>) {
        let mut seen = Vec::new();
        let outcome = each_line(object, |number, line| {
            seen.push((number, line.map(|line| String::from_utf8(line.to_vec()).unwrap())));
            ControlFlow::Continue(())
        });
        (seen, outcome)
    }

    fn numbers(object: &[u8]) -> (Vec<u64>, Result<(), BrokenObject>) {
        let (seen, outcome) = lines(object);
        (seen.into_iter().map(|(number, _)| number).collect(), outcome)
    }

    #[test]
    fn lines_count_over_all_members() {
        let object = [gzip(b"a\nb"), gzip(b"\n"), gzip(b""), gzip(b"\nc\n")].concat();
        let (seen, outcome) = lines(&object);
        assert!(outcome.is_ok());
        let expected = [(1, "a"), (2, "b"), (3, ""), (4, "c")];
        assert_eq!(seen, expected.map(|(number, line)| (number, Ok(line.to_owned()))));
        assert!(matches!(numbers(&gzip(b"")), (none, Ok(())) if none.is_empty()));
    }

    #[test]
    fn what_is_broken_is_said_after_what_could_be_read() {
        let whole = gzip(b"a\nb\n");
        assert!(matches!(numbers(&whole[..whole.len() - 1]).1, Err(BrokenObject::Gzip(_))));
        assert!(matches!(numbers(b"").1, Err(BrokenObject::Gzip(_))));
        let rubbish = [&whole[..], b"x"].concat();
        assert!(matches!(numbers(&rubbish), (seen, Err(BrokenObject::Gzip(_))) if seen == [1, 2]));
        assert!(matches!(numbers(&gzip(b"a\nb")), (seen, Err(BrokenObject::NoLineEnd)) if seen == [1]));
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut long = vec![b'x'; LINE_BYTES_MAX + 100_000];
        long.extend_from_slice(b"\n{}\n");
        let (seen, outcome) = lines(&gzip(&long));
        assert!(outcome.is_ok());
        assert_eq!(seen, [(1, Err(TooLong)), (2, Ok("{}".to_owned()))]);
    }
}
