//! What may happen in a run of the model, and which rules hold.

use super::made::Made;
use crate::checkpoint::PendingFormat;

/// What may happen, and how often; and which rule of the protocol is left out to see it fail.
#[derive(Clone)]
pub(super) struct Bounds {
    /// Records in the shard, which is closed after them.
    pub(super) records: u8,
    /// So many of them are packed in one record of the stream.
    pub(super) packed: u8,
    /// Transform of each worker.
    pub(super) transforms: Vec<Made>,
    /// How they describe batches.
    pub(super) format: PendingFormat,
    pub(super) takes: u8,
    pub(super) crashes: u8,
    pub(super) lost_answers: u8,
    pub(super) late_requests: u8,
    /// Records of a pending batch may leave the stream.
    pub(super) trims: u8,
    /// An operator or a Java worker makes the row forget a pending batch.
    pub(super) forgets: u8,
    pub(super) create_only: bool,
    pub(super) conditional: bool,
    pub(super) seal_declared: bool,
    pub(super) streamed_told: bool,
    /// Batches of unpacked records say so.
    pub(super) unpacking_told: bool,
    /// A checkpoint that a build left that does not unpack is told from the first record of an aggregate.
    pub(super) whole_told: bool,
    /// A batch may end at the first of several records in one.
    pub(super) ends_at_first: bool,
    /// An object that exists is looked at before it counts.
    pub(super) existing_checked: bool,
    /// Every object is looked for when the records are gone, and not the first only.
    pub(super) all_found: bool,
    /// The row remembers the batch that was prepared last.
    pub(super) remembered: bool,
    /// Which workers copy rows.
    pub(super) copies: Vec<bool>,
    /// They copy those of objects that they create, find when records are gone, or read for a repair.
    pub(super) copies_created: bool,
    pub(super) copies_found: bool,
    pub(super) copies_read: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            records: 2,
            packed: 1,
            transforms: vec![Made::One, Made::One],
            format: PendingFormat::Two,
            takes: 2,
            crashes: 1,
            lost_answers: 1,
            late_requests: 1,
            trims: 0,
            forgets: 0,
            create_only: true,
            conditional: true,
            seal_declared: true,
            streamed_told: true,
            unpacking_told: true,
            whole_told: true,
            ends_at_first: false,
            existing_checked: true,
            all_found: true,
            remembered: true,
            copies: Vec::new(),
            copies_created: true,
            copies_found: true,
            copies_read: true,
        }
    }
}

impl Bounds {
    /// Takeovers and zombies only: enough for the planted bugs, and quick.
    pub(super) fn takeovers(transforms: Vec<Made>) -> Self {
        Self { transforms, crashes: 0, lost_answers: 0, late_requests: 0, ..Self::default() }
    }
}
