//! The decision rule on examples, and what holds for any input.

use proptest::prelude::*;

use super::{Mode, Observed, Shard, Stream, Worker, Written, plan};

const MIB: f64 = 1_048_576.0;

fn observed(open_shards: u32, kbps: f64, behind_ms: u64) -> Observed {
    let shard = |number| Shard {
        shard: format!("shardId-{number:012}"),
        throughput_kbps: Some(kbps),
        millis_behind_latest: Some(behind_ms),
    };
    Observed {
        stream: Stream {
            name: "trades".to_owned(),
            mode: Mode::Provisioned,
            open_shards,
            updates_in_24h: Some(0),
            retention_hours: Some(24),
        },
        shards: (0..open_shards).map(shard).collect(),
        workers: vec![Worker { worker: "w-1".to_owned(), cpu_percent: Some(30.0) }],
        cloudwatch: None,
        notes: Vec::new(),
    }
}

fn written(mibps: f64, records: f64) -> Option<Written> {
    Some(Written {
        hours: 24,
        peak_bytes_per_second: Some(mibps * MIB),
        peak_records_per_second: Some(records),
        throttled_records: Some(0.0),
    })
}

fn says(because: &[String], words: &str) -> bool {
    because.iter().any(|sentence| sentence.contains(words))
}

#[test]
fn shards_follow_the_busiest_minute() {
    for (now, mibps, records, wanted) in [
        (4, 2.8, 100.0, 4),
        (4, 2.9, 100.0, 5),
        (8, 5.7, 100.0, 10),
        (4, 0.1, 12_600.0, 18),
        (2, 1.5, 100.0, 3),
        // Fewer, but not for one shard of eight.
        (8, 4.3, 100.0, 8),
        (8, 3.9, 100.0, 6),
        (8, 0.0, 0.0, 1),
        (1, 0.0, 0.0, 1),
        (5, 1.0, 10.0, 2),
    ] {
        let observed = Observed { cloudwatch: written(mibps, records), ..observed(now, 0.0, 0) };
        let plan = plan(&observed);
        assert_eq!(plan.shards.wanted, Some(wanted), "{now} shards, {mibps} MiB/s: {plan:#?}");
        assert_eq!(plan.steps.last().copied().unwrap_or(now), wanted);
    }
}

#[test]
fn the_lease_table_alone_says_when_more_are_needed_and_never_when_fewer_do() {
    let full = plan(&observed(4, 900.0, 0));
    assert_eq!((full.shards.wanted, full.steps.as_slice()), (Some(6), &[6][..]));
    let idle = plan(&observed(4, 1.0, 0));
    assert_eq!(idle.shards.wanted, Some(4));
    assert!(says(&idle.shards.because, "only the last moments are known"), "{:?}", idle.shards);
    // Who catches up reads more than is written.
    let behind = plan(&observed(4, 1_900.0, 600_000));
    assert_eq!(behind.shards.wanted, None);
    assert!(says(&behind.shards.because, "what is written is not known"), "{:?}", behind.shards);
    let mut partly = observed(4, 900.0, 0);
    partly.shards[2].throughput_kbps = None;
    assert_eq!(plan(&partly).shards.wanted, None);
    partly.shards.clear();
    assert_eq!(plan(&partly).shards.wanted, None);
}

#[test]
fn nothing_is_taken_away_from_readers_that_are_behind_or_hot() {
    let behind = Observed { cloudwatch: written(0.1, 1.0), ..observed(8, 100.0, 120_000) };
    let said = plan(&behind);
    assert_eq!((said.shards.wanted, said.tasks.wanted), (Some(8), Some(2)));
    assert!(says(&said.shards.because, "not while readers are behind"), "{said:#?}");
    assert!(says(&said.tasks.because, "one task more"), "{said:#?}");
    let mut hot = Observed { cloudwatch: written(0.9, 1.0), ..observed(8, 5.0, 0) };
    hot.shards[3].throughput_kbps = Some(900.0);
    let said = plan(&hot);
    assert_eq!((said.shards.wanted, said.hot_shards), (Some(8), vec!["shardId-000000000003".to_owned()]));
    assert!(says(&said.shards.because, "hot-shard.md"), "{:?}", said.shards);
}

#[test]
fn refused_writes_keep_what_is_there() {
    let mut refused = Observed { cloudwatch: written(0.1, 1.0), ..observed(8, 1.0, 0) };
    refused.cloudwatch.as_mut().unwrap().throttled_records = Some(3.0);
    let said = plan(&refused);
    assert_eq!(said.shards.wanted, Some(8));
    assert!(says(&said.shards.because, "3 records were refused"), "{said:#?}");
}

