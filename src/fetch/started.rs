//! What became of the record that reading was to start at. Pure.

use super::page::{Behind, Page};
use super::source::{StartAt, StartRecord};
use crate::shard::SequenceNumber;

/// Looks for the record at a start, until it is known whether it is there.
#[derive(Debug)]
pub(super) struct StartLook(Option<SequenceNumber>);

impl StartLook {
    /// There is something to look for where reading starts at a record itself.
    pub(super) fn at(start: &StartAt) -> Self {
        Self(match start {
            StartAt::At(sequence) => Some(sequence.clone()),
            _ => None,
        })
    }

    /// What the page says of it. Another record in its place means that it has been trimmed, and those between them
    /// perhaps.
    pub(super) fn take(&mut self, page: &Page, behind: Behind) -> Option<StartRecord> {
        let wanted = self.0.take_if(|_| !page.is_empty() || page.trimmed || behind == Behind::Tip)?;
        let first = page.records().next().and_then(|record| SequenceNumber::parse(record.sequence_number));
        Some(match first {
            Some(first) if first == wanted => StartRecord::There,
            _ if page.sparse && !page.trimmed => StartRecord::LeftOut,
            first => StartRecord::Gone(page.first_kept.clone().or(first)),
        })
    }
}
