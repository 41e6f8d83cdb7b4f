//! The fleet as a running worker shows it to whoever asks.
//!
//! The lease table is read when somebody asks, for all who ask at the same time, and not more often than every few seconds.
//! For a while after the last question it is read on, so that what was seen adds up as in `kinetide leases --watch` for
//! somebody who asks now and then; after a pause it begins anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Report;
use crate::cause::chain;
use crate::clock::{utc, wall_clock_us};
use crate::lease::{LeaseTable, Observer, TableError};
use crate::shard::{ShardLister, StreamId};
use crate::telemetry::http::FleetReport;

/// Between the starts of two reads.
const EVERY: Duration = Duration::from_secs(3);
/// A larger table is read less often: a read costs capacity that the workers need.
const ROWS_PER_SECOND: u32 = 1000;
/// For so long after a question the reads go on: three refreshes of the console.
const READ_ON: Duration = Duration::from_secs(15);
/// A read has this long.
const READ_MAX: Duration = Duration::from_secs(10);
/// Who asks first waits for the second look, which shows who renews, but not longer than this.
const SETTLE_MAX: Duration = Duration::from_secs(4);
/// Who asks gets an answer within this time, whatever happens.
const ANSWER_MAX: Duration = Duration::from_secs(15);

type Listers = Vec<(StreamId, Arc<dyn ShardLister>)>;

/// What is looked at.
pub(crate) struct LiveSettings {
    /// Name of the application and of its lease table.
    pub(crate) application: String,
    /// Failover time of the workers.
    pub(crate) failover: Duration,
    /// The lease table.
    pub(crate) table: Arc<dyn LeaseTable>,
    /// The streams that the worker reads now, as the settings name them.
    pub(crate) streams: Box<dyn Fn() -> Listers + Send + Sync>,
}

/// One reading for all who ask.
pub(crate) struct Live {
    settings: LiveSettings,
    asked: Notify,
    seen: watch::Sender<Option<Sighting>>,
}

/// What was seen last.
#[derive(Clone)]
struct Sighting {
    report: FleetReport,
    /// Nobody reads again before that.
    fresh_until: Instant,
}

/// What is shown in the place of the fleet.
#[derive(Serialize)]
struct Problem {
    error: String,
    at: String,
    since: String,
}

/// The observer with what it was made for.
struct Eyes {
    observer: Observer,
    streams: Vec<StreamId>,
}

impl Live {
    /// Nothing is read yet.
    pub(crate) fn new(settings: LiveSettings) -> Arc<Self> {
        Arc::new(Self { settings, asked: Notify::new(), seen: watch::Sender::new(None) })
    }

    /// The fleet, seen a few seconds ago at most; longer ago for a large table.
    pub(crate) async fn ask(&self) -> FleetReport {
        let since = Instant::now();
        let mut seen = self.seen.subscribe();
        let fresh = |seen: &Option<Sighting>| seen.as_ref().is_some_and(|seen| seen.fresh_until > since);
        self.asked.notify_one();
        let answer = timeout(ANSWER_MAX, seen.wait_for(fresh)).await;
        match answer {
            Ok(Ok(seen)) => seen.as_ref().expect("it is fresh").report.clone(),
            // The process stops, or hangs.
            Ok(Err(_)) | Err(_) => problem("the lease table is not read at the moment", wall_clock_us()),
        }
    }

