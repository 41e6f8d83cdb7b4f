//! Shard sync on a table in memory, with a stream that says what each test needs.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::advance;

use super::super::fleet::OddRow;
use super::super::memory::MemoryLeaseTable;
use super::super::row::{Pending, WorkerId};
use super::*;
use crate::shard::audit::AGREED_AFTER;
use crate::shard::{HashKeyRange, Position, SequenceNumber, StartFound};

const INTERVAL: Duration = Duration::from_secs(60);

/// Answers of the stream, the last one again and again.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Option<Vec<Shard>>>>,
    calls: Mutex<usize>,
    stream: Mutex<Option<StreamId>>,
    /// Sequence numbers that did not come from this stream.
    refuses: Mutex<Vec<SequenceNumber>>,
}

#[async_trait]
impl ShardLister for Script {
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        *self.calls.lock().unwrap() += 1;
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let out = || ListError::Unavailable { stream: "trades".into(), source: "throttled".into() };
        answer.expect("the test scripts every listing").ok_or_else(out)
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        Ok(self.stream.lock().unwrap().clone())
    }

    async fn accepts(&self, _: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        Ok(!self.refuses.lock().unwrap().contains(sequence))
    }
}

/// Every shard has one record before the start, its tenth; the calls.
#[derive(Default)]
struct Tenth(Mutex<Vec<(ShardId, StartFrom)>>);

#[async_trait]
impl FindStart for Tenth {
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError> {
        self.0.lock().unwrap().push((shard.clone(), from));
        Ok(StartFound { at: at(10), closed: false })
    }
}

struct Scene {
    stream: Arc<Script>,
    table: Arc<MemoryLeaseTable>,
    sync: ShardSync,
}

impl Scene {
    fn new(initial: Checkpoint) -> Self {
        let (stream, table) = (Arc::new(Script::default()), Arc::new(MemoryLeaseTable::new()));
        let sync = Self::sync(&stream, &table, initial);
        Self { stream, table, sync }
    }

    /// What another process makes of the same stream and table.
    fn another(&self) -> ShardSync {
        Self::sync(&self.stream, &self.table, Checkpoint::TrimHorizon)
    }

    async fn prove(&self) -> Result<(), SyncError> {
        self.another().prove(&self.table.snapshot().await?).await
    }

    fn sync(stream: &Arc<Script>, table: &Arc<MemoryLeaseTable>, initial: Checkpoint) -> ShardSync {
        let lister: Arc<dyn ShardLister> = Arc::<Script>::clone(stream);
        let leases: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(table);
        let starts: Arc<dyn FindStart> = Arc::<Tenth>::default();
        let name = "trades".into();
        let initial_timestamp_us = Some(5_000_000);
        let leased = StreamLeases { name, lister, starts, initial, initial_timestamp_us };
        let troubles = watched::troubles(INTERVAL, INTERVAL);
        ShardSync::new(leases, leased, false, &troubles, INTERVAL)
    }

    fn lists(&self, answers: &[Option<&[Shard]>]) {
        *self.stream.answers.lock().unwrap() =
            answers.iter().map(|answer| answer.map(<[_]>::to_vec)).collect();
    }

    async fn look(&mut self) -> Result<(), SyncError> {
        let seen = self.table.rows();
        self.sync.look(seen).await
    }

    /// A listing, late enough after the last one to be another opinion.
    async fn later(&mut self) -> Result<(), SyncError> {
        advance(AGREED_AFTER).await;
        let mut watch = self.sync.watch.lock().await;
        self.sync.sync(self.sync.begun(&mut watch)).await
    }

    async fn lease(&self, shard: &Shard, checkpoint: Checkpoint) -> Lease {
        let row = Lease::new(shard, checkpoint);
        assert!(self.table.create(&row).await.unwrap());
        row
    }

    fn rows(&self) -> Vec<(usize, Checkpoint)> {
        let number = |key: &LeaseKey| key.as_str()["shardId-".len()..].parse().unwrap();
        self.table.rows().into_iter().map(|row| (number(&row.key), row.checkpoint)).collect()
    }

    fn calls(&self) -> usize {
        *self.stream.calls.lock().unwrap()
    }

    fn held(&self, row: Lease) -> Arc<HeldLease> {
        let table: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&self.table);
        HeldLease::new(table, row, WorkerId::new("me"), Instant::now(), INTERVAL)
    }
}

