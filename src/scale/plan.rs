//! The plan: observations → numbers of shards and tasks, with the reasons.

use serde::Serialize;

use super::observed::{Mode, Observed, Shard};
use super::prices;
use super::steps::{SHARDS_MAX, USES_A_DAY, steps};
use super::tasks::{self, CPU_TARGET, FleetLoad, ceiling};

/// A shard takes so many bytes a second.
const SHARD_BYTES: f64 = 1_048_576.0;
/// And so many records.
const SHARD_RECORDS: f64 = 1_000.0;
/// Shards are to be filled so far in the busiest minute: keys are never spread evenly, and no minute is even in itself.
const FILLED: f64 = 0.7;
/// Fewer shards are proposed where they are a quarter fewer at least: each change moves every lease.
const WORTH_IT: f64 = 0.75;
/// And where a whole day is known.
const DAY_HOURS: u32 = 24;
/// A shard is hot where it has so many times what the one in the middle has, and is filled beyond [`FILLED`].
const HOT: f64 = 2.0;
/// A reader that is further behind catches up: what it reads says nothing of what is written now.
const BEHIND_MS: u64 = 60_000;

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScalePlan {
    /// Numbers of shards.
    pub shards: Part,
    /// Each number of shards to ask for on the way.
    pub steps: Vec<u32>,
    /// Numbers of tasks.
    pub tasks: Part,
    /// Shards that get far more than the others.
    pub hot_shards: Vec<String>,
    /// For an on-demand stream: what it should be ready for before more is written, MiB/s.
    pub warm_throughput_mibps: Option<u32>,
    /// US dollars a month.
    pub cost: Cost,
}

/// One of the numbers of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// Today.
    pub now: Option<u32>,
    /// As it should be; `None` where that is not known.
    pub wanted: Option<u32>,
    /// Sentences.
    pub because: Vec<String>,
}

/// What it costs a month in US dollars, data apart; `None` where a number is not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Which prices.
    pub prices: &'static str,
    /// Which task.
    pub task: &'static str,
    /// The stream as it is.
    pub stream_now: f64,
    /// The stream as it should be.
    pub stream_wanted: Option<f64>,
    /// The tasks that run.
    pub tasks_now: Option<f64>,
    /// The tasks that should run.
    pub tasks_wanted: Option<f64>,
}

/// Plans from what was observed, and from nothing else.
pub fn plan(observed: &Observed) -> ScalePlan {
    let stream = &observed.stream;
    let hot_shards = hot(&observed.shards);
    let (shards, warm_throughput_mibps) = match stream.mode {
        Mode::Provisioned => (provisioned(observed, &hot_shards), None),
        Mode::OnDemand => on_demand(observed),
    };
    let provisioned = stream.mode == Mode::Provisioned;
    let steps = match shards.wanted.filter(|_| provisioned) {
        Some(wanted) => steps(stream.open_shards, wanted),
        None => Vec::new(),
    };
    let tasks = tasks(observed);
    let retention = stream.retention_hours.unwrap_or(DAY_HOURS);
    let stream_cost =
        |count: u32| if provisioned { prices::shards(count, retention) } else { prices::on_demand() };
    let cost = Cost {
        prices: prices::OF,
        task: prices::TASK,
        stream_now: stream_cost(stream.open_shards),
        stream_wanted: shards.wanted.map(stream_cost),
        tasks_now: tasks.now.map(prices::tasks),
        tasks_wanted: tasks.wanted.map(prices::tasks),
    };
    ScalePlan { shards, steps, tasks, hot_shards, warm_throughput_mibps, cost }
}

