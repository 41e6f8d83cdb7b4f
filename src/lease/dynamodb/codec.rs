//! Lease rows as DynamoDB items: the attributes of KCL's `DynamoDBLeaseSerializer` with their exact types, and
//! each write as an update expression. Pure.

use aws_sdk_dynamodb::types::AttributeValue;

use super::item::{
    ENTITY_LEASE, ENTITY_TYPE, Item, LEASE_KEY, NotUnderstood, Update, b, measured, n, number, s, text,
};
use super::layout::Layout;
use crate::lease::key::LeaseKey;
use crate::lease::row::{LastPrepared, Lease, Pending, WorkerId};
use crate::lease::write::{LeaseWrite, counts_as_switch, moves_with};
use crate::lease::{CaughtUp, Delivered};
use crate::shard::{Checkpoint, HashKeyRange, SequenceNumber, ShardId, WrittenBy};

pub(super) const LEASE_OWNER: &str = "leaseOwner";
const LEASE_COUNTER: &str = "leaseCounter";
const OWNER_SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
const CHECKPOINT: &str = "checkpoint";
const CHECKPOINT_SUB: &str = "checkpointSubSequenceNumber";
const PENDING: &str = "pendingCheckpoint";
const PENDING_SUB: &str = "pendingCheckpointSubSequenceNumber";
const PENDING_STATE: &str = "pendingCheckpointState";
/// A map: the pending trio under its own names, and the checkpoint at that time.
const LAST_PREPARED: &str = "kinetideLastPrepared";
const PARENTS: &str = "parentShardId";
const CHILDREN: &str = "childShardIds";
const HASH_START: &str = "startingHashKey";
const HASH_END: &str = "endingHashKey";
const THROUGHPUT: &str = "throughputKBps";
const MOVES: &str = "kinetideMoves";
/// With the stream in the key (`DynamoDBMultiStreamLeaseSerializer`).
const STREAM_NAME: &str = "streamName";
const SHARD_ID: &str = "shardId";
const STREAM: &str = "kinetideStream";
const START: &str = "kinetideStart";
/// A map: the checkpoint, `at` (µs since the epoch), `retentionHours`.
const CAUGHT_UP: &str = "kinetideCaughtUp";
/// A map: the checkpoint, `at` (µs since the epoch).
const DELIVERED: &str = "kinetideDelivered";
/// A map: the checkpoint, `epoch`.
const LEADER_EPOCH: &str = "kinetideLeaderEpoch";
const EPOCH: &str = "epoch";
const AT: &str = "at";
const RETENTION: &str = "retentionHours";
const CHECKPOINT_OWNER: &str = "checkpointOwner";
/// Reads the row of a lease.
///
/// A `pendingCheckpointState` that is not binary is ignored: KCL's create path writes a number there.
/// Attributes that only tune balancing are ignored when malformed.
pub(super) fn decode(item: &Item) -> Result<Lease, NotUnderstood> {
    let key = text(item, LEASE_KEY)?.ok_or(NotUnderstood::Missing(LEASE_KEY))?;
    let counter = number(item, LEASE_COUNTER)?.ok_or(NotUnderstood::Missing(LEASE_COUNTER))?;
    let done = checkpoint(item, CHECKPOINT, CHECKPOINT_SUB)?.ok_or(NotUnderstood::Missing(CHECKPOINT))?;
    let state = item.get(PENDING_STATE).and_then(|value| value.as_b().ok());
    let pending = checkpoint(item, PENDING, PENDING_SUB)?
        .map(|checkpoint| Pending { checkpoint, state: state.map(|bytes| bytes.as_ref().into()) });
    Ok(Lease {
        key: LeaseKey::parse(key),
        owner: text(item, LEASE_OWNER)?.map(WorkerId::new),
        counter,
        owner_switches: number(item, OWNER_SWITCHES)?.unwrap_or(0),
        checkpoint: done,
        pending,
        last_prepared: last_prepared(item),
        parents: shard_ids(item, PARENTS)?,
        children: shard_ids(item, CHILDREN)?,
        hash_range: hash_range(item)?,
        moves: number(item, MOVES).ok().flatten().unwrap_or(0),
        start_us: item.get(START).and_then(|value| value.as_n().ok()?.parse().ok()),
        caught_up: caught_up(item),
        delivered: delivered(item),
        written: written(item),
        throughput_kbps: item.get(THROUGHPUT).and_then(|value| value.as_n().ok()?.parse().ok()),
        stream: text(item, STREAM)?.map(Into::into),
        checkpoint_owner: text(item, CHECKPOINT_OWNER)?.map(WorkerId::new),
    })
}

