use std::collections::VecDeque;
use std::ops::Range;

use async_trait::async_trait;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::sleep;

use super::*;
use crate::lease::Pending;
use crate::lease::fleet::{LeaderRow, TableSnapshot, WorkerRow};
use crate::lease::memory::{Faults, MemoryLeaseTable};
use crate::shard::{Checkpoint, HashKeyRange, Position, SequenceNumber, Shard, ShardId};

const FAILOVER: Duration = Duration::from_secs(10);

fn me() -> WorkerId {
    WorkerId::new("me")
}

fn commit(number: u128) -> LeaseWrite {
    LeaseWrite::commit(Checkpoint::At(Position::new(SequenceNumber::from(number))))
}

fn unowned() -> Lease {
    let shard = Shard {
        id: ShardId::new("s"),
        parents: Vec::new(),
        hash_range: Some(HashKeyRange { start: 0, end: 0 }),
        starting_sequence_number: SequenceNumber::from(0),
        closed: false,
    };
    Lease::new(&shard, Checkpoint::TrimHorizon)
}

/// What becomes of the next calls; afterwards all goes well.
#[derive(Clone, Copy)]
enum Fault {
    Fine,
    RequestLost,
    AnswerLost,
    /// The SDK repeats a write that went through.
    SentTwice,
    Throttled,
    Hangs,
}

struct Scripted {
    table: MemoryLeaseTable,
    script: Mutex<VecDeque<Fault>>,
}

impl Scripted {
    fn next(&self) -> Fault {
        self.script.lock().unwrap().pop_front().unwrap_or(Fault::Fine)
    }
}

#[async_trait]
impl LeaseTable for Scripted {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.table.ensure_exists().await
    }
    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.table.snapshot().await
    }
    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        self.table.owned_by(worker).await
    }
    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        match self.next() {
            Fault::Fine => self.table.get(key).await,
            _ => Err(TableError::Unavailable("no answer".into())),
        }
    }
    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        self.table.create(lease).await
    }
    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        match self.next() {
            Fault::Fine => self.table.write(seen, write).await,
            Fault::Throttled => Err(WriteError::NotWritten("throttled".into())),
            Fault::RequestLost => Err(WriteError::Unknown("no answer".into())),
            Fault::AnswerLost => {
                self.table.write(seen, write).await?;
                Err(WriteError::Unknown("no answer".into()))
            }
            Fault::SentTwice => {
                self.table.write(seen, write).await?;
                self.table.write(seen, write).await
            }
            Fault::Hangs => std::future::pending().await,
        }
    }
    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        self.table.delete(seen).await
    }
    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        self.table.leader().await
    }
    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        self.table.lead(seen, next).await
    }
    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        self.table.resign(mine).await
    }
    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        self.table.report(worker).await
    }
    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        self.table.forget_worker(seen).await
    }
}

/// A lease just taken, on a table that follows the script from now on.
async fn taken(script: &[Fault]) -> (Arc<Scripted>, Arc<HeldLease>) {
    let table = MemoryLeaseTable::new();
    table.create(&unowned()).await.unwrap();
    let sent = Instant::now();
    let row = table.write(&unowned(), &LeaseWrite::Assign(me())).await.unwrap();
    let table = Arc::new(Scripted { table, script: Mutex::new(script.iter().copied().collect()) });
    let dynamic: Arc<dyn LeaseTable> = Arc::<Scripted>::clone(&table);
    (table, HeldLease::new(dynamic, row, me(), sent, FAILOVER))
}

fn row(table: &Scripted) -> Lease {
    table.table.rows().remove(0)
}

