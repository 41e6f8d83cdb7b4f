//! What is told of the records that are put, and how far the workers are with them.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::judge::{Put, Puts, Unseen, VerifyError};
use super::progress::{Checkpoints, Progress};
use super::scene::Scene;
use super::{TrialError, seed_of};
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::shard::{Checkpoint, ShardId};
use crate::shutdown::joined;

/// Receipts on their way: each is a request's worth.
const RECEIPTS_WAITING: usize = 64;

/// What is being put: of each stream its number and, in the end, what came of it. It ends when the ledger knows all.
pub type Flow<T> = JoinSet<Result<(usize, T), TrialError>>;

/// The records put so far, by stream. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug)]
struct Book {
    puts: Vec<Puts>,
    since: Since,
}

/// Which records must be in the lake.
#[derive(Clone, Copy, Debug, Default)]
pub enum Since {
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

/// What is asked of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// They must be in the lake in the end, as far as [`Since`] says so.
    Required,
    /// They may be there or not.
    Optional,
}

impl Ledger {
    /// Of streams into which nothing was put yet.
    pub fn new(puts: Vec<Puts>) -> Self {
        Self(Arc::new(Mutex::new(Book { puts, since: Since::default() })))
    }

    /// Puts into every stream of the scene what `put` writes, by the stream's number and seed, and takes in what is told of
    /// it.
    pub fn flow<T, F>(
        &self,
        scene: &Scene,
        (duty, seed): (Duty, u64),
        put: impl Fn(usize, u64, Sink) -> F,
    ) -> Flow<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TrialError>> + Send + 'static,
    {
        let mut flow = Flow::new();
        for (number, stream) in scene.streams.iter().cloned().enumerate() {
            let seed = seed_of(seed, number);
            let mut entering = JoinSet::new();
            let receipts = self.open(number, duty, &mut entering);
            let writing = put(number, seed, stream.puts(seed, receipts.clone()));
            flow.spawn(async move {
                let over = CancellationToken::new();
                let told = stream.tell(receipts, over.clone());
                let writing = async {
                    let written = writing.await;
                    over.cancel();
                    written
                };
                let entered = async {
                    while let Some(entered) = entering.join_next().await {
                        joined(entered).await?;
                    }
                    Ok(())
                };
                let (written, (), ()) = tokio::try_join!(writing, told, entered)?;
                Ok((number, written))
            });
        }
        flow
    }

    /// Takes in receipts of a stream on a thread of its own until there are no more senders.
    fn open(
        &self,
        stream: usize,
        duty: Duty,
        tasks: &mut JoinSet<Result<(), VerifyError>>,
    ) -> mpsc::Sender<Vec<Receipt>> {
        let (sender, mut receipts) = mpsc::channel(RECEIPTS_WAITING);
        let ledger = self.clone();
        tasks.spawn_blocking(move || {
            while let Some(batch) = receipts.blocking_recv() {
                ledger.enter(stream, duty, batch)?;
            }
            Ok(())
        });
        sender
    }

    fn enter(&self, stream: usize, duty: Duty, batch: Vec<Receipt>) -> Result<(), VerifyError> {
        let mut puts = Vec::with_capacity(batch.len());
        let mut unclear = Vec::new();
        for receipt in batch {
            match receipt.place {
                Some((shard, sequence)) => {
                    let (data, sent_us) = (&receipt.data, receipt.sent_us);
                    let put = match receipt.sub {
                        None => Put::new(&shard, &sequence, data, sent_us)?,
                        Some(sub) => Put::part(&shard, &sequence, sub, data, sent_us)?,
                    };
                    puts.push((shard, put));
                }
                None => unclear.push(receipt.data),
            }
        }
        let mut book = self.lock();
        let since = match duty {
            Duty::Required => book.since,
            Duty::Optional => Since::Beginning,
        };
        let all = &mut book.puts[stream];
        unclear.iter().for_each(|data| all.add_unclear(data));
        puts.into_iter().try_for_each(|(shard, put)| match since {
            Since::NotYet => Ok(()),
            Since::First => all.add(&shard, put),
            Since::Begun(us) if put.sent_us() > us => all.add(&shard, put),
            Since::Beginning | Since::Begun(_) => {
                all.add_optional(&shard, &put.sequence_number());
                Ok(())
            }
        })
    }

    /// Says which of the records that are entered from now on must be in the lake.
    pub fn counts_from(&self, since: Since) {
        self.lock().since = since;
    }

    /// Compares with what the lease table says, stream by stream.
    pub(super) fn progress(&self, checkpoints: &Checkpoints) -> Vec<Progress> {
        let of = |(stream, puts): (usize, &Puts)| {
            let shards = puts.shards().map(|(shard, all)| (ShardId::new(shard), all));
            checkpoints.progress(stream, shards, |shard, checkpoint| match checkpoint {
                Checkpoint::At(at) => puts.up_to(shard.as_str(), at.sequence.as_str(), at.sub),
                _ => (0, puts.first_sent(shard.as_str())),
            })
        };
        self.lock().puts.iter().enumerate().map(of).collect()
    }