/// A new row; with `entityType` where the table holds rows of other kinds too.
pub(super) fn encode(lease: &Lease, layout: Layout) -> Item {
    let mut item = Item::new();
    let mut put = |name: &str, value: AttributeValue| drop(item.insert(name.to_owned(), value));
    if layout == Layout::Single {
        put(ENTITY_TYPE, s(ENTITY_LEASE));
    }
    put(LEASE_KEY, s(lease.key.as_str()));
    if let Some(stream) = lease.key.stream() {
        put(STREAM_NAME, s(stream.to_string()));
        put(SHARD_ID, s(lease.key.shard().as_str()));
    }
    put(LEASE_COUNTER, n(lease.counter));
    put(OWNER_SWITCHES, n(lease.owner_switches));
    put(CHECKPOINT, s(lease.checkpoint.as_str()));
    put(CHECKPOINT_SUB, n(lease.checkpoint.sub()));
    if let Some(owner) = &lease.owner {
        put(LEASE_OWNER, s(owner.as_str()));
    }
    if let Some(owner) = &lease.checkpoint_owner {
        put(CHECKPOINT_OWNER, s(owner.as_str()));
    }
    if let Some(pending) = &lease.pending {
        put(PENDING, s(pending.checkpoint.as_str()));
        put(PENDING_SUB, n(pending.checkpoint.sub()));
        if let Some(state) = &pending.state {
            put(PENDING_STATE, b(state));
        }
    }
    if let Some(last) = &lease.last_prepared {
        put(LAST_PREPARED, AttributeValue::M(remembered(last)));
    }
    if !lease.parents.is_empty() {
        put(PARENTS, ss(&lease.parents));
    }
    if !lease.children.is_empty() {
        put(CHILDREN, ss(&lease.children));
    }
    if let Some(range) = &lease.hash_range {
        put(HASH_START, s(range.start.to_string()));
        put(HASH_END, s(range.end.to_string()));
    }
    if lease.moves > 0 {
        put(MOVES, n(lease.moves));
    }
    if let Some(stream) = &lease.stream {
        put(STREAM, s(&**stream));
    }
    if let Some(start_us) = lease.start_us {
        put(START, n(start_us));
    }
    if let Some(seen) = &lease.caught_up {
        put(CAUGHT_UP, at_the_tip(seen));
    }
    if let Some(delivered) = &lease.delivered {
        put(DELIVERED, arrived(delivered));
    }
    if let Some(written) = &lease.written {
        put(LEADER_EPOCH, by_leader(written));
    }
    if let Some(throughput) = lease.throughput_kbps {
        put(THROUGHPUT, measured(throughput));
    }
    item
}

/// Adds to the condition that the owner in `attribute` is as seen.
fn and_owner(out: &mut Update, attribute: &str, seen: Option<&WorkerId>) {
    let condition = match seen {
        Some(owner) => format!(" AND {attribute} = {}", out.value(attribute, s(owner.as_str()))),
        None => format!(" AND attribute_not_exists({attribute})"),
    };
    out.condition.push_str(&condition);
}

/// The condition that the row still has the counter seen: for updates and deletes.
pub(super) fn unmoved(seen: &Lease) -> Update {
    let mut update = Update::default();
    update.condition = format!("{LEASE_COUNTER} = {}", update.value("seen", n(seen.counter)));
    update
}

