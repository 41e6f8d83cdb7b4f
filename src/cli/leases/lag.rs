//! How old a checkpoint is and how far behind the tip, asked of the stream: the record at the checkpoint itself.

use std::collections::BTreeMap;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::ShardIteratorType;
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::aws::{OfStream, StreamAddress, explain};
use crate::clock::wall_clock_us;
use crate::lease::{CaughtUp, Gap, Lease, LeaseKey, gap};
use crate::shard::{Checkpoint, SequenceNumber};

/// Shards asked at the same time. Each costs one of the five reads a second that the shard allows.
const CONCURRENCY: usize = 20;
/// Kinesis may answer with empty pages before the first record.
const PAGES_MAX: usize = 5;

/// What the stream says of one checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Lag {
    /// Age of the last record that is done, ms.
    pub(super) checkpoint_age_ms: Option<i64>,
    /// How far the next record is behind the tip, ms.
    pub(super) millis_behind_latest: Option<i64>,
    /// The record at the checkpoint has left the stream, and what followed it may be lost.
    pub(super) trimmed: bool,
    /// Why nothing is known, in short.
    pub(super) lag_problem: Option<String>,
}

/// Asks for the checkpoints of these leases; those that cannot be asked for are left out.
pub(super) async fn lags<'a>(
    client: &Client,
    stream: &StreamAddress,
    leases: impl Iterator<Item = &'a Lease>,
) -> BTreeMap<LeaseKey, Lag> {
    let asked: Vec<_> = leases
        .filter(|lease| matches!(lease.checkpoint, Checkpoint::At(_) | Checkpoint::TrimHorizon))
        .map(|lease| async move { (lease.key.clone(), lag(client, stream, lease).await) })
        .collect();
    stream::iter(asked).buffer_unordered(CONCURRENCY).collect().await
}

async fn lag(client: &Client, stream: &StreamAddress, lease: &Lease) -> Lag {
    let (kind, sequence) = match &lease.checkpoint {
        Checkpoint::At(at) => (ShardIteratorType::AtSequenceNumber, Some(at.sequence.as_str().to_owned())),
        _ => (ShardIteratorType::TrimHorizon, None),
    };
    let problem = |problem: String| Lag { lag_problem: Some(problem), ..Lag::default() };
    let call = client.get_shard_iterator().of(stream).shard_id(lease.key.shard().as_str());
    let call = call.shard_iterator_type(kind).set_starting_sequence_number(sequence);
    let mut next = match call.send().await {
        Ok(answer) => answer.shard_iterator,
        Err(error) => return problem(short(error.code(), || explain(&error))),
    };
    let mut read = Lag::default();
    for _ in 0..PAGES_MAX {
        let Some(iterator) = next.take() else { break };
        let page = match client.get_records().of(stream).shard_iterator(iterator).limit(1).send().await {
            Ok(page) => page,
            Err(error) => return problem(short(error.code(), || explain(&error))),
        };
        read = of_page(&lease.checkpoint, lease.caught_up.as_ref(), &page, wall_clock_us());
        if !page.records().is_empty() || page.millis_behind_latest() == Some(0) {
            break;
        }
        next = page.next_shard_iterator;
    }
    read
}

/// What the first record at a checkpoint tells.
fn of_page(
    checkpoint: &Checkpoint,
    caught_up: Option<&CaughtUp>,
    page: &GetRecordsOutput,
    wall_clock_us: i64,
) -> Lag {
    let behind = page.millis_behind_latest();
    let first = page.records().first();
    let Checkpoint::At(at) = checkpoint else {
        return Lag { millis_behind_latest: behind, ..Lag::default() };
    };
    if first.is_none() && behind != Some(0) {
        return Lag { millis_behind_latest: behind, ..Lag::default() };
    }
    let sequence = first.and_then(|record| SequenceNumber::parse(record.sequence_number()));
    let gap = gap(caught_up, &at.sequence, sequence.as_ref(), Some(wall_clock_us), None);
    let there = first.filter(|_| sequence.is_some_and(|sequence| sequence <= at.sequence));
    let arrival = there.and_then(|record| record.approximate_arrival_timestamp());
    let arrival_us = arrival.and_then(|at| i64::try_from(at.as_nanos().checked_div(1000)?).ok());
    Lag {
        checkpoint_age_ms: arrival_us.map(|us| (wall_clock_us - us).max(0) / 1000),
        millis_behind_latest: behind,
        trimmed: gap == Gap::Possible,
        lag_problem: None,
    }
}