async fn steal(table: &Scripted) {
    let seen = row(table);
    table.table.write(&seen, &LeaseWrite::Assign(WorkerId::new("thief"))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_fault_ends_in_exactly_one_write() {
    use Fault::*;
    let scripts: [&[Fault]; 7] = [
        &[],
        &[RequestLost],
        &[AnswerLost],
        &[SentTwice],
        &[Hangs],
        &[RequestLost, Fine, AnswerLost, Fine],
        &[AnswerLost, Fine],
    ];
    for script in scripts {
        let (table, held) = taken(script).await;
        let answer = held.write(commit(1)).await.unwrap();
        assert_eq!((answer.counter, &answer), (2, &row(&table)));
        assert_eq!(held.row(), answer);
        assert!(held.is_valid(Instant::now()));
    }
}

#[tokio::test(start_paused = true)]
async fn unavailable_changes_nothing_and_may_be_tried_again() {
    use Fault::*;
    let scripts: [(&[Fault], u64); 3] =
        [(&[Throttled], 1), (&[RequestLost, RequestLost], 1), (&[AnswerLost, RequestLost], 2)];
    for (script, counter) in scripts {
        let (table, held) = taken(script).await;
        let before = held.row();
        assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Unavailable(_))));
        assert_eq!((held.row(), row(&table).counter), (before, counter));
        assert!(!held.lost().is_cancelled());
        assert_eq!(held.write(commit(1)).await.unwrap().counter, 2, "done once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_write_without_an_answer_is_recognised_under_another() {
    use Fault::*;
    let (table, held) = taken(&[AnswerLost, RequestLost]).await;
    let first_sent = Instant::now();
    assert!(held.write(commit(1)).await.is_err());
    sleep(Duration::from_secs(1)).await;
    table.script.lock().unwrap().extend([Fine, RequestLost, RequestLost]);
    // The renew is refused, the commit found and taken in, then the table goes away again.
    assert!(held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await.is_err());
    assert_eq!(held.row(), row(&table));
    assert_eq!(held.row().checkpoint.as_str(), "1");
    assert_eq!(held.last_write(), first_sent, "validity counts from the write that was done");
    assert_eq!(held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap().counter, 3);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_write_is_recognised_too() {
    let (table, held) = taken(&[]).await;
    let seen = held.row();
    table.script.lock().unwrap().push_back(Fault::Hangs);
    assert!(timeout(Duration::from_secs(1), held.write(commit(1))).await.is_err());
    // It arrives after its sender has given up.
    table.table.write(&seen, &commit(1)).await.unwrap();
    let answer = held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    assert_eq!((answer.counter, answer.checkpoint.as_str()), (3, "1"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_others_took_is_lost_for_good() {
    for script in [&[][..], &[Fault::RequestLost]] {
        let (table, held) = taken(script).await;
        steal(&table).await;
        assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Lost)));
        assert!(held.lost().is_cancelled() && !held.is_valid(Instant::now()));
        assert!(matches!(
            held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await,
            Err(LeaseWriteError::Lost)
        ));
        assert_eq!(row(&table).counter, 2);
    }
    let (table, held) = taken(&[]).await;
    table.table.delete(&row(&table)).await.unwrap();
    assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Lost)));
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_before_the_request() {
    let (_, held) = taken(&[Fault::Hangs]).await;
    let until = Instant::now() + FAILOVER;
    held.write(LeaseWrite::SetChildren(vec![ShardId::new("child")])).await.unwrap();
    assert!(Instant::now() > until - FAILOVER, "the first try hung for a while");
    assert_eq!(held.valid_until(), until, "children move no counter: nobody saw a heartbeat");
    let sent = Instant::now();
    held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    assert!(held.is_valid(sent + FAILOVER - Duration::from_millis(1)));
    assert!(!held.is_valid(sent + FAILOVER));
}