/// `write` as an update of the row that was `seen`; the same condition and effect as
/// [`holds`](crate::lease::holds) and [`apply`](crate::lease::apply).
pub(super) fn update(seen: &Lease, write: &LeaseWrite) -> Update {
    let mut out = unmoved(seen);
    let (mut set, mut remove, mut add) = (Vec::new(), Vec::new(), Vec::new());
    if write.moves_counter() {
        set.push(format!("{LEASE_COUNTER} = {}", out.value("next", n(seen.counter + 1))));
    }
    match write {
        LeaseWrite::Renew { kbps, caught_up } => {
            if seen.checkpoint_owner.is_none() {
                and_owner(&mut out, CHECKPOINT_OWNER, None);
            }
            // Whatever cannot be a throughput leaves the last one.
            if let Some(kbps) = kbps.filter(|kbps| kbps.is_finite() && *kbps >= 0.0) {
                set.push(format!("{THROUGHPUT} = {}", out.value("kbps", measured(kbps))));
            }
            if let Some(seen) = caught_up {
                set.push(format!("{CAUGHT_UP} = {}", out.value("caughtUp", at_the_tip(seen))));
            }
        }
        LeaseWrite::Assign(to) => {
            and_owner(&mut out, LEASE_OWNER, seen.owner.as_ref());
            and_owner(&mut out, CHECKPOINT_OWNER, seen.checkpoint_owner.as_ref());
            set.push(format!("{LEASE_OWNER} = {}", out.value("to", s(to.as_str()))));
            remove.push(CHECKPOINT_OWNER);
            set.push(format!("{MOVES} = {}", out.value("moves", n(moves_with(seen, to)))));
            if counts_as_switch(seen, to) {
                add.push(format!("{OWNER_SWITCHES} {}", out.value("one", n(1u64))));
            }
        }
        LeaseWrite::HandOff(to) => {
            // An owner's absence cannot be handed off; the condition then never holds.
            let from = seen.owner.as_ref().map_or("", WorkerId::as_str);
            let from = out.value("from", s(from));
            out.condition.push_str(&format!(" AND {LEASE_OWNER} = {from}"));
            and_owner(&mut out, CHECKPOINT_OWNER, None);
            set.push(format!("{LEASE_OWNER} = {}", out.value("to", s(to.as_str()))));
            set.push(format!("{CHECKPOINT_OWNER} = {from}"));
            set.push(format!("{MOVES} = {}", out.value("moves", n(moves_with(seen, to)))));
        }
        LeaseWrite::Evict => {
            and_owner(&mut out, LEASE_OWNER, seen.owner.as_ref());
            and_owner(&mut out, CHECKPOINT_OWNER, seen.checkpoint_owner.as_ref());
            if seen.checkpoint_owner.is_none() {
                remove.push(LEASE_OWNER);
            }
            remove.push(CHECKPOINT_OWNER);
        }
        LeaseWrite::Prepare { pending, epoch } => {
            set.push(format!("{OWNER_SWITCHES} = {}", out.value("zero", n(0u64))));
            let at = &pending.checkpoint;
            set.push(format!("{PENDING} = {}", out.value("pending", s(at.as_str()))));
            set.push(format!("{PENDING_SUB} = {}", out.value("pendingSub", n(at.sub()))));
            match &pending.state {
                Some(state) => set.push(format!("{PENDING_STATE} = {}", out.value("state", b(state)))),
                None => remove.push(PENDING_STATE),
            }
            match LastPrepared::of(pending, &seen.checkpoint) {
                Some(last) => {
                    let last = out.value("last", AttributeValue::M(remembered(&last)));
                    set.push(format!("{LAST_PREPARED} = {last}"));
                }
                None => remove.push(LAST_PREPARED),
            }
            if let Some(written) = WrittenBy::of(at, *epoch) {
                set.push(format!("{LEADER_EPOCH} = {}", out.value("written", by_leader(&written))));
            }
        }
        LeaseWrite::Commit { to: at, arrived_us, epoch } => {
            set.push(format!("{OWNER_SWITCHES} = {}", out.value("zero", n(0u64))));
            set.push(format!("{CHECKPOINT} = {}", out.value("checkpoint", s(at.as_str()))));
            set.push(format!("{CHECKPOINT_SUB} = {}", out.value("checkpointSub", n(at.sub()))));
            remove.extend([PENDING, PENDING_SUB, PENDING_STATE]);
            if seen.last_prepared.as_ref().is_some_and(|last| *at >= last.pending.checkpoint) {
                remove.push(LAST_PREPARED);
            }
            if let Some(delivered) = Delivered::of(at, *arrived_us) {
                set.push(format!("{DELIVERED} = {}", out.value("delivered", arrived(&delivered))));
            }
            match WrittenBy::of(at, *epoch) {
                Some(written) => {
                    set.push(format!("{LEADER_EPOCH} = {}", out.value("written", by_leader(&written))));
                }
                None if seen.written.is_some() => remove.push(LEADER_EPOCH),
                None => {}
            }
            // What a pin said of a start is over.
            if seen.start_us.is_some() {
                remove.push(START);
            }
        }
        LeaseWrite::Pin { checkpoint: at, start_us } => {
            set.push(format!("{CHECKPOINT} = {}", out.value("checkpoint", s(at.as_str()))));
            set.push(format!("{CHECKPOINT_SUB} = {}", out.value("checkpointSub", n(at.sub()))));
            match start_us {
                Some(start_us) => set.push(format!("{START} = {}", out.value("start", n(*start_us)))),
                None => remove.push(START),
            }
        }
        // DynamoDB has no empty sets.
        LeaseWrite::SetChildren(children) if children.is_empty() => remove.push(CHILDREN),
        LeaseWrite::SetChildren(children) => {
            set.push(format!("{CHILDREN} = {}", out.value("children", ss(children))));
        }
        LeaseWrite::Settle => remove.push(MOVES),
        LeaseWrite::SetHashRange(range) => {
            set.push(format!("{HASH_START} = {}", out.value("start", s(range.start.to_string()))));
            set.push(format!("{HASH_END} = {}", out.value("end", s(range.end.to_string()))));
        }
        LeaseWrite::SetStream(stream) => {
            out.condition.push_str(&format!(" AND attribute_not_exists({STREAM})"));
            set.push(format!("{STREAM} = {}", out.value("stream", s(&**stream))));
        }
    }
    let mut clauses = Vec::new();
    if !set.is_empty() {
        clauses.push(format!("SET {}", set.join(", ")));
    }
    if !remove.is_empty() {
        clauses.push(format!("REMOVE {}", remove.join(", ")));
    }
    if !add.is_empty() {
        clauses.push(format!("ADD {}", add.join(", ")));
    }
    out.update = clauses.join(" ");
    out
}

