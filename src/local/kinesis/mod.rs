//! A Kinesis of our own, in this process, over HTTP/1.1 and HTTP/2 on loopback and as a handle.
//!
//! Owns: streams, shards, records and their limits; the API on the wire; faults on purpose.
//! Does not own: anything that outlives the process, signatures (any credentials do), encryption, quotas of an
//! account.
//!
//! State (`stream`, `shard`, `log`, `consumers`) knows no I/O and takes the time as an argument; `api` turns bodies
//! into calls on it; `server` and `subscribe` do the talking. No lock is held across an await.

mod api;
mod arn;
mod consumers;
mod errors;
mod faults;
mod hash_key;
mod iterator;
mod limits;
mod log;
mod reshard;
mod sequence;
mod server;
mod shard;
mod stream;
mod subscribe;
#[cfg(test)]
mod tests;

pub use errors::ApiError;
pub use faults::{Fault, FaultKind};
pub(crate) use server::serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;

use self::faults::{Faults, Struck};
use self::sequence::Sequence;
use self::shard::Shard;
use self::stream::Stream;
use crate::clock::wall_clock_us;
use crate::shard::{SequenceNumber, ShardId};

/// How the embedded Kinesis behaves.
#[derive(Clone, Debug)]
pub struct KinesisSettings {
    /// Region in ARNs.
    pub region: String,
    /// Enforce the service's throughput limits per shard, and that of `UpdateShardCount` in a day.
    pub real_limits: bool,
    /// How long a stream is `UPDATING` after `UpdateShardCount`. Its shards change at once.
    pub resize_time: Duration,
    /// How long a shard iterator lives.
    pub iterator_ttl: Duration,
    /// Faults from the start.
    pub faults: Vec<Fault>,
    /// Seed of the faults.
    pub fault_seed: u64,
}

impl Default for KinesisSettings {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            real_limits: false,
            resize_time: Duration::ZERO,
            iterator_ttl: Duration::from_secs(300),
            faults: Vec::new(),
            fault_seed: 0,
        }
    }
}

/// Shards in one stream at most; far above what one machine can use, it only guards against typing errors.
const SHARDS_MAX: u32 = 10_000;

/// Handle to the embedded Kinesis. Clones share the state. Calls on the handle know neither limits nor faults.
#[derive(Clone, Debug)]
pub struct Kinesis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: KinesisSettings,
    streams: RwLock<BTreeMap<String, Arc<Stream>>>,
    faults: Mutex<Faults>,
}

/// A record as the stream keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Which record of its shard it is, counted from 1.
    pub number: u64,
    /// Its sequence number.
    pub sequence_number: SequenceNumber,
    /// Arrival time (`ApproximateArrivalTimestamp`), µs since the epoch in whole ms.
    pub arrival_us: i64,
    /// The data as standard base64 text.
    pub data: Bytes,
}

impl Kinesis {
    /// An empty one.
    pub fn new(settings: KinesisSettings) -> Self {
        let faults = Mutex::new(Faults::new(settings.faults.clone(), settings.fault_seed));
        Self(Arc::new(Inner { settings, streams: RwLock::default(), faults }))
    }

    /// Replaces the faults that calls over HTTP suffer.
    pub fn set_faults(&self, faults: Vec<Fault>, seed: u64) {
        *self.faults() = Faults::new(faults, seed);
    }

