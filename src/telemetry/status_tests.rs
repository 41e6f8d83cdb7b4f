//! Examples of what operators are shown.

use tokio::time::advance;

use super::*;

const NOW_US: i64 = 1_768_469_400_000_000;

/// Those of some process, for other tests too.
pub(crate) fn facts(worker: &str) -> ProcessFacts {
    ProcessFacts {
        worker: worker.into(),
        application: "trades".into(),
        delivery: Delivery::ExactlyOnce,
        warnings: Vec::new(),
    }
}

fn status() -> Arc<Status> {
    Status::new(facts("w-1"), Duration::from_secs(60))
}

fn only(status: &Status) -> ShardSnapshot {
    status.snapshot_at(NOW_US).shards.remove(0)
}

#[tokio::test(start_paused = true)]
async fn delivered_age_follows_the_oldest_record_that_is_not_landed() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.page_fetched(Some(0));
    assert_eq!(only(&status).delivered_age_ms, Some(0), "at the tip with nothing outstanding");
    shard.oldest_undelivered(Some(NOW_US - 4_000_000));
    assert_eq!(only(&status).delivered_age_ms, Some(4000));
    shard.oldest_undelivered(Some(NOW_US + 4_000_000));
    assert_eq!(only(&status).delivered_age_ms, Some(0), "clocks of two hosts differ");
    shard.oldest_undelivered(None);
    shard.page_fetched(Some(90_000));
    assert_eq!(only(&status).delivered_age_ms, Some(90_000), "landed all it read, and is behind");
    shard.state(ShardState::Finished);
    assert_eq!(only(&status).delivered_age_ms, Some(0));
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_stream_makes_a_shard_late() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    advance(Duration::from_secs(9)).await;
    assert_eq!(only(&status).delivered_age_ms, None, "nobody knows yet");
    advance(Duration::from_secs(51)).await;
    assert_eq!(only(&status).delivered_age_ms, Some(60_000), "never answered since it was taken");
    shard.page_fetched(Some(500));
    assert_eq!(only(&status).delivered_age_ms, Some(500));
    advance(Duration::from_secs(11)).await;
    assert_eq!(only(&status).delivered_age_ms, Some(11_500));
    shard.state(ShardState::WaitingForParents);
    assert_eq!(only(&status).delivered_age_ms, None, "its turn has not come");
}

#[tokio::test(start_paused = true)]
async fn a_state_keeps_its_beginning() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.state(ShardState::Stalled("throttled"));
    advance(Duration::from_secs(5)).await;
    shard.state(ShardState::Stalled("throttled"));
    assert_eq!(only(&status).state_for_ms, 5000);
    assert_eq!(only(&status).stalled_reason(), Some("throttled"));
    shard.state(ShardState::Stalled("refused"));
    assert_eq!(only(&status).state_for_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_finishes_does_not_read_again() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.finishing(ShardState::HandingOver);
    shard.stalled(Side::Delivering, "lake", "no room");
    assert_eq!(only(&status).stalled_reason(), Some("lake"));
    shard.recovered(Side::Delivering);
    assert_eq!(only(&status).state, ShardState::HandingOver);
    shard.state(ShardState::Reading);
    assert_eq!(only(&status).state, ShardState::HandingOver);
}

#[tokio::test(start_paused = true)]
async fn a_halted_shard_stays_so_while_it_looks_again() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Recovering, 3);
    shard.halted("records are gone");
    advance(Duration::from_secs(5)).await;
    shard.stalled(Side::Reading, "throttled", "throttled");
    shard.page_fetched(Some(0));
    shard.state(ShardState::Reading);
    shard.halted("records are gone");
    let seen = only(&status);
    assert_eq!((seen.stalled_reason(), seen.state_for_ms), (Some("halted"), 5000));
    assert_eq!((seen.last_error.as_deref(), seen.last_error_over), (Some("records are gone"), Some(false)));
    shard.resumed();
    shard.state(ShardState::Reading);
    assert_eq!((only(&status).state, only(&status).last_error_over), (ShardState::Reading, Some(true)));
}