fn ss(ids: &[ShardId]) -> AttributeValue {
    AttributeValue::Ss(ids.iter().map(|id| id.as_str().to_owned()).collect())
}

fn checkpoint(
    item: &Item,
    name: &'static str,
    sub: &'static str,
) -> Result<Option<Checkpoint>, NotUnderstood> {
    let sub = number(item, sub)?.unwrap_or(0);
    match text(item, name)? {
        None => Ok(None),
        Some(text) => Checkpoint::parse(text, sub).map(Some).ok_or(NotUnderstood::Malformed(name)),
    }
}

fn remembered(last: &LastPrepared) -> Item {
    let LastPrepared { after, pending } = last;
    let mut item = Item::from([
        (CHECKPOINT.to_owned(), s(after.as_str())),
        (CHECKPOINT_SUB.to_owned(), n(after.sub())),
        (PENDING.to_owned(), s(pending.checkpoint.as_str())),
        (PENDING_SUB.to_owned(), n(pending.checkpoint.sub())),
    ]);
    if let Some(state) = &pending.state {
        item.insert(PENDING_STATE.to_owned(), b(state));
    }
    item
}

/// What is malformed is taken for nothing remembered: so would any row be that Java or an older build wrote.
fn last_prepared(item: &Item) -> Option<LastPrepared> {
    let item = item.get(LAST_PREPARED)?.as_m().ok()?;
    let after = checkpoint(item, CHECKPOINT, CHECKPOINT_SUB).ok()??;
    let end = checkpoint(item, PENDING, PENDING_SUB).ok()??;
    let state = item.get(PENDING_STATE).and_then(|value| value.as_b().ok());
    Some(LastPrepared {
        after,
        pending: Pending { checkpoint: end, state: state.map(|bytes| bytes.as_ref().into()) },
    })
}