    /// Creates a stream; it is active at once.
    ///
    /// # Errors
    /// As `CreateStream`: name taken or not valid, shard count outside 1 to 10,000.
    pub fn create_stream(&self, name: &str, shards: u32) -> Result<(), ApiError> {
        let valid = (1..=128).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            let constraint = "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]{1,128}";
            return Err(ApiError::validation(&format!("'{name}'"), "streamName", constraint));
        }
        if shards == 0 {
            let constraint = "Member must have value greater than or equal to 1";
            return Err(ApiError::validation("'0'", "shardCount", constraint));
        }
        if shards > SHARDS_MAX {
            return Err(ApiError::limit_exceeded(format!("A stream has at most {SHARDS_MAX} shards here.")));
        }
        let mut streams = self.streams_mut();
        if streams.contains_key(name) {
            return Err(ApiError::resource_in_use(format!(
                "Stream {name} under account {} already exists.",
                errors::ACCOUNT
            )));
        }
        let stream = Stream::new(name, self.region(), shards, wall_clock_us());
        streams.insert(name.to_owned(), Arc::new(stream));
        Ok(())
    }

    /// Puts one record.
    ///
    /// # Errors
    /// `ResourceNotFoundException` when the stream does not exist.
    pub fn put(&self, stream: &str, partition_key: &str, data: &[u8]) -> Result<SequenceNumber, ApiError> {
        let stream = self.stream(stream)?;
        let layout = stream.layout();
        let shard = layout.route(hash_key::of_partition_key(partition_key));
        let data = Bytes::from(base64_simd::STANDARD.encode_to_string(data));
        let number = shard.put(api::json_inside(partition_key), data, wall_clock_us(), None);
        Ok(public(shard.sequence(number.expect("only limits refuse a record, and none are asked for"))))
    }

    /// Splits a shard in the middle.
    ///
    /// # Errors
    /// As `SplitShard`.
    pub fn split(&self, stream: &str, shard: &ShardId) -> Result<[ShardId; 2], ApiError> {
        let (stream, now_us) = (self.stream(stream)?, wall_clock_us());
        let parent = stream.shard(shard.as_str(), now_us)?;
        let key = parent.middle().unwrap_or(parent.range.end);
        Ok(stream.split(shard.as_str(), key, now_us)?.map(|child| ShardId::new(child.id.as_str())))
    }

    /// Merges two adjacent shards.
    ///
    /// # Errors
    /// As `MergeShards`.
    pub fn merge(&self, stream: &str, shard: &ShardId, adjacent: &ShardId) -> Result<ShardId, ApiError> {
        let child = self.stream(stream)?.merge(shard.as_str(), adjacent.as_str(), wall_clock_us())?;
        Ok(ShardId::new(child.id.as_str()))
    }

    /// The open shards in the order of their hash keys.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn open_shards(&self, stream: &str) -> Result<Vec<ShardId>, ApiError> {
        Ok(self.stream(stream)?.layout().open().map(|shard| ShardId::new(shard.id.as_str())).collect())
    }

    /// Every shard of the stream, closed ones included, with the number of records ever put in it.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn shards(&self, stream: &str) -> Result<Vec<(ShardId, u64)>, ApiError> {
        let stream = self.stream(stream)?;
        let layout = stream.layout();
        Ok(layout.all().iter().map(|shard| (ShardId::new(shard.id.as_str()), shard.next() - 1)).collect())
    }

    /// Shows every record that the stream holds to `each`: shard by shard in the order of their ids, closed ones
    /// included, each in order, from behind the record whose number `after` says. Puts go on meanwhile.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn visit(
        &self,
        stream: &str,
        after: impl Fn(&ShardId) -> u64,
        mut each: impl FnMut(&ShardId, StoredRecord),
    ) -> Result<(), ApiError> {
        let shards = self.stream(stream)?.layout().all().to_vec();
        for shard in shards {
            let id = ShardId::new(shard.id.as_str());
            let mut from = after(&id) + 1;
            loop {
                let run = shard.page(from, 10_000, usize::MAX, i64::MIN).run;
                if run.records.is_empty() {
                    break;
                }
                from = run.next();
                for (number, record) in (run.first..).zip(run.records) {
                    let sequence_number = public(shard.sequence(number));
                    let (arrival_us, data) = (record.arrival_us, record.data);
                    each(&id, StoredRecord { number, sequence_number, arrival_us, data });
                }
            }
        }
        Ok(())
    }

    /// Drops the records that arrived before a time, µs since the epoch, as the end of their retention would.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn forget_before(&self, stream: &str, oldest_us: i64) -> Result<(), ApiError> {
        self.stream(stream)?.layout().all().iter().for_each(|shard| shard.trim(oldest_us));
        Ok(())
    }

    /// Number of records ever put in the stream, over all shards.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn count(&self, stream: &str) -> Result<u64, ApiError> {
        Ok(self.stream(stream)?.layout().all().iter().map(|shard| shard.next() - 1).sum())
    }

    /// Number of records ever put in a shard at or below a sequence number. Takes the same time however many
    /// records there are.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn count_up_to(
        &self,
        stream: &str,
        shard: &ShardId,
        sequence: &SequenceNumber,
    ) -> Result<u64, ApiError> {
        let shard = self.any_shard(stream, shard)?;
        Ok(below(&shard, sequence).min(shard.next() - 1))
    }

    /// Number of `SubscribeToShard` streams that somebody reads.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub fn open_subscriptions(&self, stream: &str) -> Result<usize, ApiError> {
        Ok(self.stream(stream)?.layout().all().iter().map(|shard| shard.watchers()).sum())
    }

    fn any_shard(&self, stream: &str, shard: &ShardId) -> Result<Arc<Shard>, ApiError> {
        let stream = self.stream(stream)?;
        let layout = stream.layout();
        let index = shard::shard_index(shard.as_str()).and_then(|index| usize::try_from(index).ok());
        let found = index.and_then(|index| layout.all().get(index));
        found.cloned().ok_or_else(|| ApiError::shard_not_found(shard.as_str(), &stream.name))
    }

    fn stream(&self, name: &str) -> Result<Arc<Stream>, ApiError> {
        self.streams().get(name).cloned().ok_or_else(|| ApiError::stream_not_found(name, errors::ACCOUNT))
    }

    fn streams(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Stream>>> {
        self.0.streams.read().expect("no code panics while it holds the lock")
    }

    fn streams_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Stream>>> {
        self.0.streams.write().expect("no code panics while it holds the lock")
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.faults.lock().expect("no code panics while it holds the lock")
    }

    fn strike(&self, operation: &str) -> Struck {
        self.faults().strike(operation)
    }

    fn region(&self) -> &str {
        &self.0.settings.region
    }

    fn settings(&self) -> &KinesisSettings {
        &self.0.settings
    }
}

/// Records of the shard at or below a sequence number, as if the shard had no end.
fn below(shard: &Shard, sequence: &SequenceNumber) -> u64 {
    let digits = format!("{:0>width$}", sequence.as_str(), width = sequence::DIGITS);
    match Sequence::parse(&digits) {
        Some(sequence) if sequence == shard.sequence(sequence.record) => sequence.record,
        // Not a number of this shard: compare as numbers.
        _ if *sequence > public(shard.sequence(u64::MAX)) => u64::MAX,
        _ => 0,
    }
}

fn public(sequence: Sequence) -> SequenceNumber {
    SequenceNumber::parse(&sequence.to_string()).expect("a sequence number is made of digits")
}