    /// Notes lines of another consumer's lake, which has one stream, by shard and sequence number. Those that no receipt has spoken of yet are
    /// left in the list.
    pub fn saw(&self, lines: &mut Vec<(String, String)>) {
        let puts = &mut self.lock().puts[0];
        lines.retain(|(shard, sequence)| !puts.saw(shard, sequence));
    }

    /// Compares with what was seen of another consumer's lake; gives each shard.
    pub fn progress_seen(&self, mut shard: impl FnMut(Unseen<'_>)) -> Progress {
        let puts = &mut self.lock().puts[0];
        let mut progress = Progress::default();
        for unseen in puts.unseen() {
            let Unseen { put, oldest_us, .. } = unseen;
            progress.add(Progress { put, delivered: put - unseen.unseen, oldest_us });
            shard(unseen);
        }
        progress
    }

    /// Everything, once nobody writes any more.
    pub fn close(self) -> Vec<Puts> {
        std::mem::take(&mut self.lock().puts)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, LeaseKey};
    use crate::shard::{HashKeyRange, Position, SequenceNumber, Shard};

    fn lease(key: &str, checkpoint: Checkpoint) -> Lease {
        let key = LeaseKey::parse(key);
        let shard = Shard {
            id: key.shard().clone(),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 1 }),
            starting_sequence_number: SequenceNumber::parse("1").unwrap(),
            closed: false,
        };
        Lease { key, ..Lease::new(&shard, checkpoint) }
    }

    fn receipt(shard: &str, sequence: i64) -> Receipt {
        let place = Some((shard.to_owned(), sequence.to_string()));
        Receipt { data: b"x".to_vec(), sent_us: 1_000 + sequence, place, sub: None }
    }

    fn at(sequence: &str) -> Checkpoint {
        Checkpoint::At(Position::new(SequenceNumber::parse(sequence).unwrap()))
    }

    #[test]
    fn progress_follows_the_checkpoints() {
        let names = ["trades".to_owned()];
        let ledger = Ledger::new(names.iter().map(Puts::of).collect());
        // Topics of Kafka begin with 0.
        let receipts = (0..=4).map(|n| receipt("a", n)).chain((1..=3).map(|n| receipt("b", n)));
        ledger.enter(0, Duty::Required, receipts.collect()).unwrap();
        let mut checkpoints = Checkpoints::new(&names);
        let mut look = |leases: &[Lease]| {
            checkpoints.see(leases);
            let progress = ledger.progress(&checkpoints)[0];
            (progress.put, progress.delivered, progress.oldest_us)
        };
        assert_eq!(look(&[]), (8, 0, Some(1_000)));
        assert_eq!(look(&[lease("a", at("3")), lease("b", Checkpoint::TrimHorizon)]), (8, 4, Some(1_001)));
        assert_eq!(look(&[lease("a", at("3")), lease("b", Checkpoint::ShardEnd)]), (8, 7, Some(1_004)));
        // The lease of a finished shard is deleted.
        assert_eq!(look(&[lease("a", at("4"))]), (8, 8, None));
        assert_eq!(ledger.close()[0].len(), 8);
    }

    #[test]
    fn streams_whose_shards_have_equal_ids_are_told_apart() {
        let names = ["trades".to_owned(), "trades-2".to_owned()];
        let ledger = Ledger::new(names.iter().map(Puts::of).collect());
        ledger.enter(0, Duty::Required, (1..=5).map(|n| receipt("a", n)).collect()).unwrap();
        ledger.enter(1, Duty::Required, (1..=3).map(|n| receipt("a", n)).collect()).unwrap();
        let mut checkpoints = Checkpoints::new(&names);
        let mut look = |leases: &[Lease]| {
            checkpoints.see(leases);
            let each: Vec<_> = ledger.progress(&checkpoints).iter().map(|p| (p.put, p.delivered)).collect();
            (each[0], each[1])
        };
        assert_eq!(look(&[]), ((5, 0), (3, 0)));
        let [one, other] = ["1:trades:7:a", "1:trades-2:7:a"];
        assert_eq!(look(&[lease(one, at("4"))]), ((5, 4), (3, 0)));
        assert_eq!(look(&[lease(one, at("4")), lease(other, Checkpoint::ShardEnd)]), ((5, 4), (3, 3)));
        assert_eq!(look(&[lease(one, at("5"))]), ((5, 5), (3, 3)), "a finished shard is one of its stream");
        assert_eq!(look(&[lease("1:orders:7:a", at("5"))]), ((5, 0), (3, 3)), "of a stream of others");
        let puts = ledger.close();
        assert_eq!(puts.iter().map(Puts::stream).collect::<Vec<_>>(), [Some("trades"), Some("trades-2")]);
    }
}