fn at_the_tip(seen: &CaughtUp) -> AttributeValue {
    let mut item = Item::from([
        (CHECKPOINT.to_owned(), s(seen.after.sequence.as_str())),
        (AT.to_owned(), n(seen.at_us)),
        (RETENTION.to_owned(), n(seen.retention_hours)),
    ]);
    if seen.after.sub > 0 {
        item.insert(CHECKPOINT_SUB.to_owned(), n(seen.after.sub));
    }
    AttributeValue::M(item)
}

/// What is malformed is taken for nothing noted.
fn caught_up(item: &Item) -> Option<CaughtUp> {
    let item = item.get(CAUGHT_UP)?.as_m().ok()?;
    Some(CaughtUp {
        after: checkpoint(item, CHECKPOINT, CHECKPOINT_SUB).ok()??.position()?.clone(),
        at_us: item.get(AT)?.as_n().ok()?.parse().ok()?,
        retention_hours: item.get(RETENTION)?.as_n().ok()?.parse().ok()?,
    })
}

fn arrived(delivered: &Delivered) -> AttributeValue {
    AttributeValue::M(Item::from([
        (CHECKPOINT.to_owned(), s(delivered.upto.as_str())),
        (AT.to_owned(), n(delivered.at_us)),
    ]))
}

/// What is malformed is taken for nothing noted.
fn delivered(item: &Item) -> Option<Delivered> {
    let item = item.get(DELIVERED)?.as_m().ok()?;
    Some(Delivered {
        upto: SequenceNumber::parse(item.get(CHECKPOINT)?.as_s().ok()?)?,
        at_us: item.get(AT)?.as_n().ok()?.parse().ok()?,
    })
}

fn by_leader(written: &WrittenBy) -> AttributeValue {
    AttributeValue::M(Item::from([
        (CHECKPOINT.to_owned(), s(written.upto.as_str())),
        (EPOCH.to_owned(), n(written.epoch)),
    ]))
}

/// What is malformed is taken for nothing noted.
fn written(item: &Item) -> Option<WrittenBy> {
    let item = item.get(LEADER_EPOCH)?.as_m().ok()?;
    Some(WrittenBy {
        upto: SequenceNumber::parse(item.get(CHECKPOINT)?.as_s().ok()?)?,
        epoch: item.get(EPOCH)?.as_n().ok()?.parse().ok()?,
    })
}

fn shard_ids(item: &Item, name: &'static str) -> Result<Vec<ShardId>, NotUnderstood> {
    match item.get(name) {
        None => Ok(Vec::new()),
        Some(AttributeValue::Ss(ids)) => {
            // A set has no order of its own; rows must compare.
            let mut ids: Vec<ShardId> = ids.iter().map(|id| ShardId::new(id.as_str())).collect();
            ids.sort_unstable();
            Ok(ids)
        }
        Some(_) => Err(NotUnderstood::Malformed(name)),
    }
}

