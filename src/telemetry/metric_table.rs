//! The metrics of the `metrics` crate: kind, unit, meaning, and the labels that are known before anything happens.

use metrics::Unit;

/// Seconds: from a call in the same zone to one that ran into its time limit.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const KIB: f64 = 1024.0;
const BATCH_BYTES_BUCKETS: [f64; 8] = [
    16.0 * KIB,
    64.0 * KIB,
    256.0 * KIB,
    1024.0 * KIB,
    4096.0 * KIB,
    16_384.0 * KIB,
    65_536.0 * KIB,
    262_144.0 * KIB,
];
const BATCH_ROWS_BUCKETS: [f64; 7] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// What a metric counts or shows.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

use Kind::{Counter, Gauge, Histogram};

/// Name, kind, unit, meaning.
pub(super) type Described = (&'static str, Kind, Unit, &'static str);

/// All metrics of the `metrics` crate that a worker has, described.
pub(super) const ALL: &[Described] = &[
    (
        "kinetide_records_fetched_total",
        Counter,
        Unit::Count,
        "Records fetched from the stream; of an aggregate that was unpacked, the records in it.",
    ),
    (
        "kinetide_aggregates_total",
        Counter,
        Unit::Count,
        "Records that begin like an aggregate of the Kinesis Producer Library, by what became of them.",
    ),
    (
        "kinetide_records_out_of_range_total",
        Counter,
        Unit::Count,
        "Records of aggregates outside the hash key range of the shard that they were read from, delivered all the same.",
    ),
    ("kinetide_fetch_bytes_total", Counter, Unit::Bytes, "Bytes of the pages fetched, as held in memory."),
    (
        "kinetide_fetch_duration_seconds",
        Histogram(&SECONDS),
        Unit::Seconds,
        "Time of a fetch by polling, by outcome.",
    ),
    (
        "kinetide_fetch_throttled_total",
        Counter,
        Unit::Count,
        "Fetches and subscriptions that the stream throttled.",
    ),
    (
        "kinetide_fetch_errors_total",
        Counter,
        Unit::Count,
        "Fetches and subscriptions that failed for another reason than throttling, by kind.",
    ),
    (
        "kinetide_fan_out_subscriptions",
        Gauge,
        Unit::Count,
        "Subscriptions of enhanced fan-out that are open.",
    ),
    (
        "kinetide_fan_out_subscribed_total",
        Counter,
        Unit::Count,
        "Subscriptions of enhanced fan-out that began; each is renewed before its five minutes end.",
    ),
    (
        "kinetide_fan_out_events_total",
        Counter,
        Unit::Count,
        "Events that subscriptions of enhanced fan-out brought, empty ones too.",
    ),
    (
        "kinetide_records_transformed_total",
        Counter,
        Unit::Count,
        "Records that became rows. Dead letters are not counted, nor are batches that are rebuilt.",
    ),
    (
        "kinetide_records_dead_lettered_total",
        Counter,
        Unit::Count,
        "Records that became dead letters, by reason.",
    ),
    (
        "kinetide_records_read_generally_total",
        Counter,
        Unit::Count,
        "Change records that the quick reader left to the general one: not written as DynamoDB writes them, or broken.",
    ),
    (
        "kinetide_records_delivered_total",
        Counter,
        Unit::Count,
        "Rows and dead letters delivered and committed.",
    ),
    (
        "kinetide_rows_alerted_total",
        Counter,
        Unit::Count,
        "Valid rows of high risk that were copied to alerts/high_risk, delivered and committed.",
    ),
    (
        "kinetide_batch_bytes",
        Histogram(&BATCH_BYTES_BUCKETS),
        Unit::Bytes,
        "Uncompressed bytes of a delivered batch.",
    ),
    ("kinetide_batch_rows", Histogram(&BATCH_ROWS_BUCKETS), Unit::Count, "Rows of a delivered batch."),
    ("kinetide_batches_delivered_total", Counter, Unit::Count, "Batches delivered and committed."),
    (
        "kinetide_objects_delivered_total",
        Counter,
        Unit::Count,
        "Objects delivered, by outcome: created, existed (with the same rows, from an earlier attempt), or foreign (with other rows; the batch is repaired).",
    ),
    (
        "kinetide_deliver_duration_seconds",
        Histogram(&SECONDS),
        Unit::Seconds,
        "Time of one delivery to a sink, retries included, by sink and outcome.",
    ),
    ("kinetide_deliver_retries_total", Counter, Unit::Count, "Delivery attempts after the first."),
    (
        "kinetide_firehose_calls_total",
        Counter,
        Unit::Count,
        "PutRecordBatch calls, by outcome: accepted, partial, throttled, failed.",
    ),
    (
        "kinetide_firehose_records_total",
        Counter,
        Unit::Count,
        "Firehose records, of many rows each, that Firehose accepted.",
    ),
    (
        "kinetide_firehose_records_resent_total",
        Counter,
        Unit::Count,
        "Firehose records sent again, because they were refused or the response was lost.",
    ),
    ("kinetide_firehose_bytes_total", Counter, Unit::Bytes, "Bytes of the records that Firehose accepted."),
    (
        "kinetide_firehose_billed_bytes_total",
        Counter,
        Unit::Bytes,
        "Bytes that Firehose bills for the records it accepted: each record rounded up to 5 KB.",
    ),
    ("kinetide_in_flight_bytes", Gauge, Unit::Bytes, "Bytes held between fetch and delivery."),
    (
        "kinetide_byte_budget_bytes",
        Gauge,
        Unit::Bytes,
        "Limit of the bytes held between fetch and delivery (--byte-budget).",
    ),
    ("kinetide_leases_held", Gauge, Unit::Count, "Leases that this worker owns."),
    ("kinetide_leases_begun_total", Counter, Unit::Count, "Leases that this worker became the owner of."),
    (
        "kinetide_leases_assigned_total",
        Counter,
        Unit::Count,
        "Leases that this worker assigned as the leader, by how: new, unowned, expired, hand_off, stuck.",
    ),
    (
        "kinetide_worker_id_collisions_total",
        Counter,
        Unit::Count,
        "Times that another process was found to use this worker's id.",
    ),
    ("kinetide_leases_lost_total", Counter, Unit::Count, "Leases lost: taken by another worker, or expired."),
    ("kinetide_leases_released_total", Counter, Unit::Count, "Leases released on purpose."),
    (
        "kinetide_lease_renew_duration_seconds",
        Histogram(&SECONDS),
        Unit::Seconds,
        "Time of one lease renewal, by outcome.",
    ),
    (
        "kinetide_lease_writes_unknown_total",
        Counter,
        Unit::Count,
        "Writes to the lease table whose outcome is unknown; the row is read again.",
    ),
    ("kinetide_checkpoints_total", Counter, Unit::Count, "Checkpoint commits, by outcome."),
    (
        "kinetide_checkpoints_trimmed_total",
        Counter,
        Unit::Count,
        "Checkpoints that were older than the stream's retention when reading started, and shards that left the stream before they were read to their end: records may be lost.",
    ),
    (
        "kinetide_batches_recovered_total",
        Counter,
        Unit::Count,
        "Pending batches of a previous owner that this worker completed, by how: finished (as prepared) or repaired.",
    ),
    ("kinetide_lease_table_lost", Gauge, Unit::Count, "1 while the lease table is gone."),
    ("kinetide_shards_ended_total", Counter, Unit::Count, "Closed shards read to their end."),
    ("kinetide_cloudwatch_calls_total", Counter, Unit::Count, "PutMetricData calls, by outcome: ok, failed."),
    (
        "kinetide_cloudwatch_dropped_total",
        Counter,
        Unit::Count,
        "Metrics for CloudWatch given up: they could not be sent in time, or were refused.",
    ),
    (
        "kinetide_log_lines_dropped_total",
        Counter,
        Unit::Count,
        "Log lines dropped because the log could not be written, or nobody read it.",
    ),
];

