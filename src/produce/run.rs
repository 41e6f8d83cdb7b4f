//! The loop that joins a source to a writer: pulls changes, keeps the rate and the order of each key, and has
//! several requests on their way at once.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dynamodb::TableWriter;
use super::in_order::InOrder;
#[cfg(feature = "kafka")]
use super::kafka::TopicWriter;
use super::kinesis::StreamWriter;
use super::pace::Pace;
use crate::generate::Source;
use crate::generate::item::{Change, ChangeKind};
use crate::generate::trades::{Place, TradeError};
use crate::shutdown::joined;

/// Requests on their way at once.
const IN_FLIGHT: usize = 8;

/// Changes that may wait behind others of their key before the source has to wait too.
const WAITING_MAX: usize = 10_000;

/// Changes handed over at once by the thread that reads the source.
const CHUNK: usize = 250;

/// Bad lines that the totals name one by one.
const BAD_LINES_NAMED: usize = 5;

/// How much and how fast.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Changes to write; all that the source has when `None`.
    pub records: Option<u64>,
    /// Changes per second; as fast as the target takes them when `None`.
    pub rate: Option<f64>,
    /// Go from `rate` to another one, evenly.
    pub ramp: Option<Ramp>,
}

/// A rate that changes.
#[derive(Clone, Copy, Debug)]
pub struct Ramp {
    /// Changes per second in the end.
    pub to: f64,
    /// How long it takes to get there.
    pub over: Duration,
}

impl Plan {
    /// Changes per second after this time.
    pub fn rate_at(&self, elapsed: Duration) -> Option<f64> {
        let from = self.rate?;
        let share = |ramp: Ramp| elapsed.as_secs_f64() / ramp.over.as_secs_f64().max(f64::MIN_POSITIVE);
        Some(self.ramp.map_or(from, |ramp| from + (ramp.to - from) * share(ramp).min(1.0)))
    }
}

