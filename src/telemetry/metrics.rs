//! Every metric of kinetide: one function for each fact. With `scrape` and the table of metrics the only place that knows a
//! metric's name.
//!
//! Counters, histograms and gauges of the process go through the `metrics` crate. What can become unknown does not: see
//! [`scrape`](super::scrape).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::metric_table::Kind::{Counter, Gauge, Histogram};
use super::metric_table::{ALL, Described, LABELS, OF_SNAPSHOTS};

/// Words that other stages know: they label a series each.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Why a record can become a dead letter.
    pub dead_letters: &'a [&'static str],
    /// How a fetch can fail.
    pub fetch_errors: &'a [&'static str],
}

/// Installs the process's recorder, with every counter at 0; everything counted before is lost. Somebody must call
/// `run_upkeep` of the handle from time to time, as `http::serve` does.
///
/// # Errors
/// When a recorder is installed already.
pub fn install(words: &Words<'_>) -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe(ALL);
    start_at_zero(words);
    Ok(handle)
}

/// As [`install`], for a process that takes snapshots and is no worker: without the series of one.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_for_snapshots() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    describe(OF_SNAPSHOTS);
    for outcome in ["new", "existed"] {
        counter!("kinetide_snapshots_total", "outcome" => outcome).absolute(0);
    }
    counter!("kinetide_snapshots_missed_total").absolute(0);
    Ok(handle)
}

/// A counter that appears with its first event hides that event: the increase from nothing to one is none. So is the
/// state of a process that has done nothing yet: it holds no lease, and does not lead.
fn start_at_zero(words: &Words<'_>) {
    for (name, kind, ..) in ALL {
        let name = *name;
        let labelled = match name {
            "kinetide_records_dead_lettered_total" => Some(("reason", words.dead_letters)),
            "kinetide_fetch_errors_total" => Some(("kind", words.fetch_errors)),
            _ => LABELS.iter().find(|(of, ..)| *of == name).map(|(_, label, values)| (*label, *values)),
        };
        match (kind, labelled) {
            (Counter, None) => counter!(name).absolute(0),
            (Counter, Some((label, values))) => {
                values.iter().for_each(|value| counter!(name, label => *value).absolute(0));
            }
            (Gauge | Histogram(_), _) => {}
        }
    }
    gauge!("kinetide_fan_out_subscriptions").set(0.0);
    leases_held(0);
    bytes_in_flight(0);
    lease_table_lost(false);
    log_lines_dropped(0);
}

/// Lines dropped so far: the log is older than the recorder, and its thread may report two counts in the wrong order.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// So many log lines of this process were dropped until now.
pub fn log_lines_dropped(all: u64) {
    let all = LOG_LINES_DROPPED.fetch_max(all, Ordering::Relaxed).max(all);
    counter!("kinetide_log_lines_dropped_total").absolute(all);
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    ALL.iter().try_fold(PrometheusBuilder::new(), |builder, (name, kind, ..)| match kind {
        Histogram(buckets) => builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets),
        Counter | Gauge => Ok(builder),
    })
}

/// Tells the installed recorder the meaning of these metrics.
fn describe(table: &[Described]) {
    for (name, kind, unit, text) in table {
        match kind {
            Counter => metrics::describe_counter!(*name, *unit, *text),
            Gauge => metrics::describe_gauge!(*name, *unit, *text),
            Histogram(_) => metrics::describe_histogram!(*name, *unit, *text),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes and ages stay far below 2^53")]
pub(super) fn as_f64(number: impl Into<u64>) -> f64 {
    number.into() as f64
}

/// How a write to the lease table went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Written.
    Done,
    /// The lease belongs to somebody else now.
    NotHeld,
    /// The table refused or did not answer; the write is tried again.
    Unavailable,
}

impl WriteOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotHeld => "not_held",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why the leader gave a lease to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignedHow {
    /// It had just been created.
    New,
    /// It had no owner.
    Unowned,
    /// Its owner had stopped renewing it.
    Expired,
    /// To balance the fleet: its owner still lets it go.
    HandOff,
    /// Its owner did not let it go in time.
    Stuck,
}

/// How an object came to be in the lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectOutcome {
    /// By this delivery.
    Created,
    /// A former owner of the lease had finished it.
    Existed,
    /// Not by a delivery of this batch: it holds other rows, and the batch is repaired.
    Foreign,
}

/// How a call to Firehose went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Each record was accepted.
    Accepted,
    /// Some were.
    Partial,
    /// Refused for rate.
    Throttled,
    /// Refused otherwise, or without an answer.
    Failed,
}

/// How a batch of a former owner was brought to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveredHow {
    /// The same objects were built again.
    Finished,
    /// Its objects were sealed and the missing rows written apart.
    Repaired,
}

/// A page was fetched; `bytes` as the page holds them in memory.
pub fn page_fetched(records: usize, bytes: usize, took: Duration) {
    counter!("kinetide_records_fetched_total").increment(records as u64);
    counter!("kinetide_fetch_bytes_total").increment(bytes as u64);
    histogram!("kinetide_fetch_duration_seconds", "outcome" => "ok").record(took);
}

