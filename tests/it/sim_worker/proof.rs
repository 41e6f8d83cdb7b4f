//! What a worker makes of a batch that it finds prepared, whatever is in the lake already: each subset of its objects, empty
//! seals in their place, records that are gone, another transform, another lake, either format.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kinetide::internals::batch::seal_object;
use kinetide::internals::checkpoint::{PendingBatch, PendingFormat};
use kinetide::internals::deliver::Sink;
use kinetide::internals::lease::fleet::PENDING;
use kinetide::internals::lease::{Lease, LeaseKey, LeaseTable, LeaseWrite, Pending, WorkerId, WorkerRow};
use kinetide::internals::shard::{Checkpoint, Position, ShardId};
use kinetide::internals::telemetry::status::ShardState;
use kinetide::internals::transform::Transform;

use super::copies::{Copies, copies_of};
use super::verify::{Good, Produced, read_back};
use super::world::{FAILOVER, START_US, Settings, World, all_transforms, transforms};
use super::{Place, record};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR_US: i64 = 3_600_000_000;
pub(super) const FORMATS: [PendingFormat; 2] = [PendingFormat::One, PendingFormat::Two];

pub(super) fn shard() -> ShardId {
    ShardId::new("shardId-000000000000")
}

fn lease() -> LeaseKey {
    shard().into()
}