    /// Reads for those who ask, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.read_on()).await;
    }

    async fn read_on(&self) {
        let mut eyes: Option<Eyes> = None;
        let mut failing_since: Option<i64> = None;
        let mut asked_at: Option<Instant> = None;
        loop {
            let reads_on = asked_at.is_some_and(|asked_at| asked_at.elapsed() < READ_ON);
            let asked = self.asked.notified();
            if reads_on {
                if asked.now_or_never().is_some() {
                    asked_at = Some(Instant::now());
                }
            } else {
                asked.await;
                asked_at = Some(Instant::now());
                // What was not looked at for so long may have lived and died meanwhile.
                eyes.take_if(|eyes| eyes.observer.now.elapsed() >= self.settings.failover);
            }
            let began = Instant::now();
            let read = self.look(&mut eyes).await;
            let pause = match &read {
                Ok((_, rows)) => {
                    failing_since = None;
                    EVERY.max(Duration::from_secs(*rows as u64) / ROWS_PER_SECOND)
                }
                Err(_) => EVERY,
            };
            let report = match read {
                Ok((json, _)) => FleetReport { json, read: true, at: Instant::now() },
                Err(error) => problem(&error, *failing_since.get_or_insert_with(wall_clock_us)),
            };
            let fresh_until = Instant::now() + pause;
            self.seen.send_replace(Some(Sighting { report, fresh_until }));
            sleep_until(began + pause).await;
        }
    }

    /// The report and how many rows it took, or why there is none.
    async fn look(&self, eyes: &mut Option<Eyes>) -> Result<(Bytes, usize), String> {
        let listers = (self.settings.streams)();
        let names: Vec<StreamId> = listers.iter().map(|(stream, _)| stream.clone()).collect();
        let known = eyes.take_if(|eyes| eyes.streams == names);
        let begins = known.is_none();
        let eyes = eyes.insert(known.unwrap_or_else(|| Eyes {
            observer: Observer::new(Arc::clone(&self.settings.table), listers, self.settings.failover),
            streams: names,
        }));
        self.read(&mut eyes.observer).await?;
        if begins && eyes.observer.is_undecided() {
            sleep(eyes.observer.beat().min(SETTLE_MAX)).await;
            self.read(&mut eyes.observer).await?;
        }
        let streams: Vec<&str> = eyes.streams.iter().map(StreamId::name).collect();
        let streams = Some(streams.join(", "));
        let report = Report::new(&self.settings.application, streams, &eyes.observer, BTreeMap::new());
        let json = serde_json::to_vec(&report).map_err(|error| chain(&error))?;
        Ok((json.into(), report.leases.len() + report.workers.len()))
    }

    async fn read(&self, observer: &mut Observer) -> Result<(), String> {
        let table = &self.settings.application;
        match timeout(READ_MAX, observer.look()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ (TableError::NotFound(_) | TableError::Unusable { .. }))) => Err(chain(&error)),
            Ok(Err(error)) => Err(format!("lease table {table}: {}", chain(&error))),
            Err(_) => Err(format!(
                "lease table {table}: no response within {} s; check the endpoint and the network",
                READ_MAX.as_secs()
            )),
        }
    }
}