/// Aggregates of a page that was fetched: so many were unpacked to so many `records`, of which some lie outside the hash
/// keys of the shard; the others cannot be unpacked, or were left out for such records.
pub fn aggregates_found(unpacked: u64, records: u64, outside: u64, broken: u64, dropped: u64) {
    for (outcome, aggregates) in [("unpacked", unpacked), ("broken", broken), ("dropped", dropped)] {
        counter!("kinetide_aggregates_total", "outcome" => outcome).increment(aggregates);
    }
    // Each was counted as one with its page.
    counter!("kinetide_records_fetched_total").increment(records - unpacked);
    counter!("kinetide_records_out_of_range_total").increment(outside);
}

/// A fetch was refused for rate.
pub fn fetch_throttled(took: Duration) {
    counter!("kinetide_fetch_throttled_total").increment(1);
    histogram!("kinetide_fetch_duration_seconds", "outcome" => "throttled").record(took);
}

/// A fetch failed; `kind` is `FetchError::kind`.
pub fn fetch_failed(kind: &'static str, took: Duration) {
    counter!("kinetide_fetch_errors_total", "kind" => kind).increment(1);
    histogram!("kinetide_fetch_duration_seconds", "outcome" => "error").record(took);
}

/// A subscription of enhanced fan-out begins.
pub fn subscribed() {
    counter!("kinetide_fan_out_subscribed_total").increment(1);
    gauge!("kinetide_fan_out_subscriptions").increment(1.0);
}

/// It is closed.
pub fn unsubscribed() {
    gauge!("kinetide_fan_out_subscriptions").decrement(1.0);
}

/// It brought an event; `bytes` as the page holds them in memory.
pub fn event_received(records: usize, bytes: usize) {
    counter!("kinetide_fan_out_events_total").increment(1);
    counter!("kinetide_records_fetched_total").increment(records as u64);
    counter!("kinetide_fetch_bytes_total").increment(bytes as u64);
}

/// There is none, as the stream refused it for rate.
pub fn subscription_throttled() {
    counter!("kinetide_fetch_throttled_total").increment(1);
}

/// There is none, or none any more; `kind` is `FetchError::kind`.
pub fn subscription_failed(kind: &'static str) {
    counter!("kinetide_fetch_errors_total", "kind" => kind).increment(1);
}

/// Records became rows.
pub fn records_transformed(rows: usize) {
    counter!("kinetide_records_transformed_total").increment(rows as u64);
}

/// Records were not for the quick reader.
pub fn records_read_generally(records: u64) {
    counter!("kinetide_records_read_generally_total").increment(records);
}

/// Records became dead letters; `reason` is one of a few fixed words.
pub fn records_dead_lettered(reason: &'static str, records: u64) {
    counter!("kinetide_records_dead_lettered_total", "reason" => reason).increment(records);
}

/// Rows were copied for alerts, and the checkpoint has passed them.
pub fn rows_alerted(rows: u64) {
    counter!("kinetide_rows_alerted_total").increment(rows);
}

/// The snapshot of an interval is there, `new` or `existed`. `start_s`: when the interval began, s since the epoch.
pub fn snapshot_delivered(outcome: &'static str, start_s: i64) {
    counter!("kinetide_snapshots_total", "outcome" => outcome).increment(1);
    gauge!("kinetide_snapshot_newest_timestamp_seconds").set(as_f64(start_s.max(0).unsigned_abs()));
}

/// So many intervals have none.
pub fn snapshots_missed(intervals: u64) {
    counter!("kinetide_snapshots_missed_total").increment(intervals);
}

/// A request to a provider, or a delivery, was in vain; `reason` is one of a few words, or `http_` and a status.
pub fn snapshot_attempt_failed(reason: &str) {
    counter!("kinetide_snapshot_attempts_failed_total", "reason" => reason.to_owned()).increment(1);
}

/// A batch was landed and its checkpoint committed. `records` are rows and dead letters; `bytes` uncompressed.
pub fn batch_delivered(records: usize, bytes: usize) {
    counter!("kinetide_batches_delivered_total").increment(1);
    counter!("kinetide_records_delivered_total").increment(records as u64);
    histogram!("kinetide_batch_rows").record(as_f64(records as u64));
    histogram!("kinetide_batch_bytes").record(as_f64(bytes as u64));
}

/// A shard's checkpoint had left the stream's retention when reading started, or the whole shard had: records may be
/// lost.
pub fn checkpoint_trimmed() {
    CHECKPOINTS_TRIMMED.fetch_add(1, Ordering::Relaxed);
    counter!("kinetide_checkpoints_trimmed_total").increment(1);
}

/// How often that was so in this process.
pub(super) fn checkpoints_trimmed() -> u64 {
    CHECKPOINTS_TRIMMED.load(Ordering::Relaxed)
}