#[tokio::test(start_paused = true)]
async fn a_shard_leaves_with_its_handle_but_not_with_a_former_one() {
    let status = status();
    let former = status.shard("trades", "shardId-7", ShardState::Delivering, 3);
    let current = status.shard("trades", "shardId-7", ShardState::Reading, 9);
    drop(former);
    assert_eq!((only(&status).state, only(&status).lease_counter), (ShardState::Reading, 9));
    drop(current);
    assert!(status.snapshot().shards.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_age_of_nothing_is_unknown() {
    let status = status();
    let snapshot = status.snapshot();
    assert_eq!((snapshot.delivered_age_ms, snapshot.millis_behind_latest), (None, None));
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    assert_eq!(status.snapshot().delivered_age_ms, None);
    shard.page_fetched(Some(0));
    let snapshot = status.snapshot();
    assert_eq!((snapshot.delivered_age_ms, snapshot.millis_behind_latest), (Some(0), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn how_far_a_reader_is_behind_is_unknown_when_the_stream_has_not_answered_for_long() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.page_fetched(Some(700));
    advance(Duration::from_secs(120)).await;
    assert_eq!(status.snapshot().millis_behind_latest, Some(700), "the slowest poll is not late");
    shard.stalled(Side::Reading, "unavailable", "no response");
    advance(Duration::from_secs(1)).await;
    let snapshot = status.snapshot();
    assert_eq!((snapshot.millis_behind_latest, snapshot.shards[0].millis_behind_latest), (None, None));
    assert_eq!(snapshot.delivered_age_ms, Some(121_700), "which is known to grow");
    shard.page_fetched(Some(800));
    assert_eq!(status.snapshot().millis_behind_latest, Some(800));
}

#[tokio::test(start_paused = true)]
async fn the_sides_of_a_shard_are_in_trouble_each_for_itself() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.stalled(Side::Delivering, "lake", "no room");
    advance(Duration::from_secs(5)).await;
    shard.stalled(Side::Reading, "refused", "denied");
    shard.page_fetched(Some(0));
    advance(Duration::from_secs(5)).await;
    let seen = only(&status);
    assert_eq!(
        (seen.stalled_reason(), seen.stalled_for_ms),
        (Some("lake"), Some(10_000)),
        "it reads, and is stuck"
    );
    assert_eq!((seen.last_error.as_deref(), seen.last_error_over), (Some("denied"), Some(true)));
    shard.stalled(Side::Delivering, "lease_table", "throttled");
    let seen = only(&status);
    assert_eq!((seen.state_for_ms, seen.stalled_for_ms), (0, Some(10_000)), "another reason, the same stall");
    assert_eq!((seen.last_error.as_deref(), seen.last_error_over), (Some("throttled"), Some(false)));
    assert!(seen.last_error_at.unwrap().ends_with('Z'));
    shard.recovered(Side::Delivering);
    let seen = only(&status);
    assert_eq!((seen.state, seen.state_for_ms, seen.stalled_for_ms), (ShardState::Reading, 0, None));
    assert_eq!(seen.last_error_over, Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_process_is_sick_when_a_loop_of_it_does_not_come_back() {
    let status = status();
    assert_eq!(status.sick(), None);
    let pulse = Arc::<Pulse>::default();
    let _beat = pulse.begin("renewing leases");
    status.watch(Troubles::new(&[], Duration::from_secs(1), Duration::from_secs(1)), pulse);
    advance(Duration::from_secs(121)).await;
    assert!(status.sick().unwrap().contains("renewing leases"));
    assert!(!status.snapshot().healthy);
}

#[tokio::test(start_paused = true)]
async fn ready_from_the_first_look_to_the_drain() {
    let status = status();
    assert!(!status.readiness().is_ready());
    status.set_working();
    assert!(status.readiness().is_ready() && status.snapshot().ready);
    status.set_table_lost(true);
    assert!(!status.readiness().is_ready());
    status.set_table_lost(false);
    status.set_draining();
    let snapshot = status.snapshot();
    assert!(!snapshot.ready && snapshot.draining);
    assert_eq!(snapshot.not_ready, ["draining"]);
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_is_plain_json() {
    let status = status();
    let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
    shard.page_fetched(Some(0));
    shard.checkpoint("4959");
    shard.lease_counter(4);
    shard.batch(10, 2000);
    shard.in_flight_bytes(3000);
    shard.read_by(Retrieval::FanOut);
    shard.delivered(70);
    shard.delivered(7);
    shard.stalled(Side::Delivering, "refused", "access denied");
    shard.oldest_undelivered(Some(NOW_US - 1_500_000));
    status.set_streams(vec!["trades".to_owned()]);
    let mut json = serde_json::to_value(status.snapshot_at(NOW_US)).unwrap();
    assert!(json["shards"][0]["last_error_at"].take().is_string());
    assert_eq!(
        json,
        serde_json::json!({
            "worker": "w-1", "application": "trades", "streams": ["trades"], "table_streams": [], "settings_problem": null,
            "delivery": "exactly once", "warnings": [],
            "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": 0,
            "ready": false, "not_ready": ["starting: the lease table has not answered yet"],
                "draining": false, "healthy": true, "troubles": [],
            "millis_behind_latest": 0, "delivered_age_ms": 1500, "cloudwatch": null, "fleet": null,
            "shards": [{
                "stream": "trades", "shard": "shardId-7", "state": "stalled", "reason": "refused", "state_for_ms": 0, "stalled_for_ms": 0,
                "checkpoint": "4959", "lease_counter": 4, "retrieval": "fan-out", "millis_behind_latest": 0,
                "oldest_undelivered_arrival_us": NOW_US - 1_500_000, "delivered_age_ms": 1500,
                "records_delivered": 77, "batch_records": 10, "batch_bytes": 2000,
                "in_flight_bytes": 3000, "last_error": "access denied", "last_error_at": null, "last_error_over": false,
            }],
        })
    );
}

#[tokio::test]
async fn a_stream_that_is_off_says_since_when_and_why() {
    let status = status();
    status.set_streams(vec!["table/Trades".to_owned(), "trades".to_owned()]);
    let look = || status.snapshot().table_streams;
    assert!(look().is_empty(), "nobody has looked yet");
    status.set_stream_off("table/Trades", false);
    assert!(look().len() == 1 && look()[0].on && look()[0].off_since.is_none());
    status.set_stream_off("table/Trades", true);
    let first = look();
    assert!(!first[0].on && first[0].reason.unwrap().contains("turned off"));
    assert!(first[0].off_since.as_deref().unwrap().ends_with('Z'));
    status.set_stream_off("table/Trades", true);
    assert_eq!(look(), first, "since the first look");
    status.set_stream_off("table/Trades", false);
    assert!(look()[0].on && look()[0].reason.is_none());
    status.set_streams(vec!["trades".to_owned()]);
    assert!(look().is_empty(), "it is not read any more");
}

/// The stream's clock sets the arrival times: a host whose clock is an hour off shows the same ages.
#[tokio::test(start_paused = true)]
async fn ages_are_told_by_the_clock_of_the_stream() {
    for off_us in [0, 3_600_000_000, -3_600_000_000] {
        let status = status();
        let shard = status.shard("trades", "shardId-7", ShardState::Reading, 3);
        let stream_us = crate::clock::wall_clock_us() + off_us;
        shard.page_fetched(Some(0));
        shard.stream_time(Some(stream_us - stream_us.rem_euclid(1_000_000)));
        shard.oldest_undelivered(Some(stream_us - 40_000_000));
        let age = status.snapshot().shards.remove(0).delivered_age_ms.unwrap();
        assert!((38_000..60_000).contains(&age), "{off_us}: {age}");
    }
}
