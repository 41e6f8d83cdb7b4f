//! Changes as the records that their table would have sent.

use std::sync::Mutex;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::clock::wall_clock_us;
use crate::generate::envelope;
use crate::generate::item::Change;

/// Makes change records of one table.
#[derive(Debug)]
pub(super) struct ChangeRecords {
    table: envelope::Table,
    stamps: Mutex<Stamps>,
}

/// What makes each record different from all others.
#[derive(Debug)]
struct Stamps {
    event_ids: ChaCha8Rng,
    last_created_us: i64,
}

/// A change record.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) partition_key: String,
    pub(super) data: Vec<u8>,
}

impl ChangeRecords {
    /// Records that look as if `table` had sent them. The seed decides the event ids.
    pub(super) fn new(table: envelope::Table, seed: u64) -> Self {
        let stamps = Stamps { event_ids: ChaCha8Rng::seed_from_u64(seed), last_created_us: 0 };
        Self { table, stamps: Mutex::new(stamps) }
    }

    /// The records of these changes, created now, one microsecond apart at least: the creation time is what a
    /// consumer orders the changes of a key by.
    pub(super) fn made(&self, batch: &[Change]) -> Vec<Made> {
        let mut stamps = self.stamps.lock().expect("nothing panics under this lock");
        let make = |change: &Change| {
            let event_id = uuid::Builder::from_random_bytes(stamps.event_ids.random()).into_uuid();
            stamps.last_created_us = wall_clock_us().max(stamps.last_created_us + 1);
            let mut data = Vec::with_capacity(1024);
            envelope::write(&self.table, change, &event_id, stamps.last_created_us, &mut data);
            Made { partition_key: envelope::partition_key(change.key.as_bytes()), data }
        };
        batch.iter().map(make).collect()
    }
}
