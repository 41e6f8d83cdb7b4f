//! What must hold in every state.

use stateright::{Model, Property};

use super::bounds::Bounds;
use super::made::copied;
use super::{Todo, World};
use crate::shard::Checkpoint;

/// Records as bits: the models have few, and this is asked of every state.
fn bits<'a>(records: impl IntoIterator<Item = &'a u8>) -> u64 {
    records.into_iter().fold(0, |bits, record| bits | 1 << record)
}

pub(super) fn all() -> Vec<Property<Bounds>> {
    vec![
        // Where the whole row is deleted rows may be written again, in a batch of other ends; they are never lost.
        Property::always("no record is doubled", |_, world: &World| {
            let (lake, rows) = (bits(world.objects.values().flatten()), world.objects.values().map(Vec::len));
            world.deleted || lake.count_ones() as usize == rows.sum::<usize>()
        }),
        Property::always("a record below the checkpoint is delivered", |model: &Bounds, world: &World| {
            let there = bits(world.objects.values().flatten()) | bits(&world.accepted);
            let left_out = |record| model.transforms.iter().any(|made| made.leaves_out(record));
            (1..=model.done_up_to(&world.row.0)).all(|record| there >> record & 1 == 1 || left_out(record))
        }),
        Property::always("every copy is of rows that are there", |_, world: &World| {
            world
                .copies
                .iter()
                .all(|(key, copy)| world.objects.get(key).is_some_and(|records| copied(records) == *copy))
        }),
        // A Java worker may checkpoint what ours has prepared: what it took is its own, and the rest is repaired after that.
        Property::always("a copy below the checkpoint is there", |model: &Bounds, world: &World| {
            let done = model.done_up_to(&world.row.0);
            let settled = world.forgot == 0 || world.row.0.checkpoint == Checkpoint::ShardEnd;
            let all_copy = model.copies.len() == model.transforms.len() && !model.copies.contains(&false);
            let copies = bits(world.copies.values().flatten());
            !settled || !all_copy || {
                let rows = world.objects.values().flat_map(|records| copied(records));
                let mut ours = rows.filter(|record| *record <= done && !world.accepted.contains(record));
                ours.all(|record| copies >> record & 1 == 1)
            }
        }),
        Property::always("the checkpoint never moves back", |model: &Bounds, world: &World| {
            model.done_up_to(&world.row.0) >= world.checkpoint_high
        }),
        Property::always("no shard ends before its children have leases", |_, world: &World| {
            world.children || world.row.0.checkpoint != Checkpoint::ShardEnd
        }),
        Property::always("nobody is stuck", |model: &Bounds, world: &World| {
            let mut acts = Vec::new();
            model.actions(world, &mut acts);
            !acts.is_empty() || model.done(world)
        }),
        Property::always("a shard halts only when its records are gone", |_, world: &World| {
            world.trimmed > 0 || world.workers.iter().flatten().all(|p| p.step != Todo::Halted)
        }),
        Property::sometimes("a shard ends", |_, world: &World| {
            world.row.0.checkpoint == Checkpoint::ShardEnd
        }),
        Property::sometimes("a batch is finished by another worker", |_, world: &World| {
            world.workers.iter().flatten().any(|p| matches!(p.step, Todo::Rebuild { generation: 0, .. }))
        }),
    ]
}