fn hash_range(item: &Item) -> Result<Option<HashKeyRange>, NotUnderstood> {
    let key = |name: &'static str| -> Result<Option<u128>, NotUnderstood> {
        text(item, name)?.map(|digits| digits.parse().map_err(|_| NotUnderstood::Malformed(name))).transpose()
    };
    Ok(key(HASH_START)?.zip(key(HASH_END)?).map(|(start, end)| HashKeyRange { start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Position, SequenceNumber};
    use proptest::prelude::*;

    fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
        prop_oneof![
            Just(Checkpoint::AtTimestamp),
            Just(Checkpoint::TrimHorizon),
            Just(Checkpoint::Latest),
            Just(Checkpoint::ShardEnd),
            (any::<u128>(), 0..i64::MAX.unsigned_abs())
                .prop_map(|(n, sub)| Checkpoint::At(Position { sequence: SequenceNumber::from(n), sub })),
        ]
    }

    fn any_ids() -> impl Strategy<Value = Vec<ShardId>> {
        prop::collection::btree_set("[a-z0-9-]{1,12}", 0..3)
            .prop_map(|ids| ids.into_iter().map(ShardId::new).collect())
    }

    fn any_lease() -> impl Strategy<Value = Lease> {
        let worker = || prop::option::of("[a-z0-9]{1,8}".prop_map(WorkerId::new));
        let state = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
        let pending = prop::option::of((any_checkpoint(), state));
        let last = (any_checkpoint(), any_checkpoint(), prop::collection::vec(any::<u8>(), 1..20));
        let range = prop::option::of((any::<u128>(), any::<u128>()));
        let numbers = (any::<u32>(), any::<u32>(), prop::option::of(0u32..1_000_000));
        (
            ("[a-z0-9-]{1,20}", numbers, any_checkpoint()),
            (worker(), worker(), pending, prop::option::of(last)),
            (any_ids(), any_ids(), range),
        )
            .prop_map(
                |(
                    (key, (counter, switches, kbps), checkpoint),
                    (owner, other, pending, last),
                    (parents, children, range),
                )| {
                    Lease {
                        key: LeaseKey::parse(&key),
                        owner,
                        counter: counter.into(),
                        owner_switches: switches.into(),
                        checkpoint,
                        pending: pending
                            .map(|(checkpoint, state)| Pending { checkpoint, state: state.map(Into::into) }),
                        last_prepared: last.map(|(after, end, state)| LastPrepared {
                            after,
                            pending: Pending { checkpoint: end, state: Some(state.into()) },
                        }),
                        parents,
                        children,
                        hash_range: range.map(|(start, end)| HashKeyRange { start, end }),
                        moves: switches.into(),
                        stream: (switches % 2 == 1).then(|| format!("1:trades:{switches}").into()),
                        start_us: kbps.map(|us| i64::from(us) - 1000),
                        caught_up: kbps.map(|n| CaughtUp {
                            after: u128::from(n).into(),
                            at_us: i64::from(n) - 1000,
                            retention_hours: n,
                        }),
                        delivered: kbps
                            .map(|n| Delivered { upto: u128::from(n).into(), at_us: i64::from(n) }),
                        written: kbps.map(|n| WrittenBy { upto: u128::from(n).into(), epoch: 7 }),
                        throughput_kbps: kbps.map(|kbps| f64::from(kbps) / 64.0),
                        checkpoint_owner: other,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(lease in any_lease()) {
            prop_assert_eq!(decode(&encode(&lease, Layout::Single)), Ok(lease));
        }
    }

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn legacy() -> Item {
        item(&[
            ("leaseKey", s("shardId-000000000000")),
            ("leaseCounter", n(7)),
            ("checkpoint", s("TRIM_HORIZON")),
            ("checkpointSubSequenceNumber", n(0)),
            ("ownerSwitchesSinceCheckpoint", n(0)),
        ])
    }

    #[test]
    fn wrong_types_are_named_and_harmless_ones_ignored() {
        for (name, value) in [
            ("leaseCounter", s("7")),
            ("leaseOwner", n(1)),
            ("checkpoint", s("FROM_MARS")),
            ("parentShardId", s("shardId-1")),
            ("checkpointOwner", s("")),
        ] {
            let mut row = legacy();
            row.insert(name.to_owned(), value);
            assert_eq!(decode(&row), Err(NotUnderstood::Malformed(name)));
        }
        let mut row = legacy();
        row.insert("pendingCheckpoint".into(), s("42"));
        row.insert("pendingCheckpointState".into(), n(3));
        row.insert("throughputKBps".into(), s("fast"));
        row.insert(
            "kinetideCaughtUp".into(),
            AttributeValue::M(item(&[("checkpoint", s("5")), ("at", s("now"))])),
        );
        row.insert("kinetideDelivered".into(), AttributeValue::M(item(&[("checkpoint", s("5"))])));
        row.insert("kinetideLeaderEpoch".into(), AttributeValue::M(item(&[("epoch", n(5))])));
        let lease = decode(&row).unwrap();
        assert_eq!(lease.pending.unwrap().state, None);
        assert_eq!((lease.throughput_kbps, lease.caught_up, lease.delivered), (None, None, None));
        assert_eq!(lease.written, None);
    }

    /// As `DynamoDBMultiStreamLeaseSerializer` reads it; a row of one stream has neither attribute.
    #[test]
    fn a_row_of_several_streams_names_its_stream_and_shard() {
        let mut lease = decode(&legacy()).unwrap();
        let row = encode(&lease, Layout::Single);
        assert!(!row.contains_key("streamName") && !row.contains_key("shardId"));
        lease.key = LeaseKey::parse("123456789012:trades:1768469400:shardId-000000000000");
        let row = encode(&lease, Layout::Single);
        assert_eq!(row["leaseKey"], s("123456789012:trades:1768469400:shardId-000000000000"));
        assert_eq!(row["streamName"], s("123456789012:trades:1768469400"));
        assert_eq!(row["shardId"], s("shardId-000000000000"));
        assert_eq!(decode(&row), Ok(lease));
    }

    #[test]
    fn expressions_read_as_in_the_table_of_writes() {
        let mut seen = decode(&legacy()).unwrap();
        let renew = update(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None });
        assert_eq!(renew.update, "SET leaseCounter = :next");
        assert_eq!(renew.condition, "leaseCounter = :seen AND attribute_not_exists(checkpointOwner)");
        assert_eq!(renew.values[":next"], n(8));

        let caught_up = CaughtUp { after: 42u128.into(), at_us: 7, retention_hours: 24 };
        let renew = update(&seen, &LeaseWrite::Renew { kbps: None, caught_up: Some(caught_up) });
        assert_eq!(renew.update, "SET leaseCounter = :next, kinetideCaughtUp = :caughtUp");
        let written = item(&[("checkpoint", s("42")), ("at", n(7)), ("retentionHours", n(24))]);
        assert_eq!(renew.values[":caughtUp"], AttributeValue::M(written));

        seen.owner = Some(WorkerId::new("a"));
        let take = update(&seen, &LeaseWrite::Assign(WorkerId::new("b")));
        assert_eq!(
            take.update,
            "SET leaseCounter = :next, leaseOwner = :to, kinetideMoves = :moves REMOVE checkpointOwner ADD ownerSwitchesSinceCheckpoint :one"
        );
        let owners_as_seen =
            "leaseCounter = :seen AND leaseOwner = :leaseOwner AND attribute_not_exists(checkpointOwner)";
        assert_eq!(take.condition, owners_as_seen);

        let hand_off = update(&seen, &LeaseWrite::HandOff(WorkerId::new("b")));
        assert_eq!(hand_off.update, "SET leaseOwner = :to, checkpointOwner = :from, kinetideMoves = :moves");
        assert_eq!(
            hand_off.condition,
            "leaseCounter = :seen AND leaseOwner = :from AND attribute_not_exists(checkpointOwner)"
        );

        let evict = update(&seen, &LeaseWrite::Evict);
        assert_eq!(evict.update, "SET leaseCounter = :next REMOVE leaseOwner, checkpointOwner");
        assert_eq!(evict.condition, owners_as_seen);

        // Streams without leaders have nothing of it in their rows, whatever is written.
        let at = |number: u128| Checkpoint::At(number.into());
        let epoch = update(&seen, &LeaseWrite::Commit { to: at(5), arrived_us: None, epoch: Some(3) });
        assert!(epoch.update.contains("kinetideLeaderEpoch = :written"), "{}", epoch.update);
        let written = item(&[("checkpoint", s("5")), ("epoch", n(3))]);
        assert_eq!(epoch.values[":written"], AttributeValue::M(written));
        assert!(!update(&seen, &LeaseWrite::commit(at(5))).update.contains("kinetideLeaderEpoch"));
        let known = Lease { written: WrittenBy::of(&at(4), Some(3)), ..seen.clone() };
        let forgets = update(&known, &LeaseWrite::commit(at(5))).update;
        assert!(forgets.contains("REMOVE") && forgets.contains("kinetideLeaderEpoch"), "{forgets}");

        let children = update(&seen, &LeaseWrite::SetChildren(vec![ShardId::new("c")]));
        assert_eq!(children.update, "SET childShardIds = :children");
        assert_eq!(children.condition, "leaseCounter = :seen");
    }
}
