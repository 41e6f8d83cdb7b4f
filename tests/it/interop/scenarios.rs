//! The stories. Times in them are limits for a busy machine, not expectations.

use std::time::Duration;

use super::fleet::{Fleet, STREAM};
use super::{Layout, Setup};

/// For a worker that joins: the Java library waits up to half a minute before it fills an empty table, and ten
/// seconds for each table and index it makes.
const JOIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn java_alone_in_one_table() {
    java_alone("java-alone-one", Layout::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_alone_in_three_tables() {
    java_alone("java-alone-three", Layout::Three).await;
}

/// What the library does without us: the ground on which the other scenarios stand.
async fn java_alone(name: &'static str, layout: Layout) {
    let Some(setup) = Setup::find(layout) else { return };
    let mut fleet = Fleet::new(name, setup, 4).await;
    let first = fleet.java("java-1");
    fleet.until_shared_by(&["java-1"], JOIN).await;
    let second = fleet.java("java-2");
    fleet.until_shared_by(&["java-1", "java-2"], JOIN).await;
    fleet.split();
    fleet.until_shared_by(&["java-1", "java-2"], JOIN).await;
    first.stop().await;
    fleet.until_shared_by(&["java-2"], JOIN).await;
    fleet.rest().await;
    second.stop().await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread")]
async fn java_then_ours_then_java_in_one_table() {
    java_then_ours_then_java("takeover-one", Layout::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_then_ours_then_java_in_three_tables() {
    java_then_ours_then_java("takeover-three", Layout::Three).await;
}

/// A team tries us and goes back, with resharding in between.
async fn java_then_ours_then_java(name: &'static str, layout: Layout) {
    let Some(setup) = Setup::find(layout) else { return };
    let mut fleet = Fleet::new(name, setup, 2).await;
    let java = fleet.java("java-1");
    fleet.until_shared_by(&["java-1"], JOIN).await;
    fleet.split();
    java.stop().await;

    let ours = fleet.ours("ours-1");
    fleet.until_shared_by(&["ours-1"], JOIN).await;
    fleet.merge();
    fleet.until_shared_by(&["ours-1"], JOIN).await;
    fleet.split();
    ours.stop().await;

    let java = fleet.java("java-2");
    fleet.until_shared_by(&["java-2"], JOIN).await;
    fleet.rest().await;
    java.stop().await;
    let verdict = fleet.verdict();
    assert!(verdict.ours > 0 && verdict.java > 0, "both took part: {verdict:?}");
    assert_eq!(verdict.replayed, 0, "everybody left gracefully: {verdict:?}");
}

impl Fleet {
    /// Splits the first open shard.
    fn split(&self) {
        let kinesis = self.aws.kinesis();
        let shard = kinesis.open_shards(STREAM).unwrap().remove(0);
        kinesis.split(STREAM, &shard).unwrap();
        self.say(&format!("{shard} is split"));
    }

    /// Merges the first two open shards.
    fn merge(&self) {
        let kinesis = self.aws.kinesis();
        let open = kinesis.open_shards(STREAM).unwrap();
        kinesis.merge(STREAM, &open[0], &open[1]).unwrap();
        self.say(&format!("{} and {} are merged", open[0], open[1]));
    }
}
