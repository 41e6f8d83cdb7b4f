use std::collections::BTreeSet;

use super::*;

#[test]
fn every_fact_is_described_and_every_description_has_a_fact() {
    let recorder = builder().unwrap().build_recorder();
    let handle = recorder.handle();
    let words = Words { dead_letters: &["not_json"], fetch_errors: &["unavailable"] };
    let counters = |text: &str| -> BTreeSet<String> {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let counters = series.filter(|line| line.split(['{', ' ']).next().unwrap().ends_with("_total"));
        counters.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    metrics::with_local_recorder(&recorder, || {
        describe(ALL);
        start_at_zero(&words);
    });
    let from_the_start = counters(&handle.render());
    assert!(handle.render().lines().any(|line| line == "kinetide_leases_lost_total 0"));
    metrics::with_local_recorder(&recorder, || {
        let took = Duration::from_millis(30);
        page_fetched(2, 100, took);
        aggregates_found(1, 40, 3, 1, 1);
        fetch_throttled(took);
        subscribed();
        event_received(2, 100);
        subscription_throttled();
        subscription_failed("unavailable");
        subscribed();
        unsubscribed();
        fetch_failed("unavailable", took);
        records_transformed(2);
        records_read_generally(1);
        records_dead_lettered("not_json", 1);
        batch_delivered(2, 70_000);
        object_delivered(ObjectOutcome::Created);
        object_delivered(ObjectOutcome::Existed);
        deliver_finished("s3", true, took);
        deliver_retried();
        use CallOutcome::{Accepted, Failed, Partial, Throttled};
        [Accepted, Failed, Partial, Throttled].into_iter().for_each(firehose_called);
        firehose_record_accepted(7000, 10_240);
        firehose_records_resent(2);
        bytes_in_flight(100);
        byte_budget(1000);
        leases_held(3);
        use AssignedHow::{Expired, HandOff, New, Stuck, Unowned};
        for how in [New, Unowned, Expired, HandOff, Stuck] {
            lease_assigned(how);
        }
        lease_begun();
        worker_id_twice();
        lease_lost();
        lease_released();
        lease_renewed(WriteOutcome::Done, took);
        lease_write_unknown();
        use WriteOutcome::{Done, NotHeld, Unavailable};
        [Done, NotHeld, Unavailable].into_iter().for_each(checkpointed);
        checkpoint_trimmed();
        batch_recovered(RecoveredHow::Finished);
        batch_recovered(RecoveredHow::Repaired);
        lease_table_lost(true);
        shard_ended();
        log_lines_dropped(3);
    });
    let text = handle.render();
    assert_eq!(counters(&text), from_the_start, "every series of a counter is there from the start");
    let typed: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let helped: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let described: BTreeSet<&str> = ALL.iter().map(|(name, ..)| *name).collect();
    assert_eq!(typed, described);
    assert_eq!(helped, described);
    for line in [
        "kinetide_records_fetched_total 43",
        "kinetide_aggregates_total{outcome=\"dropped\"} 1",
        "kinetide_records_out_of_range_total 3",
        "kinetide_fan_out_subscriptions 1",
        "kinetide_fan_out_subscribed_total 2",
        "kinetide_leases_assigned_total{how=\"hand_off\"} 1",
        "kinetide_batch_bytes_bucket{le=\"65536\"} 0",
        "kinetide_batch_bytes_bucket{le=\"262144\"} 1",
        "kinetide_deliver_duration_seconds_count{sink=\"s3\",outcome=\"ok\"} 1",
        "kinetide_firehose_calls_total{outcome=\"partial\"} 1",
        "kinetide_firehose_billed_bytes_total 10240",
        "kinetide_in_flight_bytes 100",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
    }
}