fn problem(error: &str, since_us: i64) -> FleetReport {
    let (at, since) = (utc(wall_clock_us()), utc(since_us));
    let problem = Problem { error: error.to_owned(), at, since };
    let json = serde_json::to_vec(&problem).expect("texts are JSON");
    FleetReport { json: json.into(), read: false, at: Instant::now() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use serde_json::Value;
    use tokio::task::JoinSet;

    use super::*;
    use crate::lease::memory::{Faults, MemoryLeaseTable};
    use crate::lease::{Lease, LeaseWrite, WorkerId};
    use crate::shard::{Checkpoint, ListError, Shard, ShardId};

    const FAILOVER: Duration = Duration::from_secs(10);
    /// As the console asks.
    const REFRESH: Duration = Duration::from_secs(5);

    fn shard() -> Shard {
        Shard {
            id: ShardId::new("shardId-0"),
            parents: Vec::new(),
            hash_range: None,
            starting_sequence_number: 1.into(),
            closed: false,
        }
    }

    /// Counts how often it is asked, and hangs.
    #[derive(Default)]
    struct Hangs(AtomicUsize);

    #[async_trait::async_trait]
    impl ShardLister for Hangs {
        async fn list(&self) -> Result<Vec<Shard>, ListError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    struct Scene {
        table: Arc<MemoryLeaseTable>,
        lister: Arc<Hangs>,
        live: Arc<Live>,
        _tasks: JoinSet<()>,
    }

    async fn scene() -> Scene {
        scene_with(FAILOVER).await
    }

    async fn scene_with(failover: Duration) -> Scene {
        let table = Arc::new(MemoryLeaseTable::new());
        let owner = Some(WorkerId::new("a"));
        table.create(&Lease { owner, ..Lease::new(&shard(), Checkpoint::TrimHorizon) }).await.unwrap();
        let lister = Arc::<Hangs>::default();
        let listed: Arc<dyn ShardLister> = Arc::clone(&lister) as _;
        let live = Live::new(LiveSettings {
            application: "app".to_owned(),
            failover,
            table: Arc::clone(&table) as _,
            streams: Box::new(move || vec![(StreamId::named("trades"), Arc::clone(&listed))]),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&live).run(CancellationToken::new()));
        let renewed = Arc::clone(&table);
        tasks.spawn(async move {
            loop {
                sleep(failover / 3).await;
                for row in renewed.rows() {
                    let _ = renewed.write(&row, &LeaseWrite::Renew { kbps: None, caught_up: None }).await;
                }
            }
        });
        Scene { table, lister, live, _tasks: tasks }
    }

    impl Scene {
        async fn ask(&self) -> (bool, Value) {
            let report = self.live.ask().await;
            (report.read, serde_json::from_slice(&report.json).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_ask_and_one_reads() {
        let scene = scene().await;
        let started = Instant::now();
        let answers = join_all((0..500).map(|_| scene.ask())).await;
        for (read, report) in answers {
            assert!(read);
            assert_eq!(report["leases"][0]["state"], "read", "the second look shows who renews: {report}");
            assert_eq!(report["stream"], "trades");
            // The stream hangs; its trouble is told and costs nobody the rest.
            assert!(report["notes"][0].as_str().unwrap().starts_with("shards: "), "{report}");
        }
        let seen = started.elapsed();
        assert!(seen < ANSWER_MAX, "{seen:?}");
        for _ in 0..20 {
            scene.ask().await;
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(scene.lister.0.load(Ordering::Relaxed), 1, "a stream is listed every half minute");
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_cannot_be_read_is_an_error_with_cause_and_time() {
        let scene = scene().await;
        assert!(scene.ask().await.0);
        sleep(Duration::from_secs(60)).await;
        scene.table.set_faults(Some(Faults {
            seed: 1,
            delay: Duration::ZERO..Duration::ZERO,
            lost_request: 1.0,
            lost_answer: 0.0,
        }));
        let started = Instant::now();
        let (read, problem) = scene.ask().await;
        assert!(!read && started.elapsed() < ANSWER_MAX, "{problem}");
        assert!(problem["error"].as_str().unwrap().starts_with("lease table app"), "{problem}");
        assert!(problem["at"].as_str().unwrap().ends_with('Z') && problem.get("leases").is_none());
        let since = problem["since"].clone();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(scene.ask().await.1["since"], since);
        scene.table.set_faults(None);
        // The last read that failed has its time, and is shown for a while.
        sleep(READ_MAX + EVERY).await;
        let (read, report) = scene.ask().await;
        assert!(read && report["leases"][0]["state"] == "read", "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_died_while_nobody_asked_is_not_called_alive() {
        let mut scene = scene().await;
        assert_eq!(scene.ask().await.1["leases"][0]["state"], "read");
        // It renews a few times more, and dies.
        sleep(Duration::from_secs(20)).await;
        scene._tasks.abort_all();
        scene._tasks.spawn(Arc::clone(&scene.live).run(CancellationToken::new()));
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(scene.ask().await.1["leases"][0]["state"], "unheard");
        for _ in 0..4 {
            sleep(EVERY).await;
            scene.ask().await;
        }
        let (_, report) = scene.ask().await;
        assert_eq!(report["leases"][0]["state"], "not_read", "{report}");
        assert_eq!(report["leases"][0]["reason"], "owner_silent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_owner_is_seen_by_who_asks_less_often_than_the_failover_time() {
        let mut scene = scene_with(Duration::from_secs(2)).await;
        for _ in 0..4 {
            assert_eq!(scene.ask().await.1["leases"][0]["state"], "read");
            sleep(REFRESH).await;
        }
        scene._tasks.abort_all();
        scene._tasks.spawn(Arc::clone(&scene.live).run(CancellationToken::new()));
        for _ in 0..3 {
            scene.ask().await;
            sleep(REFRESH).await;
        }
        let (_, report) = scene.ask().await;
        assert_eq!(report["leases"][0]["reason"], "owner_silent", "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_reads_long_after_the_last_question() {
        let scene = scene().await;
        scene.ask().await;
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(scene.lister.0.load(Ordering::Relaxed), 1, "who reads lists the stream every half minute");
    }
}
