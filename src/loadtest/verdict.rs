//! What a run came to, for machines and for people.

use std::fmt::{self, Display};

use serde::Serialize;

use super::chaos::Chaos;
use super::crew::WorkerUse;
use crate::figures::{grouped, mebibytes, tenths};
use crate::trial::scene::TrialSource;
use crate::trial::{LakeCheck, Latencies, StreamCheck, UNLIKE_THE_TABLE, write_streams};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Another consumer, where one was run; times without a reader are not measured then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_command: Option<String>,
    /// Seed of records and faults.
    pub seed: u64,
    /// Records in the streams.
    pub put: u64,
    /// Of these, in the lake at least once, as a row or a dead letter.
    pub delivered: u64,
    /// Of these, in the lake as a dead letter.
    pub dead_letters: u64,
    /// Records that are in no row and no dead letter.
    pub missing: u64,
    /// Rows and dead letters beyond the first of a record.
    pub duplicated: u64,
    /// Whether every record is in the lake exactly once and says what it should; unknown where no record had to be there.
    pub exactly_once: Option<bool>,
    /// Why it is unknown, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_verdict: Option<String>,
    /// Everything the check found.
    pub lake: LakeCheck,
    /// The same of each stream.
    pub streams: Vec<StreamVerdict>,
    /// Records whose put was refused and that were sent again.
    pub resent: u64,
    /// Time during which records were put.
    pub put_seconds: f64,
    /// From the first put to the last commit.
    pub seconds: f64,
    /// Records per second, put.
    pub put_per_second: f64,
    /// Records per second over all the time until the last commit.
    pub delivered_per_second: f64,
    /// From put to the object in the lake.
    pub latency_ms: LatencyMs,
    /// The largest age of the oldest record not below a checkpoint.
    pub lag_ms_max: u64,
    /// Workers killed (SIGKILL).
    pub workers_killed: u64,
    /// Workers that went on after others had taken their leases.
    pub zombies: u64,
    /// Splits, merges and changes of the shard count.
    pub reshards: u64,
    /// Workers that ended by themselves, and were replaced; what they said.
    pub ended_by_themselves: Vec<String>,
    /// Faults in their order.
    pub faults: Vec<Fault>,
    /// The longest time that a shard was without a reader through no fault of this list, as at the start.
    pub unread_ms_otherwise: u64,
    /// Requests of the workers, where they went through proxies.
    pub requests: Vec<Requests>,
    /// Every worker process.
    pub workers: Vec<WorkerUse>,
    /// One look each second, for the charts.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// The result of one stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamVerdict {
    /// Its kind.
    pub source: TrialSource,
    /// Its name, and what the check found of it.
    #[serde(flatten)]
    pub check: StreamCheck,
    /// As that of the run.
    pub exactly_once: Option<bool>,
    /// As that of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_verdict: Option<String>,
    /// From put to the object in the lake.
    pub latency_ms: LatencyMs,
    /// The largest age of the oldest record not below a checkpoint.
    pub lag_ms_max: u64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyMs {
    /// Half of the records.
    pub p50: u64,
    /// 99 % of the records.
    pub p99: u64,
    /// All.
    pub max: u64,
}

/// One fault.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// Its kind.
    pub kind: Chaos,
    /// When it struck, from the start.
    pub at_seconds: f64,
    /// How long it lasted.
    pub seconds: f64,
    /// What was done, to whom.
    pub what: String,
    /// Shards that were without a reader through it.
    pub shards_unread: u64,
    /// The longest time that one of them was.
    pub unread_ms_max: u64,
}

/// Requests to one service.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// `kinesis`, `dynamodb` or `s3`.
    pub service: super::faults::Service,
    /// All of them.
    pub requests: u64,
    /// Those that a fault was played on.
    pub struck: u64,
    /// For each million records delivered.
    pub per_million_records: u64,
    /// By operation, S3's by method.
    pub operations: Vec<(String, u64)>,
}

/// The state at one second.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the start.
    pub seconds: f64,
    /// Of each stream.
    pub streams: Vec<StreamSample>,
    /// Shards without a reader.
    pub unread: usize,
}

/// The state of a stream at one second.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamSample {
    /// Records put so far.
    pub put: u64,
    /// Records below checkpoints.
    pub delivered: u64,
    /// Age of the oldest record that is not.
    pub lag_ms: u64,
}

impl LatencyMs {
    pub(super) fn of(latencies: &Latencies) -> Self {
        let [p50, p99, max] = [50, 99, 100].map(|percent| latencies.percentile(percent));
        Self { p50, p99, max }
    }
}

/// Whether a lake proves something, and if not, why. `written`: records that the stream has taken, of which `required`
/// must be in the lake.
pub(super) fn exactly_once(sound: bool, written: u64, required: u64) -> (Option<bool>, Option<String>) {
    if !sound || required > 0 {
        return (Some(sound), None);
    }
    let why = match written {
        0 => "no record was put: use a longer --duration or a higher --rate".to_owned(),
        _ => format!(
            "none of the {} records had to be in the lake, because all were put before every shard had a lease: use a \
             longer --duration, more --records, or --initial-position trim-horizon",
            grouped(written)
        ),
    };
    (None, Some(why))
}

/// As [`exactly_once`], of all streams together: each must be proven.
pub(super) fn of_all(sound: bool, streams: &[StreamVerdict]) -> (Option<bool>, Option<String>) {
    let all = streams.iter().map(|stream| stream.exactly_once);
    if !sound || all.clone().any(|verdict| verdict == Some(false)) {
        return (Some(false), None);
    }
    let Some(unproven) = streams.iter().find(|stream| stream.exactly_once.is_none()) else {
        return (Some(true), None);
    };
    let why = unproven.no_verdict.clone().unwrap_or_default();
    let of = if streams.len() > 1 { format!("stream {}: ", unproven.check.stream) } else { String::new() };
    (None, Some(of + &why))
}

