//! Reads the partitions of a topic of Kafka, as far as their records are committed.
//!
//! Owns: what the answers mean for a reader: pages, the tip, gaps, a log that was cut.
//! Does not own: the calls, batches and codecs (`kafka`), the pace (`polling`).
//!
//! An offset is never moved in silence. Below the first that the partition has: a gap, which the page tells. Above the last
//! one: the log was cut, and the shard stands still. Holes between offsets are ordinary: ends of transactions, what was given
//! up, what was compacted.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kafka_protocol::error::ResponseError;
use tokio::time::sleep;

use super::page::{Page, PageBuilder};
use super::polling::Polled;
use super::source::{FetchError, StartAt};
use crate::clock::wall_clock_us;
use crate::kafka::{
    BatchError, Batches, Cluster, Entry, EpochEnd, FETCH_BYTES, Fetched, Isolation, KafkaError, Offset,
};
use crate::shard::kafka::{PartitionId, partition_of};
use crate::shard::{SequenceNumber, ShardId, WrittenBy};

/// A page takes no further record from here on, bytes: what is packed may be many times as long.
const PAGE_BYTES: usize = 8 << 20;
/// How often a partition that ends before what was read is asked again before it counts as cut: right after a change of
/// leader the new one may not know yet how far it may let us read.
const SHORT_TRIES: u32 = 4;
const SHORT_PAUSE: Duration = Duration::from_millis(500);
/// Calls follow each other without a pause while there is more; a broker slows its clients down by itself.
const INTERVAL: Duration = Duration::ZERO;

/// Reads the partitions of one cluster.
pub struct KafkaSource {
    cluster: Arc<Cluster>,
}

/// Where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: i64,
    /// Everything before this offset was read. Reading may begin one record before it, to see whether that is there.
    read: i64,
    /// The leader that wrote what lies before `offset`, where it was read.
    epoch: Option<i32>,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (offset, read) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let epoch = parts.next().map(str::parse).transpose().ok()?;
        parts.next().is_none().then_some(Self { offset, read, epoch })
    }

    fn at(offset: i64) -> Self {
        Self { offset, read: offset, epoch: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.read)?;
        self.epoch.map_or(Ok(()), |epoch| write!(f, ".{epoch}"))
    }
}

impl KafkaSource {
    /// Over the brokers of this cluster.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    async fn offset(&self, partition: PartitionId, place: Offset) -> Result<i64, FetchError> {
        let isolation = Isolation::Committed;
        match self.cluster.offset(partition, place, isolation).await.map_err(failed)? {
            Some(offset) => Ok(offset),
            // No record is so late.
            None => Ok(self
                .cluster
                .offset(partition, Offset::Latest, isolation)
                .await
                .map_err(failed)?
                .unwrap_or(0)),
        }
    }

    /// The offset is not one of the partition: it is told where that begins, or that it ends too soon.
    async fn out_of_range(&self, partition: PartitionId, place: Place) -> Result<Page, FetchError> {
        let start = self.offset(partition, Offset::Earliest).await?;
        if place.offset < start {
            return Ok(before_the_start(place, start));
        }
        let end =
            self.cluster.offset(partition, Offset::Latest, Isolation::Uncommitted).await.map_err(failed)?;
        let end = end.unwrap_or(0);
        if place.offset <= end {
            // In range by now, or the leader that wrote what was read before is not in its history.
            let problem =
                format!("offset {} was out of range, and the partition ends at {end}", place.offset);
            return Err(match place.epoch {
                None => FetchError::Unavailable(problem.into()),
                Some(_) => cut(Some(end), place.read - 1),
            });
        }
        Err(cut(Some(end), place.read - 1))
    }

    async fn answer(&self, partition: PartitionId, place: Place) -> Result<Fetched, KafkaError> {
        let mut tries = 0;
        loop {
            let answer =
                self.cluster.fetch(partition, place.offset, place.epoch, Isolation::Committed).await?;
            tries += 1;
            if answer.end >= place.read || answer.diverged.is_some() || tries == SHORT_TRIES {
                return Ok(answer);
            }
            sleep(SHORT_PAUSE).await;
        }
    }
}

