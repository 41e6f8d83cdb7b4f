//! The worker's own row: that it lives, and how busy it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::leave::{ATTEMPTS, PAUSE};
use super::{BACKOFF_MAX, Backoff, Collisions, Coordinator, pause, within};
use crate::cause::chain;
use crate::lease::fleet::{
    CPU, FAN_OUT, PENDING, PENDING_FORMAT, SESSION, STARTED, STREAMS, WorkerRow, report_interval,
};
use crate::telemetry::metrics;

/// A report holds so many of the newest averages.
const SAMPLES_MAX: usize = 10;
/// The value of `opr` for a share of the processors.
const FULL: f64 = 100.0;
/// Losses that follow each other within this time are answered by one report.
const REPORT_GAP: Duration = Duration::from_secs(1);
/// That two processes use this worker id is logged once in this time.
const COLLISION_LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Coordinator {
    /// Writes our row at the start, every now and then, when it has more or less to say of the streams that it reads, and
    /// when a lease was lost: who let one lapse is given none until it says that it lives; and a lease lost to a row in
    /// our own name may be the work of another process with our id, which the row then shows.
    ///
    /// Deletes it when leaving, so that nobody gives us leases.
    pub(super) async fn keep_reporting(&self, leave: &CancellationToken, stop: &CancellationToken) {
        let beat = self.pulse.begin("reporting this worker");
        let mut trouble = Backoff::default();
        let session = format!("{:016x}", rand::Rng::random::<u64>(&mut self.state().rng));
        let mut samples = VecDeque::new();
        let (mut written, mut unanswered) = (None, None);
        if !self.until_streams_are_known(leave, stop).await {
            return;
        }
        while !leave.is_cancelled() {
            if let Some(percent) = (self.settings.cpu)() {
                samples.push_back(percent);
                if samples.len() > SAMPLES_MAX {
                    samples.pop_front();
                }
            }
            let row = self.own_row(&session, &samples);
            let wait = match within(BACKOFF_MAX, self.table.report(&row)).await {
                Ok(before) => {
                    trouble.over();
                    self.look_for_a_twin(before.as_ref(), written.as_ref());
                    (written, unanswered) = (Some(row), None);
                    self.jittered(report_interval(self.settings.failover))
                }
                Err(_) => {
                    // It may stand all the same.
                    unanswered = Some(row);
                    trouble.failed(self.settings.scan_interval)
                }
            };
            beat.next(wait);
            tokio::select! {
                biased;
                () = leave.cancelled() => {}
                go_on = async {
                    let gap = wait.min(REPORT_GAP);
                    sleep(gap).await;
                    pause(wait - gap, &self.report_now, stop).await
                } => if !go_on { return },
            }
        }
        for row in [unanswered, written].into_iter().flatten() {
            if self.delete_row(&row).await {
                return;
            }
        }
    }

    /// A moment's patience, so that already the first row names the streams. False when it is time to stop.
    async fn until_streams_are_known(&self, leave: &CancellationToken, stop: &CancellationToken) -> bool {
        let end = Instant::now() + REPORT_GAP;
        while !self.streams.are_known() && Instant::now() < end {
            tokio::select! {
                biased;
                () = leave.cancelled() => return true,
                go_on = pause(end - Instant::now(), &self.report_now, stop) => if !go_on { return false },
            }
        }
        true
    }

    /// Deletes our row if it is this one.
    async fn delete_row(&self, row: &WorkerRow) -> bool {
        for attempt in 1.. {
            match within(self.settings.failover / 3, self.table.forget_worker(row)).await {
                Ok(deleted) => return deleted,
                Err(_) if attempt < ATTEMPTS => sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(
                        error = %chain(&error),
                        "could not delete this worker's metrics row; it will expire"
                    );
                    return false;
                }
            }
        }
        false
    }

    fn own_row(&self, session: &str, samples: &VecDeque<f64>) -> WorkerRow {
        let now = (self.settings.wall_clock)();
        // Without a measurement the leader goes by the throughput of our leases.
        let measured = !samples.is_empty();
        let samples = BTreeMap::from([(CPU.to_owned(), samples.iter().copied().collect())]);
        WorkerRow {
            id: self.settings.worker.clone(),
            updated: now,
            samples: if measured { samples } else { BTreeMap::new() },
            limits: if measured { BTreeMap::from([(CPU.to_owned(), FULL)]) } else { BTreeMap::new() },
            properties: [
                (SESSION, Some(session.to_owned())),
                (STARTED, Some(self.started.to_string())),
                (PENDING, Some(PENDING_FORMAT.to_string())),
                (STREAMS, self.streams.in_words()),
                (FAN_OUT, self.fan_out.get().map(|count| count().to_string())),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
            support: Some(1),
        }
    }

    /// Our row holds another session than the one we left there: two processes use this worker id.
    fn look_for_a_twin(&self, before: Option<&WorkerRow>, written: Option<&WorkerRow>) {
        let session = |row: &WorkerRow| row.properties.get(SESSION).cloned();
        if let (Some(before), Some(written)) = (before, written)
            && session(before) != session(written)
        {
            metrics::worker_id_twice();
            let now = Instant::now();
            let mut state = self.state();
            let Collisions { count, last, logged } = &mut state.collisions;
            *count += 1;
            *last = Some(now);
            if logged.is_none_or(|logged| now.duration_since(logged) >= COLLISION_LOG_INTERVAL) {
                *logged = Some(now);
                tracing::error!(
                    worker = %self.settings.worker,
                    "another process uses this worker id, so they take leases from each other: give each \
                     worker its own id"
                );
            }
        }
    }
}