impl Verdict {
    /// Whether the run proves that nothing was lost, doubled or changed.
    pub fn ok(&self) -> bool {
        self.exactly_once == Some(true)
    }
}

/// A table for people.
impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<28}{value:>14}");
        line("records put", grouped(self.put))?;
        line("delivered", grouped(self.delivered))?;
        line("of which dead letters", grouped(self.dead_letters))?;
        for (name, count) in self.lake.defects() {
            if name != UNLIKE_THE_TABLE || self.lake.key_state_mismatches.is_some() {
                line(name, grouped(count))?;
            }
        }
        if self.lake.alerts > 0 {
            line("alerts", grouped(self.lake.alerts))?;
        }
        if self.lake.unclear > 0 {
            line("puts without a response", grouped(self.lake.unclear))?;
        }
        line("objects", grouped(self.lake.objects))?;
        line("objects, compressed", mebibytes(self.lake.bytes_out))?;
        line("put per second", format!("{:.0}", self.put_per_second))?;
        line("delivered per second", format!("{:.0}", self.delivered_per_second))?;
        let LatencyMs { p50, p99, max } = self.latency_ms;
        line(
            "put to lake p50 / p99 / max",
            format!("{} / {} / {} s", tenths(p50), tenths(p99), tenths(max)),
        )?;
        line("longest lag", format!("{} s", tenths(self.lag_ms_max)))?;
        line("workers killed", grouped(self.workers_killed))?;
        line("zombies", grouped(self.zombies))?;
        line("reshardings", grouped(self.reshards))?;
        for requests in &self.requests {
            let per_million = format!("{} per million records", grouped(requests.per_million_records));
            line(&format!("{} requests", requests.service), per_million)?;
        }
        let cpu: f64 = self.workers.iter().map(|worker| worker.cpu_seconds).sum();
        let memory = self.workers.iter().map(|worker| worker.rss_max_bytes).max().unwrap_or(0);
        line("worker processes", grouped(self.workers.len() as u64))?;
        line("CPU time of all workers", format!("{cpu:.1} s"))?;
        line("peak memory of one worker", mebibytes(memory))?;
        line("time", format!("{:.1} s", self.seconds))?;
        if !self.faults.is_empty() {
            let longest = match self.worker_command {
                None => "  longest time without a reader for one shard",
                Some(_) => "",
            };
            writeln!(f, "\n  fault       times{longest}")?;
        }
        for kind in Chaos::all() {
            let of_kind = || self.faults.iter().filter(|fault| fault.kind == kind);
            if let Some(longest) = of_kind().map(|fault| fault.unread_ms_max).max() {
                write!(f, "  {kind:<12}{:>5}", of_kind().count())?;
                match self.worker_command {
                    None => writeln!(f, "  {} s", tenths(longest))?,
                    Some(_) => writeln!(f)?,
                }
            }
        }
        write_streams(f, self.streams.iter().map(|stream| &stream.check))?;
        writeln!(f)?;
        for end in &self.ended_by_themselves {
            writeln!(f, "  {end}")?;
        }
        self.lake.write_findings(f)?;
        let seed = self.seed;
        match (self.exactly_once, &self.no_verdict) {
            (Some(true), _) => {
                write!(
                    f,
                    "Every one of {} records is in the lake exactly once. Seed {seed}.",
                    grouped(self.put)
                )
            }
            (None, Some(why)) => write!(f, "NO VERDICT: {why}. Seed {seed}."),
            _ => write!(f, "THE LAKE IS WRONG: see above. Seed {seed}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_must_be_proven() {
        let stream = |name: &str, exactly_once, no_verdict: Option<&str>| StreamVerdict {
            source: TrialSource::Kinesis,
            check: StreamCheck { stream: name.to_owned(), ..StreamCheck::default() },
            exactly_once,
            no_verdict: no_verdict.map(str::to_owned),
            latency_ms: LatencyMs { p50: 0, p99: 0, max: 0 },
            lag_ms_max: 0,
        };
        let [good, bad] = [true, false].map(|sound| stream("a", Some(sound), None));
        let none = stream("b", None, Some("nothing was put"));
        assert_eq!(of_all(true, &[good.clone(), good.clone()]), (Some(true), None));
        assert_eq!(of_all(true, &[good.clone(), bad.clone()]), (Some(false), None));
        assert_eq!(of_all(true, &[none.clone(), bad]), (Some(false), None));
        let why = |text: &str| (None, Some(text.to_owned()));
        assert_eq!(of_all(true, &[good.clone(), none.clone()]), why("stream b: nothing was put"));
        assert_eq!(of_all(true, &[none]), why("nothing was put"));
        // An object of no stream.
        assert_eq!(of_all(false, &[good.clone(), good]), (Some(false), None));
    }

    #[test]
    fn nothing_that_must_be_there_proves_nothing() {
        assert_eq!(exactly_once(true, 5, 5), (Some(true), None));
        assert_eq!(exactly_once(false, 5, 5), (Some(false), None));
        // Rows that nobody put are a defect without any record too.
        assert_eq!(exactly_once(false, 5, 0), (Some(false), None));
        for (written, says) in [(0, "no record was put: use"), (1_234, "none of the 1,234 records had to be")]
        {
            let (verdict, why) = exactly_once(true, written, 0);
            assert!(verdict.is_none() && why.unwrap().starts_with(says), "{written}");
        }
    }
}
