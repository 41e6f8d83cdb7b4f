//! The checks. Each takes a server and the name of a stream that it creates. Names of consumers are unique in the
//! whole server: `kinesis-local` mixes up consumers of the same name on two streams.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    ConsumerStatus, PutRecordsRequestEntry, ScalingType, ShardFilter, ShardFilterType, ShardIteratorType,
    StartingPosition, StreamMode, StreamModeDetails, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use kinetide::internals::clock::wall_clock_us;

use super::{Server, ids, kind, open, range, texts};

const MIDDLE: u128 = 1 << 127;

type Events = aws_sdk_kinesis::primitives::event_stream::EventReceiver<
    SubscribeToShardEventStream,
    SubscribeToShardEventStreamError,
>;

pub(super) async fn streams_live_and_die(server: &Server, name: &str) {
    let client = &server.client;
    let missing = client.describe_stream_summary().stream_name(name).send().await.unwrap_err();
    assert_eq!(kind(&missing), "ResourceNotFoundException");
    server.create(name, 3).await;
    let again = client.create_stream().stream_name(name).shard_count(1).send().await.unwrap_err();
    assert_eq!(kind(&again), "ResourceInUseException");
    let summary = client.describe_stream_summary().stream_name(name).send().await.unwrap();
    let summary = summary.stream_description_summary.unwrap();
    assert_eq!((summary.open_shard_count, summary.retention_period_hours), (3, 24));
    assert!(summary.stream_arn.ends_with(&format!("stream/{name}")));
    assert!(client.list_streams().send().await.unwrap().stream_names.contains(&name.to_owned()));
    client.delete_stream().stream_name(name).send().await.unwrap();
    for _ in 0..100 {
        if client.describe_stream_summary().stream_name(name).send().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the stream is still there");
}

pub(super) async fn streams_are_named_or_addressed(server: &Server, name: &str) {
    server.create(name, 1).await;
    let client = &server.client;
    let summary = client.describe_stream_summary().stream_name(name).send().await.unwrap();
    let arn = summary.stream_description_summary.unwrap().stream_arn;
    client.put_record().stream_arn(&arn).partition_key("k").data(Blob::new("x")).send().await.unwrap();
    client.describe_stream().stream_arn(&arn).send().await.unwrap();
    client.describe_stream_summary().stream_arn(&arn).send().await.unwrap();
    let shards = client.list_shards().stream_arn(&arn).send().await.unwrap().shards.unwrap();
    let iterator = client.get_shard_iterator().stream_arn(&arn).shard_id(&shards[0].shard_id);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let page = client.get_records().stream_arn(&arn).shard_iterator(iterator.shard_iterator.unwrap());
    assert_eq!(texts(&page.send().await.unwrap().records), ["x"]);
}

pub(super) async fn records_route_by_hash_key(server: &Server, name: &str) {
    server.create(name, 4).await;
    let shards = server.shards(name).await;
    let holds = |id: &str, hash: u128| {
        let (start, end) = range(shards.iter().find(|shard| shard.shard_id == id).unwrap());
        (start..=end).contains(&hash)
    };
    // MD5 of these keys, from `md5sum`; both halves of the key space.
    for (key, hash) in [
        ("a", 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661_u128),
        ("b", 0x92eb_5ffe_e6ae_2fec_3ad7_1c77_7531_578f),
        ("c", 0x4a8a_08f0_9d37_b737_9564_9038_408b_5f33),
        ("e", 0xe167_1797_c52e_15f7_6338_0b45_e841_ec32),
    ] {
        let (shard, _) = server.put(name, key, b"x").await;
        assert!(holds(&shard, hash), "{key} went to {shard}");
    }
    for hash in [0, MIDDLE, u128::MAX] {
        let put = server.client.put_record().stream_name(name).partition_key("a").data(Blob::new("x"));
        let put = put.explicit_hash_key(hash.to_string()).send().await.unwrap();
        assert!(holds(&put.shard_id, hash), "{hash} went to {}", put.shard_id);
    }
    // The answer of PutRecords stands in the order of the request, and numbers grow in each shard.
    let entry = |i: u128| {
        let entry = PutRecordsRequestEntry::builder().partition_key("k").data(Blob::new(i.to_string()));
        entry.explicit_hash_key((i % 4 * (u128::MAX / 4 + 1)).to_string()).build().unwrap()
    };
    let put = server.client.put_records().stream_name(name).set_records(Some((0..100).map(entry).collect()));
    let results = put.send().await.unwrap().records;
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for (i, result) in results.iter().enumerate() {
        let (shard, number) = (result.shard_id.clone().unwrap(), result.sequence_number.clone().unwrap());
        assert!(holds(&shard, i as u128 % 4 * (u128::MAX / 4 + 1)));
        assert!(number.len() == 56 && number.starts_with("49"), "{number}");
        assert!(last.insert(shard, number.clone()).is_none_or(|before| before < number));
    }
    assert_eq!(last.len(), 4);
}

pub(super) async fn bad_puts_are_refused(server: &Server, name: &str) {
    server.create(name, 1).await;
    let client = &server.client;
    let put = || client.put_record().stream_name(name).data(Blob::new("x"));
    let error = put().partition_key("k").explicit_hash_key("-1").send().await.unwrap_err();
    assert!(["InvalidArgumentException", "ValidationException"].contains(&kind(&error)), "{error:?}");
    let long = put().partition_key("k".repeat(257)).send().await.unwrap_err();
    assert!(["InvalidArgumentException", "ValidationException"].contains(&kind(&long)), "{long:?}");
    let missing = client.put_record().stream_name("no-such-stream").partition_key("k").data(Blob::new("x"));
    assert_eq!(kind(&missing.send().await.unwrap_err()), "ResourceNotFoundException");
    let entries = |count: usize, bytes: usize| {
        let entry = PutRecordsRequestEntry::builder().partition_key("k").data(Blob::new(vec![0; bytes]));
        Some(vec![entry.build().unwrap(); count])
    };
    if server.can.refuses_501_records {
        let error =
            client.put_records().stream_name(name).set_records(entries(501, 1)).send().await.unwrap_err();
        assert_eq!(kind(&error), "ValidationException");
    }
    if server.can.refuses_big_records {
        let big = client.put_record().stream_name(name).partition_key("k").data(Blob::new(vec![0; 1 << 20]));
        assert_eq!(kind(&big.send().await.unwrap_err()), "ValidationException");
        let many = client.put_records().stream_name(name).set_records(entries(11, 1_000_000)).send().await;
        assert_eq!(kind(&many.unwrap_err()), "InvalidArgumentException");
    }
    let shards = server.shards(name).await;
    let kept = server.drain(name, &shards[0].shard_id).await.0.len();
    assert_eq!(kept, if server.can.refuses_501_records { 0 } else { kept }, "a refused call leaves nothing");
}

pub(super) async fn shards_are_listed_in_pages_by_token_alone(server: &Server, name: &str) {
    server.create(name, 5).await;
    let mut page = server.client.list_shards().stream_name(name).max_results(2).send().await.unwrap();
    let mut seen = page.shards.take().unwrap();
    assert_eq!(seen.len(), 2);
    while let Some(token) = page.next_token {
        page = server.client.list_shards().next_token(token).max_results(2).send().await.unwrap();
        seen.append(page.shards.as_mut().unwrap());
    }
    assert_eq!(ids(&seen).len(), 5);
    let first = &seen[0].shard_id;
    let rest =
        server.client.list_shards().stream_name(name).exclusive_start_shard_id(first).send().await.unwrap();
    assert_eq!(rest.shards.unwrap().len(), 4);
}

pub(super) async fn shard_filters_see_the_lineage(server: &Server, name: &str) {
    server.create(name, 2).await;
    let first = server.shards(name).await[0].shard_id.clone();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = wall_clock_us();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let split = server.client.split_shard().stream_name(name).shard_to_split(&first);
    split.new_starting_hash_key((MIDDLE / 2).to_string()).send().await.unwrap();
    server.active(name).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = wall_clock_us();
    let shards = server.shards(name).await;
    let all: Vec<&str> = shards.iter().map(|shard| shard.shard_id.as_str()).collect();
    assert_eq!(all.len(), 4);
    let time = |us: i64| DateTime::from(UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap()));
    let filter = |kind| ShardFilter::builder().r#type(kind);
    for (filter, expected) in [
        (filter(ShardFilterType::AtLatest), vec![1, 2, 3]),
        (filter(ShardFilterType::AtTrimHorizon), vec![0, 1]),
        (filter(ShardFilterType::FromTrimHorizon), vec![0, 1, 2, 3]),
        (filter(ShardFilterType::AfterShardId).shard_id(all[1]), vec![2, 3]),
        (filter(ShardFilterType::AtTimestamp).timestamp(time(before)), vec![0, 1]),
        (filter(ShardFilterType::AtTimestamp).timestamp(time(after)), vec![1, 2, 3]),
        (filter(ShardFilterType::FromTimestamp).timestamp(time(before)), vec![0, 1, 2, 3]),
        (filter(ShardFilterType::FromTimestamp).timestamp(time(after)), vec![1, 2, 3]),
    ] {
        let filter = filter.build().unwrap();
        let listed =
            server.client.list_shards().stream_name(name).shard_filter(filter.clone()).send().await.unwrap();
        let expected = expected.into_iter().map(|i: usize| all[i]).collect();
        let by_time = filter.timestamp().is_some() || *filter.r#type() == ShardFilterType::AtTrimHorizon;
        if server.can.filters_by_time || !by_time {
            assert_eq!(ids(listed.shards()), expected, "{filter:?}");
        }
    }
}

