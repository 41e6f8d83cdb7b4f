//! The bytes of an event stream → its messages. Pure; a length is checked before anything is reserved for it.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use bytes::{Buf, BytesMut};

use crate::fetch::buffer::Buffer;

/// What comes before the headers: two lengths and their checksum.
const PRELUDE_BYTES: usize = 12;
/// The prelude, no headers, no payload, a checksum.
const MESSAGE_BYTES_MIN: usize = PRELUDE_BYTES + 4;

/// Why bytes are no message. It quotes nothing.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length cannot be.
    #[error("an event of {0} bytes was announced, which cannot be")]
    Length(usize),
    /// A checksum does not match, or the headers are none.
    #[error("an event is damaged")]
    Damaged,
}

/// Takes pieces as they come, and gives messages, each in memory of its own size: a batch may hold one for minutes.
#[derive(Default)]
pub struct Frames {
    /// What has come and is not in `begun`.
    spare: BytesMut,
    begun: Option<Begun>,
}

/// A message for which there is memory.
struct Begun {
    buffer: Buffer,
    missing: usize,
    length: usize,
}

impl Frames {
    /// The next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        if let Some(begun) = &mut self.begun {
            let (now, later) = piece.split_at(begun.missing.min(piece.len()));
            begun.buffer.push(now);
            begun.missing -= now.len();
            piece = later;
        }
        self.spare.extend_from_slice(piece);
    }

    /// How long the next message is, once that is known.
    ///
    /// # Errors
    /// When it would be shorter than any or longer than `max`.
    pub fn announced(&self, max: usize) -> Result<Option<usize>, FrameError> {
        if let Some(begun) = &self.begun {
            return Ok(Some(begun.length));
        }
        if self.spare.len() < PRELUDE_BYTES {
            return Ok(None);
        }
        let length = usize::try_from((&self.spare[..4]).get_u32()).unwrap_or(usize::MAX);
        if (MESSAGE_BYTES_MIN..=max).contains(&length) {
            Ok(Some(length))
        } else {
            Err(FrameError::Length(length))
        }
    }

    /// The next message, once it is whole. Its memory is taken at the first try: ask when there is room for it.
    ///
    /// # Errors
    /// When it is damaged, or its length cannot be.
    pub fn take(&mut self, max: usize) -> Result<Option<Message>, FrameError> {
        if self.begun.is_none() {
            let Some(length) = self.announced(max)? else { return Ok(None) };
            let mut buffer = Buffer::new(length);
            let there = self.spare.split_to(length.min(self.spare.len()));
            buffer.push(&there);
            self.begun = Some(Begun { buffer, missing: length - there.len(), length });
        }
        let Some(whole) = self.begun.take_if(|begun| begun.missing == 0) else { return Ok(None) };
        read_message_from(whole.buffer.finish().into_bytes()).map(Some).map_err(|_| FrameError::Damaged)
    }

    /// Whether no message has begun.
    pub fn is_empty(&self) -> bool {
        self.spare.is_empty() && self.begun.is_none()
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let message = Message::new(payload.to_vec())
            .add_header(Header::new(":event-type", HeaderValue::String("SubscribeToShardEvent".into())));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_kept_for_it() {
        for length in [0u32, 15, u32::try_from(MAX).unwrap() + 1, u32::MAX] {
            let mut frames = Frames::default();
            frames.push(&[&length.to_be_bytes()[..], &[0; 8]].concat());
            assert!(matches!(frames.announced(MAX), Err(FrameError::Length(_))), "{length}");
            assert!(frames.take(MAX).is_err() && frames.begun.is_none());
        }
    }

    #[test]
    fn a_damaged_message_is_no_message() {
        let whole = encoded(b"{\"Records\":[]}");
        for at in 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let mut frames = Frames::default();
            frames.push(&damaged);
            assert!(matches!(frames.take(MAX), Err(FrameError::Damaged)), "byte {at}");
        }
    }

    proptest! {
        /// However the bytes are cut, the same messages come out, and each length is known before its end.
        #[test]
        fn any_cut_gives_the_same_messages(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
                                           cuts in prop::collection::vec(1usize..90, 1..60)) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            let (mut frames, mut rest, mut got) = (Frames::default(), &bytes[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                frames.push(piece);
                while let Some(message) = frames.take(MAX).unwrap() {
                    got.push(message.payload().to_vec());
                }
            }
            prop_assert!(frames.is_empty());
            prop_assert_eq!(got, payloads);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.take(MAX) {}
            prop_assert!(frames.spare.len() <= bytes.len());
        }
    }
}
