//! Packs records as the Kinesis Producer Library (KPL) does: into aggregates whose records all belong to one shard. Pure;
//! written apart from what reads aggregates, so that they cannot share a mistake.

use md5::{Digest, Md5};

/// Partition key of an aggregate: its explicit hash key says where it goes.
pub(super) const PARTITION_KEY: &str = "a";

/// The KPL goes up to 50 KiB and lets a larger record go alone.
const BYTES_MAX: usize = 50 << 10;

/// Each so many records one goes alone, as from a producer without aggregation: both kinds are in one stream.
const ALONE_EVERY: usize = 10;

/// Records of one shard that are being packed.
#[derive(Debug, Default)]
pub struct Aggregate {
    keys: Vec<u8>,
    records: Vec<u8>,
    count: u32,
}

impl Aggregate {
    /// Adds a record.
    pub fn push(&mut self, partition_key: &str, data: &[u8]) {
        bytes_field(&mut self.keys, 1, partition_key.as_bytes());
        let mut record = Vec::with_capacity(data.len() + 16);
        // Each has a key of its own, as the records of different items do.
        record.push(0x08);
        varint(&mut record, u64::from(self.count));
        bytes_field(&mut record, 3, data);
        bytes_field(&mut self.records, 3, &record);
        self.count += 1;
    }

    /// The payload of the stream record.
    pub fn finish(self) -> Vec<u8> {
        let message = [self.keys, self.records].concat();
        let mut payload = b"\xf3\x89\x9a\xc2".to_vec();
        payload.extend_from_slice(&message);
        payload.extend_from_slice(&Md5::digest(&message));
        payload
    }
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// The open shards of a stream, by their hash keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShardMap(Vec<(String, u128, u128)>);

impl ShardMap {
    /// Of open shards: id, first and last hash key.
    pub(super) fn new(shards: Vec<(String, u128, u128)>) -> Self {
        Self(shards)
    }

    /// Which shard takes a partition key.
    fn of(&self, partition_key: &str) -> Option<usize> {
        let hash_key = u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into());
        self.0.iter().position(|(_, first, last)| (*first..=*last).contains(&hash_key))
    }
}

/// Records to be put as one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Which of the records, in their order.
    pub(super) records: Vec<usize>,
    /// The shard that is to take them and its first hash key; `None`: one record goes by its own key.
    pub(super) shard: Option<(String, u128)>,
}

/// How records, by partition key and size, are packed, up to `most` in one.
pub(super) fn group<'a>(
    records: impl Iterator<Item = (&'a str, usize)>,
    shards: &ShardMap,
    most: usize,
) -> Vec<Group> {
    let mut open: Vec<(Vec<usize>, usize)> = vec![(Vec::new(), 0); shards.0.len()];
    let mut groups = Vec::new();
    let close = |shard: usize, records: Vec<usize>| {
        let (id, first, _) = &shards.0[shard];
        Group { shard: (records.len() > 1).then(|| (id.clone(), *first)), records }
    };
    for (index, (partition_key, bytes)) in records.enumerate() {
        let Some(shard) = shards.of(partition_key).filter(|_| index % ALONE_EVERY != ALONE_EVERY - 1) else {
            groups.push(Group { records: vec![index], shard: None });
            continue;
        };
        let (records, total) = &mut open[shard];
        if !records.is_empty() && (records.len() >= most || *total + bytes > BYTES_MAX) {
            groups.push(close(shard, std::mem::take(records)));
            *total = 0;
        }
        records.push(index);
        *total += bytes;
    }
    let rest = open.into_iter().enumerate().filter(|(_, (records, _))| !records.is_empty());
    groups.extend(rest.map(|(shard, (records, _))| close(shard, records)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `aws_kinesis_agg` 1.2.3 of the same two records, of one key each.
    #[test]
    fn bytes_are_those_of_another_writer() {
        let mut aggregate = Aggregate::default();
        aggregate.push("pk1", b"{\"a\":1}");
        aggregate.push("pk2", b"");
        let expected = "f3899ac20a03706b310a03706b321a0b08001a077b2261223a317d1a0408011a00";
        let payload = aggregate.finish();
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.strip_prefix(expected).map(str::len), Some(32), "{hex}");
    }

    #[test]
    fn records_of_one_shard_go_together() {
        let middle = u128::MAX / 2;
        let shards = ShardMap::new(vec![("low".into(), 0, middle), ("high".into(), middle + 1, u128::MAX)]);
        // MD5 of "a" begins with 0c, that of "b" with 92.
        let keys = ["a", "b", "a", "a", "a", "b", "b"];
        let grouped = |most| group(keys.iter().map(|key| (*key, 100)), &shards, most);
        let of = |records: &[usize], shard: Option<(&str, u128)>| Group {
            records: records.to_vec(),
            shard: shard.map(|(id, first)| (id.to_owned(), first)),
        };
        let (low, high) = (Some(("low", 0)), Some(("high", middle + 1)));
        assert_eq!(grouped(100), [of(&[0, 2, 3, 4], low), of(&[1, 5, 6], high)]);
        assert_eq!(grouped(3), [of(&[0, 2, 3], low), of(&[4], None), of(&[1, 5, 6], high)]);
        let large = group([("a", 30 << 10), ("a", 30 << 10), ("a", 1)].into_iter(), &shards, 100);
        assert_eq!(large, [of(&[0], None), of(&[1, 2], low)]);
        let many = group(std::iter::repeat_n(("a", 1), 20), &shards, 100);
        assert_eq!(many.iter().filter(|group| group.shard.is_none()).count(), 2, "{many:?}");
        let unknown = group([("a", 1), ("a", 1)].into_iter(), &ShardMap::default(), 100);
        assert_eq!(unknown, [of(&[0], None), of(&[1], None)]);
    }
}