pub(super) async fn descriptions_are_paged(server: &Server, name: &str) {
    server.create(name, 3).await;
    let page = server.client.describe_stream().stream_name(name).limit(2).send().await.unwrap();
    let page = page.stream_description.unwrap();
    assert_eq!((page.shards.len(), page.has_more_shards), (2, true));
    let rest = server.client.describe_stream().stream_name(name);
    let rest = rest.exclusive_start_shard_id(&page.shards[1].shard_id).send().await.unwrap();
    let rest = rest.stream_description.unwrap();
    assert_eq!((rest.shards.len(), rest.has_more_shards), (1, false));
}

pub(super) async fn every_iterator_type_starts_where_it_should(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    let mut numbers = Vec::new();
    let mut time = None;
    for i in 0..5 {
        if i == 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            time = Some(DateTime::from_millis(wall_clock_us() / 1_000));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        numbers.push(server.put(name, "k", i.to_string().as_bytes()).await.1);
    }
    let start = |kind| {
        server.client.get_shard_iterator().stream_name(name).shard_id(&shard).shard_iterator_type(kind)
    };
    let latest = start(ShardIteratorType::Latest).send().await.unwrap();
    server.put(name, "k", b"5").await;
    for (iterator, expected) in [
        (start(ShardIteratorType::TrimHorizon), &["0", "1", "2", "3", "4", "5"][..]),
        (
            start(ShardIteratorType::AtSequenceNumber).starting_sequence_number(&numbers[2]),
            &["2", "3", "4", "5"],
        ),
        (
            start(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(&numbers[2]),
            &["3", "4", "5"],
        ),
        (start(ShardIteratorType::AtTimestamp).set_timestamp(time), &["3", "4", "5"]),
    ] {
        let iterator = iterator.send().await.unwrap().shard_iterator.unwrap();
        assert_eq!(texts(&server.get(&iterator, 100).await.records), expected);
    }
    let page = server.get(&latest.shard_iterator.unwrap(), 100).await;
    assert_eq!(texts(&page.records), ["5"]);
    let arrival = page.records[0].approximate_arrival_timestamp.unwrap().to_millis().unwrap();
    assert!((wall_clock_us() / 1_000 - arrival).abs() < 60_000, "{arrival}");
}

pub(super) async fn bad_iterators_are_refused(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    let start = || server.client.get_shard_iterator().stream_name(name);
    let missing = start().shard_id("shardId-000000000077").shard_iterator_type(ShardIteratorType::Latest);
    assert_eq!(kind(&missing.send().await.unwrap_err()), "ResourceNotFoundException");
    if !server.can.checks_sequence_numbers {
        return;
    }
    let nameless = start().shard_id(&shard).shard_iterator_type(ShardIteratorType::AtSequenceNumber);
    assert_eq!(kind(&nameless.send().await.unwrap_err()), "InvalidArgumentException");
    let foreign = start().shard_id(&shard).shard_iterator_type(ShardIteratorType::AtSequenceNumber);
    let foreign = foreign.starting_sequence_number("12").send().await.unwrap_err();
    assert_eq!(kind(&foreign), "InvalidArgumentException");
    if server.can.refuses_bad_iterators {
        let error = server.client.get_records().shard_iterator("not-an-iterator").send().await.unwrap_err();
        assert_eq!(kind(&error), "InvalidArgumentException");
    }
}

pub(super) async fn lag_is_told_until_caught_up(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    server.put_many(name, 250).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let iterator = server.iterator(name, &shard, ShardIteratorType::TrimHorizon).await;
    let first = server.get(&iterator, 3).await;
    assert_eq!(first.records.len(), 3);
    assert!(first.millis_behind_latest.unwrap() > 0);
    let rest = server.get(&first.next_shard_iterator.unwrap(), 10_000).await;
    assert_eq!((rest.records.len(), rest.millis_behind_latest), (247, Some(0)));
    let empty = server.get(&rest.next_shard_iterator.unwrap(), 10_000).await;
    assert!(empty.records.is_empty() && empty.millis_behind_latest == Some(0));
    assert!(empty.next_shard_iterator.is_some());
}

pub(super) async fn a_page_holds_ten_megabytes(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    for _ in 0..12 {
        server.put(name, "k", &vec![b'x'; 1_000_000]).await;
    }
    let iterator = server.iterator(name, &shard, ShardIteratorType::TrimHorizon).await;
    let first = server.get(&iterator, 10_000).await;
    assert!((9..=10).contains(&first.records.len()), "{}", first.records.len());
    assert_eq!(server.drain(name, &shard).await.0.len(), 12);
}

pub(super) async fn a_split_parent_is_read_to_its_end(server: &Server, name: &str) {
    server.create(name, 1).await;
    let parent = server.shards(name).await[0].shard_id.clone();
    server.put_many(name, 20).await;
    let split = server.client.split_shard().stream_name(name).shard_to_split(&parent);
    split.new_starting_hash_key(MIDDLE.to_string()).send().await.unwrap();
    server.active(name).await;
    let (_, number) = server.put(name, "later", b"later").await;
    let (records, last) = server.drain(name, &parent).await;
    assert_eq!(records.len(), 20);
    assert_eq!(last.next_shard_iterator, None);
    let children = last.child_shards.unwrap();
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|child| child.parent_shards == [parent.clone()]));
    let shards = server.shards(name).await;
    let closed = shards[0].sequence_number_range.as_ref().unwrap();
    let end = closed.ending_sequence_number.as_ref().unwrap();
    assert!(records.iter().all(|record| record.sequence_number <= *end));
    assert!(number > *end || !server.can.numbers_children_above_parents);
    for child in &shards[1..] {
        assert_eq!(child.parent_shard_id.as_ref(), Some(&parent));
        let start = &child.sequence_number_range.as_ref().unwrap().starting_sequence_number;
        assert!(start > end || !server.can.numbers_children_above_parents);
    }
    assert_eq!((range(&shards[1]), range(&shards[2])), ((0, MIDDLE - 1), (MIDDLE, u128::MAX)));
}