fn id(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn shard(number: usize, parents: &[usize], closed: bool, keys: (u128, u128)) -> Shard {
    Shard {
        id: id(number),
        parents: parents.iter().map(|&parent| id(parent)).collect(),
        hash_range: Some(HashKeyRange { start: keys.0, end: keys.1 }),
        starting_sequence_number: SequenceNumber::from(number as u128 * 1000),
        closed,
    }
}

fn at(number: u128) -> Checkpoint {
    Checkpoint::At(Position::new(SequenceNumber::from(number)))
}

const LOW: (u128, u128) = (0, u128::MAX / 2);
const HIGH: (u128, u128) = (u128::MAX / 2 + 1, u128::MAX);
const ALL: (u128, u128) = (0, u128::MAX);

/// 0 and 1; 1 was split into 2 and 3, and 2 merged with 0 into 4. 3 and 4 are open.
fn resharded() -> Vec<Shard> {
    let middle = HIGH.0 + 1000;
    vec![
        shard(0, &[], true, LOW),
        shard(1, &[], true, HIGH),
        shard(2, &[1], true, (HIGH.0, middle)),
        shard(3, &[1], false, (middle + 1, HIGH.1)),
        shard(4, &[0, 2], false, (LOW.0, middle)),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_first_sync_begins_at_the_initial_position() {
    use Checkpoint::{AtTimestamp, Latest, TrimHorizon};
    for (initial, shards) in [(Latest, [3, 4]), (TrimHorizon, [0, 1]), (AtTimestamp, [0, 1])] {
        let mut scene = Scene::new(initial.clone());
        scene.lists(&[Some(&resharded())]);
        scene.look().await.unwrap();
        // The row says what it stands for: nobody interprets LATEST or a time a second time.
        let (start, start_us) = match initial {
            TrimHorizon => (TrimHorizon, None),
            Latest => (at(10), None),
            _ => (at(10), Some(5_000_000)),
        };
        assert_eq!(scene.rows(), shards.map(|shard| (shard, start.clone())));
        assert!(scene.table.rows().iter().all(|row| row.start_us == start_us));
        let row = &scene.table.rows()[1];
        let listed = resharded().into_iter().find(|shard| shard.id == *row.key.shard()).unwrap();
        assert_eq!((&row.parents, row.hash_range), (&listed.parents, listed.hash_range));
        // What is there stays as it is.
        scene.later().await.unwrap();
        assert_eq!(scene.rows().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_at_rest_does_not_list_and_mends_a_hole() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    let stream = [shard(0, &[], false, LOW), shard(1, &[], false, HIGH)];
    scene.lists(&[Some(&stream)]);
    for _ in 0..55 {
        scene.look().await.unwrap();
        advance(scene.sync.pause().await).await;
    }
    assert_eq!(scene.calls(), 6, "in an hour");

    let row = scene.table.rows().remove(0);
    scene.table.delete(&row).await.unwrap();
    let (calls, mut looks) = (scene.calls(), 0);
    while scene.rows().len() < 2 {
        scene.look().await.unwrap();
        looks += 1;
    }
    assert_eq!((looks, scene.calls() - calls), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn trouble_with_the_listing_changes_nothing_and_is_tried_again() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    let twisted = [shard(0, &[], false, ALL), shard(1, &[0], false, ALL)];
    let good = [shard(0, &[], true, ALL), shard(1, &[0], false, ALL)];
    scene.lists(&[None, Some(&twisted), Some(&good)]);
    assert!(matches!(scene.look().await, Err(SyncError::List(_))));
    assert!(matches!(scene.look().await, Err(SyncError::Listing(Inconsistent::OpenParent { .. }))));
    assert_eq!(scene.rows(), []);
    scene.look().await.unwrap();
    assert_eq!(scene.rows(), [(0, Checkpoint::TrimHorizon)]);
}

/// The part that lacks is there again in the next listing.
#[tokio::test(start_paused = true)]
async fn one_partial_listing_deletes_nothing() {
    let mut scene = Scene::new(Checkpoint::Latest);
    let whole = resharded();
    for (number, checkpoint) in
        [(0, at(10)), (1, Checkpoint::ShardEnd), (2, Checkpoint::TrimHorizon), (3, at(3010))]
    {
        scene.lease(&whole[number], checkpoint).await;
    }
    let before = scene.rows();
    for lacking in 0..3 {
        let mut part = whole.clone();
        part.remove(lacking);
        scene.lists(&[Some(&part), Some(&whole)]);
        for _ in 0..2 {
            scene.later().await.unwrap();
            assert_eq!(scene.rows(), before, "without {lacking}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_forgotten_shard_gives_way_to_those_after_it() {
    let mut scene = Scene::new(Checkpoint::Latest);
    let (forgotten, whole) = (resharded().remove(1), resharded());
    scene.lease(&forgotten, at(1010)).await;
    scene.lease(&whole[0], at(10)).await;
    let rest: Vec<Shard> = whole.into_iter().filter(|shard| shard.id != forgotten.id).collect();
    scene.lists(&[Some(&rest)]);
    scene.later().await.unwrap();
    assert_eq!(scene.rows(), [(0, at(10)), (1, at(1010))], "one listing is not believed");
    scene.later().await.unwrap();
    let th = Checkpoint::TrimHorizon;
    assert_eq!(scene.rows(), [(0, at(10)), (2, th.clone()), (3, th)], "from the oldest record, not LATEST");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_shard_with_a_prepared_batch_is_left_for_a_person() {
    let mut scene = Scene::new(Checkpoint::Latest);
    let forgotten = shard(0, &[], true, ALL);
    let pending = Some(Pending { checkpoint: at(20), state: None });
    let row = Lease { pending, ..Lease::new(&forgotten, at(10)) };
    assert!(scene.table.create(&row).await.unwrap());
    scene.lists(&[Some(&[shard(1, &[0], false, ALL)])]);
    for _ in 0..4 {
        scene.later().await.unwrap();
    }
    let rows = scene.table.rows();
    assert_eq!(rows[0], row);
    // The child has its lease, and waits for the person.
    assert_eq!(scene.rows()[1], (1, Checkpoint::TrimHorizon));
    assert!(!parents_finished(scene.table.as_ref(), &rows[1]).await.unwrap());
}

/// The rows of parents that the stream forgot go as well, named children or not.
#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_forgotten_family() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    for (number, parents, checkpoint, children) in [
        (0, &[][..], Checkpoint::ShardEnd, vec![]),
        (1, &[0][..], Checkpoint::ShardEnd, vec![id(2)]),
        (2, &[1][..], at(2001), vec![]),
        (3, &[2][..], at(3001), vec![]),
    ] {
        let row = Lease { children, ..Lease::new(&shard(number, parents, true, ALL), checkpoint) };
        assert!(scene.table.create(&row).await.unwrap());
    }
    scene.lists(&[Some(&[shard(3, &[2], false, ALL)])]);
    for _ in 0..5 {
        scene.later().await.unwrap();
    }
    assert_eq!(scene.rows(), [(3, at(3001))]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_is_left_alone() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    // The former one had a split; the new one has as many shards as that had at first.
    for (number, checkpoint) in [(0, Checkpoint::ShardEnd), (1, at(10)), (2, at(20)), (3, at(30))] {
        scene.lease(&shard(number, &[], false, LOW), checkpoint).await;
    }
    let before = scene.table.rows();
    scene.lists(&[Some(&[shard(0, &[], false, LOW), shard(1, &[], false, HIGH)])]);
    for _ in 0..5 {
        scene.later().await.unwrap();
        assert_eq!(scene.table.rows(), before);
    }
    assert!(
        scene.sync.begun(&mut *scene.sync.watch.lock().await).look(&leases_of(&before)),
        "it is listed at every look, until it is mended"
    );
    for row in before {
        scene.table.delete(&row).await.unwrap();
    }
    scene.look().await.unwrap();
    assert_eq!(scene.rows(), [0, 1].map(|shard| (shard, Checkpoint::TrimHorizon)));
}

/// The new stream has other shards than the former: only the ids tell.
#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_with_other_shards_is_left_alone() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lease(&shard(7, &[], false, ALL), at(10)).await;
    scene.lists(&[Some(&[shard(0, &[], false, ALL)])]);
    assert!(matches!(scene.later().await, Err(SyncError::Listing(Inconsistent::Behind { .. }))));
    for _ in 0..3 {
        scene.later().await.unwrap();
        assert_eq!(scene.rows(), [(7, at(10))]);
    }
}

#[tokio::test(start_paused = true)]
async fn missing_hash_ranges_are_filled_in() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    let stream = [shard(0, &[], false, LOW), shard(1, &[], false, HIGH)];
    scene.lists(&[Some(&stream)]);
    scene.look().await.unwrap();
    let row = scene.table.rows().remove(1);
    scene.table.delete(&row).await.unwrap();
    assert!(scene.table.create(&Lease { hash_range: None, ..row.clone() }).await.unwrap());
    for _ in 0..3 {
        scene.look().await.unwrap();
    }
    assert_eq!(scene.table.rows()[1], row);
}

#[tokio::test(start_paused = true)]
async fn finished_leases_go_without_a_listing() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lists(&[Some(&[shard(0, &[], true, ALL), shard(1, &[0], false, ALL)])]);
    scene.look().await.unwrap();
    let seen = scene.table.rows().remove(0);
    scene.lease(&shard(1, &[0], false, ALL), at(1010)).await;
    let seen = scene.table.write(&seen, &LeaseWrite::SetChildren(vec![id(1)])).await.unwrap();
    let finished = scene.table.write(&seen, &LeaseWrite::commit(Checkpoint::ShardEnd)).await.unwrap();
    // Its owner has renewed it since it was seen.
    let seen = scene.table.rows();
    let finished =
        scene.table.write(&finished, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    scene.sync.look(seen).await.unwrap();
    assert_eq!((scene.rows(), scene.calls()), (vec![(1, at(1010))], 1));

    // The same by its owner, under a leader of another kind.
    assert!(scene.table.create(&finished).await.unwrap());
    clean_up(scene.table.as_ref(), std::slice::from_ref(&finished)).await.unwrap();
    let unnamed = Lease { children: Vec::new(), ..finished };
    assert!(scene.table.create(&unnamed).await.unwrap());
    clean_up(scene.table.as_ref(), &[unnamed]).await.unwrap();
    assert_eq!(
        (scene.rows().len(), scene.calls()),
        (2, 1),
        "whose children are not named waits for the leader"
    );
}

/// 0 and 2 merge into 4 ([`resharded`]).
#[tokio::test(start_paused = true)]
async fn a_merged_child_waits_for_the_lease_of_the_other_parent() {
    let scene = Scene::new(Checkpoint::TrimHorizon);
    let whole = resharded();
    let child = ChildShard { id: id(4), parents: vec![id(0), id(2)], hash_range: whole[4].hash_range };
    let row = scene.lease(&whole[0], at(10)).await;
    let row = scene.table.write(&row, &LeaseWrite::Assign(WorkerId::new("me"))).await.unwrap();
    let held = scene.held(row);

    // 2 has no lease, and neither has its parent 1, which is read first.
    scene.lists(&[Some(&whole)]);
    let answer = scene.sync.create_children(&held, std::slice::from_ref(&child)).await;
    assert!(matches!(answer, Err(SyncError::ParentMissing(parent)) if parent == id(2)));
    assert_eq!(scene.rows(), [(0, at(10)), (1, Checkpoint::TrimHorizon)]);
    assert_eq!(held.row().children, []);

    // The stream has forgotten 2: there is nothing to wait for.
    scene.lists(&[Some(&whole[3..])]);
    scene.sync.create_children(&held, std::slice::from_ref(&child)).await.unwrap();
    assert_eq!(scene.rows()[2], (4, Checkpoint::TrimHorizon));
    assert_eq!(held.row().children, [id(4)]);
}

#[tokio::test(start_paused = true)]
async fn a_merged_child_makes_the_lease_of_the_other_parent() {
    let scene = Scene::new(Checkpoint::Latest);
    let stream = [shard(0, &[], true, LOW), shard(1, &[], true, HIGH), shard(2, &[0, 1], false, ALL)];
    let child = ChildShard { id: id(2), parents: vec![id(0), id(1)], hash_range: stream[2].hash_range };
    let row = scene.lease(&stream[0], at(10)).await;
    let row = scene.table.write(&row, &LeaseWrite::Assign(WorkerId::new("me"))).await.unwrap();
    scene.lists(&[Some(&stream)]);
    scene.sync.create_children(&scene.held(row), &[child]).await.unwrap();
    let th = Checkpoint::TrimHorizon;
    assert_eq!(scene.rows(), [(0, at(10)), (1, th.clone()), (2, th)]);
}

/// The row of 4 is there and is not understood: its parents, read and deleted long ago, must not come back.
#[tokio::test(start_paused = true)]
async fn a_row_that_is_not_understood_is_a_lease() {
    let scene = Scene::new(Checkpoint::TrimHorizon);
    let listing = resharded();
    let odd = |key: &str| OddRow { key: key.into(), problem: "no checkpoint".into() };
    let table = TableSnapshot { odd: vec![odd(id(4).as_str()), odd("other")], ..TableSnapshot::default() };
    let leases = Leases::new();
    let missing = |leases: &Leases| missing_leases(&listing, leases, &Checkpoint::TrimHorizon).unwrap();
    assert_eq!(missing(&leases).iter().map(|(shard, _)| &shard.id).collect::<Vec<_>>(), [&id(0), &id(1)]);
    let leases = scene.sync.with_odd(&leases, &table, &listing[3..]);
    assert_eq!(leases.len(), 1);
    let only_three = missing_leases(&listing[3..], &leases, &Checkpoint::TrimHorizon).unwrap();
    assert_eq!(only_three.iter().map(|(shard, _)| &shard.id).collect::<Vec<_>>(), [&id(3)]);
}

impl Scene {
    fn is_stream(&self, stream: &str) {
        *self.stream.stream.lock().unwrap() = StreamId::parse(stream);
    }

    fn streams(&self) -> Vec<Option<String>> {
        self.table.rows().into_iter().map(|row| row.stream.map(|stream| stream.to_string())).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn new_leases_say_whose_they_are_and_old_ones_are_told() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    let stream = [shard(0, &[], true, LOW), shard(1, &[], false, HIGH), shard(2, &[0], false, LOW)];
    let old = scene.lease(&stream[1], at(1010)).await;
    // Of a shard that the stream has forgotten: nobody can tell any more.
    scene.lease(&shard(3, &[], true, LOW), Checkpoint::ShardEnd).await;
    scene.is_stream("1:trades:1000");
    scene.lists(&[Some(&[&stream[..], &[shard(4, &[], false, LOW)]].concat())]);
    let held = scene.held(scene.table.write(&old, &LeaseWrite::Assign(WorkerId::new("me"))).await.unwrap());
    scene.look().await.unwrap();
    let ours = Some("1:trades:1000".to_owned());
    assert_eq!(scene.streams(), [&ours, &ours, &None, &ours].map(Clone::clone));
    let row = scene.table.rows()[1].clone();
    assert_eq!((row.counter, row.owner), (1, Some(WorkerId::new("me"))), "no counter, no owner");
    // Its holder has not seen that write, and renews all the same.
    assert_eq!(held.renew().await.unwrap().stream.as_deref(), ours.as_deref());
    // A child is of the stream of its parent.
    let parent = scene.table.write(&scene.table.rows()[0], &LeaseWrite::Assign(WorkerId::new("me"))).await;
    let child = ChildShard { id: id(2), parents: vec![id(0)], hash_range: stream[2].hash_range };
    scene.sync.create_children(&scene.held(parent.unwrap()), &[child]).await.unwrap();
    assert_eq!(scene.streams()[2], ours);
}

/// Two streams with the same shards: ids, hash keys and even starts are alike.
#[tokio::test(start_paused = true)]
async fn a_worker_of_another_stream_finds_out_before_it_takes_part() {
    let stream = [shard(0, &[], false, LOW), shard(1, &[], false, HIGH)];
    let scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lists(&[Some(&stream)]);
    scene.is_stream("1:trades:1000");
    scene.prove().await.expect("there is no lease yet");
    for shard in &stream {
        let row = Lease { stream: Some("1:trades:1000".into()), ..Lease::new(shard, at(5000)) };
        scene.table.create(&row).await.unwrap();
    }
    scene.prove().await.unwrap();
    assert_eq!(scene.calls(), 0, "rows that say it need no listing");
    for (other, wrong_setting) in [("1:orders:900", true), ("2:trades:1000", true), ("1:trades:2000", false)]
    {
        scene.is_stream(other);
        let Err(SyncError::NotOurs(problem)) = scene.prove().await else { panic!("{other}") };
        assert_eq!(problem.is_wrong_setting(), wrong_setting, "{problem}");
    }
}

/// Rows of Java workers and of older builds.
#[tokio::test(start_paused = true)]
async fn leases_that_do_not_say_whose_they_are_are_compared() {
    let stream = [shard(0, &[], false, LOW), shard(1, &[], false, HIGH)];
    let unlike = |proven| matches!(proven, Err(SyncError::NotOurs(NotOurs::Unlike { .. })));
    let proven = async |leases: &[(&Shard, Checkpoint)], refuses: &[u128]| {
        let scene = Scene::new(Checkpoint::TrimHorizon);
        scene.is_stream("1:trades:1000");
        scene.lists(&[Some(&stream)]);
        *scene.stream.refuses.lock().unwrap() =
            refuses.iter().map(|number| SequenceNumber::from(*number)).collect();
        for (shard, checkpoint) in leases {
            scene.lease(shard, checkpoint.clone()).await;
        }
        scene.prove().await
    };
    assert!(proven(&[(&stream[0], at(500)), (&stream[1], at(1500))], &[]).await.is_ok());
    assert!(
        proven(&[(&stream[0], Checkpoint::Latest), (&stream[1], Checkpoint::TrimHorizon)], &[]).await.is_ok()
    );
    assert!(unlike(proven(&[(&stream[1], at(999))], &[]).await), "before the start of the shard");
    assert!(unlike(proven(&[(&shard(0, &[], false, ALL), at(500))], &[]).await), "other hash keys");
    assert!(unlike(proven(&[(&stream[0], at(500)), (&stream[1], at(1500))], &[1500]).await), "asked");
    let behind = proven(&[(&shard(5, &[], false, LOW), at(5500))], &[]).await;
    assert!(matches!(behind, Err(SyncError::Listing(Inconsistent::Behind { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_leader_leaves_the_leases_of_another_stream_alone() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    let stream = [shard(0, &[], true, LOW), shard(1, &[], false, HIGH), shard(2, &[], false, LOW)];
    scene.lists(&[Some(&stream)]);
    scene.is_stream("1:trades:1000");
    for (number, checkpoint) in [(0, Checkpoint::ShardEnd), (7, at(7007))] {
        let row = Lease {
            stream: Some("1:orders:1000".into()),
            children: vec![id(7)],
            ..Lease::new(&shard(number, &[], true, LOW), checkpoint)
        };
        scene.table.create(&row).await.unwrap();
    }
    let before = scene.table.rows();
    for _ in 0..4 {
        scene.later().await.unwrap();
        assert_eq!(scene.table.rows(), before);
    }
}

/// Where one shard starts cannot be looked up.
struct Unknown(ShardId);

#[async_trait]
impl FindStart for Unknown {
    async fn find(&self, shard: &ShardId, _: StartFrom) -> Result<StartFound, StartError> {
        if *shard == self.0 {
            return Err(StartError { shard: shard.clone(), source: "throttled".into() });
        }
        Ok(StartFound { at: at(9000), closed: false })
    }
}

/// Else shards would begin at different moments. Later a new shard does not wait for another one.
#[tokio::test(start_paused = true)]
async fn an_application_begins_on_all_shards_or_not_yet() {
    for initial in [Checkpoint::Latest, Checkpoint::AtTimestamp] {
        let mut scene = Scene::new(initial);
        let middle = HIGH.0 + 1000;
        let stream = [
            shard(0, &[], false, LOW),
            shard(1, &[], false, (HIGH.0, middle)),
            shard(2, &[], false, (middle + 1, HIGH.1)),
        ];
        scene.lists(&[Some(&stream)]);
        scene.sync.starts = Arc::new(Unknown(id(1)));
        assert!(scene.later().await.is_err());
        assert_eq!(scene.rows(), []);
        scene.lease(&stream[0], at(9000)).await;
        assert!(scene.later().await.is_err());
        assert_eq!(scene.rows(), [(0, at(9000)), (2, at(9000))]);
        scene.sync.starts = Arc::new(Unknown(id(7)));
        scene.later().await.unwrap();
        assert_eq!(scene.rows(), [0, 1, 2].map(|number| (number, at(9000))));
    }
}

/// Between the look at all rows and the delete their owners go on.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_is_looked_at_once_more() {
    let scene = Scene::new(Checkpoint::TrimHorizon);
    let seen = scene.lease(&shard(0, &[], true, ALL), at(5)).await;
    scene.table.write(&seen, &LeaseWrite::commit(at(6))).await.unwrap();
    scene.sync.give_up(&seen).await.unwrap();
    // Of an older row of this key, which was deleted since.
    delete(scene.table.as_ref(), &Lease { checkpoint: Checkpoint::ShardEnd, ..seen.clone() }).await;
    assert_eq!(scene.rows(), [(0, at(6))]);
    // A renewal alone changes nothing of it.
    let row = scene.table.rows().remove(0);
    scene.table.write(&row, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    scene.sync.give_up(&row).await.unwrap();
    assert_eq!(scene.rows(), []);
}

#[path = "sync_several_tests.rs"]
mod several;
