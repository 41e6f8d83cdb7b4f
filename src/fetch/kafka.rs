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
    BatchError, Batches, Cluster, Entry, FETCH_BYTES, Fetched, Isolation, KafkaError, Offset,
};
use crate::shard::kafka::{PartitionId, partition_of};
use crate::shard::{SequenceNumber, ShardId};

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
            let mut page = PageBuilder::default().finish();
            page.sparse = true;
            page.trimmed = place.read < start;
            page.first_kept = u128::try_from(start).ok().map(SequenceNumber::from);
            page.tip_unsure = true;
            page.next_iterator = Some(Place::at(start.max(place.read)).to_string());
            return Ok(page);
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
                Some(_) => cut(end, place),
            });
        }
        Err(cut(end, place))
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
        let number = |sequence: &SequenceNumber| {
            let offset = sequence.as_str().parse::<i64>().ok().filter(|offset| *offset < i64::MAX);
            offset.ok_or_else(|| FetchError::Foreign(format!("{sequence} is no offset of Kafka")))
        };
        let place = match start {
            StartAt::TrimHorizon => Place::at(self.offset(partition, Offset::Earliest).await?),
            StartAt::Latest => Place::at(self.offset(partition, Offset::Latest).await?),
            StartAt::Timestamp(us) => {
                let ms = us.div_euclid(1000) + i64::from(us % 1000 != 0);
                Place::at(self.offset(partition, Offset::Time(ms)).await?)
            }
            StartAt::At(sequence) => {
                let offset = number(sequence)?;
                Place { offset, read: offset + 1, epoch: None }
            }
            StartAt::After(sequence) => Place::at(number(sequence)? + 1),
        };
        Ok(place.to_string())
    }

    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        let partition = partition_of(shard).ok_or(FetchError::NotFound)?;
        let place =
            Place::parse(iterator).ok_or_else(|| FetchError::Refused(format!("no iterator: {iterator}")))?;
        match self.answer(partition, place).await {
            Ok(Fetched { diverged: Some(end), .. }) => Err(cut(end, place)),
            Ok(answer) if answer.end < place.read => Err(cut(answer.end, place)),
            Ok(answer) => {
                page(answer, place, records_max).map_err(|error| FetchError::Unavailable(error.into()))
            }
            Err(error) if error.code() == Some(ResponseError::OffsetOutOfRange) => {
                self.out_of_range(partition, place).await
            }
            Err(error) => Err(failed(error)),
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

/// The page of an answer.
fn page(answer: Fetched, place: Place, records_max: usize) -> Result<Page, BatchError> {
    let mut builder = PageBuilder::default();
    let (mut count, mut last_ms) = (0, None);
    let batches = Batches::new(answer.records, answer.aborted);
    let taken = batches.each(place.offset, |entry: &Entry<'_>| {
        let bytes = entry.key.map_or(0, <[u8]>::len) + entry.value.map_or(0, <[u8]>::len);
        if count == records_max || count > 0 && builder.bytes() + bytes > PAGE_BYTES {
            return ControlFlow::Break(());
        }
        let arrival_us = entry.time_ms.max(0).saturating_mul(1000);
        builder.push_optional(&entry.offset.to_string(), entry.key, arrival_us, entry.value);
        (count, last_ms) = (count + 1, Some(entry.time_ms));
        ControlFlow::Continue(())
    })?;
    let mut page = builder.finish();
    let at_tip = taken.next >= answer.end;
    page.sparse = true;
    page.tip_unsure = !at_tip;
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

/// The partition ends at `end`, before what was read.
fn cut(end: i64, place: Place) -> FetchError {
    FetchError::Truncated(format!(
        "the partition's log is not the one that was read: it ends, or differs, at offset {end} at the latest, and offset {} was read \
         from it; its log was cut, as by an unclean change of \
         leader, so that records may be lost and offsets are used again; nothing is skipped by itself: compare with what the \
         producers sent, then move the lease (docs/KAFKA.md)",
        place.read - 1
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
}