pub(super) async fn a_merge_has_two_parents(server: &Server, name: &str) {
    server.create(name, 2).await;
    let parents: Vec<String> = server.shards(name).await.into_iter().map(|shard| shard.shard_id).collect();
    server.put_many(name, 20).await;
    let merge = server.client.merge_shards().stream_name(name).shard_to_merge(&parents[0]);
    merge.adjacent_shard_to_merge(&parents[1]).send().await.unwrap();
    server.active(name).await;
    let mut count = 0;
    for parent in &parents {
        let (records, last) = server.drain(name, parent).await;
        count += records.len();
        let [child] = &last.child_shards.unwrap()[..] else { panic!("one child") };
        let mut named = child.parent_shards.clone();
        named.sort();
        assert_eq!(named, parents);
        assert_eq!(last.next_shard_iterator, None);
    }
    assert_eq!(count, 20);
    let shards = server.shards(name).await;
    assert_eq!(range(&shards[2]), (0, u128::MAX));
    assert_eq!(shards[2].parent_shard_id.as_ref(), Some(&parents[0]));
    assert_eq!(shards[2].adjacent_parent_shard_id.as_ref(), Some(&parents[1]));
}

pub(super) async fn bad_reshards_are_refused(server: &Server, name: &str) {
    server.create(name, 3).await;
    let shards = server.shards(name).await;
    let id = |i: usize| shards[i].shard_id.clone();
    let merge = |a, b| {
        server.client.merge_shards().stream_name(name).shard_to_merge(a).adjacent_shard_to_merge(b).send()
    };
    assert_eq!(kind(&merge(id(0), id(2)).await.unwrap_err()), "InvalidArgumentException");
    let split = |key: u128| {
        let split = server.client.split_shard().stream_name(name).shard_to_split(id(0));
        split.new_starting_hash_key(key.to_string()).send()
    };
    if server.can.checks_split_keys {
        assert_eq!(kind(&split(u128::MAX).await.unwrap_err()), "InvalidArgumentException");
        assert_eq!(kind(&split(0).await.unwrap_err()), "InvalidArgumentException");
    }
    let missing = server.client.split_shard().stream_name(name).shard_to_split("shardId-000000000077");
    let missing = missing.new_starting_hash_key("5").send().await.unwrap_err();
    assert_eq!(kind(&missing), "ResourceNotFoundException");
}

