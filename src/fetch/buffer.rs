//! The buffer that a body is received into, or a page is made in.

use bytes::Bytes;
use memmap2::MmapMut;

/// Bodies from this size on get memory of their own from the system. The allocator would keep it after use, spread over
/// its arenas: a worker under full load then takes up to twice its byte budget.
const MAPPED_FROM: usize = 1 << 20;

/// A body on its way, of an announced length or not.
pub(super) enum Buffer {
    Heap(Vec<u8>),
    Mapped { map: MmapMut, filled: usize },
}

impl Buffer {
    /// Room for `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        if length >= MAPPED_FROM
            && let Ok(map) = MmapMut::map_anon(length)
        {
            return Self::Mapped { map, filled: 0 };
        }
        // Reserving what is announced avoids a second copy while the buffer doubles.
        Self::Heap(Vec::with_capacity(length))
    }

    /// Appends a piece; false when there is more than was announced.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        match self {
            Self::Heap(bytes) => bytes.extend_from_slice(piece),
            Self::Mapped { map, filled } => {
                let end = *filled + piece.len();
                let Some(room) = map.get_mut(*filled..end) else { return false };
                room.copy_from_slice(piece);
                *filled = end;
            }
        }
        true
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
            Self::Mapped { map, filled } => Bytes::from_owner(map).slice(..filled),
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
            assert_eq!(buffer.finish(), bytes);
        }
    }

    #[test]
    fn more_than_announced_is_refused_and_less_is_seen() {
        let mut buffer = Buffer::new(MAPPED_FROM);
        assert!(buffer.push(&vec![1; MAPPED_FROM - 1]));
        assert!(!buffer.push(&[1, 2]));
        assert_eq!(buffer.finish().len(), MAPPED_FROM - 1);
    }
}