/// Those of a process that takes snapshots.
pub(super) const OF_SNAPSHOTS: &[Described] = &[
    (
        "kinetide_snapshots_total",
        Counter,
        Unit::Count,
        "Intervals whose snapshot is at its target, by whether this process has put it there.",
    ),
    (
        "kinetide_snapshots_missed_total",
        Counter,
        Unit::Count,
        "Intervals without a snapshot, recorded as gaps.",
    ),
    (
        "kinetide_snapshot_attempts_failed_total",
        Counter,
        Unit::Count,
        "Requests to the provider, and deliveries, that failed, by reason.",
    ),
    (
        "kinetide_snapshot_newest_timestamp_seconds",
        Gauge,
        Unit::Seconds,
        "Start of the newest interval whose snapshot is at its target, Unix time.",
    ),
];

/// The labels of the series that are known before anything happens: name, label, values.
pub(super) const LABELS: &[(&str, &str, &[&str])] = &[
    ("kinetide_objects_delivered_total", "outcome", &["created", "existed", "foreign"]),
    ("kinetide_aggregates_total", "outcome", &["unpacked", "broken", "dropped"]),
    ("kinetide_firehose_calls_total", "outcome", &["accepted", "partial", "throttled", "failed"]),
    ("kinetide_cloudwatch_calls_total", "outcome", &["ok", "failed"]),
    ("kinetide_leases_assigned_total", "how", &["new", "unowned", "expired", "hand_off", "stuck"]),
    ("kinetide_checkpoints_total", "outcome", &["done", "not_held", "unavailable"]),
    ("kinetide_batches_recovered_total", "how", &["finished", "repaired"]),
];
