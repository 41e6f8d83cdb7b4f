//! The process at one moment, as `/api/status` shows it.
//!
//! Owns: the form. Does not own: the facts (`status`, and for the fleet `lease`).

use serde::Serialize;

use super::cloudwatch::ExportSnapshot;
use super::fleet::FleetSnapshot;
use super::trouble::TroubleSnapshot;

/// Who this process is.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessFacts {
    /// Worker id in the lease table.
    pub worker: String,
    /// Application, the name of the lease table.
    pub application: String,
    /// What is promised of each record.
    pub delivery: Delivery,
    /// What of the settings may do harm where people do not expect it.
    pub warnings: Vec<String>,
}

/// How often a record may be in what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Delivery {
    /// Rows go to the lake.
    #[serde(rename = "exactly once")]
    ExactlyOnce,
    /// Rows go to Firehose, which cannot be asked what it has.
    #[serde(rename = "at least once")]
    AtLeastOnce,
}

/// What a shard's consumer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum ShardState {
    /// A parent shard is not finished yet.
    WaitingForParents,
    /// Bringing a former owner's batch to an end.
    Recovering,
    /// Reading records.
    Reading,
    /// Reading nothing new, only delivering what it has.
    Delivering,
    /// The same, because the lease goes to another worker afterwards.
    HandingOver,
    /// Not moving on, for this reason: one of a few fixed words, as it labels a metric. The details are the shard's
    /// last error.
    Stalled(&'static str),
    /// Read to its end.
    Finished,
}

/// How a shard is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retrieval {
    /// By asking again and again: all readers of the shard share its limits.
    Polling,
    /// By a subscription of enhanced fan-out, with limits of its own.
    FanOut,
}

/// The process at one moment, as `/api/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Who it is.
    #[serde(flatten)]
    pub process: ProcessFacts,
    /// Streams that are read, by name or ARN as the settings have them.
    pub streams: Vec<String>,
    /// The streams of tables among them, and whether they are on.
    pub table_streams: Vec<TableStream>,
    /// Why the settings file cannot be used as it is now, if it cannot: those of before stay.
    pub settings_problem: Option<String>,
    /// Version of kinetide.
    pub version: &'static str,
    /// When it started, µs since the epoch.
    #[serde(skip)]
    pub started_us: i64,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Takes part in the work.
    pub ready: bool,
    /// Why not.
    pub not_ready: Vec<String>,
    /// Shutting down.
    pub draining: bool,
    /// Its loops go round: a restart would mend nothing.
    pub healthy: bool,
    /// The largest of all shards of which it is known; unknown without any.
    pub millis_behind_latest: Option<u64>,
    /// The largest of all shards; unknown without shards.
    pub delivered_age_ms: Option<u64>,
    /// Calls of the lease coordinator that fail, the longest first.
    pub troubles: Vec<TroubleSnapshot>,
    /// How metrics are sent to CloudWatch, if they are.
    pub cloudwatch: Option<ExportSnapshot>,
    /// The fleet, as far as this worker sees it.
    pub fleet: Option<FleetSnapshot>,
    /// One entry for each shard that this process has a consumer for, by id.
    pub shards: Vec<ShardSnapshot>,
}

/// The stream of a table at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStream {
    /// As in `streams`.
    pub stream: String,
    /// It takes changes.
    pub on: bool,
    /// Why not.
    pub reason: Option<&'static str>,
    /// When this worker first saw it off, UTC.
    pub off_since: Option<String>,
}

/// One shard at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardSnapshot {
    /// Its stream, by name or ARN as the settings have it.
    pub stream: String,
    /// Its id.
    pub shard: String,
    /// `state`, and `reason` if stalled.
    #[serde(flatten)]
    pub state: ShardState,
    /// How long it has been in this state, ms.
    pub state_for_ms: u64,
    /// For how long it has not moved on, whatever the reasons were, ms; if it is stalled.
    pub stalled_for_ms: Option<u64>,
    /// Checkpoint, as the lease table spells it.
    pub checkpoint: Option<String>,
    /// Lease counter of the last write.
    pub lease_counter: u64,
    /// How it is read; unknown before it is, and of a source that does not say.
    pub retrieval: Option<Retrieval>,
    /// How far the reader was behind the tip when the stream last answered, ms. Unknown when that is more than two
    /// minutes ago.
    pub millis_behind_latest: Option<u64>,
    /// Arrival time of the oldest record fetched and not yet in the lake, µs since the epoch.
    pub oldest_undelivered_arrival_us: Option<i64>,
    /// Age of the oldest record not yet in the lake, ms. 0 when nothing is outstanding and the reader is at
    /// the tip; at least what the stream said that the reader is behind when it is not; counted on while the stream does not answer. Unknown
    /// until the stream has answered, and while the shard waits for its parents.
    pub delivered_age_ms: Option<u64>,
    /// Records landed and committed by this consumer.
    pub records_delivered: u64,
    /// Records in the open batch.
    pub batch_records: u64,
    /// Uncompressed bytes in the open batch.
    pub batch_bytes: u64,
    /// Bytes held between fetch and delivery.
    pub in_flight_bytes: u64,
    /// The last thing that went wrong, if anything did: with its causes, on one line.
    pub last_error: Option<String>,
    /// When that was, UTC.
    pub last_error_at: Option<String>,
    /// The shard has got over it.
    pub last_error_over: Option<bool>,
}

impl ShardSnapshot {
    #[cfg(test)]
    pub(super) fn of(shard: &str, state: ShardState) -> Self {
        let facts = ProcessFacts {
            worker: String::new(),
            application: String::new(),
            delivery: Delivery::ExactlyOnce,
            warnings: Vec::new(),
        };
        let status = super::status::Status::new(facts, std::time::Duration::ZERO);
        let _handle = status.shard("trades", shard, state, 0);
        status.snapshot().shards.remove(0)
    }

    /// Why the shard is stalled, if it is.
    pub fn stalled_reason(&self) -> Option<&'static str> {
        match self.state {
            ShardState::Stalled(reason) => Some(reason),
            _ => None,
        }
    }
}
