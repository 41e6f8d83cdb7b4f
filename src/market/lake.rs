//! A lake as the target: the body as it came, create-only, and rows that are always made of the body that is there.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::Deserialize;

use super::delivery::{Delivered, NotDelivered, Target};
use super::plan::{Gap, Interval, Zone, missing};
use crate::cause::chain;
use crate::deliver::{Created, ObjectSink, Sink, SinkError, said};
use crate::transform::{Provider, snapshot_rows};

/// How far a start looks back.
const LOOK_BACK_S: i64 = 86_400;
/// Objects that are read at once.
const READS: usize = 16;
/// gzip level of the rows: they are few and are read often.
const LEVEL: u32 = 6;

/// Zones of one provider in a lake.
pub struct LakeTarget {
    sink: Arc<ObjectSink>,
    provider: Provider,
}

/// The part of a gap that a start needs to know.
#[derive(Deserialize)]
struct Recorded {
    intervals: i64,
}

impl From<SinkError> for NotDelivered {
    fn from(error: SinkError) -> Self {
        Self { reason: chain(&error), for_good: false }
    }
}

impl LakeTarget {
    /// The zones of `provider` below `market/`.
    pub fn new(sink: Arc<ObjectSink>, provider: Provider) -> Self {
        Self { sink, provider }
    }

    fn key(&self, interval: Interval, zone: Zone) -> String {
        interval.key(self.provider, zone)
    }

    /// Makes the rows of the body that is there, unless they are there too.
    async fn process(&self, interval: Interval, body: &[u8]) -> Result<(), NotDelivered> {
        let mut rows = Vec::new();
        snapshot_rows(self.provider, interval.start_us(), body, &mut rows).map_err(|bad| NotDelivered {
            reason: format!("{} is no snapshot: {bad}", self.key(interval, Zone::Raw)),
            for_good: true,
        })?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        gzip.write_all(&rows).expect("memory takes all");
        let gzip = gzip.finish().expect("memory takes all");
        self.sink.create(&self.key(interval, Zone::Processed), gzip.into()).await?;
        Ok(())
    }

    async fn raw(&self, interval: Interval) -> Result<Bytes, NotDelivered> {
        let key = self.key(interval, Zone::Raw);
        let gone = || NotDelivered { reason: format!("{key} was there and is gone"), for_good: false };
        self.sink.read(&key).await?.ok_or_else(gone)
    }

    /// Starts of the intervals of which a zone holds something, on the days of a span.
    async fn starts(&self, zone: Zone, days: &[String]) -> Result<BTreeSet<i64>, NotDelivered> {
        let mut starts = BTreeSet::new();
        for day in days {
            let folder = format!("{}/{day}", zone.folder(self.provider));
            let prefix = match self.sink.prefix().as_ref() {
                "" => Path::from(folder),
                prefix => Path::from(format!("{prefix}/{folder}")),
            };
            let mut listed = self.sink.store().list(Some(&prefix));
            loop {
                match listed.try_next().await {
                    Ok(Some(object)) => starts.extend(zone.start_of(object.location.as_ref())),
                    Ok(None) | Err(object_store::Error::NotFound { .. }) => break,
                    Err(error) => {
                        return Err(NotDelivered {
                            reason: format!("could not list {prefix}: {}", said(&error)),
                            for_good: false,
                        });
                    }
                }
            }
        }
        Ok(starts)
    }

    /// The intervals that recorded gaps cover.
    async fn covered(
        &self,
        recorded: &BTreeSet<i64>,
        before: Interval,
    ) -> Result<BTreeSet<i64>, NotDelivered> {
        let read = |start: i64| async move {
            let first = before.starting(start);
            let body = self.sink.read(&self.key(first, Zone::Gaps)).await?;
            // One that cannot be read covers its own interval.
            let gap: Option<Recorded> = body.and_then(|body| serde_json::from_slice(&body).ok());
            Ok::<_, NotDelivered>((first, gap.map_or(1, |gap| gap.intervals)))
        };
        let gaps: Vec<(Interval, i64)> =
            stream::iter(recorded.iter().copied()).map(read).buffer_unordered(READS).try_collect().await?;
        let mut covered = BTreeSet::new();
        for (first, intervals) in gaps {
            let mut interval = first;
            for _ in 0..intervals {
                if interval >= before {
                    break;
                }
                covered.insert(interval.start_s);
                interval = interval.next();
            }
        }
        Ok(covered)
    }
}

#[async_trait]
impl Target for LakeTarget {
    async fn has(&self, interval: Interval) -> Result<bool, NotDelivered> {
        if !self.sink.exists(&self.key(interval, Zone::Raw)).await? {
            return Ok(false);
        }
        // Whoever has written the body may have died before the rows.
        if !self.sink.exists(&self.key(interval, Zone::Processed)).await? {
            let body = self.raw(interval).await?;
            self.process(interval, &body).await?;
        }
        Ok(true)
    }

    async fn snapshot(
        &self,
        interval: Interval,
        _time_us: Option<i64>,
        body: &Bytes,
    ) -> Result<Delivered, NotDelivered> {
        let created = self.sink.create(&self.key(interval, Zone::Raw), body.clone()).await?;
        match created {
            Created::New => self.process(interval, body).await.map(|()| Delivered::New),
            // Of another poller, or ours from a try whose response was lost: what is there counts.
            Created::Existed => {
                let body = self.raw(interval).await?;
                self.process(interval, &body).await.map(|()| Delivered::Existed)
            }
        }
    }

    async fn gap(&self, gap: &Gap) -> Result<(), NotDelivered> {
        let mut body = serde_json::to_vec(gap).expect("strings and numbers always serialise");
        body.push(b'\n');
        self.sink.create(&self.key(gap.first, Zone::Gaps), body.into()).await?;
        Ok(())
    }

    async fn look_back(&self, before: Interval) -> Result<Vec<Gap>, NotDelivered> {
        let earliest = before.earlier(LOOK_BACK_S);
        let days = before.days_since(earliest);
        let raw = self.starts(Zone::Raw, &days).await?;
        let processed = self.starts(Zone::Processed, &days).await?;
        let mut repaired = 0u64;
        for start in raw.difference(&processed) {
            let interval = before.starting(*start);
            let body = self.raw(interval).await?;
            match self.process(interval, &body).await {
                Ok(()) => repaired += 1,
                Err(refused) if refused.for_good => {
                    tracing::error!(reason = refused.reason, "no rows can be made of a raw object");
                }
                Err(error) => return Err(error),
            }
        }
        if repaired > 0 {
            tracing::info!(objects = repaired, "completed snapshots that had no rows");
        }
        let recorded = self.starts(Zone::Gaps, &days).await?;
        let covered = self.covered(&recorded, before).await?;
        let there: BTreeSet<i64> = raw.union(&covered).copied().collect();
        if !before.is_length_of(&there) {
            tracing::info!("the intervals of the last day had another length: no gaps are looked for");
            return Ok(Vec::new());
        }
        let Some(first) = there.first() else { return Ok(Vec::new()) };
        let from = before.starting(*first).max(earliest);
        let runs = missing(from, before, &there).into_iter();
        Ok(runs.map(|(first, count)| Gap::new(self.provider, first, count, "not_polled", 0)).collect())
    }
}
