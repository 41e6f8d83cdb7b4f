//! Rows about workers rather than shards: who is alive and how busy, and who leads.
//!
//! KCL 3.x keeps them beside the leases (`WorkerMetricStats`, the lock of `amazon-dynamodb-lock-client`); names and
//! units are those of its attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use crate::shard::StreamId;

/// The share of its processors that a worker uses, in percent (`WorkerMetricType.CPU`).
pub const CPU: &str = "C";
/// The throughput of a worker's leases in percent of its fair share (`WorkerMetricType.THROUGHPUT`).
pub const THROUGHPUT: &str = "T";

/// The property of a [`WorkerRow`] that tells two processes with the same worker id apart. Only kinetide writes it.
pub const SESSION: &str = "kinetide.session";
/// The property with the time when the process started, seconds since the epoch.
pub const STARTED: &str = "kinetide.started";

/// The property with the newest format of a pending batch that the process reads.
pub const PENDING: &str = "kinetide.pending";
/// That of this build: batches of the formats 1 and 2.
pub const PENDING_FORMAT: u64 = 2;
/// What every worker reads, those on the Java KCL aside, which read none.
pub const PENDING_FORMAT_OF_ALL: u64 = 1;

/// The property with the number of shards that a worker reads by enhanced fan-out.
pub const FAN_OUT: &str = "kinetide.fan-out";

/// The property with the streams that a worker of several reads, as its lease keys name them, with spaces between.
pub const STREAMS: &str = "kinetide.streams";

/// Time between two reports of a worker of kinetide: the failover time, but not longer than those of KCL
/// (`workerMetricsReporterFreqInMillis`, 30 s). So a fleet that recovers fast also knows soon who is gone.
pub fn report_interval(failover: Duration) -> Duration {
    failover.min(Duration::from_secs(30))
}

/// What a worker says of itself every now and then (`WorkerMetricStats`). A worker without such a row gets no leases.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRow {
    /// `wid`, in the single table `leaseKey`.
    pub id: WorkerId,
    /// `lut`: when the row was written, seconds since the epoch by the writer's clock.
    pub updated: u64,
    /// `sts`: the newest averages of each metric, oldest first; −1 where measuring failed.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// `opr`: for each metric the value that counts as full; normally 100.
    pub limits: BTreeMap<String, f64>,
    /// `properties`: free text.
    pub properties: BTreeMap<String, String>,
    /// `sup`: 1 for a worker that understands the single table.
    pub support: Option<u64>,
}

impl WorkerRow {
    /// True for a worker of kinetide, which finds a lease given to it within moments.
    pub fn is_kinetide(&self) -> bool {
        self.properties.contains_key(SESSION)
    }

    /// The share of its processors that the worker uses, percent: the mean of what its row holds.
    pub fn mean_cpu(&self) -> Option<f64> {
        let measured: Vec<f64> =
            self.samples.get(CPU)?.iter().copied().filter(|percent| *percent >= 0.0).collect();
        let count = u32::try_from(measured.len()).ok().filter(|count| *count > 0)?;
        Some(measured.iter().sum::<f64>() / f64::from(count))
    }

    /// The newest format of a pending batch that the worker is known to read.
    pub fn pending_format(&self) -> u64 {
        let said = self.properties.get(PENDING).and_then(|format| format.parse().ok());
        said.unwrap_or(PENDING_FORMAT_OF_ALL)
    }

    /// How many shards it reads by enhanced fan-out; `None` where it does not say.
    pub fn fan_out(&self) -> Option<usize> {
        self.properties.get(FAN_OUT)?.parse().ok()
    }

    /// The leases that it can be given, by their streams.
    pub fn reads(&self) -> Reads {
        // What is not understood is a stream of another kind: none that a lease of this fleet is of.
        let named = |streams: &String| Reads::These(streams.split(' ').filter_map(StreamId::parse).collect());
        self.properties.get(STREAMS).map_or(Reads::Any, named)
    }