/// Where changes go.
#[derive(Clone)]
pub enum Sink {
    /// A DynamoDB table.
    Table(Arc<TableWriter>),
    /// A Kinesis stream, as the change records of a table.
    Stream(Arc<StreamWriter>),
    /// A topic of Kafka, as the change records of a table.
    #[cfg(feature = "kafka")]
    Topic(Arc<TopicWriter>),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Changes written.
    pub written: u64,
    /// Of these: new keys.
    pub inserts: u64,
    /// Of these: changed items.
    pub modifies: u64,
    /// Of these: deletes by a user.
    pub removes: u64,
    /// Of these: deletes by TTL (streams only).
    pub expiries: u64,
    /// Of these: records that no consumer can decode (streams only).
    pub broken: u64,
    /// Bytes written: items as DynamoDB counts them, or record payloads.
    pub bytes: u64,
    /// Entries that were sent again because the target had refused them.
    pub resent: u64,
    /// Lines of trade files that could not be read.
    pub bad_lines: u64,
    /// The first of them: file, line and reason.
    pub bad_lines_first: Vec<String>,
    /// The last trade that was read, of a trade file.
    pub last_read: Option<Place>,
    /// Changes of requests that were given up at an interrupt; some of them may have been written.
    pub given_up: u64,
    /// Whether the run was ended from outside.
    pub interrupted: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What a run tells while it works.
#[derive(Debug)]
pub enum Event<'a> {
    /// More was written.
    Progress(&'a Totals),
    /// A line of a trade file was passed over.
    BadLine {
        /// File, line and reason.
        error: &'a TradeError,
        /// How many there were, this one included.
        count: u64,
    },
    /// The target refused changes; they are sent again.
    Refused {
        /// How many.
        changes: usize,
        /// What the target said.
        reason: &'a str,
    },
}

/// How a run ended: what was done is known also where an error ended it.
#[derive(Debug)]
pub struct Ended {
    /// What was done.
    pub totals: Totals,
    /// What ended it early.
    pub error: Option<ProduceError>,
}

/// Why a run ended early.
#[derive(Debug, Error)]
pub enum ProduceError {
    /// The source cannot go on.
    #[error(transparent)]
    Trades(#[from] TradeError),
    /// The target refuses for good, or has refused for too long.
    #[error("{target}: {reason}")]
    Write {
        /// Table or stream.
        target: String,
        /// The service's code and message, and what to do.
        reason: String,
    },
}

/// What one request's worth of changes came to.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) resent: u64,
    /// Cancelled before all of it was accepted.
    pub(super) given_up: bool,
}

/// Where writers say what is refused while they try again.
#[derive(Clone, Debug)]
pub(super) struct Refusals(mpsc::Sender<(usize, String)>);

impl Refusals {
    pub(super) fn tell(&self, changes: usize, reason: &str) {
        // Without room, as much has just been said.
        drop(self.0.try_send((changes, reason.to_owned())));
    }
}

#[derive(Default)]
struct Chunk {
    changes: Vec<Result<Change, TradeError>>,
    /// Of the last one.
    place: Option<Place>,
}

type Answer = (Vec<Change>, Result<Written, ProduceError>);

/// As [`run_to_end`], for whoever has no use for half of it.
///
/// # Errors
/// What ended it early.
pub async fn run(
    plan: Plan,
    source: Source,
    sink: Sink,
    event: impl FnMut(Event<'_>),
    cancel: CancellationToken,
) -> Result<Totals, ProduceError> {
    let Ended { totals, error } = run_to_end(plan, source, sink, event, cancel).await;
    error.map_or(Ok(totals), Err)
}

/// Writes what `plan` asks for. After `cancel`, or an error of the target, nothing new is sent and requests on their way
/// are awaited; after an error of the source, what was read before it is written. `event` is called often; it should be
/// quick.
pub async fn run_to_end(
    plan: Plan,
    source: Source,
    sink: Sink,
    mut event: impl FnMut(Event<'_>),
    cancel: CancellationToken,
) -> Ended {
    let started = Instant::now();
    let mut pace = plan.rate.map(|rate| Pace::new(rate, started));
    let mut reader = JoinSet::new();
    let mut chunks = read(&mut reader, source, plan.records);
    let mut order = InOrder::default();
    let mut writers: JoinSet<Answer> = JoinSet::new();
    let mut next: Option<(Vec<Change>, Instant)> = None;
    let (refusals, mut refused) = mpsc::channel(IN_FLIGHT);
    let refusals = Refusals(refusals);
    // `stopped`: nothing new is sent.
    let (mut source_ended, mut stopped) = (false, false);
    let mut totals = Totals::default();
    let mut error = None;
    loop {
        let rate = plan.rate_at(started.elapsed());
        let batch_max = batch_max(&sink, rate);
        let want_more = !source_ended && order.ready() < batch_max && order.waiting() < WAITING_MAX;
        if next.is_none() && order.ready() > 0 && !want_more {
            let batch = order.take(batch_max);
            let now = Instant::now();
            let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let wait = pace.as_mut().zip(rate).map_or(Duration::ZERO, |(pace, rate)| {
                pace.change(rate);
                pace.take(size, now)
            });
            next = Some((batch, now + wait));
        }
        if source_ended && next.is_none() && order.waiting() == 0 && writers.is_empty() {
            break;
        }
        let at = next.as_ref().map_or(started, |(_, at)| *at);
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !totals.interrupted => {
                totals.interrupted = true;
                stopped = true;
            }
            Some(answer) = writers.join_next() => {
                let (changes, written) = joined(answer).await;
                match written {
                    Ok(written) => totals.add(&changes, &written),
                    Err(failed) => {
                        totals.given_up += changes.len() as u64;
                        error.get_or_insert(failed);
                        stopped = true;
                    }
                }
                totals.seconds = started.elapsed().as_secs_f64();
                event(Event::Progress(&totals));
                if !stopped {
                    changes.iter().for_each(|change| order.written(&change.key));
                }
            }
            Some((changes, reason)) = refused.recv() => event(Event::Refused { changes, reason: &reason }),
            () = tokio::time::sleep_until(at), if next.is_some() && writers.len() < IN_FLIGHT => {
                if let Some((batch, _)) = next.take() {
                    let (sink, cancel, refusals) = (sink.clone(), cancel.clone(), refusals.clone());
                    writers.spawn(async move {
                        let written = sink.write(&batch, &cancel, &refusals).await;
                        (batch, written)
                    });
                }
            }
            chunk = chunks.recv(), if want_more => {
                source_ended = chunk.is_none();
                let Chunk { changes, place } = chunk.unwrap_or_default();
                totals.last_read = place.or(totals.last_read);
                for change in changes {
                    match change {
                        Ok(change) => order.push(change),
                        Err(bad @ TradeError::Line { .. }) => {
                            totals.bad_lines += 1;
                            if totals.bad_lines_first.len() < BAD_LINES_NAMED {
                                totals.bad_lines_first.push(bad.to_string());
                            }
                            event(Event::BadLine { error: &bad, count: totals.bad_lines });
                        }
                        Err(failed) => {
                            error.get_or_insert(failed.into());
                            source_ended = true;
                        }
                    }
                }
            }
        }
        if stopped {
            source_ended = true;
            chunks.close();
            order = InOrder::default();
            next = None;
        }
    }
    drop(chunks);
    while reader.join_next().await.is_some() {}
    totals.seconds = started.elapsed().as_secs_f64();
    Ended { totals, error }
}

/// Changes per request: what the target takes, but no more than a twentieth of a second's worth, so that a slow
/// rate is a trickle and not a tide.
fn batch_max(sink: &Sink, rate: Option<f64>) -> usize {
    let max = match sink {
        Sink::Table(_) => super::dynamodb::BATCH_MAX.into(),
        Sink::Stream(_) => super::kinesis::BATCH_MAX,
        #[cfg(feature = "kafka")]
        Sink::Topic(_) => super::kafka::BATCH_MAX,
    };
    let within = |rate: f64| (1..max).find(|size| rate / 20.0 <= f64::from(*size)).unwrap_or(max);
    rate.map_or(max, within).into()
}

/// Reads the source on a thread of its own: files are unpacked there.
fn read(tasks: &mut JoinSet<()>, source: Source, records: Option<u64>) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(8);
    tasks.spawn_blocking(move || {
        let mut source = source;
        let mut left = records.unwrap_or(u64::MAX);
        loop {
            let mut chunk = Chunk::default();
            while left > 0 && chunk.changes.len() < CHUNK {
                let Some(change) = source.next() else {
                    left = 0;
                    break;
                };
                left -= u64::from(change.is_ok());
                chunk.changes.push(change);
            }
            chunk.place = source.place();
            if (!chunk.changes.is_empty() && sender.blocking_send(chunk).is_err()) || left == 0 {
                return;
            }
        }
    });
    receiver
}

impl Sink {
    async fn write(
        &self,
        batch: &[Change],
        cancel: &CancellationToken,
        refusals: &Refusals,
    ) -> Result<Written, ProduceError> {
        match self {
            Self::Table(table) => table.write(batch, cancel, refusals).await,
            Self::Stream(stream) => stream.write(batch, cancel, refusals).await,
            #[cfg(feature = "kafka")]
            Self::Topic(topic) => topic.write(batch, cancel, refusals).await,
        }
    }
}

impl Totals {
    /// Changes per second over the whole run.
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let written = self.written as f64;
        written / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn add(&mut self, changes: &[Change], written: &Written) {
        self.resent += written.resent;
        if written.given_up {
            self.given_up += changes.len() as u64;
            return;
        }
        self.bytes += written.bytes;
        self.written += changes.len() as u64;
        for change in changes {
            *match change.kind {
                ChangeKind::Insert(_) => &mut self.inserts,
                ChangeKind::Modify { .. } => &mut self.modifies,
                ChangeKind::Remove(_) => &mut self.removes,
                ChangeKind::Expire(_) => &mut self.expiries,
                ChangeKind::Broken(_) => &mut self.broken,
            } += 1;
        }
    }
}