/// Nobody has taken the lease as long as its counter stands: the time alone does not lose it.
#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_is_valid_again_with_the_next_write_that_is_accepted() {
    for script in [&[][..], &[Fault::AnswerLost], &[Fault::Throttled], &[Fault::SentTwice], &[Fault::Hangs]] {
        let (table, held) = taken(script).await;
        sleep(FAILOVER * 2).await;
        assert!(!held.is_valid(Instant::now()) && !held.lost().is_cancelled());
        let waits = timeout(Duration::from_secs(1), held.renewed_lately()).await;
        assert!(waits.is_err(), "its shard is not read meanwhile");
        let before = Instant::now();
        while held.write(commit(1)).await.is_err() {}
        assert!(held.is_valid(Instant::now()) && held.last_write() >= before);
        assert_eq!((held.row().counter, &held.row()), (2, &row(&table)));
        held.renewed_lately().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_that_others_took_or_that_nothing_is_heard_of_is_lost() {
    for script in [&[][..], &[Fault::RequestLost]] {
        let (table, held) = taken(script).await;
        sleep(FAILOVER * 2).await;
        steal(&table).await;
        assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Lost)));
        assert_eq!((row(&table).counter, row(&table).checkpoint), (2, Checkpoint::TrimHorizon));
        held.renewed_lately().await; // lost: nothing to wait for
    }
    let (table, held) = taken(&[]).await;
    sleep(FAILOVER * (1 + LAPSED_FAILOVERS)).await;
    assert!(matches!(
        held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await,
        Err(LeaseWriteError::Lost)
    ));
    assert!(held.lost().is_cancelled());
    assert_eq!(row(&table).counter, 1, "nothing is written");
}

#[tokio::test(start_paused = true)]
async fn polls_wait_for_a_renewal_that_is_late() {
    let (_table, held) = taken(&[]).await;
    held.renewed_lately().await;
    sleep(FAILOVER / 2).await;
    let late = Instant::now();
    let renew = async {
        sleep(Duration::from_secs(1)).await;
        held.write(LeaseWrite::SetChildren(Vec::new())).await.unwrap(); // no heartbeat
        sleep(Duration::from_secs(1)).await;
        held.renew().await.unwrap();
    };
    tokio::join!(renew, held.renewed_lately());
    assert_eq!(late.elapsed(), Duration::from_secs(2));
}

/// A write and the look at what became of it end before the lease does.
#[tokio::test(start_paused = true)]
async fn calls_that_hang_leave_time_to_renew() {
    for hanging in 1..=2 {
        let (_, held) = taken(&[Fault::Hangs; 2][..hanging]).await;
        assert_eq!(held.renew().await.is_ok(), hanging == 1);
        assert!(held.is_valid(Instant::now()), "{hanging} calls");
        held.renew().await.unwrap();
    }
}

/// In KB/s since the last renewal, averaged with what was told before.
#[tokio::test(start_paused = true)]
async fn renewals_tell_the_throughput() {
    let (table, held) = taken(&[]).await;
    let mut average = None;
    for (seconds, kib) in [(2, 20u16), (2, 0), (4, 100), (1, 7), (3, 0)] {
        held.count_bytes(usize::from(kib) << 10);
        sleep(Duration::from_secs(seconds)).await;
        held.renew().await.unwrap();
        let now = f64::from(kib) / Duration::from_secs(seconds).as_secs_f64();
        let expected = average.map_or(now, |before| f64::midpoint(before, now));
        assert_eq!(row(&table).throughput_kbps, Some(expected));
        average = Some(expected);
    }
    // Other writes are heartbeats as well, and say nothing of it.
    let interval = FAILOVER / 3;
    let mut due = 0;
    for number in 1..100 {
        sleep(interval / 2).await;
        held.write(commit(number)).await.unwrap();
        if held.renew_due(interval) <= Instant::now() {
            held.renew().await.unwrap();
            due += 1;
        }
    }
    assert!((4..=5).contains(&due), "{due} times in 49 intervals");
}

#[tokio::test(start_paused = true)]
async fn an_evict_ends_the_lease() {
    for script in [&[][..], &[Fault::AnswerLost], &[Fault::SentTwice]] {
        let (table, held) = taken(script).await;
        assert_eq!(held.write(LeaseWrite::Evict).await.unwrap().owner, None);
        assert!(held.lost().is_cancelled());
        assert_eq!(row(&table).owner, None);
    }
}

