//! The handle and the state behind it, without HTTP.

use super::*;

const HOUR_US: i64 = 3_600_000_000;

fn kinesis(shards: u32) -> Kinesis {
    let kinesis = Kinesis::new(KinesisSettings::default());
    kinesis.create_stream("s", shards).unwrap();
    kinesis
}

fn put_many(kinesis: &Kinesis, count: usize) -> Vec<SequenceNumber> {
    (0..count)
        .map(|i| kinesis.put("s", &format!("key-{i}"), format!("data-{i}").as_bytes()).unwrap())
        .collect()
}

/// Records per shard as `visit` shows them.
fn all(kinesis: &Kinesis) -> BTreeMap<ShardId, Vec<StoredRecord>> {
    let mut shards: BTreeMap<ShardId, Vec<StoredRecord>> = BTreeMap::new();
    kinesis.visit("s", |_| 0, |shard, record| shards.entry(shard.clone()).or_default().push(record)).unwrap();
    shards
}

#[test]
fn the_handle_counts_what_a_checkpoint_covers() {
    let kinesis = kinesis(2);
    put_many(&kinesis, 100);
    let [low, high] = kinesis.open_shards("s").unwrap().try_into().unwrap();
    kinesis.split("s", &low).unwrap();
    put_many(&kinesis, 100);
    assert_eq!(kinesis.count("s").unwrap(), 200);
    let shards = all(&kinesis);
    assert_eq!(shards.len(), 4);
    for (shard, records) in &shards {
        for (i, record) in records.iter().enumerate() {
            let covered = u64::try_from(i).unwrap() + 1;
            assert_eq!(kinesis.count_up_to("s", shard, &record.sequence_number).unwrap(), covered);
            assert_eq!(record.number, covered);
        }
        assert_eq!(kinesis.count_up_to("s", shard, &SequenceNumber::from(7)).unwrap(), 0);
        let above = SequenceNumber::parse(&"9".repeat(56)).unwrap();
        assert_eq!(kinesis.count_up_to("s", shard, &above).unwrap(), records.len() as u64);
    }
    assert_eq!(
        kinesis.count_up_to("s", &ShardId::new("shardId-x"), &SequenceNumber::from(7)).unwrap_err().status,
        400
    );
    assert!(shards[&high].windows(2).all(|pair| pair[0].sequence_number < pair[1].sequence_number));
    let mut rest = Vec::new();
    let all_but_one = |shard: &ShardId| shards[shard].len() as u64 - 1;
    kinesis.visit("s", all_but_one, |shard, record| rest.push((shard.clone(), record.number))).unwrap();
    let last = shards.iter().map(|(shard, records)| (shard.clone(), records.len() as u64));
    assert!(rest.into_iter().eq(last));
}

#[test]
fn children_come_after_their_parents_and_cover_their_range() {
    let kinesis = kinesis(1);
    let before = put_many(&kinesis, 10);
    let root = kinesis.open_shards("s").unwrap().remove(0);
    let [low, high] = kinesis.split("s", &root).unwrap();
    let between = put_many(&kinesis, 10);
    let merged = kinesis.merge("s", &high, &low).unwrap();
    let after = put_many(&kinesis, 10);
    assert!(before.iter().max() < between.iter().min() && between.iter().max() < after.iter().min());
    assert_eq!(kinesis.open_shards("s").unwrap(), [merged]);
    assert_eq!(kinesis.split("s", &root).unwrap_err().kind, "ResourceInUseException");
    assert_eq!(kinesis.merge("s", &low, &high).unwrap_err().kind, "ResourceInUseException");
}

#[test]
fn retention_takes_records_first_and_closed_shards_with_them() {
    let stream = Stream::new("s", "us-east-1", 1, 0);
    let put = |now_us| {
        let shard = Arc::clone(stream.layout().route(0));
        shard.put(Bytes::from_static(b"k"), Bytes::from_static(b"AAAA"), now_us, None).unwrap()
    };
    put(HOUR_US);
    put(2 * HOUR_US);
    stream.split("shardId-000000000000", 1 << 100, 3 * HOUR_US).unwrap();
    put(4 * HOUR_US);
    let known = |now_us| -> Vec<u32> { stream.layout().known(now_us).map(|shard| shard.index).collect() };
    assert_eq!(known(26 * HOUR_US), [0, 1, 2]);
    let parent = stream.shard("shardId-000000000000", 26 * HOUR_US).unwrap();
    assert_eq!(parent.page(0, 10, 1_000, stream.layout().oldest_us(26 * HOUR_US)).run.first, 2);
    assert_eq!(known(27 * HOUR_US + 1), [1, 2], "the parent was closed 24 hours ago");
    assert!(stream.shard("shardId-000000000000", 27 * HOUR_US + 1).is_err());
    stream.layout_mut().retention_hours = 48;
    assert_eq!(known(40 * HOUR_US), [0, 1, 2], "a longer retention shows it again, without what was trimmed");
    assert!(parent.page(0, 10, 1_000, i64::MIN).run.records.is_empty());
}