/// One word where it is known.
fn short(code: Option<&str>, whole: impl FnOnce() -> String) -> String {
    match code {
        Some(
            "ProvisionedThroughputExceededException"
            | "LimitExceededException"
            | "KMSThrottlingException"
            | "ThrottlingException",
        ) => "throttled".to_owned(),
        Some("ExpiredIteratorException") => "expired".to_owned(),
        Some("ResourceNotFoundException") => "not found".to_owned(),
        _ => whole(),
    }
}

/// Whether `sequence` can be a checkpoint of this shard, by asking for an iterator there.
///
/// # Errors
/// What the stream says against it, for people.
pub(super) async fn check(
    client: &Client,
    stream: &StreamAddress,
    shard: &LeaseKey,
    sequence: &SequenceNumber,
) -> Result<(), String> {
    let call = client.get_shard_iterator().of(stream).shard_id(shard.shard().as_str());
    let call = call.shard_iterator_type(ShardIteratorType::AtSequenceNumber);
    let answer = call.starting_sequence_number(sequence.as_str()).send().await;
    answer.map(drop).map_err(|error| explain(&error))
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::{Blob, DateTime};
    use aws_sdk_kinesis::types::Record;

    use super::*;
    use crate::shard::Position;

    fn page(sequence: Option<&str>, behind: i64) -> GetRecordsOutput {
        let record = sequence.map(|sequence| {
            let record = Record::builder().sequence_number(sequence).partition_key("k").data(Blob::new([]));
            record.approximate_arrival_timestamp(DateTime::from_secs(100)).build().unwrap()
        });
        let output = GetRecordsOutput::builder().set_records(Some(record.into_iter().collect()));
        output.millis_behind_latest(behind).build().unwrap()
    }

    #[test]
    fn the_record_at_the_checkpoint_gives_its_age() {
        let at = Checkpoint::At(Position::new(SequenceNumber::from(9)));
        let of_page = |checkpoint: &_, page: &_, now_us| of_page(checkpoint, None, page, now_us);
        let lag = of_page(&at, &page(Some("9"), 1_500), 103_250_000);
        assert_eq!((lag.checkpoint_age_ms, lag.millis_behind_latest), (Some(3_250), Some(1_500)));
        // A host whose clock is behind.
        assert_eq!(of_page(&at, &page(Some("9"), 0), 1).checkpoint_age_ms, Some(0));
        let gone = of_page(&at, &page(Some("10"), 7_000), 103_250_000);
        assert_eq!(
            (gone.checkpoint_age_ms, gone.millis_behind_latest, gone.trimmed),
            (None, Some(7_000), true)
        );
        // Nothing was lost: the shard was read to its tip a while ago.
        let seen = CaughtUp { after: SequenceNumber::from(9), at_us: 100_000_000, retention_hours: 24 };
        for found in [page(Some("10"), 7_000), page(None, 0)] {
            let quiet = super::of_page(&at, Some(&seen), &found, 103_250_000);
            assert_eq!((quiet.checkpoint_age_ms, quiet.trimmed), (None, false));
            let later = 100_000_000 + 24 * 3_600_000_000;
            assert!(super::of_page(&at, Some(&seen), &found, later).trimmed);
        }
        let empty = of_page(&Checkpoint::TrimHorizon, &page(None, 0), 1);
        assert_eq!(empty, Lag { millis_behind_latest: Some(0), ..Lag::default() });
        let unread = of_page(&Checkpoint::TrimHorizon, &page(Some("3"), 60_000), 1);
        assert_eq!((unread.checkpoint_age_ms, unread.millis_behind_latest), (None, Some(60_000)));
    }
}