#[test]
fn an_on_demand_stream_gets_no_number_of_shards() {
    let mut observed = Observed { cloudwatch: written(3.2, 1.0), ..observed(4, 100.0, 0) };
    observed.stream.mode = Mode::OnDemand;
    let said = plan(&observed);
    assert_eq!((said.shards.wanted, said.steps.len(), said.warm_throughput_mibps), (None, 0, Some(7)));
    assert!(says(&said.shards.because, "update-stream-warm-throughput"), "{said:#?}");
    observed.cloudwatch = None;
    assert_eq!(plan(&observed).warm_throughput_mibps, None);
}

#[test]
fn a_day_that_has_no_steps_left_is_named() {
    let mut observed = Observed { cloudwatch: written(11.0, 1.0), ..observed(4, 100.0, 0) };
    observed.stream.updates_in_24h = Some(9);
    let said = plan(&observed);
    assert_eq!(said.steps, [8, 16]);
    assert!(says(&said.shards.because, "used 9 times in the last 24 hours"), "{said:#?}");
}

#[test]
fn unknown_tasks_are_not_none() {
    let mut nobody = observed(4, 100.0, 0);
    nobody.workers.clear();
    let said = plan(&nobody);
    assert_eq!((said.tasks.now, said.tasks.wanted, said.cost.tasks_now), (None, None, None));
    let mut silent = observed(4, 100.0, 0);
    silent.workers[0].cpu_percent = None;
    silent.shards[0].throughput_kbps = None;
    let said = plan(&silent);
    assert_eq!((said.tasks.now, said.tasks.wanted, said.cost.tasks_wanted), (Some(1), None, None));
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let number = |most: f64| proptest::option::of(0.0..most);
    let shard = (number(3_000.0), proptest::option::of(0_u64..200_000)).prop_map(|(kbps, behind)| Shard {
        shard: "shardId-000000000000".to_owned(),
        throughput_kbps: kbps,
        millis_behind_latest: behind,
    });
    let worker = number(100.0).prop_map(|cpu_percent| Worker { worker: "w".to_owned(), cpu_percent });
    let cloudwatch = (0_u32..48, number(1e11), number(1e8), number(1e6)).prop_map(
        |(hours, peak_bytes_per_second, peak_records_per_second, throttled_records)| Written {
            hours,
            peak_bytes_per_second,
            peak_records_per_second,
            throttled_records,
        },
    );
    let stream = (1_u32..=10_000, any::<bool>(), proptest::option::of(0_u32..12));
    let parts = (
        stream,
        proptest::collection::vec(shard, 0..12),
        proptest::collection::vec(worker, 0..12),
        proptest::option::of(cloudwatch),
    );
    parts.prop_map(|((open_shards, on_demand, updates_in_24h), shards, workers, cloudwatch)| Observed {
        stream: Stream {
            name: "trades".to_owned(),
            mode: if on_demand { Mode::OnDemand } else { Mode::Provisioned },
            open_shards,
            updates_in_24h,
            retention_hours: None,
        },
        shards,
        workers,
        cloudwatch,
        notes: Vec::new(),
    })
}

proptest! {
    #[test]
    fn whatever_was_observed_the_plan_is_legal_and_says_why(observed in any_observed()) {
        let said = plan(&observed);
        let now = observed.stream.open_shards;
        let mut at = now;
        for &step in &said.steps {
            prop_assert!(step <= at * 2 && step * 2 >= at && (1..=10_000).contains(&step));
            at = step;
        }
        match said.shards.wanted {
            Some(wanted) => prop_assert_eq!((at, observed.stream.mode), (wanted, Mode::Provisioned)),
            None => prop_assert!(said.steps.is_empty() && said.cost.stream_wanted.is_none()),
        }
        prop_assert!(!said.shards.because.is_empty() && !said.tasks.because.is_empty());
        if let Some(tasks) = said.tasks.wanted {
            prop_assert!((1..=now).contains(&tasks));
        }
        if observed.cloudwatch.is_none() && observed.shards.is_empty() {
            prop_assert_eq!(said.shards.wanted, None);
        }
        if said.shards.wanted.is_some_and(|wanted| wanted < now) {
            let day = observed.cloudwatch.as_ref().unwrap();
            prop_assert!(day.hours >= 24 && day.peak_bytes_per_second.is_some());
        }
        // The same plan from what is printed, and no change once it was carried out.
        let text = serde_json::to_string(&observed).unwrap();
        prop_assert_eq!(&plan(&Observed::parse(&text).unwrap()), &said);
    }

    #[test]
    fn once_carried_out_the_same_load_wants_no_more(
        now in 1_u32..2_000,
        mibps in 0.0..1_000.0,
        records in 0.0..1e6,
    ) {
        let before = Observed { cloudwatch: written(mibps, records), ..observed(now, 0.0, 0) };
        let Some(wanted) = plan(&before).shards.wanted else { panic!("all is known") };
        let after = Observed { cloudwatch: written(mibps, records), ..observed(wanted, 0.0, 0) };
        prop_assert_eq!(plan(&after).shards.wanted, Some(wanted));
    }
}
