//! Applications of several streams beside those of Java in its multi-stream mode: two streams whose shards have equal
//! ids. Every look at the table also looks whether each row names its stream as Java does.

use super::fleet::Fleet;
use super::scenarios::SETTLED;
use super::{Layout, Setup};

const STREAMS: [&str; 2] = ["trades", "orders"];

#[tokio::test(flavor = "multi_thread")]
async fn we_go_on_where_java_was_killed_in_one_table() {
    we_go_on_where_java_was_killed("several-takeover-one", Layout::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_go_on_where_java_was_killed_in_three_tables() {
    we_go_on_where_java_was_killed("several-takeover-three", Layout::Three).await;
}

/// Java begins; workers of ours join and are given leases by its leader; then Java is gone.
async fn we_go_on_where_java_was_killed(name: &'static str, layout: Layout) {
    let Some(setup) = Setup::find(layout) else { return };
    let mut fleet = Fleet::of_several(name, setup, &STREAMS, 2).await;
    let java = fleet.java("java-1");
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    fleet.split();
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    let (ours_1, ours_2) = (fleet.ours("ours-1"), fleet.ours("ours-2"));
    fleet.until_shared_by(&["java-1", "ours-1", "ours-2"], SETTLED).await;
    assert_eq!(fleet.leader().await.as_deref(), Some("java-1"));
    java.kill().await;
    fleet.until_led_by("ours", SETTLED).await;
    fleet.until_shared_by(&["ours-1", "ours-2"], SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&["ours-1", "ours-2"], SETTLED).await;
    fleet.rest().await;
    ours_1.stop().await;
    ours_2.stop().await;
    let verdict = fleet.verdict();
    assert!(verdict.ours > 0 && verdict.java > 0, "both took part: {verdict:?}");
}

/// The other way round: our leader gives leases to Java, and Java goes on where we were killed.
#[tokio::test(flavor = "multi_thread")]
async fn java_goes_on_where_we_were_killed() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::of_several("several-giveback", setup, &STREAMS, 2).await;
    let ours = fleet.ours("ours-1");
    fleet.until_shared_by(&["ours-1"], SETTLED).await;
    fleet.split();
    fleet.until_shared_by(&["ours-1"], SETTLED).await;
    let java = fleet.java("java-1");
    fleet.until_shared_by(&["java-1", "ours-1"], SETTLED).await;
    assert_eq!(fleet.leader().await.as_deref(), Some("ours-1"));
    ours.kill().await;
    fleet.until_led_by("java-1", SETTLED).await;
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    fleet.merge();
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    // And back again, while it goes on.
    let ours = fleet.ours("ours-2");
    fleet.until_shared_by(&["java-1", "ours-2"], SETTLED).await;
    fleet.rest().await;
    java.stop().await;
    ours.stop().await;
    let verdict = fleet.verdict();
    assert!(verdict.ours > 0 && verdict.java > 0, "both took part: {verdict:?}");
}

/// One look at the rows that Java wrote is enough, and leaves them as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_java_fleet_of_one_stream_is_not_read_as_several() {
    let Some(setup) = Setup::find(Layout::One) else { return };
    let mut fleet = Fleet::new("several-refused", setup, 2).await;
    let java = fleet.java("java-1");
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    let (code, said) = fleet.run_of_several().await;
    assert_eq!(code, Some(2), "{said}");
    for part in
        ["an application of one stream", "start it with one --stream", "leases convert --to multi-stream"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(
        said.lines().filter(|line| line.contains("an application of one stream")).count(),
        1,
        "{said}"
    );
    let rows = fleet.leases().await;
    assert!(rows.len() == 2 && rows.keys().all(|key| !key.contains(':')), "{rows:?}");
    fleet.until_shared_by(&["java-1"], SETTLED).await;
    fleet.rest().await;
    java.stop().await;
    let verdict = fleet.verdict();
    assert_eq!((verdict.ours, verdict.replayed), (0, 0), "{verdict:?}");
}
