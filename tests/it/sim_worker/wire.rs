//! One worker's way to the table, the stream and the lake: outages, freezes, and requests that outlive who sent
//! them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kinetide::internals::deliver::memory::MemorySink;
use kinetide::internals::deliver::{Created, MayCreate, Sink, SinkError};
use kinetide::internals::fetch::fanout::memory::Seats;
use kinetide::internals::fetch::memory::MemoryStream;
use kinetide::internals::fetch::memory_table::MemoryTable;
use kinetide::internals::fetch::{FetchError, Page, Polled, StartAt};
use kinetide::internals::lease::memory::MemoryLeaseTable;
use kinetide::internals::lease::{
    LeaderRow, Lease, LeaseKey, LeaseTable, LeaseWrite, TableError, TableSnapshot, WorkerId, WorkerRow,
    WriteError,
};
use kinetide::internals::shard::{ChildShard, Lineage, ListError, Shard, ShardId, ShardLister};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::log::Log;

/// A call that hangs is given up by the client after this time, as an SDK does.
const CALL_MAX: Duration = Duration::from_secs(40);

/// A service that is out of reach until a time.
#[derive(Clone, Copy)]
struct Outage {
    until: Instant,
    /// Calls wait for an answer instead of failing at once.
    hangs: bool,
}

/// Everything outside of the workers.
pub(super) struct Outside {
    pub(super) table: Arc<MemoryLeaseTable>,
    pub(super) stream: Arc<MemoryStream>,
    /// It is read as the streams of a table.
    pub(super) of_table: Option<Arc<MemoryTable>>,
    pub(super) sink: Arc<MemorySink>,
    pub(super) log: Arc<Mutex<Log>>,
    table_outage: Mutex<Option<Outage>>,
    sink_outage: Mutex<Option<Outage>>,
    /// Until when the stream says that it knows no shard.
    stream_forgets_until: Mutex<Option<Instant>>,
    sink_looks: AtomicU64,
    /// Who subscribes to which shard.
    pub(super) seats: Arc<Seats>,
    /// The next call for records panics in its caller.
    pub(super) reader_panics: AtomicBool,
    requests: Mutex<JoinSet<()>>,
}

impl Outside {
    fn lister(&self) -> Arc<dyn ShardLister> {
        match &self.of_table {
            Some(table) => Arc::<MemoryTable>::clone(table),
            None => Arc::<MemoryStream>::clone(&self.stream),
        }
    }

    fn polled(&self) -> Arc<dyn Polled> {
        match &self.of_table {
            Some(table) => Arc::<MemoryTable>::clone(table),
            None => Arc::<MemoryStream>::clone(&self.stream),
        }
    }

    pub(super) fn new(table: MemoryLeaseTable, stream: Arc<MemoryStream>, log: Arc<Mutex<Log>>) -> Self {
        let seen = Arc::clone(&log);
        let observed = move |before: Option<&Lease>, after: Option<&Lease>| {
            seen.lock().unwrap().row_changed(before, after);
        };
        let seen = Arc::clone(&log);
        let sink = MemorySink::new()
            .with_observer(move |key, body, created| seen.lock().unwrap().object_put(key, body, created));
        Self {
            table: Arc::new(table.with_observer(observed)),
            stream,
            of_table: None,
            sink: Arc::new(sink),
            log,
            table_outage: Mutex::default(),
            sink_outage: Mutex::default(),
            stream_forgets_until: Mutex::default(),
            sink_looks: AtomicU64::new(0),
            seats: Arc::default(),
            reader_panics: AtomicBool::new(false),
            requests: Mutex::default(),
        }
    }

    pub(super) fn fail_table(&self, time: Duration, hangs: bool) {
        *self.table_outage.lock().unwrap() = Some(Outage { until: Instant::now() + time, hangs });
    }

    pub(super) fn fail_sink(&self, time: Duration, hangs: bool) {
        *self.sink_outage.lock().unwrap() = Some(Outage { until: Instant::now() + time, hangs });
    }