#[async_trait]
impl Polled for KafkaSource {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        let partition = partition_of(shard).ok_or(FetchError::NotFound)?;
        let place = match begin(start)? {
            Begin::Here(place) => place,
            Begin::Look(offset) => Place::at(self.offset(partition, offset).await?),
        };
        Ok(place.to_string())
    }

    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        let partition = partition_of(shard).ok_or(FetchError::NotFound)?;
        let place =
            Place::parse(iterator).ok_or_else(|| FetchError::Refused(format!("no iterator: {iterator}")))?;
        match self.answer(partition, place).await {
            Ok(Fetched { diverged: Some(end), .. }) => Err(cut(Some(end), place.read - 1)),
            Ok(answer) if answer.end < place.read => Err(cut(Some(answer.end), place.read - 1)),
            Ok(answer) => {
                page(answer, place, records_max).map_err(|error| FetchError::Unavailable(error.into()))
            }
            Err(error) if error.code() == Some(ResponseError::OffsetOutOfRange) => {
                self.out_of_range(partition, place).await
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn still_holds(&self, shard: &ShardId, read: &WrittenBy) -> Result<(), FetchError> {
        let partition = partition_of(shard).ok_or(FetchError::NotFound)?;
        let Ok(offset) = read.upto.as_str().parse() else { return Ok(()) };
        let found = self.cluster.epoch_end(partition, read.epoch).await.map_err(failed)?;
        match held(offset, read.epoch, found) {
            Held::Whole => Ok(()),
            Held::Upto(end) => Err(cut(end, offset)),
        }
    }

    fn page_bytes_max(&self) -> usize {
        // What came, and what it is unpacked to.
        usize::try_from(FETCH_BYTES).unwrap_or(0) + PAGE_BYTES
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    /// A broker sends as many bytes as it is asked for, whatever becomes of them.
    fn leaves_records(&self) -> bool {
        false
    }

    fn calls(&self) -> [&'static str; 2] {
        ["ListOffsets", "Fetch"]
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Here(Place),
    /// At an offset that the partition says.
    Look(Offset),
}

fn begin(start: &StartAt) -> Result<Begin, FetchError> {
    let number = |sequence: &SequenceNumber| {
        let offset = sequence.as_str().parse::<i64>().ok().filter(|offset| *offset < i64::MAX);
        offset.ok_or_else(|| FetchError::Foreign(format!("{sequence} is no offset of Kafka")))
    };
    Ok(match start {
        StartAt::TrimHorizon => Begin::Look(Offset::Earliest),
        StartAt::Latest => Begin::Look(Offset::Latest),
        // Kafka's times are whole milliseconds.
        StartAt::Timestamp(us) => Begin::Look(Offset::Time(us.div_euclid(1000) + i64::from(us % 1000 != 0))),
        StartAt::At(sequence) => {
            let offset = number(sequence)?;
            Begin::Here(Place { offset, read: offset + 1, epoch: None })
        }
        StartAt::After(sequence) => Begin::Here(Place::at(number(sequence)? + 1)),
    })
}

/// The page of a place that retention has passed: the partition begins at `start`. Records are lost where they were not read.
fn before_the_start(place: Place, start: i64) -> Page {
    let mut page = PageBuilder::default().finish();
    page.sparse = true;
    page.trimmed = place.read < start;
    page.first_kept = u128::try_from(start).ok().map(SequenceNumber::from);
    page.tip_unsure = true;
    page.next_iterator = Some(Place::at(start.max(place.read)).to_string());
    page
}

/// The page of an answer.
fn page(answer: Fetched, place: Place, records_max: usize) -> Result<Page, BatchError> {
    let mut builder = PageBuilder::default();
    let (mut count, mut last_ms, mut epoch) = (0, None, None);
    let batches = Batches::new(answer.records, answer.aborted);
    let taken = batches.each(place.offset, |entry: &Entry<'_>| {
        let bytes = entry.key.map_or(0, <[u8]>::len) + entry.value.map_or(0, <[u8]>::len);
        let another = epoch.is_some_and(|epoch| epoch != entry.epoch);
        if count == records_max || another || count > 0 && builder.bytes() + bytes > PAGE_BYTES {
            return ControlFlow::Break(());
        }
        epoch = Some(entry.epoch);
        let arrival_us = entry.time_ms.max(0).saturating_mul(1000);
        builder.push_optional(&entry.offset.to_string(), entry.key, arrival_us, entry.value);
        (count, last_ms) = (count + 1, Some(entry.time_ms));
        ControlFlow::Continue(())
    })?;
    let mut page = builder.finish();
    let at_tip = taken.next >= answer.end;
    page.sparse = true;
    page.tip_unsure = !at_tip;
    page.leader_epoch = epoch.filter(|epoch| *epoch >= 0);
    page.millis_behind_latest = match last_ms {
        _ if at_tip => Some(0),
        Some(last_ms) => Some((wall_clock_us() / 1000).saturating_sub(last_ms).max(1)),
        None => None,
    };
    let epoch = taken.epoch.or(place.epoch);
    let next = Place { offset: taken.next, read: place.read.max(taken.next), epoch };
    page.next_iterator = Some(next.to_string());
    Ok(page)
}

/// How much of a log that was read is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// All of it.
    Whole,
    /// What lies before this offset at most; nothing: it is not known how much.
    Upto(Option<i64>),
}

/// Whether a log holds the record at `offset` that a leader of `epoch` wrote. `found`: how far it has records of that epoch, or
/// of the last one before it. A log that retention has cut off at its start names the epoch that was asked for all the same.
fn held(offset: i64, epoch: i32, found: Option<EpochEnd>) -> Held {
    match found {
        Some(found) if found.epoch >= epoch && offset < found.end => Held::Whole,
        found => Held::Upto(found.map(|found| found.end.min(offset))),
    }
}

/// The partition does not hold what was read, up to `read`; what lies at `end` and behind it at least is gone.
fn cut(end: Option<i64>, read: i64) -> FetchError {
    let at =
        end.map_or("an offset that is not known".to_owned(), |end| format!("offset {end} at the latest"));
    FetchError::Truncated(format!(
        "the partition's log is not the one that was read: it ends, or differs, at {at}, and offset {read} was read \
         from it; its log was cut, as by an unclean change of \
         leader, so that records may be lost and offsets are used again; nothing is skipped by itself: compare with what the \
         producers sent, then move the lease (docs/KAFKA.md)"
    ))
}

fn failed(error: KafkaError) -> FetchError {
    match error {
        KafkaError::NoTopic(_) | KafkaError::NoPartition { .. } => FetchError::NotFound,
        KafkaError::Refused { .. } => FetchError::Refused(error.to_string()),
        error => match error.code() {
            Some(ResponseError::ThrottlingQuotaExceeded) => FetchError::Throttled,
            _ => FetchError::Unavailable(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::Behind;
    use crate::kafka::{Compression, batch_of};

    fn answer(values: &[Option<&[u8]>], end: i64) -> Fetched {
        let records: Vec<_> =
            values.iter().map(|value| (Some(&b"k"[..]), *value, 1_768_469_400_000)).collect();
        let records = batch_of(&records, Compression::None);
        Fetched { records, end, start: 0, aborted: Vec::new(), diverged: None }
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for place in [
            Place::at(0),
            Place { offset: 7, read: 8, epoch: None },
            Place { offset: 9, read: 9, epoch: Some(0) },
        ] {
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for wrong in ["", "1", "1.", "x.1", "1.1.x", "1.1.1.1"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_page_says_where_it_ends() {
        let values = [Some(&b"one"[..]), None, Some(b"three")];
        let whole = page(answer(&values, 3), Place::at(0), 10).unwrap();
        assert_eq!((whole.len(), whole.behind()), (3, Behind::Tip));
        assert_eq!(whole.next_iterator.as_deref(), Some("3.3.-1"));
        assert_eq!(whole.records().map(|record| record.is_null()).collect::<Vec<_>>(), [false, true, false]);
        let part = page(answer(&values, 3), Place { offset: 1, read: 2, epoch: None }, 1).unwrap();
        assert_eq!((part.len(), part.next_iterator.as_deref()), (1, Some("2.2.-1")));
        assert!(matches!(part.behind(), Behind::Millis(ms) if ms > 0), "{:?}", part.behind());
        let open = page(answer(&values, 9), Place::at(3), 10).unwrap();
        assert!(open.is_empty() && open.behind() == Behind::Unknown && open.tip_unsure);
    }

    #[test]
    fn a_page_ends_before_it_is_too_long() {
        let large = vec![b'x'; PAGE_BYTES / 3];
        let values = [Some(&large[..]); 5];
        let first = page(answer(&values, 5), Place::at(0), 10).unwrap();
        assert_eq!((first.len(), first.next_iterator.as_deref()), (2, Some("2.2.-1")));
        let larger = vec![b'x'; PAGE_BYTES * 2];
        assert_eq!(page(answer(&[Some(&larger)], 1), Place::at(0), 10).unwrap().len(), 1, "one always fits");
    }

    #[test]
    fn reading_begins_at_a_record_or_behind_it() {
        let place = |offset, read| Begin::Here(Place { offset, read, epoch: None });
        for (start, expected) in [
            (StartAt::At(7.into()), place(7, 8)),
            (StartAt::After(7.into()), place(8, 8)),
            (StartAt::TrimHorizon, Begin::Look(Offset::Earliest)),
            (StartAt::Timestamp(1_000), Begin::Look(Offset::Time(1))),
            (StartAt::Timestamp(1_001), Begin::Look(Offset::Time(2))),
        ] {
            assert_eq!(begin(&start).unwrap(), expected, "{start:?}");
        }
        for foreign in [i64::MAX.unsigned_abs().into(), u128::MAX] {
            assert!(matches!(begin(&StartAt::After(foreign.into())), Err(FetchError::Foreign(_))));
        }
    }

    #[test]
    fn what_retention_took_unread_is_a_gap_and_nothing_else_is() {
        for (place, trimmed, next) in [
            (Place { offset: 2, read: 3, epoch: None }, true, "6.6"),
            (Place::at(5), true, "6.6"),
            // The record at the checkpoint is gone, and the next one is there.
            (Place { offset: 5, read: 6, epoch: None }, false, "6.6"),
        ] {
            let page = before_the_start(place, 6);
            assert_eq!((page.trimmed, page.next_iterator.as_deref()), (trimmed, Some(next)), "{place:?}");
            assert_eq!((page.is_empty(), page.first_kept), (true, Some(6.into())));
        }
    }

    /// A log as a broker has it, whose leader answers as Kafka's `LeaderEpochFileCache` does.
    struct Log {
        /// By offset.
        epochs: Vec<i32>,
        /// The leader now, and where its records begin, if it has any.
        leader: (i32, usize),
        /// What retention has left begins here.
        start: usize,
    }

    impl Log {
        fn epoch_end(&self, asked: i32) -> Option<EpochEnd> {
            let mut begins: Vec<(i32, usize)> = Vec::new();
            let leader = [(self.leader.1, &self.leader.0)];
            for (offset, epoch) in self.epochs.iter().enumerate().chain(leader) {
                if begins.last().is_none_or(|(last, _)| last < epoch) {
                    begins.push((*epoch, offset));
                }
            }
            // What was cut off at the start is known by the last epoch in it.
            let gone = begins.iter().rposition(|(_, begin)| *begin <= self.start).unwrap_or(0);
            let mut begins = begins.split_off(gone);
            begins[0].1 = begins[0].1.max(self.start);
            let end = |at: usize| i64::try_from(at).unwrap();
            if begins.last()?.0 == asked {
                return Some(EpochEnd { epoch: asked, end: end(self.epochs.len()) });
            }
            let (_, higher) = begins.iter().find(|(epoch, _)| *epoch > asked)?;
            let floor = begins.iter().rfind(|(epoch, _)| *epoch <= asked);
            Some(EpochEnd { epoch: floor.map_or(asked, |(epoch, _)| *epoch), end: end(*higher) })
        }
    }

    proptest! {
        /// Leaders come and go, one of them cuts the log or not, it grows, and retention takes its start.
        #[test]
        fn a_log_that_was_cut_is_told_from_one_that_was_not(
            before in prop::collection::vec(1usize..4, 1..5), read in any::<prop::sample::Index>(),
            cut_by in 0usize..6, later in prop::collection::vec(0usize..4, 0..4), start in any::<prop::sample::Index>(),
        ) {
            let mut log = Log { epochs: Vec::new(), leader: (0, 0), start: 0 };
            let lead = |log: &mut Log, records| {
                log.leader = (log.leader.0 + 2, log.epochs.len());
                log.epochs.extend((0..records).map(|_| log.leader.0));
            };
            for records in before {
                lead(&mut log, records);
            }
            let read = read.index(log.epochs.len());
            let epoch = log.epochs[read];
            let kept = log.epochs.len() - cut_by.min(log.epochs.len());
            if cut_by > 0 {
                log.epochs.truncate(kept);
                lead(&mut log, 0);
            }
            for records in later {
                lead(&mut log, records);
            }
            log.start = start.index(log.epochs.len() + 1);
            let offset = i64::try_from(read).unwrap();
            let found = held(offset, epoch, log.epoch_end(epoch));
            // What retention has passed is a gap, and told as one.
            prop_assert_eq!(found == Held::Whole, read < kept || read < log.start, "{:?}", found);
            if let Held::Upto(Some(end)) = found {
                prop_assert!(end <= offset);
            }
        }
    }

    #[test]
    fn a_leader_that_knows_nothing_of_the_epoch_never_had_what_was_read() {
        assert_eq!(held(7, 3, None), Held::Upto(None));
        let end = |epoch, end| Some(EpochEnd { epoch, end });
        assert_eq!(held(7, 3, end(3, 8)), Held::Whole);
        assert_eq!(held(7, 3, end(3, 7)), Held::Upto(Some(7)));
        assert_eq!(held(7, 3, end(2, 4711)), Held::Upto(Some(7)));
    }

    /// So that a checkpoint knows who wrote its record.
    #[test]
    fn a_page_is_of_one_leader() {
        let mut first =
            batch_of(&[(None, Some(&b"a"[..]), 0), (None, Some(b"b"), 0)], Compression::None).to_vec();
        let mut second = batch_of(&[(None, Some(&b"c"[..]), 0)], Compression::None).to_vec();
        // The checksum is not of these: where a batch begins, and its leader's epoch.
        first[12..16].copy_from_slice(&4i32.to_be_bytes());
        second[..8].copy_from_slice(&2i64.to_be_bytes());
        second[12..16].copy_from_slice(&6i32.to_be_bytes());
        let both = Fetched { records: [first, second].concat().into(), ..answer(&[], 3) };
        let page = |place| page(both.clone(), place, 10).unwrap();
        let one = page(Place::at(0));
        assert_eq!((one.len(), one.leader_epoch, one.next_iterator.as_deref()), (2, Some(4), Some("2.2.4")));
        let two = page(Place::parse(&one.next_iterator.unwrap()).unwrap());
        assert_eq!((two.len(), two.leader_epoch, two.behind()), (1, Some(6), Behind::Tip));
    }
}
