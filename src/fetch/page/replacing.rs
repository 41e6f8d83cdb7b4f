//! Records of a page that become those which are in them, in the memory of that page.

use std::ops::Range;

use base64_simd::AsOut;

use super::{PAGE_BYTES, Page, Payload, Span, narrow, wide};

/// A page in the making: aggregates become the records that are in them, where they lie. Nothing is copied: fresh memory for
/// what is unpacked would cost more than the unpacking.
pub(in crate::fetch) struct Replacing {
    page: Page,
    spans: Vec<Span>,
    subs: Vec<Option<u32>>,
}

/// A record of the page before, as it lies in it.
pub(in crate::fetch) struct Lying {
    span: Span,
    sub: Option<u32>,
}

impl Lying {
    /// True for a stream record that is not unpacked yet.
    pub(in crate::fetch) fn is_whole(&self) -> bool {
        self.sub.is_none()
    }
}

impl Replacing {
    /// Takes the records of a page out of it, for each to be kept, left out, or replaced by those that are in it.
    pub(in crate::fetch) fn of(mut page: Page) -> (Self, Vec<Lying>) {
        let (spans, mut subs) = (std::mem::take(&mut page.spans), std::mem::take(&mut page.subs));
        subs.resize(spans.len(), None);
        let records: Vec<_> = spans.into_iter().zip(subs).map(|(span, sub)| Lying { span, sub }).collect();
        (
            Self { page, spans: Vec::with_capacity(records.len()), subs: Vec::with_capacity(records.len()) },
            records,
        )
    }

    /// The payload of a whole record as it is in the page.
    pub(in crate::fetch) fn payload(&self, record: &Lying) -> Payload<'_> {
        self.page.payload(&record.span, record.is_whole())
    }

    /// Decodes the payload of a whole record, and says where it is now; `None`, and nothing has changed: it is not base64.
    pub(in crate::fetch) fn decode(&mut self, record: &Lying) -> Option<Range<usize>> {
        let Range { start, end } = wide(&record.span.payload);
        if !self.page.base64 {
            return Some(start..end);
        }
        let length = decode_in_place(&mut self.page.body.to_mut()[start..end])?;
        Some(start..start + length)
    }

    /// What was decoded.
    pub(in crate::fetch) fn decoded(&self, at: &Range<usize>) -> &[u8] {
        &self.page.body[at.clone()]
    }

    /// Undoes [`Replacing::decode`] of a record.
    pub(in crate::fetch) fn encode(&mut self, record: &Lying, at: &Range<usize>) {
        if self.page.base64 {
            encode_in_place(&mut self.page.body.to_mut()[wide(&record.span.payload)], at.len());
        }
    }

    /// A record as it is.
    pub(in crate::fetch) fn keep(&mut self, record: &Lying) {
        self.spans.push(record.span.clone());
        self.subs.push(record.sub);
    }

    /// What a record packs: key and payload of each, as ranges of the payload that was decoded to `start`. Keys are UTF-8.
    pub(in crate::fetch) fn place(
        &mut self,
        record: &Lying,
        start: usize,
        parts: impl ExactSizeIterator<Item = (Range<usize>, Range<usize>)>,
    ) {
        let inside = |range: Range<usize>| narrow(start + range.start..start + range.end).expect(PAGE_BYTES);
        if self.spans.is_empty() {
            // Aggregates of one shard are alike, and so are their records: one reservation instead of doubling. No more
            // than the page takes; what is not used is only an address.
            let records = self.spans.capacity().saturating_mul(parts.len());
            let records = records.min(self.page.body.len() / size_of::<Span>());
            self.spans.reserve(records);
            self.subs.reserve(records);
        }
        for (index, (key, data)) in parts.enumerate() {
            self.spans.push(Span {
                sequence_number: record.span.sequence_number.clone(),
                partition_key: inside(key),
                payload: inside(data),
                arrival_us: record.span.arrival_us,
            });
            self.subs.push(Some(u32::try_from(index).expect(PAGE_BYTES)));
        }
    }

    /// The page, with all that it said besides its records.
    pub(in crate::fetch) fn finish(self) -> Page {
        Page { spans: self.spans, subs: self.subs, ..self.page }
    }
}

/// Base64 text becomes the bytes that it says. Answers how many; `None`, and the text is as it was: it is none.
fn decode_in_place(text: &mut [u8]) -> Option<usize> {
    // In pieces that stay close to the processor, so that it is known how much of the text was decoded.
    let mut piece = [0; 3 << 10];
    let (mut read, mut written) = (0, 0);
    while read < text.len() {
        let end = text.len().min(read + piece.len() / 3 * 4);
        let decoded =
            base64_simd::STANDARD.decode(&text[read..end], piece[..].as_out()).map(|bytes| bytes.len());
        // Padding is the end of the text.
        let length = decoded.ok().filter(|length| end == text.len() || *length == piece.len());
        let Some(length) = length else {
            encode_in_place(&mut text[..read], written);
            return None;
        };
        text[written..written + length].copy_from_slice(&piece[..length]);
        (read, written) = (end, written + length);
    }
    Some(written)
}

/// The first `length` bytes become base64 text again.
fn encode_in_place(text: &mut [u8], length: usize) {
    let bytes = text[..length].to_vec();
    let _ = base64_simd::STANDARD.encode(&bytes, text.as_out());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_is_decoded_where_it_lies_or_stays_as_it_is(
            bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 2900..9300)],
            wrong in prop::option::of((any::<prop::sample::Index>(), prop_oneof![Just(b'~'), Just(b'='), Just(b'A')])),
        ) {
            let mut text = base64_simd::STANDARD.encode_to_string(&bytes).into_bytes();
            if let Some((at, wrong)) = wrong
                && !text.is_empty()
            {
                let at = at.index(text.len());
                text[at] = wrong;
            }
            let mut here = text.clone();
            let decoded = decode_in_place(&mut here);
            let expected = base64_simd::STANDARD.decode_to_vec(&text).ok();
            prop_assert_eq!(decoded.map(|length| here[..length].to_vec()), expected);
            if let Some(length) = decoded {
                encode_in_place(&mut here, length);
            }
            prop_assert_eq!(here, text);
        }
    }
}
