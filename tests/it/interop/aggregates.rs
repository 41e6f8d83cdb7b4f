//! A shard of aggregates that goes back and forth in the middle of an aggregate.
//!
//! The Java worker checkpoints the middle of an aggregate, writes down nothing beyond it, and is stopped; ours closes a
//! batch every few user records and is killed while its checkpoint is inside an aggregate.

use std::collections::BTreeSet;
use std::time::Duration;

use kinetide::internals::local::kinesis::Kinesis;
use kinetide::internals::produce::aggregate::Aggregate;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::scenarios::SETTLED;
use super::verify::Place;
use super::{Layout, Setup};

/// User records of an aggregate.
const PACKED: u64 = 40;
/// Between two records of the stream.
const PACE: Duration = Duration::from_millis(250);
/// Each so many records of the stream one is no aggregate.
const ALONE_EVERY: u64 = 5;
/// Of a small batch, in rows.
const BATCH_MAX: usize = 8;
/// Ours is killed so often at most: the kill may come when an aggregate is just done.
const KILLS_MAX: usize = 10;

pub(super) async fn produce(stream: &'static str, kinesis: Kinesis) {
    let data = |number: u64| format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(100));
    for number in 0_u64.. {
        let payload = if number % ALONE_EVERY == 0 {
            data(number).into_bytes()
        } else {
            let mut aggregate = Aggregate::default();
            for sub in 0..PACKED {
                aggregate.push(&format!("key-{sub}"), data(number * 1_000 + sub).as_bytes());
            }
            aggregate.finish()
        };
        kinesis.put(stream, "a", &payload).unwrap();
        sleep(PACE).await;
    }
}

/// User records in a stream record, given as base64.
pub(super) fn count(data: &[u8]) -> u64 {
    // The first three of the bytes F3 89 9A C2.
    if data.starts_with(b"84ma") { PACKED } else { 1 }
}

impl Fleet {
    /// The checkpoint, where it is inside an aggregate.
    async fn amid(&self) -> Option<Place> {
        let leases = self.leases().await;
        let (shard, row) = leases.first_key_value()?;
        let place = Place { sub: row.sub, ..Place::new(shard.as_str(), row.checkpoint.as_str()) };
        let next = Place { sub: row.sub + 1, ..place.clone() };
        self.records().contains(&next).then_some(place)
    }

    /// Waits until the checkpoint is inside an aggregate, beyond where it was.
    async fn until_amid(&self, worker: &str, beyond: Option<&Place>) {
        let what = format!("{worker} is inside an aggregate");
        self.until(&what, SETTLED, async |fleet| fleet.amid().await.is_some_and(|at| Some(&at) > beyond))
            .await;
    }

    /// All that was given to these Java workers, with what is in our lake, must be each record up to the checkpoint, once.
    async fn done_once_up_to(&self, checkpoint: &Place, java: &[&str]) {
        let given = java.iter().flat_map(|id| self.given_to(id));
        let landed = self.landed().into_iter().flat_map(|(place, times)| std::iter::repeat_n(place, times));
        let mut done: Vec<Place> = given.chain(landed).filter(|place| place <= checkpoint).collect();
        done.sort_unstable();
        let put: Vec<Place> = self.records().into_iter().filter(|place| place <= checkpoint).collect();
        let only_once: BTreeSet<&Place> = done.iter().collect();
        assert_eq!(only_once.len(), done.len(), "something was done twice");
        assert_eq!(done, put, "up to {checkpoint:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_goes_back_and_forth_in_the_middle_of_an_aggregate() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::of_aggregates("amid-aggregates", setup).await;
    let amid = [("amid", "true"), ("leader-lease-ms", "10000"), ("leader-heartbeat-ms", "1000")];

    let java = fleet.java_with("java-1", &amid);
    fleet.until_amid("java-1", None).await;
    java.stop().await;
    let checkpoint = fleet.amid().await.expect("Java stops amid an aggregate");
    fleet.done_once_up_to(&checkpoint, &["java-1"]).await;
    assert_eq!(fleet.given_to("java-1").last(), Some(&checkpoint), "Java has written down nothing beyond");

    let mut left = None;
    for number in 1..=KILLS_MAX {
        let id = format!("ours-{number}");
        let ours = fleet.ours_with(&id, &[("batch-bytes", "1KiB"), ("pending-format", "2")]);
        fleet.until_amid(&id, Some(&checkpoint)).await;
        ours.kill().await;
        left = fleet.amid().await.filter(|at| *at > checkpoint);
        if left.is_some() {
            break;
        }
    }
    let left = left.expect("ours was never killed inside an aggregate");
    fleet.done_once_up_to(&left, &["java-1"]).await;

    let java = fleet.java_with("java-2", &amid);
    fleet.until_amid("java-2", Some(&left)).await;
    java.stop().await;
    let first = fleet.given_to("java-2").first().cloned();
    assert_eq!(first, Some(Place { sub: left.sub + 1, ..left.clone() }), "Java goes on behind {left:?}");
    assert!(fleet.amid().await.is_some_and(|at| at > left));

    let ours = fleet.ours("ours-last");
    fleet.rest().await;
    ours.stop().await;
    let verdict = fleet.verdict();
    assert!(verdict.ours > 0 && verdict.java > 0, "both took part: {verdict:?}");
    // What was delivered when ours was killed, and not committed yet.
    assert!(verdict.replayed <= BATCH_MAX, "{verdict:?}");
}