#[test]
fn at_every_time_the_open_shards_cover_all_hash_keys() {
    let stream = Stream::new("s", "us-east-1", 3, 1_000);
    // Several generations within one tick of the clock.
    for target in [4, 2, 3, 6, 5] {
        stream.resize(target, 0, false, 1_000).unwrap();
    }
    let layout = stream.layout();
    assert_eq!(layout.open_count(), 5);
    let latest = layout.all().iter().map(|shard| shard.created_us).max().unwrap();
    for now_us in 1_000..=latest {
        let mut ranges: Vec<_> =
            layout.all().iter().filter(|shard| shard.open_at(now_us)).map(|shard| shard.range).collect();
        ranges.sort_by_key(|range| range.start);
        assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, u128::MAX));
        assert!(ranges.windows(2).all(|pair| pair[0].end + 1 == pair[1].start));
    }
    for shard in layout.all().iter().skip(3) {
        let parent = shard.parent.expect("only the first three have no parent");
        assert!(layout.all()[parent as usize].closed_us() <= Some(shard.created_us));
    }
}

#[test]
fn a_stream_grows_to_double_and_shrinks_to_half() {
    let stream = Stream::new("s", "us-east-1", 4, 0);
    for target in [0, 1, 4, 9] {
        assert_eq!(
            stream.resize(target, 0, false, 0).unwrap_err().kind,
            "InvalidArgumentException",
            "{target}"
        );
    }
    assert_eq!(stream.resize(8, 0, false, 0), Ok(4));
    assert_eq!(stream.resize(4, 0, false, 0), Ok(8));
}

#[test]
fn a_stream_changes_its_shards_one_use_after_the_other_and_ten_times_a_day() {
    const HOUR: i64 = 3_600_000_000;
    let stream = Stream::new("s", "us-east-1", 1, 0);
    assert_eq!(stream.resize(2, 50, true, 0), Ok(1));
    assert!(stream.layout().updating(49) && !stream.layout().updating(50));
    for refused in [
        stream.resize(4, 0, true, 49).unwrap_err(),
        stream.split("shardId-000000000001", 7, 49).unwrap_err(),
        stream.merge("shardId-000000000001", "shardId-000000000002", 49).unwrap_err(),
    ] {
        assert_eq!(refused.kind, "ResourceInUseException", "{refused}");
    }
    for hour in 1..10 {
        stream.resize(if hour % 2 == 0 { 2 } else { 4 }, 0, true, hour * HOUR).unwrap();
    }
    assert_eq!(stream.resize(2, 0, true, 24 * HOUR - 1).unwrap_err().kind, "LimitExceededException");
    assert_eq!(stream.resize(2, 0, true, 24 * HOUR), Ok(4), "the first use is a day ago");
    assert_eq!(stream.resize(4, 0, true, 24 * HOUR).unwrap_err().kind, "LimitExceededException");
    assert_eq!(stream.resize(4, 0, false, 24 * HOUR), Ok(2), "without limits");
    stream.layout_mut().on_demand = true;
    assert_eq!(stream.resize(2, 0, false, 24 * HOUR).unwrap_err().kind, "ValidationException");
}

#[test]
fn names_are_checked() {
    let kinesis = kinesis(1);
    assert_eq!(kinesis.create_stream("s", 1).unwrap_err().kind, "ResourceInUseException");
    assert_eq!(kinesis.create_stream("a b", 1).unwrap_err().kind, "ValidationException");
    assert_eq!(kinesis.create_stream("", 1).unwrap_err().kind, "ValidationException");
    assert_eq!(kinesis.create_stream("t", 0).unwrap_err().kind, "ValidationException");
    assert_eq!(kinesis.create_stream("t", 1_000_000).unwrap_err().kind, "LimitExceededException");
    assert_eq!(kinesis.put("t", "k", b"").unwrap_err().kind, "ResourceNotFoundException");
}
