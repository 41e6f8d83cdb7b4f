//! Records that are done already: reading starts at the checkpoint, not after it.

use crate::fetch::Record;
use crate::shard::RecordId;

/// Up to where records are done, until one comes that is not.
pub(crate) struct Done(Option<RecordId>);

impl Done {
    /// All records up to this one are; `None`: none is.
    pub(crate) fn up_to(last: Option<RecordId>) -> Self {
        Self(last)
    }

    /// Whether this record is done, and so passed over. Records come in the order of the shard.
    pub(crate) fn has(&mut self, record: &Record<'_>) -> bool {
        self.0.take_if(|done| done.is_before(&record.position()));
        self.0.is_some()
    }
}
