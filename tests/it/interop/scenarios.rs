//! The stories. Times in them are limits for a busy machine, not expectations.

use std::time::Duration;

use super::fleet::Fleet;
use super::worker::Worker;
use super::{Layout, Setup};

/// For any change of the fleet. The Java library waits up to half a minute before it fills an empty table, ten seconds
/// for each table and index it makes, a minute before it takes a silent worker for dead, and two for a leader.
pub(super) const SETTLED: Duration = Duration::from_secs(240);

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
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    let second = fleet.java("java-2");
    fleet.until_shared_by(&["java-1", "java-2"], SETTLED).await;
    fleet.split();
    fleet.until_shared_by(&["java-1", "java-2"], SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&["java-1", "java-2"], SETTLED).await;
    first.stop().await;
    fleet.until_shared_by(&["java-2"], SETTLED).await;
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
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    fleet.split();
    java.stop().await;

    let ours = fleet.ours("ours-1");
    fleet.until_shared_by(&["ours-1"], SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&["ours-1"], SETTLED).await;
    fleet.split();
    ours.stop().await;

    let java = fleet.java("java-2");
    fleet.until_shared_by(&["java-2"], SETTLED).await;
    fleet.rest().await;
    java.stop().await;
    let verdict = fleet.verdict();
    assert!(verdict.ours > 0 && verdict.java > 0, "both took part: {verdict:?}");
    assert_eq!(verdict.replayed, 0, "everybody left gracefully: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_fleet_shares_under_either_leader() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::new("mixed", setup, 8).await;
    let java_1 = led_by_java(&mut fleet).await;
    let java_2 = fleet.java_with("java-2", &NEVER_LEADS);
    let (ours_1, ours_2) = (fleet.ours("ours-1"), fleet.ours("ours-2"));
    let all = ["java-1", "java-2", "ours-1", "ours-2"];
    fleet.until_shared_by(&all, SETTLED).await;
    fleet.split();
    fleet.until_shared_by(&all, SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&all, SETTLED).await;
    assert_eq!(fleet.leader().await.as_deref(), Some("java-1"));

    java_1.stop().await;
    fleet.until_led_by("ours", SETTLED).await;
    let java_3 = fleet.java_with("java-3", &NEVER_LEADS);
    let all = ["java-2", "java-3", "ours-1", "ours-2"];
    fleet.until_shared_by(&all, SETTLED).await;
    fleet.split();
    fleet.until_shared_by(&all, SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&all, SETTLED).await;
    assert!(fleet.leader().await.is_some_and(|leader| leader.starts_with("ours")));

    fleet.rest().await;
    for worker in [java_2, java_3, ours_1, ours_2] {
        worker.stop().await;
    }
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_leader_replaces_killed_followers() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::new("followers-killed", setup, 6).await;
    let java_1 = led_by_java(&mut fleet).await;
    let java_2 = fleet.java("java-2");
    let (ours_1, ours_2) = (fleet.ours("ours-1"), fleet.ours("ours-2"));
    fleet.until_shared_by(&["java-1", "java-2", "ours-1", "ours-2"], SETTLED).await;
    java_2.kill().await;
    fleet.until_shared_by(&["java-1", "ours-1", "ours-2"], SETTLED).await;
    ours_1.kill().await;
    fleet.until_shared_by(&["java-1", "ours-2"], SETTLED).await;
    fleet.rest().await;
    java_1.stop().await;
    ours_2.stop().await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread")]
async fn we_replace_a_killed_java_leader() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::new("java-leader-killed", setup, 4).await;
    let java_1 = led_by_java(&mut fleet).await;
    let java_2 = fleet.java_with("java-2", &NEVER_LEADS);
    let ours = fleet.ours("ours-1");
    fleet.until_shared_by(&["java-1", "java-2", "ours-1"], SETTLED).await;
    java_1.kill().await;
    fleet.until_led_by("ours-1", SETTLED).await;
    fleet.until_shared_by(&["java-2", "ours-1"], SETTLED).await;
    fleet.rest().await;
    java_2.stop().await;
    ours.stop().await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread")]
async fn we_and_then_java_replace_our_killed_leader() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::new("our-leader-killed", setup, 4).await;
    let ours_1 = fleet.ours("ours-1");
    fleet.until_led_by("ours-1", SETTLED).await;
    let java = fleet.java("java-1");
    let ours_2 = fleet.ours("ours-2");
    fleet.until_shared_by(&["java-1", "ours-1", "ours-2"], SETTLED).await;
    ours_1.kill().await;
    fleet.until_led_by("ours-2", SETTLED).await;
    fleet.until_shared_by(&["java-1", "ours-2"], SETTLED).await;
    ours_2.kill().await;
    fleet.until_led_by("java-1", SETTLED).await;
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    fleet.rest().await;
    java.stop().await;
    fleet.verdict();
}

/// A Java worker that does not look at the leader's lock again while a scenario lasts.
const NEVER_LEADS: [(&str, &str); 2] = [("leader-lease-ms", "1200000"), ("leader-heartbeat-ms", "600000")];

/// A Java leader on tables of our making: it begins sooner than on its own.
async fn led_by_java(fleet: &mut Fleet) -> Worker {
    let maker = fleet.ours("maker");
    fleet.until_shared_by(&["maker"], SETTLED).await;
    maker.stop().await;
    let java = fleet.java("java-1");
    fleet.until_led_by("java-1", SETTLED).await;
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    java
}