    /// How often somebody looked whether an object exists, or read one.
    pub(super) fn sink_looks(&self) -> u64 {
        self.sink_looks.load(Ordering::Relaxed)
    }

    /// Puts an object that the log does not look into.
    pub(super) async fn put_unseen(&self, key: &str, body: Bytes) {
        self.log.lock().unwrap().unseen.insert(key.to_owned());
        self.sink.create(key, body).await.unwrap();
    }

    /// Every shard is `NotFound` to its readers for this time.
    pub(super) fn forget_stream(&self, time: Duration) {
        *self.stream_forgets_until.lock().unwrap() = Some(Instant::now() + time);
    }

    fn stream_answers(&self) -> Result<(), FetchError> {
        let forgets = self.stream_forgets_until.lock().unwrap().is_some_and(|until| Instant::now() < until);
        if forgets { Err(FetchError::NotFound) } else { Ok(()) }
    }

    /// True, after some time if calls hang, when the service does not work.
    async fn is_out(outage: &Mutex<Option<Outage>>) -> bool {
        let now = Instant::now();
        let Some(Outage { until, hangs }) = *outage.lock().unwrap() else { return false };
        if now >= until {
            return false;
        }
        match hangs {
            true => sleep_until(until.min(now + CALL_MAX)).await,
            false => sleep(Duration::from_millis(20)).await,
        }
        true
    }

    fn carry(&self, request: impl Future<Output = ()> + Send + 'static) {
        let mut requests = self.requests.lock().unwrap();
        while let Some(done) = requests.try_join_next() {
            done.unwrap();
        }
        requests.spawn(request);
    }

    async fn table_answers(&self) -> Result<(), TableError> {
        if Self::is_out(&self.table_outage).await {
            return Err(TableError::Unavailable(OutOfReach.into()));
        }
        Ok(())
    }

    async fn sink_answers(&self, action: &'static str, key: &str) -> Result<(), SinkError> {
        if Self::is_out(&self.sink_outage).await {
            return Err(SinkError { action, key: key.to_owned(), source: OutOfReach.into() });
        }
        Ok(())
    }
}

/// Holds a frozen process: nothing goes out of it or comes in.
pub(super) struct Gate {
    frozen_until: Mutex<Instant>,
    dead: AtomicBool,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { frozen_until: Mutex::new(Instant::now()), dead: AtomicBool::new(false) }
    }

    pub(super) fn freeze(&self, time: Duration) {
        *self.frozen_until.lock().unwrap() = Instant::now() + time;
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(super) fn frozen_until(&self) -> Instant {
        *self.frozen_until.lock().unwrap()
    }

    pub(super) fn is_frozen(&self) -> bool {
        Instant::now() < self.frozen_until()
    }

    /// Waits while the process is frozen; false when it is dead.
    async fn passes(&self) -> bool {
        while self.is_frozen() && !self.dead.load(Ordering::Relaxed) {
            sleep_until(self.frozen_until()).await;
        }
        !self.dead.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
pub(super) struct Wire {
    pub(super) outside: Arc<Outside>,
    pub(super) gate: Arc<Gate>,
    pub(super) worker: WorkerId,
}

#[derive(Debug, thiserror::Error)]
#[error("out of reach")]
struct OutOfReach;

impl Wire {
    /// Sends a request: it goes its way, whatever becomes of the future that waits for the answer. What a frozen
    /// process was about to send is sent when it goes on, which is what makes a zombie.
    async fn send<T: Send + 'static>(&self, request: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, heard) = oneshot::channel();
        let gate = Arc::clone(&self.gate);
        self.outside.carry(async move {
            if gate.passes().await {
                let result = request.await;
                if gate.passes().await {
                    drop(answer.send(result));
                }
            }
        });
        match heard.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Wire {
    /// One call to the table, if it is within reach.
    async fn ask<T, F>(&self, call: impl FnOnce(Arc<MemoryLeaseTable>) -> F) -> Result<T, TableError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TableError>> + Send + 'static,
    {
        let this = self.clone();
        let call = call(Arc::clone(&self.outside.table));
        self.send(async move {
            this.outside.table_answers().await?;
            call.await
        })
        .await
    }
}

#[async_trait]
impl LeaseTable for Wire {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.ask(|table| async move { table.ensure_exists().await }).await
    }

    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.ask(|table| async move { table.snapshot().await }).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        let worker = worker.clone();
        self.ask(|table| async move { table.owned_by(&worker).await }).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        let key = key.clone();
        self.ask(|table| async move { table.get(&key).await }).await
    }

    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        let lease = lease.clone();
        self.ask(|table| async move { table.create(&lease).await }).await
    }

    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        let (this, seen, write) = (self.clone(), seen.clone(), write.clone());
        self.send(async move {
            if Outside::is_out(&this.outside.table_outage).await {
                return Err(WriteError::Unknown(OutOfReach.into()));
            }
            let answer = this.outside.table.write(&seen, &write).await;
            if let (Ok(row), false) = (&answer, !write.moves_counter()) {
                this.outside.log.lock().unwrap().told(&row.key, row.counter, &this.worker);
            }
            answer
        })
        .await
    }

    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        let (this, seen) = (self.clone(), seen.clone());
        self.send(async move {
            if Outside::is_out(&this.outside.table_outage).await {
                return Err(WriteError::NotWritten(OutOfReach.into()));
            }
            this.outside.table.delete(&seen).await
        })
        .await
    }

    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        self.ask(|table| async move { table.leader().await }).await
    }

    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        let (seen, next) = (seen.cloned(), next.clone());
        self.ask(|table| async move { table.lead(seen.as_ref(), &next).await }).await
    }

    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        let mine = mine.clone();
        self.ask(|table| async move { table.resign(&mine).await }).await
    }

    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        let worker = worker.clone();
        self.ask(|table| async move { table.report(&worker).await }).await
    }

    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        let seen = seen.clone();
        self.ask(|table| async move { table.forget_worker(&seen).await }).await
    }
}