static CHECKPOINTS_TRIMMED: AtomicU64 = AtomicU64::new(0);

/// A call to CloudWatch came to an end.
pub(super) fn cloudwatch_called(ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!("kinetide_cloudwatch_calls_total", "outcome" => outcome).increment(1);
}

/// So many metrics for CloudWatch were given up.
pub(super) fn cloudwatch_dropped(data: u64) {
    counter!("kinetide_cloudwatch_dropped_total").increment(data);
}

/// An object is in the lake.
pub fn object_delivered(outcome: ObjectOutcome) {
    let outcome = match outcome {
        ObjectOutcome::Created => "created",
        ObjectOutcome::Existed => "existed",
        ObjectOutcome::Foreign => "foreign",
    };
    counter!("kinetide_objects_delivered_total", "outcome" => outcome).increment(1);
}

/// One delivery to `sink` (`objects`: S3 or a folder; `firehose`) came to an end, retries included.
pub fn deliver_finished(sink: &'static str, ok: bool, took: Duration) {
    let outcome = if ok { "ok" } else { "error" };
    histogram!("kinetide_deliver_duration_seconds", "sink" => sink, "outcome" => outcome).record(took);
}

/// A delivery is tried again.
pub fn deliver_retried() {
    counter!("kinetide_deliver_retries_total").increment(1);
}

/// A call to Firehose came to an end.
pub fn firehose_called(outcome: CallOutcome) {
    let outcome = match outcome {
        CallOutcome::Accepted => "accepted",
        CallOutcome::Partial => "partial",
        CallOutcome::Throttled => "throttled",
        CallOutcome::Failed => "failed",
    };
    counter!("kinetide_firehose_calls_total", "outcome" => outcome).increment(1);
}

/// Firehose accepted a record of `bytes` bytes, which it bills as `billed`.
pub fn firehose_record_accepted(bytes: usize, billed: u64) {
    counter!("kinetide_firehose_records_total").increment(1);
    counter!("kinetide_firehose_bytes_total").increment(bytes as u64);
    counter!("kinetide_firehose_billed_bytes_total").increment(billed);
}

/// Records are sent to Firehose again.
pub fn firehose_records_resent(records: usize) {
    counter!("kinetide_firehose_records_resent_total").increment(records as u64);
}

/// Bytes held between fetch and delivery changed.
pub fn bytes_in_flight(bytes: usize) {
    gauge!("kinetide_in_flight_bytes").set(as_f64(bytes as u64));
}

/// The byte budget of the process was set.
pub fn byte_budget(bytes: usize) {
    gauge!("kinetide_byte_budget_bytes").set(as_f64(bytes as u64));
}

/// The number of leases held changed.
pub fn leases_held(leases: usize) {
    gauge!("kinetide_leases_held").set(as_f64(leases as u64));
}

/// A lease was found in this worker's name and proven by a write.
pub fn lease_begun() {
    counter!("kinetide_leases_begun_total").increment(1);
}

/// The leader gave a lease to a worker.
pub fn lease_assigned(how: AssignedHow) {
    let how = match how {
        AssignedHow::New => "new",
        AssignedHow::Unowned => "unowned",
        AssignedHow::Expired => "expired",
        AssignedHow::HandOff => "hand_off",
        AssignedHow::Stuck => "stuck",
    };
    counter!("kinetide_leases_assigned_total", "how" => how).increment(1);
}

/// Another process writes the row of this worker id.
pub fn worker_id_twice() {
    counter!("kinetide_worker_id_collisions_total").increment(1);
}

/// A lease was lost to another worker or to expiry.
pub fn lease_lost() {
    counter!("kinetide_leases_lost_total").increment(1);
}

/// A lease was given up on purpose.
pub fn lease_released() {
    counter!("kinetide_leases_released_total").increment(1);
}

/// A renewal came to an end.
pub fn lease_renewed(outcome: WriteOutcome, took: Duration) {
    histogram!("kinetide_lease_renew_duration_seconds", "outcome" => outcome.label()).record(took);
}

/// A write to the lease table had no telling answer.
pub fn lease_write_unknown() {
    counter!("kinetide_lease_writes_unknown_total").increment(1);
}

/// A checkpoint commit came to an end.
pub fn checkpointed(outcome: WriteOutcome) {
    counter!("kinetide_checkpoints_total", "outcome" => outcome.label()).increment(1);
}

/// A batch of a former owner was brought to an end.
pub fn batch_recovered(how: RecoveredHow) {
    let how = match how {
        RecoveredHow::Finished => "finished",
        RecoveredHow::Repaired => "repaired",
    };
    counter!("kinetide_batches_recovered_total", "how" => how).increment(1);
}

/// Whether the lease table is gone.
pub fn lease_table_lost(lost: bool) {
    gauge!("kinetide_lease_table_lost").set(f64::from(u8::from(lost)));
}

/// A closed shard was read to its end and its end committed.
pub fn shard_ended() {
    counter!("kinetide_shards_ended_total").increment(1);
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