    /// The newest value of each metric, with the value that counts as full. `None` for a row by which nothing can be
    /// assigned: a metric without a limit, or one that could not be measured.
    pub fn usage(&self) -> Option<BTreeMap<&str, (f64, f64)>> {
        let measured = self.samples.iter().filter(|(_, values)| !values.is_empty());
        let newest = measured.map(|(name, values)| {
            let (value, limit) = (*values.last()?, *self.limits.get(name)?);
            (value >= 0.0 && limit > 0.0).then_some((name.as_str(), (value, limit)))
        });
        newest.collect()
    }
}

/// The streams whose leases a worker can be given. Leases whose keys name no stream are of the only one, which all read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Any, as far as is known: a Java worker reads whatever it is given, and older builds do not say.
    Any,
    /// No others than these. None yet for a worker that has not found out about any of its streams.
    These(BTreeSet<StreamId>),
}

impl Reads {
    /// True when the worker can be given the lease with this key.
    pub fn allows(&self, lease: &LeaseKey) -> bool {
        match (self, lease.stream()) {
            (Self::These(streams), Some(stream)) => streams.contains(stream),
            (Self::Any, _) | (_, None) => true,
        }
    }

    /// What either of two workers can be given.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(mut streams), Self::These(more)) => {
                streams.extend(more);
                Self::These(streams)
            }
            _ => Self::Any,
        }
    }
}

/// The leader's lock, as `amazon-dynamodb-lock-client` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRow {
    /// `ownerName`.
    pub owner: WorkerId,
    /// `leaseDuration`: the lock is free when the version stands still for this long.
    pub lease_duration: Duration,
    /// `recordVersionNumber`: another one at each write.
    pub version: Arc<str>,
    /// `isReleased`: given back without being deleted.
    pub released: bool,
    /// `kinetideWorkers`: how many workers the leader counts, so that each knows whether it has to stand by. 0 where the
    /// leader does not say so, as a Java leader. An attribute that Java leaves alone.
    pub workers: u64,
    /// `kinetidePending`: the newest format of a pending batch that every worker reads, as far as the leader sees. It names
    /// the version of the row that it belongs to, as leaders of another kind leave it where it is.
    pub pending_format: u64,
}

/// Everything in the lease table at about one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableSnapshot {
    /// The leases, in no particular order.
    pub leases: Vec<Lease>,
    /// The workers that have a row.
    pub workers: Vec<WorkerRow>,
    /// Rows that should be leases or workers and cannot be understood. They are left alone.
    pub odd: Vec<OddRow>,
}

/// A row that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddRow {
    /// Its key.
    pub key: String,
    /// What is wrong with it; names attributes, not their values.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_given_leases_of_the_streams_that_it_names() {
        let says = |text: Option<&str>| {
            let properties = text.map(|text| (STREAMS.to_owned(), text.to_owned())).into_iter().collect();
            let (samples, limits) = Default::default();
            let row =
                WorkerRow { id: WorkerId::new("w"), updated: 0, samples, limits, properties, support: None };
            row.reads()
        };
        let of = |stream: &str| LeaseKey::parse(&format!("{stream}:shardId-000000000000"));
        let (trades, orders, one) =
            (of("1:trades:5"), of("1:orders:5"), LeaseKey::parse("shardId-000000000000"));
        for (text, reads) in [
            (None, [true, true]),
            (Some("1:trades:5 1:orders:5"), [true, true]),
            (Some("1:trades:5"), [true, false]),
            (Some("1:trades:6 2:trades:5 1:trade:5"), [false, false]),
            (Some(""), [false, false]),
            (Some("kafka/trades/7 1:orders:5"), [false, true]),
        ] {
            let said = says(text);
            assert_eq!([&trades, &orders].map(|lease| said.allows(lease)), reads, "{text:?}");
            assert!(said.allows(&one), "the only stream needs no name");
        }
        let both = says(Some("1:trades:5")).or(says(Some("1:orders:5")));
        assert_eq!(both, says(Some("1:orders:5 1:trades:5")));
        assert_eq!(both.or(Reads::Any), Reads::Any);
    }
}