pub(super) async fn a_resize_keeps_the_lineage(server: &Server, name: &str) {
    server.create(name, 2).await;
    for target in [4, 3, 2] {
        let update = server.client.update_shard_count().stream_name(name).target_shard_count(target);
        update.scaling_type(ScalingType::UniformScaling).send().await.unwrap();
        server.active(name).await;
        let shards = server.shards(name).await;
        let mut ranges: Vec<_> = open(&shards).into_iter().map(range).collect();
        ranges.sort_unstable();
        assert_eq!(ranges.len(), usize::try_from(target).unwrap());
        assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, u128::MAX));
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{ranges:?}");
        if server.can.resizes_evenly {
            let width = u128::MAX / u128::try_from(target).unwrap();
            assert!(ranges.iter().all(|(start, end)| (end - start).abs_diff(width) < 1 << 64), "{ranges:?}");
        }
        assert!(
            shards[2..].iter().all(|shard| shard.parent_shard_id.is_some()),
            "every later shard has a parent"
        );
    }
}

pub(super) async fn bad_resizes_are_refused(server: &Server, name: &str) {
    server.create(name, 4).await;
    let resize = |stream: &str, target| {
        let update = server.client.update_shard_count().stream_name(stream).target_shard_count(target);
        update.scaling_type(ScalingType::UniformScaling).send()
    };
    assert_eq!(kind(&resize("no-such-stream", 2).await.unwrap_err()), "ResourceNotFoundException");
    for target in [9, 1] {
        let refused = resize(name, target).await.unwrap_err();
        assert_eq!(kind(&refused), "InvalidArgumentException", "{target}");
    }
    server.active(name).await;
    assert_eq!(open(&server.shards(name).await).len(), 4, "nothing changed");
    let demand = format!("{name}-demand");
    let mode = StreamModeDetails::builder().stream_mode(StreamMode::OnDemand).build().unwrap();
    server.client.create_stream().stream_name(&demand).stream_mode_details(mode).send().await.unwrap();
    server.active(&demand).await;
    let refused = resize(&demand, 8).await;
    assert!(!server.can.refuses_on_demand || kind(&refused.unwrap_err()) == "ValidationException");
}

