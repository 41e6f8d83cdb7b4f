//! The buffer that a body is received into, or a page is made in.

use base64_simd::AsOut;
use bytes::Bytes;
use memmap2::MmapMut;

use super::spare;

/// Bodies from this size on get memory of their own, which later ones get again (`spare`). The allocator would keep it after
/// use, spread over its arenas: a worker under full load then takes up to twice its byte budget.
const MAPPED_FROM: usize = 1 << 20;

/// A body on its way, of an announced length or not.
pub(super) enum Buffer {
    Heap(Vec<u8>),
    Mapped { map: MmapMut, room: usize, filled: usize },
}

impl Buffer {
    /// Room for `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        if length >= MAPPED_FROM
            && let Some(map) = spare::take(length)
        {
            return Self::Mapped { map, room: length, filled: 0 };
        }
        // Reserving what is announced avoids a second copy while the buffer doubles.
        Self::Heap(Vec::with_capacity(length))
    }

    /// Appends a piece; false when there is more than was announced.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        match self {
            Self::Heap(bytes) => bytes.extend_from_slice(piece),
            Self::Mapped { map, room, filled } => {
                let end = *filled + piece.len();
                if end > *room {
                    return false;
                }
                map[*filled..end].copy_from_slice(piece);
                *filled = end;
            }
        }
        true
    }

    /// Appends what base64 text says; `None` when it is none, or more than was announced.
    pub(super) fn push_base64(&mut self, text: &[u8]) -> Option<()> {
        match self {
            Self::Heap(bytes) => base64_simd::STANDARD.decode_append(text, bytes).ok(),
            Self::Mapped { map, room, filled } => {
                let length = base64_simd::STANDARD.decoded_length(text).ok()?;
                let end = (*filled + length <= *room).then_some(*filled + length)?;
                base64_simd::STANDARD.decode(text, map[*filled..end].as_out()).ok()?;
                *filled = end;
                Some(())
            }
        }
    }

    /// Takes back all behind the first `length` bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        match self {
            Self::Heap(bytes) => bytes.truncate(length),
            Self::Mapped { filled, .. } => *filled = length.min(*filled),
        }
    }

    /// What there is so far.
    pub(super) fn filled(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped { map, filled, .. } => &map[..*filled],
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Heap(bytes) => bytes.len(),
            Self::Mapped { filled, .. } => *filled,
        }
    }

    /// What was received.
    pub(super) fn finish(self) -> Bytes {
        match self {
            Self::Heap(bytes) => bytes.into(),
            Self::Mapped { map, filled, .. } => spare::lend(map, filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_bodies_come_out_as_they_went_in() {
        for length in [0, 10, MAPPED_FROM, MAPPED_FROM + 12_345] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut buffer = Buffer::new(length);
            assert_eq!(matches!(buffer, Buffer::Mapped { .. }), length >= MAPPED_FROM);
            assert!(bytes.chunks(1000).all(|piece| buffer.push(piece)));
            assert_eq!(buffer.filled(), bytes);
            buffer.truncate(length / 2);
            assert_eq!(buffer.finish(), bytes[..length / 2]);
        }
    }

    #[test]
    fn text_is_decoded_where_it_is_to_be() {
        for room in [10, MAPPED_FROM] {
            let mut buffer = Buffer::new(room);
            assert!(buffer.push(b"one"));
            assert_eq!(buffer.push_base64(b"dHdv"), Some(()));
            assert_eq!((buffer.push_base64(b"dHdv~"), buffer.len()), (None, 6));
            assert_eq!(buffer.push_base64(b"IQ=="), Some(()));
            assert_eq!(buffer.finish(), &b"onetwo!"[..]);
        }
        let mut full = Buffer::new(MAPPED_FROM);
        assert!(full.push(&vec![0; MAPPED_FROM - 2]));
        assert_eq!((full.push_base64(b"dHdv"), full.push_base64(b"dHc=")), (None, Some(())));
    }

    #[test]
    fn more_than_announced_is_refused_and_less_is_seen() {
        let mut buffer = Buffer::new(MAPPED_FROM);
        assert!(buffer.push(&vec![1; MAPPED_FROM - 1]));
        assert!(!buffer.push(&[1, 2]));
        assert_eq!(buffer.finish().len(), MAPPED_FROM - 1);
    }
}