fn provisioned(observed: &Observed, hot_shards: &[String]) -> Part {
    let now = observed.stream.open_shards;
    let mut part = Part { now: Some(now), ..Part::default() };
    let behind = observed.shards.iter().filter(|shard| is_behind(shard)).count();
    let load = Load::of(observed);
    let Some(needed) = load.needed(&mut part.because) else {
        part.because.push(
            "what is written is not known: CloudWatch did not say, and neither do all leases of readers at the tip"
                .to_owned(),
        );
        return part;
    };
    if behind > 0 {
        part.because.push(format!(
            "{behind} of {now} shards are more than a minute behind; more shards do not help with what is in them: old \
             shards are read to their end first"
        ));
    }
    if !hot_shards.is_empty() {
        part.because.push(format!(
            "{} of {now} shards get at least twice as much as the others: split them alone, or change their partition keys \
             (docs/runbooks/hot-shard.md)",
            hot_shards.len()
        ));
    }
    if load.throttled > 0.0 {
        part.because.push(format!(
            "{:.0} records were refused in that time because a shard was full: keys are uneven, or seconds are busier than \
             minutes show",
            load.throttled
        ));
    }
    let wanted = if needed > now {
        in_quarters(now, needed).min(SHARDS_MAX.max(now))
    } else if let Some(kept) = kept(observed, &load, needed, behind, hot_shards) {
        part.because.extend(kept);
        now
    } else {
        needed
    };
    part.wanted = Some(wanted);
    let uses = u32::try_from(steps(now, wanted).len()).unwrap_or(u32::MAX);
    if let Some(used) = observed.stream.updates_in_24h.filter(|used| used + uses > USES_A_DAY && uses > 0) {
        part.because.push(format!(
            "UpdateShardCount was used {used} times in the last 24 hours and {USES_A_DAY} are allowed: not all of the \
             {uses} steps are possible today"
        ));
    }
    part
}

/// Why there are no fewer shards although fewer would do; nothing to say where it is as it should be. `None`: fewer it is.
fn kept(
    observed: &Observed,
    load: &Load,
    needed: u32,
    behind: usize,
    hot_shards: &[String],
) -> Option<Vec<String>> {
    let now = observed.stream.open_shards;
    if f64::from(needed) > f64::from(now) * WORTH_IT {
        return Some(Vec::new());
    }
    let reason = if !load.whole_day {
        "fewer shards may do, but only the last moments are known: scaling in needs the busiest minute of 24 hours from \
         CloudWatch"
    } else if load.throttled > 0.0 {
        "fewer shards would do for the busiest minute, but not while writes are refused"
    } else if behind > 0 {
        "fewer shards would do, but not while readers are behind"
    } else if !hot_shards.is_empty() {
        "fewer shards would do, but not while some are hot"
    } else {
        return None;
    };
    Some(vec![reason.to_owned()])
}

fn on_demand(observed: &Observed) -> (Part, Option<u32>) {
    let now = observed.stream.open_shards;
    let mut because = vec![
        "the stream is on-demand: AWS sets the number of shards, and takes up to twice the highest load of the last 30 \
         days at once"
            .to_owned(),
    ];
    let peak = observed.cloudwatch.as_ref().and_then(|written| written.peak_bytes_per_second);
    let mibps = peak.map(|bytes| ceiling(bytes * 2.0 / SHARD_BYTES).max(1));
    because.push(match mibps {
        Some(mibps) => format!(
            "before more than {mibps} MiB/s is written, twice the busiest minute of the last {} hours: raise the warm \
             throughput (aws kinesis update-stream-warm-throughput --warm-throughput-mi-bps …)",
            observed.cloudwatch.as_ref().map_or(0, |written| written.hours)
        ),
        None => "before a jump in load raise the warm throughput (aws kinesis update-stream-warm-throughput \
                 --warm-throughput-mi-bps …); how much is written is not known without CloudWatch"
            .to_owned(),
    });
    (Part { now: Some(now), wanted: None, because }, mibps)
}

/// What is written, as far as it is known.
struct Load {
    /// Bytes a second, and where that is from.
    bytes: Vec<(f64, String)>,
    records: Option<(f64, String)>,
    /// Records that were refused.
    throttled: f64,
    /// It is the most of a whole day, so that fewer shards can be proposed.
    whole_day: bool,
}

impl Load {
    fn of(observed: &Observed) -> Self {
        let written = observed.cloudwatch.as_ref();
        let said = |written: &super::Written| {
            format!("in the busiest minute of the last {} hours (CloudWatch)", written.hours)
        };
        let mut bytes = Vec::new();
        if let Some((written, peak)) = written.and_then(|w| Some((w, w.peak_bytes_per_second?))) {
            bytes.push((peak, said(written)));
        }
        bytes.extend(read_at_the_tip(observed).map(|bytes| (bytes, "now (lease table)".to_owned())));
        let records = written.and_then(|written| Some((written.peak_records_per_second?, said(written))));
        let whole_day = written.is_some_and(|written| {
            written.hours >= DAY_HOURS
                && written.peak_bytes_per_second.is_some()
                && written.peak_records_per_second.is_some()
        });
        let throttled = written.and_then(|written| written.throttled_records).unwrap_or(0.0);
        Self { bytes, records, throttled, whole_day }
    }