pub(super) async fn registrations_come_and_go(server: &Server, name: &str) {
    server.create(name, 1).await;
    let (client, arn) = (&server.client, arn(server, name).await);
    let consumer = register(server, &arn, name).await;
    let again =
        client.register_stream_consumer().stream_arn(&arn).consumer_name(name).send().await.unwrap_err();
    assert_eq!(kind(&again), "ResourceInUseException");
    let by_name =
        client.describe_stream_consumer().stream_arn(&arn).consumer_name(name).send().await.unwrap();
    assert_eq!(by_name.consumer_description.unwrap().consumer_arn, consumer);
    let listed = client.list_stream_consumers().stream_arn(&arn).send().await.unwrap().consumers.unwrap();
    assert_eq!(listed.len(), 1);
    client.deregister_stream_consumer().consumer_arn(&consumer).send().await.unwrap();
    for _ in 0..100 {
        let gone = client.describe_stream_consumer().consumer_arn(&consumer).send().await;
        if gone.is_err_and(|error| kind(&error) == "ResourceNotFoundException") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the consumer is still there");
}

pub(super) async fn subscriptions_push_records(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    let consumer = register(server, &arn(server, name).await, name).await;
    server.put(name, "k", b"before").await;
    let mut events =
        subscribe(server, &consumer, &shard, ShardIteratorType::TrimHorizon, None).await.unwrap();
    let first = next_records(&mut events).await;
    assert_eq!(texts(&first.records), ["before"]);
    if server.can.refuses_early_resubscribe {
        let early = subscribe(server, &consumer, &shard, ShardIteratorType::Latest, None).await;
        assert_eq!(early.err().as_deref(), Some("ResourceInUseException"));
    }
    server.put(name, "k", b"after").await;
    let second = next_records(&mut events).await;
    assert_eq!(texts(&second.records), ["after"]);
    // Another consumer goes on behind the first event.
    let other = register(server, &arn(server, name).await, &format!("{name}-other")).await;
    let after = Some(first.continuation_sequence_number.as_str());
    let mut events =
        subscribe(server, &other, &shard, ShardIteratorType::AfterSequenceNumber, after).await.unwrap();
    assert_eq!(texts(&next_records(&mut events).await.records), ["after"]);
}

pub(super) async fn a_subscription_ends_with_the_shard(server: &Server, name: &str) {
    server.create(name, 1).await;
    let shard = server.shards(name).await[0].shard_id.clone();
    let consumer = register(server, &arn(server, name).await, name).await;
    server.put(name, "k", b"x").await;
    let mut events =
        subscribe(server, &consumer, &shard, ShardIteratorType::TrimHorizon, None).await.unwrap();
    assert_eq!(texts(&next_records(&mut events).await.records), ["x"]);
    let split = server.client.split_shard().stream_name(name).shard_to_split(&shard);
    split.new_starting_hash_key(MIDDLE.to_string()).send().await.unwrap();
    if server.can.subscription_ends_with_children {
        loop {
            let event =
                next_event(&mut events).await.expect("the end is told before the stream of events ends");
            if let Some(children) = event.child_shards.filter(|children| !children.is_empty()) {
                assert_eq!(children.len(), 2);
                assert!(children.iter().all(|child| child.parent_shards == [shard.clone()]));
                break;
            }
        }
        assert!(next_event(&mut events).await.is_none(), "nothing comes after the end");
    }
}

pub(super) async fn retention_moves_both_ways(server: &Server, name: &str) {
    server.create(name, 1).await;
    let client = &server.client;
    let hours = async || {
        let summary = client.describe_stream_summary().stream_name(name).send().await.unwrap();
        summary.stream_description_summary.unwrap().retention_period_hours
    };
    let increase = |hours| {
        client.increase_stream_retention_period().stream_name(name).retention_period_hours(hours).send()
    };
    let decrease = |hours| {
        client.decrease_stream_retention_period().stream_name(name).retention_period_hours(hours).send()
    };
    increase(48).await.unwrap();
    assert_eq!(hours().await, 48);
    server.active(name).await;
    assert_eq!(kind(&increase(30).await.unwrap_err()), "InvalidArgumentException");
    assert_eq!(kind(&decrease(60).await.unwrap_err()), "InvalidArgumentException");
    decrease(24).await.unwrap();
    assert_eq!(hours().await, 24);
    server.active(name).await;
    let short = decrease(23).await.unwrap_err();
    assert!(["InvalidArgumentException", "ValidationException"].contains(&kind(&short)));
}

async fn arn(server: &Server, name: &str) -> String {
    let summary = server.client.describe_stream_summary().stream_name(name).send().await.unwrap();
    summary.stream_description_summary.unwrap().stream_arn
}

/// Registers a consumer and waits until it may subscribe; answers its ARN.
async fn register(server: &Server, stream_arn: &str, name: &str) -> String {
    let client = &server.client;
    let consumer =
        client.register_stream_consumer().stream_arn(stream_arn).consumer_name(name).send().await.unwrap();
    let arn = consumer.consumer.unwrap().consumer_arn;
    for _ in 0..100 {
        let described = client.describe_stream_consumer().consumer_arn(&arn).send().await.unwrap();
        if described.consumer_description.unwrap().consumer_status == ConsumerStatus::Active {
            return arn;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the consumer did not become active");
}

async fn subscribe(
    server: &Server,
    consumer: &str,
    shard: &str,
    kind_of_start: ShardIteratorType,
    sequence_number: Option<&str>,
) -> Result<Events, String> {
    let position = StartingPosition::builder()
        .r#type(kind_of_start)
        .set_sequence_number(sequence_number.map(str::to_owned))
        .build()
        .unwrap();
    let call = server.client.subscribe_to_shard().consumer_arn(consumer).shard_id(shard);
    match call.starting_position(position).send().await {
        Ok(output) => Ok(output.event_stream),
        Err(error) => Err(kind(&error).to_owned()),
    }
}

/// The next event; `None` at the end of the subscription.
async fn next_event(events: &mut Events) -> Option<SubscribeToShardEvent> {
    let event =
        tokio::time::timeout(Duration::from_secs(15), events.recv()).await.expect("an event within 15 s");
    match event {
        Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => Some(event),
        Ok(Some(other)) => panic!("unknown event {other:?}"),
        Ok(None) => None,
        Err(error @ SdkError::ServiceError(_)) => panic!("{error:?}"),
        Err(error) => panic!("broken subscription: {error:?}"),
    }
}

/// The next event that has records.
async fn next_records(events: &mut Events) -> SubscribeToShardEvent {
    loop {
        let event = next_event(events).await.expect("the subscription goes on");
        if !event.records.is_empty() {
            return event;
        }
    }
}
