//! What the producer was told about its records, and how far the workers are with them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::generate::kinesis::Receipt;
use crate::lease::Lease;
use crate::shard::{Checkpoint, ShardId};
use crate::trial::{Put, Puts, Unseen, VerifyError};

/// Receipts on their way: each is a request's worth.
const RECEIPTS_WAITING: usize = 64;

/// The records put so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    puts: Puts,
    since: Since,
}

/// Which records must be in the lake.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Since {
    /// All of them.
    #[default]
    First,
    /// None of those that were put before the first worker was started: they are from before the application.
    NotYet,
    /// Workers have started, and leases are being made: a record may be in the lake or not.
    Beginning,
    /// Those that were sent after this, when every shard had a lease; those on their way then may be.
    Begun(i64),
}

/// How far the workers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Records put.
    pub(super) put: u64,
    /// Of these, at or below a checkpoint.
    pub(super) delivered: u64,
    /// When the oldest record above the checkpoints was sent, µs since the epoch.
    pub(super) oldest_us: Option<i64>,
}

/// Shards whose lease said SHARD_END; such leases are cleaned up later.
#[derive(Debug, Default)]
pub(super) struct Finished(HashSet<ShardId>);

impl Ledger {
    /// Takes in receipts on a thread of its own until there are no more senders.
    pub(super) fn open(&self, tasks: &mut JoinSet<Result<(), VerifyError>>) -> mpsc::Sender<Vec<Receipt>> {
        self.open_with(tasks, Self::enter)
    }

    /// As `open`, for records that may be in the lake in the end or not.
    pub(super) fn open_optional(
        &self,
        tasks: &mut JoinSet<Result<(), VerifyError>>,
    ) -> mpsc::Sender<Vec<Receipt>> {
        self.open_with(tasks, Self::enter_optional)
    }

    fn open_with(
        &self,
        tasks: &mut JoinSet<Result<(), VerifyError>>,
        enter: fn(&Self, Vec<Receipt>) -> Result<(), VerifyError>,
    ) -> mpsc::Sender<Vec<Receipt>> {
        let (sender, mut receipts) = mpsc::channel(RECEIPTS_WAITING);
        let ledger = self.clone();
        tasks.spawn_blocking(move || {
            while let Some(batch) = receipts.blocking_recv() {
                enter(&ledger, batch)?;
            }
            Ok(())
        });
        sender
    }

    fn enter(&self, batch: Vec<Receipt>) -> Result<(), VerifyError> {
        let mut puts = Vec::with_capacity(batch.len());
        let mut unclear = Vec::new();
        for receipt in batch {
            match receipt.place {
                Some((shard, sequence)) => {
                    let put = Put::new(&shard, &sequence, &receipt.data, receipt.sent_us)?;
                    puts.push((shard, put));
                }
                None => unclear.push(receipt.data),
            }
        }
        let mut book = self.lock();
        unclear.iter().for_each(|data| book.puts.add_unclear(data));
        let since = book.since;
        puts.into_iter().try_for_each(|(shard, put)| match since {
            Since::NotYet => Ok(()),
            Since::First => book.puts.add(&shard, put),
            Since::Begun(us) if put.sent_us() > us => book.puts.add(&shard, put),
            Since::Beginning | Since::Begun(_) => {
                book.puts.add_optional(&shard, &put.sequence_number());
                Ok(())
            }
        })
    }

    /// Says which of the records that are entered from now on must be in the lake.
    pub(super) fn counts_from(&self, since: Since) {
        self.lock().since = since;
    }

    fn enter_optional(&self, batch: Vec<Receipt>) -> Result<(), VerifyError> {
        let all = &mut self.lock().puts;
        for receipt in batch {
            match receipt.place {
                Some((shard, sequence)) => all.add_optional(&shard, &sequence),
                None => all.add_unclear(&receipt.data),
            }
        }
        Ok(())
    }

    /// Compares with what the lease table says.
    pub(super) fn progress(&self, leases: &BTreeMap<&ShardId, &Lease>, finished: &mut Finished) -> Progress {
        let puts = &self.lock().puts;
        let mut progress = Progress { put: puts.len(), ..Progress::default() };
        for (shard, all) in puts.shards() {
            let id = ShardId::new(shard);
            let checkpoint = leases.get(&id).map(|lease| &lease.checkpoint);
            if checkpoint == Some(&Checkpoint::ShardEnd) || finished.0.contains(&id) {
                finished.0.insert(id);
                progress.delivered += all;
                continue;
            }
            let (delivered, next_us) = match checkpoint {
                Some(Checkpoint::At(position)) => puts.up_to(shard, position.sequence.as_str(), position.sub),
                _ => puts.up_to(shard, "0", 0),
            };
            progress.delivered += delivered;
            progress.oldest_us = [progress.oldest_us, next_us].into_iter().flatten().min();
        }
        progress
    }

    /// Notes lines of another consumer's lake, by shard and sequence number. Those that no receipt has spoken of yet are
    /// left in the list.
    pub(super) fn saw(&self, lines: &mut Vec<(String, String)>) {
        let puts = &mut self.lock().puts;
        lines.retain(|(shard, sequence)| !puts.saw(shard, sequence));
    }

    /// Compares with what was seen of another consumer's lake; gives each shard.
    pub(super) fn progress_seen(&self, mut shard: impl FnMut(Unseen<'_>)) -> Progress {
        let puts = &mut self.lock().puts;
        let mut progress = Progress { put: puts.len(), ..Progress::default() };
        for unseen in puts.unseen() {
            progress.delivered += unseen.put - unseen.unseen;
            progress.oldest_us = [progress.oldest_us, unseen.oldest_us].into_iter().flatten().min();
            shard(unseen);
        }
        progress
    }

    /// Everything, once nobody writes any more.
    pub(super) fn close(self) -> Puts {
        std::mem::take(&mut self.lock().puts)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{HashKeyRange, Position, SequenceNumber, Shard};

    fn lease(id: &str, checkpoint: Checkpoint) -> Lease {
        let shard = Shard {
            id: ShardId::new(id),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 1 }),
            starting_sequence_number: SequenceNumber::parse("1").unwrap(),
            closed: false,
        };
        Lease::new(&shard, checkpoint)
    }

    #[test]
    fn progress_follows_the_checkpoints() {
        let ledger = Ledger::default();
        let receipt = |shard: &str, sequence: i64| Receipt {
            data: b"x".to_vec(),
            sent_us: 1_000 + sequence,
            place: Some((shard.to_owned(), sequence.to_string())),
        };
        ledger
            .enter((1..=5).map(|n| receipt("a", n)).chain((1..=3).map(|n| receipt("b", n))).collect())
            .unwrap();
        let at = |n: &str| Checkpoint::At(Position::new(SequenceNumber::parse(n).unwrap()));
        let mut finished = Finished::default();
        let mut look = |leases: &[Lease]| {
            let leases = leases.iter().map(|lease| (lease.key.shard(), lease)).collect();
            let progress = ledger.progress(&leases, &mut finished);
            (progress.put, progress.delivered, progress.oldest_us)
        };
        assert_eq!(look(&[]), (8, 0, Some(1_001)));
        assert_eq!(look(&[lease("a", at("4")), lease("b", Checkpoint::TrimHorizon)]), (8, 4, Some(1_001)));
        assert_eq!(look(&[lease("a", at("4")), lease("b", Checkpoint::ShardEnd)]), (8, 7, Some(1_005)));
        // The lease of a finished shard is deleted.
        assert_eq!(look(&[lease("a", at("5"))]), (8, 8, None));
        assert_eq!(ledger.close().len(), 8);
    }
}