/// One shard with rows of two hours and records that are dead letters of every transform, or of some.
pub(super) fn world(format: PendingFormat) -> (World, BTreeMap<Place, Produced>) {
    let settings = Settings { pending_format: Some(format), objects_max: 9, ..Settings::default() };
    let world = World::new(1, 1, 3, settings);
    let good = [Good::Always, Good::Never, Good::Always, Good::Sometimes, Good::Always];
    let mut produced = BTreeMap::new();
    for (n, good) in good.into_iter().enumerate() {
        let id = format!("t-{n}");
        let data = match good {
            Good::Never => format!("{id} is not json"),
            Good::Sometimes => record(&id, START_US, r#"{"S":"dear"}"#),
            Good::Always => record(&id, START_US - (n as i64 / 2) * HOUR_US, r#"{"N":"64250.75"}"#),
        };
        let copies = copies_of(data.as_bytes());
        produced.insert(world.put(0, &data), Produced { id, good, copies, arrival_us: 0 });
    }
    (world, produced)
}

/// The batch as a worker prepares it, and its objects.
async fn prepared(
    transform: &Arc<dyn Transform>,
    format: PendingFormat,
) -> (Pending, BTreeMap<String, Bytes>) {
    let (mut world, _) = world(format);
    world.start_worker(transform);
    world.until_done(MINUTE * 20).await;
    let pending = world.log.lock().unwrap().prepared[0].pending.clone().unwrap();
    (pending, world.outside.sink.objects())
}

/// A worker finds the batch, or nothing of it where it was forgotten, with these objects in the lake.
pub(super) async fn found(
    pending: impl Into<Option<&Pending>>,
    objects: &BTreeMap<String, Bytes>,
    format: PendingFormat,
) -> (World, BTreeMap<Place, Produced>) {
    let (world, produced) = world(format);
    let listed = world.shards().await.remove(0);
    let pending = pending.into().cloned();
    let batch = pending.as_ref().and_then(|pending| PendingBatch::from_pending(pending).unwrap());
    world.log.lock().unwrap().copied =
        batch.is_some_and(|batch| batch.transform == Copies::new().id().to_string());
    let lease = Lease { pending, ..Lease::new(&listed, Checkpoint::TrimHorizon) };
    assert!(world.outside.table.create(&lease).await.unwrap());
    for (key, body) in objects {
        world.outside.sink.create(key, body.clone()).await.unwrap();
    }
    (world, produced)
}

pub(super) fn subsets(
    objects: &BTreeMap<String, Bytes>,
) -> impl Iterator<Item = BTreeMap<String, Bytes>> + '_ {
    (0..1u32 << objects.len()).map(|chosen| {
        let numbered = objects.iter().enumerate().filter(move |(n, _)| chosen >> n & 1 == 1);
        numbered.map(|(_, (key, body))| (key.clone(), body.clone())).collect()
    })
}

async fn is_halted(world: &mut World, reason: &str) {
    world.run(FAILOVER * 4).await;
    let status = world.shard_status(&shard()).unwrap();
    assert_eq!(status.state, ShardState::Stalled("halted"));
    let error = status.last_error.unwrap();
    assert!(error.contains(reason), "{error}");
    let log = world.log.lock().unwrap();
    assert_eq!(log.rows[&lease()].checkpoint, Checkpoint::TrimHorizon);
}

fn commits(world: &World) -> u64 {
    world.log.lock().unwrap().counts.get("commits").copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn any_part_of_a_batch_is_completed_by_any_transform() {
    let (mut repairs, mut runs) = (0, 0);
    for made_in in FORMATS {
        for maker in all_transforms() {
            let (pending, objects) = prepared(&maker, made_in).await;
            assert!((2..=5).contains(&objects.len()), "{objects:?}");
            for finisher in all_transforms() {
                for there in subsets(&objects) {
                    // The format of the finisher does not matter for what it finds.
                    let (mut world, produced) = found(&pending, &there, FORMATS[runs % 2]).await;
                    world.start_worker(&finisher);
                    world.until_done(MINUTE * 20).await;
                    let (rows, letters) = read_back(&world, &produced);
                    assert_eq!(rows + letters, produced.len());
                    let repaired = world.log.lock().unwrap().counts.get("repairs").copied().unwrap_or(0);
                    assert_eq!(repaired, u64::from(maker.id() != finisher.id()), "{there:?}");
                    repairs += repaired;
                    runs += 1;
                }
            }
        }
    }
    assert!(repairs > 100, "{repairs} of {runs}");
}

/// A batch of which no record gives a row has no object, and its end is the checkpoint all the same: also where the
/// checkpoint has come to it while the batch was pending.
#[tokio::test(start_paused = true)]
async fn a_batch_without_rows_is_brought_to_its_end() {
    let put = |world: &World| {
        let mut places = Vec::new();
        for n in 0..3 {
            let mut data = record(&format!("t-{n}"), START_US, r#"{"N":"1"}"#);
            while copies_of(data.as_bytes()) != 0 {
                data.push('\t');
            }
            places.push(world.put(0, &data).1);
        }
        places
    };
    let at = |sequence: u128| Checkpoint::At(Position::new(sequence.into()));
    let copies: Arc<dyn Transform> = Arc::new(Copies::new());
    for format in FORMATS {
        let settings = Settings { pending_format: Some(format), ..Settings::default() };
        let mut world = World::new(1, 1, 3, settings);
        let places = put(&world);
        world.start_worker(&copies);
        world.until_done(MINUTE * 20).await;
        assert!(world.outside.sink.objects().is_empty());
        let pending = world.log.lock().unwrap().prepared[0].pending.clone().unwrap();
        assert_eq!(pending.checkpoint, at(places[2]));
        for checkpoint in [Checkpoint::TrimHorizon, at(places[0]), at(places[2])] {
            for (finisher, rows) in [(&copies, 0), (&transforms()[3], 3)] {
                let mut world = World::new(1, 1, 3, settings);
                put(&world);
                let listed = world.shards().await.remove(0);
                let lease =
                    Lease { pending: Some(pending.clone()), ..Lease::new(&listed, checkpoint.clone()) };
                assert!(world.outside.table.create(&lease).await.unwrap());
                world.start_worker(finisher);
                world.run(MINUTE * 20).await;
                let log = world.log.lock().unwrap();
                let row = &log.rows[&self::lease()];
                assert_eq!((&row.checkpoint, &row.pending), (&at(places[2]), &None), "{checkpoint:?}");
                let done = places.iter().filter(|place| at(**place) <= checkpoint).count();
                let landed = if rows == 0 { 0 } else { rows - done };
                assert_eq!(log.landed.len(), landed, "{format:?} {checkpoint:?} {}", finisher.id());
            }
        }
    }
}

/// An owner of another build sealed the keys, and the batch was forgotten before it named new ones: the first batch of the
/// next owner has the same ends. The same where the description stayed, as nobody who believes in it can be sure either.
#[tokio::test(start_paused = true)]
async fn an_empty_seal_is_never_taken_for_an_object_of_the_batch() {
    for format in FORMATS {
        let transform = &transforms()[0];
        let (pending, objects) = prepared(transform, format).await;
        for sealed in subsets(&objects).filter(|sealed| !sealed.is_empty()) {
            let seal = |(key, body): (&String, &Bytes)| {
                (key.clone(), if sealed.contains_key(key) { seal_object() } else { body.clone() })
            };
            let there: BTreeMap<String, Bytes> = objects.iter().map(seal).collect();
            for forgotten in [true, false] {
                let (mut world, produced) = found((!forgotten).then_some(&pending), &there, format).await;
                world.start_worker(transform);
                world.until_done(MINUTE * 20).await;
                let (rows, letters) = read_back(&world, &produced);
                assert_eq!(rows + letters, produced.len());
                assert_eq!(world.log.lock().unwrap().counts["repairs"], 1);
            }
        }
    }
}

/// The records have left the stream: only a batch whose every object is there, and is the one that was prepared, is
/// committed.
#[tokio::test(start_paused = true)]
async fn records_that_are_gone_need_every_object() {
    for format in FORMATS {
        let transform = &transforms()[0];
        let (pending, objects) = prepared(transform, format).await;
        let seal = |(key, _): (&String, &Bytes)| (key.clone(), seal_object());
        for there in subsets(&objects) {
            let sealed = objects.iter().filter(|(key, _)| !there.contains_key(*key)).map(seal).collect();
            for others in [BTreeMap::new(), sealed] {
                let all: BTreeMap<_, _> = there.clone().into_iter().chain(others).collect();
                let (mut world, produced) = found(&pending, &all, format).await;
                let last = produced.keys().next_back().unwrap().1;
                world.stream.trim(&shard(), &last.into());
                world.start_worker(transform);
                if there.len() == objects.len() {
                    world.until_done(MINUTE * 20).await;
                    assert_eq!(commits(&world), 1);
                } else {
                    is_halted(&mut world, "left the stream's retention").await;
                }
            }
        }
    }
}

/// Another build that kept its name put a row elsewhere: with a proof it is another batch, and repaired before anything is
/// created.
#[tokio::test(start_paused = true)]
async fn objects_with_other_rows_are_never_finished_as_ours() {
    let transform = &transforms()[0];
    let (pending, objects) = prepared(transform, PendingFormat::Two).await;
    let mut batch = PendingBatch::from_pending(&pending).unwrap().unwrap();
    batch.proof.as_mut().unwrap().contents[0].hash ^= 1;
    let (mut world, produced) = found(&batch.to_pending(), &BTreeMap::new(), PendingFormat::Two).await;
    world.start_worker(transform);
    world.until_done(MINUTE * 20).await;
    read_back(&world, &produced);
    assert_eq!(world.log.lock().unwrap().counts["repairs"], 1);
    // Without one it is told by an object that exists.
    let (pending, _) = prepared(transform, PendingFormat::One).await;
    let (one, other) = (objects.keys().next().unwrap(), objects.values().nth(1).unwrap());
    let there = BTreeMap::from([(one.clone(), other.clone())]);
    let (mut world, produced) = found(&pending, &there, PendingFormat::One).await;
    world.start_worker(transform);
    world.until_done(MINUTE * 20).await;
    assert_eq!(world.log.lock().unwrap().counts["repairs"], 1);
    assert_eq!(world.log.lock().unwrap().landed.len(), produced.len());
}

/// The keys are those of rows nobody can count: guessing would write them twice, or never.
#[tokio::test(start_paused = true)]
async fn a_repair_waits_for_an_object_that_cannot_be_read() {
    for format in FORMATS {
        let [maker, finisher, ..] = transforms();
        let (pending, mut objects) = prepared(&maker, format).await;
        let (key, whole) = objects.pop_first().unwrap();
        let (mut world, _) = found(&pending, &objects, format).await;
        let cut = whole.slice(..whole.len() - 1);
        world.outside.sink.put_unobserved(&key, cut);
        world.start_worker(&finisher);
        world.run(MINUTE * 20).await;
        let status = world.shard_status(&shard()).unwrap();
        assert_eq!(status.state, ShardState::Stalled("unreadable_object"));
        assert!(status.last_error.unwrap().contains(&key));
        assert_eq!((commits(&world), world.outside.sink.objects().len()), (0, objects.len() + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_not_finished_in_another_lake() {
    let transform = &transforms()[0];
    let (pending, _) = prepared(transform, PendingFormat::Two).await;
    let (mut world, produced) = found(&pending, &BTreeMap::new(), PendingFormat::Two).await;
    world.settings.lake = "s3://new/raw";
    let worker = world.start_worker(transform);
    is_halted(&mut world, "were prepared for the lake s3://lake/raw, and this worker writes to s3://new/raw")
        .await;
    assert!(world.outside.sink.objects().is_empty());
    // As the message says.
    world.stop(worker);
    world.settings.lake = "s3://lake/raw";
    world.start_worker(transform);
    world.until_done(MINUTE * 20).await;
    read_back(&world, &produced);
}

/// In what a fleet describes its batches.
fn versions(world: &World) -> Vec<char> {
    let log = world.log.lock().unwrap();
    let state = |row: &Lease| row.pending.clone().unwrap().state.unwrap();
    log.prepared.iter().map(|row| char::from(state(row)[b"{\"kinetide\":".len()])).collect()
}

fn put(world: &World, n: i64) {
    world.put(0, &record("t", START_US + n, r#"{"N":"1"}"#));
}

async fn prepared_since(world: &mut World, n: i64) -> Vec<char> {
    let before = versions(world).len();
    put(world, n);
    world.until_done(MINUTE * 20).await;
    versions(world).split_off(before)
}

/// By itself where all workers read it; not beside one that does not say so, whatever that is.
#[tokio::test(start_paused = true)]
async fn proofs_are_written_when_the_whole_fleet_reads_them() {
    let mut world = World::new(1, 1, 10, Settings::default());
    world.start_worker(&transforms()[0]);
    world.start_worker(&transforms()[0]);
    world.run(MINUTE * 3).await;
    assert_eq!(prepared_since(&mut world, 1).await, ['3'], "a fleet of ours");

    let stranger = |updated: u64, said: Option<&str>| WorkerRow {
        id: WorkerId::new("stranger"),
        updated,
        samples: BTreeMap::new(),
        limits: BTreeMap::new(),
        properties: said.map(|said| (PENDING.to_owned(), said.to_owned())).into_iter().collect(),
        support: Some(1),
    };
    for (said, version) in
        [(None, '1'), (Some("1"), '1'), (Some("soon"), '1'), (Some("2"), '3'), (Some("3"), '3')]
    {
        let mut written = Vec::new();
        for seconds in (0..360).step_by(20) {
            let now = u64::try_from(START_US / 1_000_000).unwrap() + world.elapsed().as_secs();
            world.outside.table.report(&stranger(now, said)).await.unwrap();
            world.run(Duration::from_secs(20)).await;
            if seconds == 120 {
                put(&world, seconds);
                written = vec![versions(&world).len()];
            }
        }
        assert_eq!(versions(&world)[written[0]..], [version], "{said:?}");
    }
    // It has gone.
    world.run(MINUTE * 5).await;
    assert_eq!(prepared_since(&mut world, 9).await, ['3']);
}

/// Who owns a lease and has no row is an old worker, or one that cannot report.
#[tokio::test(start_paused = true)]
async fn an_owner_without_a_row_reads_no_proofs() {
    let mut world = World::new(1, 2, 10, Settings::default());
    let listed = world.shards().await.pop().unwrap();
    let mut lease =
        Lease { owner: Some(WorkerId::new("java")), ..Lease::new(&listed, Checkpoint::TrimHorizon) };
    assert!(world.outside.table.create(&lease).await.unwrap());
    world.start_worker(&transforms()[0]);
    put(&world, 1);
    for _ in 0..20 {
        lease = world
            .outside
            .table
            .write(&lease, &LeaseWrite::Renew { kbps: None, caught_up: None })
            .await
            .unwrap();
        world.run(Duration::from_secs(15)).await;
    }
    assert_eq!(versions(&world), ['1']);
}

/// As set, whatever the fleet is.
#[tokio::test(start_paused = true)]
async fn a_set_format_is_written_from_the_first_batch_on() {
    for (format, version) in FORMATS.into_iter().zip(['1', '3']) {
        let settings =
            Settings { pending_format: Some(format), batch_age_max: MINUTE / 60, ..Settings::default() };
        let mut world = World::new(1, 1, 10, settings);
        put(&world, 1);
        world.start_worker(&transforms()[0]);
        world.until_done(MINUTE * 20).await;
        assert_eq!(versions(&world), [version]);
    }
}
