//! A fleet in memory, watched, shown and changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::act::{self, Done};
use super::change::{self, Allowed};
use super::table::{self, Screen};
use crate::batch::Content;
use crate::checkpoint::{PendingBatch, Proof, Stage, Unpacking};
use crate::clock::wall_clock_s;
use crate::lease::explain::Reason;
use crate::lease::fleet::{CPU, THROUGHPUT, WorkerRow};
use crate::lease::memory::{Faults, MemoryLeaseTable};
use crate::lease::{LeaderRow, Lease, LeaseTable, LeaseWrite, Observer, Pending, WorkerId};
use crate::report::{Lag, Report, State, pending_report};
use crate::shard::{
    Checkpoint, HashKeyRange, ListError, Position, SequenceNumber, Shard, ShardId, ShardLister, StreamId,
};

const FAILOVER: Duration = Duration::from_secs(10);

fn shard(number: usize) -> Shard {
    Shard {
        id: ShardId::new(format!("shardId-{number:012}")),
        parents: Vec::new(),
        hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
        starting_sequence_number: SequenceNumber::from(1),
        closed: false,
    }
}

fn at(number: u128) -> Checkpoint {
    Checkpoint::At(Position::new(SequenceNumber::from(number)))
}

fn lease(number: usize, owner: Option<&str>) -> Lease {
    Lease { owner: owner.map(WorkerId::new), ..Lease::new(&shard(number), at(200)) }
}

fn worker(id: &str) -> WorkerRow {
    WorkerRow {
        id: WorkerId::new(id),
        updated: wall_clock_s(),
        samples: [(CPU.to_owned(), vec![20.0, 41.7]), (THROUGHPUT.to_owned(), vec![98.0])].into(),
        limits: [(CPU.to_owned(), 100.0), (THROUGHPUT.to_owned(), 100.0)].into(),
        properties: [].into(),
        support: Some(1),
    }
}

fn lock(seconds: u64) -> LeaderRow {
    LeaderRow {
        owner: WorkerId::new("a"),
        lease_duration: Duration::from_secs(seconds),
        version: "1".into(),
        released: false,
        workers: 3,
        pending_format: 2,
    }
}

async fn filled(leases: &[Lease], workers: &[&str]) -> Arc<MemoryLeaseTable> {
    let table = Arc::new(MemoryLeaseTable::new());
    for lease in leases {
        table.create(lease).await.unwrap();
    }
    for id in workers {
        table.report(&worker(id)).await.unwrap();
    }
    table
}

