//! The buffer that a body is received into, and what a page lies in.

use std::ops::Deref;

use bytes::Bytes;
use memmap2::MmapMut;

use super::spare::{self, Lent};

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

    /// What was received.
    pub(super) fn finish(self) -> Body {
        Body(match self {
            Self::Heap(bytes) => Memory::Own(bytes),
            Self::Mapped { map, filled, .. } => Memory::Mapped(Lent::of(map, filled)),
        })
    }
}

/// The bytes that a page lies in.
#[derive(Clone, Debug)]
pub struct Body(Memory);

#[derive(Debug)]
enum Memory {
    /// Others may read them too.
    Shared(Bytes),
    Own(Vec<u8>),
    Mapped(Lent),
}

impl Body {
    /// Its bytes, to be changed. Those that others may read too are copied before.
    pub(super) fn to_mut(&mut self) -> &mut [u8] {
        if let Memory::Shared(bytes) = &mut self.0 {
            let bytes = std::mem::take(bytes);
            self.0 = if bytes.is_unique() { Memory::Own(bytes.into()) } else { Memory::copy(&bytes) };
        }
        match &mut self.0 {
            Memory::Shared(_) => unreachable!("it has memory of its own now"),
            Memory::Own(bytes) => bytes,
            Memory::Mapped(lent) => lent.as_mut(),
        }
    }

    /// For a reader that takes no other bytes.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.0 {
            Memory::Shared(bytes) => bytes,
            Memory::Own(bytes) => bytes.into(),
            Memory::Mapped(lent) => Bytes::from_owner(lent),
        }
    }
}

impl Memory {
    fn copy(bytes: &[u8]) -> Self {
        let mut own = Buffer::new(bytes.len());
        assert!(own.push(bytes), "there is room for all of it");
        own.finish().0
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Shared(bytes) => bytes,
            Memory::Own(bytes) => bytes,
            Memory::Mapped(lent) => lent.as_ref(),
        }
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        match self {
            Self::Shared(bytes) => Self::Shared(bytes.clone()),
            Self::Own(bytes) => Self::copy(bytes),
            Self::Mapped(lent) => Self::copy(lent.as_ref()),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Memory::Shared(bytes.into()))
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
            let mut body = buffer.finish();
            let (shared, copy) = (body.clone().into_bytes(), body.clone());
            let mut of_shared = Body::from(shared.clone());
            for body in [&mut body, &mut of_shared] {
                assert_eq!(**body, bytes);
                body.to_mut().fill(251);
                assert!(body.iter().all(|byte| *byte == 251) && body.len() == length);
            }
            assert_eq!((&*copy, &*shared), (&*bytes, &*bytes), "what others read has not changed");
            assert_eq!(body.into_bytes(), vec![251; length]);
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
