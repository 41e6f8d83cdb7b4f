//! Records that are done already: reading starts at the checkpoint, not after it.

use crate::decode::packed_records;
use crate::fetch::{Payload, Record};
use crate::shard::Position;

/// Up to where records are done, until one comes that is not.
pub(crate) struct Done(Option<Position>);

impl Done {
    /// All records up to this one are; `None`: none is.
    pub(crate) fn up_to(last: Option<Position>) -> Self {
        Self(last)
    }

    /// Whether this record is done, and so passed over. Records come in the order of the shard.
    ///
    /// # Errors
    /// Why passing it over would lose records.
    pub(crate) fn has(&mut self, record: &Record<'_>) -> Result<bool, String> {
        let Some(done) = &self.0 else { return Ok(false) };
        if record.position() <= *done {
            return rest_of_aggregate(record, done).map_or(Ok(true), Err);
        }
        self.0 = None;
        Ok(false)
    }
}

/// Why the record at a checkpoint cannot be passed over: the checkpoint, left by a reader that unpacks aggregates, is
/// inside it, and records behind it were not delivered. To deliver it whole, as the dead letter that it is here, would
/// double those before, and the checkpoint would have to move back into it.
fn rest_of_aggregate(record: &Record<'_>, done: &Position) -> Option<String> {
    if done.sub == 0 || record.sub_sequence.is_some() || record.position().sequence != done.sequence {
        return None;
    }
    let packed = match record.payload {
        Payload::Plain(data) => packed_records(data),
        Payload::Base64(text) => {
            base64_simd::STANDARD.decode_to_vec(text).ok().and_then(|data| packed_records(&data))
        }
    };
    let (sequence, sub) = (&done.sequence, done.sub);
    packed.filter(|packed| sub + 1 < *packed).map(|packed| {
        format!(
            "the checkpoint {sequence}/{sub} is inside a record that packs {packed} (KPL aggregation), which this \
             version does not unpack: let the application that wrote the checkpoint deliver the other {}, or accept \
             that they are left out with `kinetide leases set-checkpoint SHARD {sequence} --force`",
            packed - sub - 1
        )
    })
}