#[async_trait]
impl ShardLister for Wire {
    fn lineage(&self) -> Lineage {
        self.outside.lister().lineage()
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        let lister = self.outside.lister();
        self.send(async move { lister.list().await }).await
    }

    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        let (lister, shard) = (self.outside.lister(), shard.clone());
        self.send(async move { lister.children(&shard).await }).await
    }
}

#[async_trait]
impl Polled for Wire {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        let (outside, shard, start) = (Arc::clone(&self.outside), shard.clone(), start.clone());
        self.send(async move {
            outside.stream_answers()?;
            outside.polled().iterator(&shard, &start).await
        })
        .await
    }

    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        assert!(!self.outside.reader_panics.swap(false, Ordering::Relaxed), "the source is broken");
        let (outside, shard, iterator) = (Arc::clone(&self.outside), shard.clone(), iterator.to_owned());
        self.send(async move {
            outside.stream_answers()?;
            outside.polled().fetch(&shard, &iterator, records_max).await
        })
        .await
    }

    fn page_bytes_max(&self) -> usize {
        self.outside.stream.page_bytes_max()
    }
}

#[async_trait]
impl Sink for Wire {
    async fn create_while(&self, key: &str, body: Bytes, may: MayCreate) -> Result<Created, SinkError> {
        let (outside, key) = (Arc::clone(&self.outside), key.to_owned());
        self.send(async move {
            outside.sink_answers("create", &key).await?;
            outside.sink.create_while(&key, body, may).await
        })
        .await
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        let (outside, key) = (Arc::clone(&self.outside), key.to_owned());
        self.send(async move {
            outside.sink_looks.fetch_add(1, Ordering::Relaxed);
            outside.sink_answers("read", &key).await?;
            outside.sink.read(&key).await
        })
        .await
    }

    async fn exists(&self, key: &str) -> Result<bool, SinkError> {
        let (outside, key) = (Arc::clone(&self.outside), key.to_owned());
        self.send(async move {
            outside.sink_looks.fetch_add(1, Ordering::Relaxed);
            outside.sink_answers("find", &key).await?;
            outside.sink.exists(&key).await
        })
        .await
    }
}