/// Two processes were given one worker id. The row has our name and the counter that our write would leave, and it is the
/// other's write all the same.
#[tokio::test(start_paused = true)]
async fn a_write_of_a_twin_is_not_taken_for_our_own() {
    let prepare = |number: u128, state: &[u8]| {
        let checkpoint = Checkpoint::At(Position::new(SequenceNumber::from(number)));
        LeaseWrite::prepare(Pending { checkpoint, state: Some(state.into()) })
    };
    let renew = LeaseWrite::Renew { kbps: None, caught_up: None };
    for (ours, theirs) in [
        (prepare(5, b"a"), prepare(7, b"a")),
        (prepare(5, b"a"), prepare(5, b"b")),
        (prepare(5, b"a"), commit(5)),
        (prepare(5, b"a"), renew.clone()),
        (renew.clone(), prepare(5, b"a")),
        (renew, commit(5)),
        (commit(5), prepare(5, b"a")),
        (commit(5), commit(6)),
    ] {
        // Ours is refused, or nobody knows what became of it.
        for script in [&[][..], &[Fault::RequestLost]] {
            let (table, held) = taken(script).await;
            let seen = row(&table);
            let written = table.table.write(&seen, &theirs).await.unwrap();
            assert!(
                matches!(held.write(ours.clone()).await, Err(LeaseWriteError::Lost)),
                "{ours:?} {theirs:?}"
            );
            assert!(held.lost().is_cancelled());
            assert_eq!(row(&table), written);
        }
    }
}