    /// Shards that the load needs, with the reasons.
    fn needed(&self, because: &mut Vec<String>) -> Option<u32> {
        let mut needed: Option<u32> = None;
        for (bytes, when) in &self.bytes {
            let shards = ceiling(bytes / (SHARD_BYTES * FILLED)).max(1);
            needed = needed.max(Some(shards));
            because.push(format!("{:.1} MiB/s are written {when}: {}", bytes / SHARD_BYTES, fill(shards)));
        }
        if let Some((records, when)) = &self.records {
            let shards = ceiling(records / (SHARD_RECORDS * FILLED)).max(1);
            needed = needed.max(Some(shards));
            because.push(format!("{records:.0} records/s are written {when}: {}", fill(shards)));
        }
        needed
    }
}

fn fill(shards: u32) -> String {
    let (plural, whose) = if shards == 1 { ("", "its") } else { ("s", "their") };
    format!("{shards} shard{plural} at {:.0} % of {whose} limit", FILLED * 100.0)
}

/// What readers at the tip read is what is written: bytes a second, where it is known of every open shard.
fn read_at_the_tip(observed: &Observed) -> Option<f64> {
    let shards = &observed.shards;
    let all = u32::try_from(shards.len()).ok()? == observed.stream.open_shards;
    let kbps = |shard: &Shard| shard.throughput_kbps.filter(|_| is_at_the_tip(shard));
    let known: Option<Vec<f64>> = shards.iter().map(kbps).collect();
    known.filter(|_| all).map(|known| known.iter().sum::<f64>() * 1024.0)
}

fn is_at_the_tip(shard: &Shard) -> bool {
    shard.millis_behind_latest.is_some_and(|ms| ms <= BEHIND_MS)
}

fn is_behind(shard: &Shard) -> bool {
    shard.millis_behind_latest.is_some_and(|ms| ms > BEHIND_MS)
}

fn hot(shards: &[Shard]) -> Vec<String> {
    let mut rates: Vec<f64> = shards.iter().filter_map(|shard| shard.throughput_kbps).collect();
    rates.sort_by(f64::total_cmp);
    let Some(&middle) = rates.get(rates.len().saturating_sub(1) / 2) else { return Vec::new() };
    let full = SHARD_BYTES / 1024.0 * FILLED;
    let is_hot = |shard: &&Shard| {
        let hot = |kbps: f64| kbps >= full && kbps >= middle * HOT && rates.len() > 1;
        is_at_the_tip(shard) && shard.throughput_kbps.is_some_and(hot)
    };
    shards.iter().filter(is_hot).map(|shard| shard.shard.clone()).collect()
}

/// At least `needed`, in quarters of `now` where these are whole: AWS is slower with other numbers.
fn in_quarters(now: u32, needed: u32) -> u32 {
    if now.is_multiple_of(4) {
        needed.max(1).div_ceil(now / 4).saturating_mul(now / 4)
    } else {
        needed.max(1)
    }
}

fn tasks(observed: &Observed) -> Part {
    let active = u32::try_from(observed.workers.len()).unwrap_or(u32::MAX);
    let fleet = FleetLoad {
        cpu_percent: observed.workers.iter().map(|worker| worker.cpu_percent).collect(),
        kbps: observed.shards.iter().map(|shard| shard.throughput_kbps).collect(),
        shards: observed.stream.open_shards,
    };
    let mut part = Part::default();
    if observed.workers.is_empty() {
        part.because.push("no active worker was seen".to_owned());
        return part;
    }
    part.now = Some(active);
    let Some(wanted) = tasks::wanted(&fleet) else {
        part.because
            .push("neither the CPU of all workers nor the throughput of all leases is known".to_owned());
        return part;
    };
    part.wanted = Some(wanted);
    let cpu: Option<Vec<f64>> = fleet.cpu_percent.into_iter().collect();
    part.because.push(match cpu {
        Some(cpu) => format!(
            "workers use {:.0} % of their CPU on average, {CPU_TARGET:.0} % is the aim",
            cpu.iter().sum::<f64>() / f64::from(active)
        ),
        None => "their CPU is not known of all workers; it goes by what they read".to_owned(),
    });
    let behind = observed.shards.iter().filter(|shard| is_behind(shard)).count();
    if behind > 0 && wanted <= active && active < observed.stream.open_shards {
        part.wanted = Some(active + 1);
        part.because.push(format!("{behind} shards are more than a minute behind: one task more"));
    }
    if part.wanted == Some(observed.stream.open_shards) {
        part.because.push("a shard is read by one worker, so more tasks than shards do not help".to_owned());
    }
    part
}