/// Renews the leases of this worker as long as it is polled.
async fn alive(table: &MemoryLeaseTable, id: &str) {
    loop {
        sleep(Duration::from_millis(3308)).await;
        for row in table.rows().into_iter().filter(|row| row.actual_owner() == Some(&WorkerId::new(id))) {
            table.write(&row, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
        }
    }
}

/// Watches while worker `a` is alive: what was seen, and how long it took.
async fn watched(table: &Arc<MemoryLeaseTable>) -> (Observer, Duration) {
    let mut observer = Observer::new(Arc::clone(table) as _, Vec::new(), FAILOVER);
    let started = Instant::now();
    tokio::select! {
        seen = observer.watch(|_| true, |_| {}) => seen.unwrap(),
        () = alive(table, "a") => {}
    }
    (observer, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn it_watches_no_longer_than_it_takes_to_be_sure() {
    let table = filled(&[lease(0, Some("a")), lease(1, None)], &["a"]).await;
    let (observer, took) = watched(&table).await;
    assert_eq!(took.as_secs(), 3);
    let report = Report::new("app", None, &observer, BTreeMap::new());
    let states: Vec<State> = report.leases.iter().map(|lease| lease.state).collect();
    assert_eq!(states, [State::NotRead, State::Read]);

    let table = filled(&[lease(0, Some("a")), lease(1, Some("b"))], &["a", "b"]).await;
    let (observer, took) = watched(&table).await;
    assert_eq!(took.as_secs(), 10);
    let report = Report::new("app", None, &observer, BTreeMap::new());
    assert_eq!(report.leases[0].reason, Some("owner_silent"));

    let table = filled(&[lease(0, None)], &[]).await;
    assert_eq!(watched(&table).await.1, Duration::ZERO, "there is nobody to wait for");
    assert!(table.lead(None, &lock(5)).await.unwrap());
    let (observer, took) = watched(&table).await;
    assert_eq!(took.as_secs(), 10);
    let report = Report::new("app", None, &observer, BTreeMap::new());
    assert_eq!(report.leases[0].reason, Some("no_leader"));
}

#[tokio::test(start_paused = true)]
async fn the_table_as_people_see_it() {
    let sequence = "49590338271490256608559692538361571095921575989136588898";
    let foreign = Pending { checkpoint: at(300), state: None };
    let long = "ip-10-0-1-7.eu-north-1.compute.internal:3f2a9c1b77e1";
    let leases = [
        lease(0, Some("a")),
        Lease { checkpoint: Checkpoint::parse(sequence, 0).unwrap(), ..lease(1, Some(long)) },
        Lease { checkpoint: Checkpoint::TrimHorizon, pending: Some(foreign), ..lease(2, None) },
        Lease { checkpoint: Checkpoint::ShardEnd, ..lease(3, None) },
        Lease { checkpoint_owner: Some(WorkerId::new("a")), ..lease(4, Some(long)) },
    ];
    let table = filled(&leases, &["a"]).await;
    assert!(table.lead(None, &lock(120)).await.unwrap());
    let (observer, _) = watched(&table).await;
    let lags = [
        (0, Lag { checkpoint_age_ms: Some(1_400), millis_behind_latest: Some(0), ..Lag::default() }),
        (1, Lag { millis_behind_latest: Some(93_784_000), trimmed: true, ..Lag::default() }),
        (4, Lag { lag_problem: Some("throttled".into()), ..Lag::default() }),
    ];
    let lags = lags.map(|(number, lag)| (shard(number).id.into(), lag)).into();
    let report = Report::new("kinetide-trades", Some("trades".to_owned()), &observer, lags);
    assert_eq!(
        table::text(&report, Screen::default()),
        "\
kinetide-trades of stream trades: 5 shards, 1 read, 3 NOT READ, 1 finished

   SHARD                 OWNER                         CHECKPOINT    LAG        STATE         FOR
!  shardId-000000000001  ip-10-0-1-7.eu…:3f2a9c1b77e1  trimmed       1d 02h     owner silent  ≥ 10 s
!  shardId-000000000002  -                             trim horizon  -          unowned       ≥ 10 s
!  shardId-000000000004  a → ip-10-0…1b77e1            age unknown   throttled  handing off   ≥ 10 s
   shardId-000000000000  a                             1 s ago       0 s        read
   shardId-000000000003  -                             shard end     -          finished

  shardId-000000000002: waits for the leader a to assign it
    → nothing to do: the leader assigns it within two failover times
  shardId-000000000004: being handed off from a to
    ip-10-0-1-7.eu-north-1.compute.internal:3f2a9c1b77e1
    → nothing to do: the old owner delivers its open batch first, which may take 30 s
  shardId-000000000001: its owner ip-10-0-1-7.eu-north-1.compute.internal:3f2a9c1b77e1 is silent
    → the leader assigns it to another worker within two failover times; if not, read the leader's
      log, or remove the owner with `kinetide leases evict`
  shardId-000000000001: the record at its checkpoint is no longer in the stream; records after it
    may be lost
  shardId-000000000002: a batch of another application is pending; the next owner reads from the
    checkpoint

Leader: a, renewed the leader lock ≥ 10 s ago; it expires after 2m 00s

WORKER                                             LEASES  CPU   THROUGHPUT  SEEN     STATE
a                                                  2       42 %  98 %        0 s ago  active, leader
ip-10-0-1-7.eu-north-1.c…te.internal:3f2a9c1b77e1  1       -     -           -        no metrics row
"
    );
    let foreign = report.leases[1].pending.as_ref().unwrap();
    assert!(!foreign.ours && foreign.lake.is_none() && foreign.proof.is_none());
    let docs = include_str!("../../../docs/LEASES.md");
    let json = serde_json::to_value(&report).unwrap();
    let members =
        [&json, &json["leader"], &json["leases"][0], &json["leases"][1]["pending"], &json["workers"][0]];
    for member in members.iter().flat_map(|object| object.as_object().unwrap().keys()) {
        let listed = format!("`{member}`");
        assert!(
            docs.contains(&listed) || docs.contains(&format!("`{member}[]`")),
            "{member} is not documented"
        );
    }
    for lease in &report.leases {
        assert_eq!(lease.reason.is_some(), lease.why.is_some());
        assert!(lease.state != State::NotRead || Reason::WORDS.contains(&lease.reason.unwrap()));
    }
}

/// A screen that is drawn again shows all that is not read, or says how much it leaves out, and never scrolls.
#[tokio::test(start_paused = true)]
async fn a_screen_shows_what_is_not_read_first_and_never_scrolls() {
    let long = "ip-10-0-1-7.eu-north-1.compute.internal:3f2a9c1b77e1";
    for unread in [0, 4, 300] {
        let mut leases: Vec<Lease> = (0..1000).map(|number| lease(number, Some("a"))).collect();
        for lease in leases.iter_mut().rev().take(unread) {
            lease.owner = Some(WorkerId::new(long));
        }
        let table = filled(&leases, &["a", long]).await;
        assert!(table.lead(None, &lock(120)).await.unwrap());
        let (observer, _) = watched(&table).await;
        let report = Report::new("kinetide-trades", Some("trades".to_owned()), &observer, BTreeMap::new());
        for (width, height) in [(80, 24), (120, 40), (300, 200)] {
            let screen = table::text(&report, Screen::new(width, Some(height)));
            let size = format!("{width}x{height}, {unread} not read:\n{screen}");
            assert!(screen.lines().count() < height, "{size}");
            assert!(screen.lines().all(|line| line.chars().count() <= width.clamp(60, 160)), "{size}");
            // Not the sentences that name shards.
            let rows = screen.lines().filter(|line| {
                line.trim_start_matches(['!', ' ']).starts_with("sha")
                    && ![",", ": ", " more"].iter().any(|other| line.contains(*other))
            });
            let (marked, read): (Vec<&str>, Vec<&str>) = rows.partition(|line| line.starts_with('!'));
            let (marked, read) = (marked.len(), read.len());
            assert!(marked == unread || marked > 0 && read == 0, "{size}");
            let expected = match unread - marked {
                0 => format!("… and {} more read\n", 1000 - unread - read),
                more => format!("… and {more} more not read, {} read\n", 1000 - unread),
            };
            assert!(screen.contains(&expected), "{expected}{size}");
            assert!(screen.contains("Leader: a"), "{size}");
            assert_eq!(screen.contains("is silent"), unread > 0, "{size}");
        }
        assert!(table::text(&report, Screen::new(80, None)).matches("shardId-0").count() >= 1000);
    }
}

/// A stream that may not be listed.
struct Denied;

#[async_trait::async_trait]
impl ShardLister for Denied {
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        Err(ListError::Unavailable { stream: "trades".into(), source: "access denied".into() })
    }
}

#[tokio::test(start_paused = true)]
async fn no_leases_is_not_said_where_nobody_could_look() {
    let table = filled(&[], &[]).await;
    let mut observer = Observer::new(Arc::clone(&table) as _, Vec::new(), FAILOVER);
    observer.look().await.unwrap();
    let text = |observer: &Observer| {
        let report = Report::new("app", Some("trades".to_owned()), observer, BTreeMap::new());
        (report.looked(), table::text(&report, Screen::default()))
    };
    assert!(text(&observer).0 && text(&observer).1.contains("No leases yet"));
    let streams: Vec<(_, Arc<dyn ShardLister>)> = vec![(StreamId::named("trades"), Arc::new(Denied))];
    let mut observer = Observer::new(Arc::clone(&table) as _, streams, FAILOVER);
    observer.look().await.unwrap();
    let (looked, said) = text(&observer);
    assert!(!looked && !said.contains("No leases yet") && said.contains("access denied"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_moved_on_is_left_alone() {
    let table = filled(&[lease(0, Some("b"))], &[]).await;
    let seen = table.rows().remove(0);
    let allowed = Allowed { evict: true, force: true };
    let planned = change::set_checkpoint(&seen, false, &at(100), None, allowed).unwrap();
    table.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    let before = table.rows();
    assert!(matches!(act::write(&*table, &planned).await, Done::MovedOn { row: Some(_), steps_before: 0 }));
    assert_eq!(table.rows(), before);

    let planned = change::set_checkpoint(&before[0], false, &at(100), None, allowed).unwrap();
    let Done::Written(Some(row)) = act::write(&*table, &planned).await else { panic!("it is written") };
    assert_eq!((row.checkpoint.clone(), row.owner.clone()), (at(100), None));
    assert_eq!(table.rows().first(), Some(&row));
    assert!(matches!(act::write(&*table, &change::delete(&row, false).unwrap()).await, Done::Written(None)));
    assert_eq!(table.rows(), []);
}

/// A person takes longer to answer than an owner to renew.
#[tokio::test(start_paused = true)]
async fn heartbeats_of_a_live_owner_are_no_change() {
    let table = filled(&[lease(0, Some("b"))], &[]).await;
    let renew = LeaseWrite::Renew { kbps: Some(7.0), caught_up: None };
    let seen = table.rows().remove(0);
    let planned = change::evict(&seen, true);
    let renewed = table.write(&seen, &renew).await.unwrap();
    let Done::Written(Some(row)) = act::write(&*table, &planned).await else { panic!("it is written") };
    assert_eq!((row.owner, row.counter), (None, renewed.counter + 1));

    // Anything else is: it has delivered something since.
    let table = filled(&[lease(0, Some("b"))], &[]).await;
    let seen = table.rows().remove(0);
    let planned = change::evict(&seen, true);
    let moved = table.write(&seen, &LeaseWrite::commit(at(100))).await.unwrap();
    assert!(matches!(act::write(&*table, &planned).await, Done::MovedOn { steps_before: 0, .. }));
    assert_eq!(table.rows(), [moved]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_never_guessed() {
    let delay = Duration::from_millis(1)..Duration::from_millis(50);
    for seed in 0..40 {
        let faults = Faults { seed, delay: delay.clone(), lost_request: 0.2, lost_answer: 0.3 };
        let table = filled(&[lease(0, Some("b"))], &[]).await;
        let seen = table.rows().remove(0);
        table.set_faults(Some(faults));
        let done = act::write(&*table, &change::evict(&seen, false)).await;
        let owner = table.rows().remove(0).owner;
        match done {
            Done::Written(Some(row)) => assert_eq!((row.owner, owner), (None, None), "seed {seed}"),
            Done::Unknown(_) => {}
            _ => panic!("seed {seed}"),
        }
    }
}

#[test]
fn the_words_are_documented() {
    let docs = include_str!("../../../docs/LEASES.md");
    for word in Reason::WORDS {
        assert!(docs.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn ids_are_cut_in_the_middle_and_lines_between_words() {
    assert_eq!(table::shortened("shardId-000000000001", 20), "shardId-000000000001");
    assert_eq!(table::shortened("shardId-000000000001", 12), "shardI…00001");
    assert_eq!(table::wrapped("a b", "> ", "  "), "> a b\n");
    let lines = table::wrapped(&"word ".repeat(60), "> ", "  ");
    assert!(lines.lines().count() == 4 && lines.lines().all(|line| line.chars().count() <= 100), "{lines}");
    let text = [0.4, 59.9, 133.0, 11_100.0, 180_000.0].map(table::duration);
    assert_eq!(text, ["0 s", "59 s", "2m 13s", "3h 05m", "2d 02h"]);
}

/// What an operator needs to find the objects of a halted shard, and to see whether they are whole.
#[test]
fn a_batch_is_shown_with_its_lake_and_what_its_objects_hold() {
    let mut batch = PendingBatch {
        first: Position::new(SequenceNumber::from(2)),
        last: Position::new(SequenceNumber::from(5)),
        transform: "json/2".into(),
        generation: 1,
        stage: Stage::Deliver,
        objects: vec!["landing/a-r1".into(), "errors/b-r1".into()],
        sealed: vec!["landing/a".into()],
        shard_end: false,
        streamed: false,
        unpacking: Unpacking::Whole,
        proof: Some(Proof {
            lake: "s3://lake/raw".into(),
            contents: vec![Content { rows: 3, hash: 0xab }, Content { rows: 1, hash: u64::MAX }],
        }),
    };
    let shown = |batch: &PendingBatch| serde_json::to_value(pending_report(&batch.to_pending())).unwrap();
    let expected = serde_json::json!({
        "last": "5", "ours": true, "first": "2", "stage": "deliver", "transform": "json/2", "lake": "s3://lake/raw",
        "objects": ["landing/a-r1", "errors/b-r1"],
        "proof": [{"rows": 3, "hash": "00000000000000ab"}, {"rows": 1, "hash": "ffffffffffffffff"}],
        "sealed": ["landing/a"], "problem": null,
    });
    assert_eq!(shown(&batch), expected);
    batch.proof = None;
    let unproven = shown(&batch);
    assert!(unproven["lake"].is_null() && unproven["proof"].is_null(), "format 1 does not say: {unproven}");
    assert_eq!(unproven["objects"], expected["objects"]);
}