/// A renewer and a committer share the lease on a bad network, until a thief comes or time is over.
async fn rough_life(seed: u64, delay: Range<Duration>, lost_request: f64, lost_answer: f64) {
    // Every form of the row, with the time since when it stood in the table.
    let history: Arc<Mutex<Vec<(Instant, Lease)>>> = Arc::default();
    let observed = Arc::clone(&history);
    let table = MemoryLeaseTable::new()
        .with_observer(move |_, after| {
            observed.lock().unwrap().push((Instant::now(), after.cloned().unwrap()));
        })
        .with_faults(Faults { seed, delay, lost_request, lost_answer });
    let table = Arc::new(table);
    while !table.create(&unowned()).await.unwrap_or(false) && table.rows().is_empty() {}
    let (sent, row) = loop {
        let sent = Instant::now();
        let seen = table.rows().remove(0);
        if let Ok(row) = table.write(&seen, &LeaseWrite::Assign(me())).await {
            break (sent, row);
        }
    };
    let dynamic: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&table);
    let held = HeldLease::new(dynamic, row, me(), sent, FAILOVER);
    let in_table = |row: &Lease| history.lock().unwrap().iter().any(|(_, form)| form == row);

    let renewer = async {
        while !held.lost().is_cancelled() {
            sleep(FAILOVER / 3).await;
            drop(held.write(LeaseWrite::Renew { kbps: None, caught_up: None }).await);
        }
    };
    let committer = async {
        let mut next = 1;
        loop {
            sleep(Duration::from_millis(300)).await;
            let children = vec![ShardId::new(format!("child-{next}"))];
            let write = if next % 5 == 0 { LeaseWrite::SetChildren(children.clone()) } else { commit(next) };
            match held.write(write.clone()).await {
                Ok(row) => {
                    assert!(in_table(&row), "answered a row that never was");
                    match write {
                        LeaseWrite::SetChildren(_) => assert_eq!(row.children, children),
                        _ => assert_eq!(row.checkpoint.as_str(), next.to_string()),
                    }
                    next += 1;
                }
                Err(LeaseWriteError::Unavailable(_)) => {}
                Err(LeaseWriteError::Lost) => return,
            }
        }
    };
    let watcher = async {
        while !held.lost().is_cancelled() {
            sleep(Duration::from_millis(20)).await;
            let row = held.row();
            assert!(in_table(&row), "believes a row that never was");
            let history = history.lock().unwrap();
            let moved = history.iter().find(|(_, form)| form.counter == row.counter).unwrap().0;
            assert!(held.last_write() <= moved, "valid for longer than others wait");
        }
        // Lost: taken by the thief, or too long without a write.
        let taken = table.rows()[0].owner != Some(me());
        assert!(taken || Instant::now() >= held.given_up_at());
    };
    let thief = async {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        sleep(Duration::from_millis(rng.random_range(0..60_000))).await;
        while table.rows()[0].owner == Some(me()) {
            let seen = table.rows().remove(0);
            drop(table.write(&seen, &LeaseWrite::Assign(WorkerId::new("thief"))).await);
        }
    };
    tokio::join!(renewer, committer, watcher, thief);

    let history = history.lock().unwrap();
    for pair in history.windows(2) {
        let (old, new) = (&pair[0].1, &pair[1].1);
        assert!(new.checkpoint >= old.checkpoint, "a late write moved the checkpoint back");
        assert!(new.counter >= old.counter && new.counter <= old.counter + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn belief_follows_the_table(
        seed: u64,
        delay_ms in 1u64..4000,
        lost_request in 0.0..0.3,
        lost_answer in 0.0..0.3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let delay = Duration::from_millis(delay_ms / 20)..Duration::from_millis(delay_ms);
        runtime.block_on(rough_life(seed, delay, lost_request, lost_answer));
    }
}

#[tokio::test(start_paused = true)]
async fn the_tip_is_told_by_a_heartbeat_once_what_was_read_is_committed() {
    let (table, held) = taken(&[]).await;
    let seen = |after: u128, at_us| CaughtUp { after: after.into(), at_us, retention_hours: 24 };
    held.at_tip(seen(5, 1));
    held.renew().await.unwrap();
    assert_eq!(row(&table).caught_up, None, "5 is read, and not committed");
    held.write(commit(5)).await.unwrap();
    assert_eq!(row(&table).caught_up, None, "a commit takes no more room than it needs");
    held.renew().await.unwrap();
    assert_eq!(row(&table).caught_up, Some(seen(5, 1)));
    held.at_tip(seen(7, 2));
    held.renew().await.unwrap();
    assert_eq!(row(&table).caught_up, Some(seen(5, 1)), "what was noted stays true");
    // Inside an aggregate, of which more may be to come.
    let inside = Position { sequence: SequenceNumber::from(7), sub: 2 };
    held.write(LeaseWrite::commit(Checkpoint::At(inside))).await.unwrap();
    held.renew().await.unwrap();
    assert_eq!(row(&table).caught_up, Some(seen(5, 1)));
}

/// A row says who wrote the record at its end, as it was read; a commit without a new reading keeps what it says.
#[tokio::test(start_paused = true)]
async fn a_batch_and_a_checkpoint_say_who_wrote_their_record() {
    let (table, held) = taken(&[]).await;
    let prepare = |number: u128| LeaseWrite::prepare(Pending { checkpoint: at(number), state: None });
    let said = || row(&table).written.map(|written| (written.upto.to_string(), written.epoch));
    held.write(commit(3)).await.unwrap();
    assert_eq!(said(), None, "a stream without leaders");
    held.read_of_epoch(4.into(), 1);
    held.read_of_epoch(8.into(), 1);
    held.read_of_epoch(10.into(), 2);
    held.write(prepare(9)).await.unwrap();
    assert_eq!((said(), held.row().read_upto().is_some()), (Some(("9".to_owned(), 1)), true));
    held.write(commit(9)).await.unwrap();
    held.write(prepare(12)).await.unwrap();
    assert_eq!(said(), Some(("12".to_owned(), 2)));
    // Its next owner finds all objects of the batch in the lake, and reads nothing for it.
    let next = HeldLease::new(Arc::clone(&held.table), row(&table), me(), Instant::now(), FAILOVER);
    next.write(commit(12)).await.unwrap();
    assert_eq!((said(), next.row().read_upto().is_some()), (Some(("12".to_owned(), 2)), true));
    // A record that nobody has read here.
    next.write(commit(20)).await.unwrap();
    assert_eq!(said(), None);
}

fn at(number: u128) -> Checkpoint {
    Checkpoint::At(Position::new(SequenceNumber::from(number)))
}
