//! What is checked within which bounds, and which planted bugs must be found.

use stateright::{Checker, HasDiscoveries, Model};

use super::bounds::Bounds;
use super::made::Made::{self, LeavesOut, One, Streamed, TakesWhole, Turned, Two};
use crate::checkpoint::PendingFormat;

const TURNED: Made = Turned { named_so: true };
const TURNED_UNNAMED: Made = Turned { named_so: false };
const FORMATS: [PendingFormat; 2] = [PendingFormat::One, PendingFormat::Two];

/// A wrong protocol may have states without end: the first failure is enough.
fn check(bounds: Bounds) -> impl Checker<Bounds> {
    bounds.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
}

fn assert_fails(bounds: Bounds, property: &'static str) {
    let found = bounds.checker().threads(2).finish_when(HasDiscoveries::AnyOf([property].into()));
    let found = found.spawn_bfs().join();
    assert!(found.discovery(property).is_some(), "the planted bug was not found by \"{property}\"");
}

#[test]
fn one_transform_survives_everything() {
    let checked = check(Bounds::default());
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn two_transforms_survive_everything() {
    let checked = check(Bounds { transforms: vec![One, Two], ..Bounds::default() });
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn vanished_records_are_never_skipped_in_silence() {
    for format in FORMATS {
        let checked = check(Bounds { format, crashes: 1, trims: 1, ..Bounds::takeovers(vec![One, Two]) });
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
}

#[test]
fn without_create_only_a_zombie_doubles_records() {
    let bounds = Bounds { create_only: false, ..Bounds::takeovers(vec![One, Two]) };
    assert_fails(bounds, "no record is doubled");
}

#[test]
fn without_the_condition_a_zombie_moves_the_checkpoint_back() {
    assert_fails(
        Bounds { records: 3, conditional: false, ..Bounds::takeovers(vec![One, One]) },
        "the checkpoint never moves back",
    );
}

#[test]
fn sealing_without_saying_so_loses_records() {
    let bounds = Bounds {
        takes: 3,
        seal_declared: false,
        existing_checked: false,
        ..Bounds::takeovers(vec![One, Two, One])
    };
    assert_fails(bounds, "a record below the checkpoint is delivered");
}

/// Up to batches that have no objects at all, beside workers that make rows of all records.
#[test]
fn records_without_rows_survive_everything() {
    for transforms in [vec![LeavesOut, LeavesOut], vec![LeavesOut, Two], vec![One, LeavesOut]] {
        let checked = check(Bounds { transforms, lost_answers: 0, ..Bounds::default() });
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
    for format in FORMATS {
        for transforms in [vec![LeavesOut, One], vec![Streamed, LeavesOut]] {
            let checked = check(Bounds { format, trims: 1, crashes: 1, ..Bounds::takeovers(transforms) });
            checked.assert_properties();
        }
    }
}

#[test]
fn a_delivery_stream_survives_everything() {
    let checked = check(Bounds { transforms: vec![Streamed, Streamed], ..Bounds::default() });
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn lake_and_delivery_stream_survive_each_other() {
    let checked = check(Bounds { transforms: vec![One, Streamed], ..Bounds::default() });
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn vanished_records_of_a_delivery_stream_are_never_skipped_in_silence() {
    let bounds = Bounds { crashes: 1, trims: 1, ..Bounds::takeovers(vec![One, Streamed]) };
    let checked = check(bounds);
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn taking_the_objects_for_the_whole_batch_loses_records() {
    let bounds = Bounds { crashes: 1, streamed_told: false, ..Bounds::takeovers(vec![One, Streamed]) };
    assert_fails(bounds, "a record below the checkpoint is delivered");
    let bounds =
        Bounds { crashes: 1, trims: 1, streamed_told: false, ..Bounds::takeovers(vec![Streamed, Streamed]) };
    assert_fails(bounds, "a record below the checkpoint is delivered");
}

#[test]
fn transforms_with_the_same_keys_and_other_rows_survive_each_other() {
    for format in FORMATS {
        let checked = check(Bounds { format, crashes: 1, ..Bounds::takeovers(vec![Two, TURNED]) });
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
}

/// A build moved a record between two objects and kept its name. The proof alone tells; without one it takes a look at
/// what exists, which a request on its way can outrun.
#[test]
fn a_build_that_keeps_its_name_is_told_by_its_objects() {
    let bounds =
        |format| Bounds { format, existing_checked: false, ..Bounds::takeovers(vec![Two, TURNED_UNNAMED]) };
    let checked = check(bounds(PendingFormat::Two));
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
    assert_fails(bounds(PendingFormat::One), "no record is doubled");
}

#[test]
fn what_is_forgotten_is_written_again_and_never_lost() {
    for format in FORMATS {
        for transforms in [vec![One, One], vec![One, Two], vec![Two, TURNED_UNNAMED]] {
            let checked = check(Bounds { format, takes: 3, forgets: 1, ..Bounds::takeovers(transforms) });
            checked.assert_properties();
            println!("{} states", checked.unique_state_count());
        }
    }
}

/// One worker prepares, the next seals and gets no further, the batch is forgotten: the third must not take the seal for
/// its own object.
#[test]
fn believing_in_an_empty_seal_loses_records() {
    for format in FORMATS {
        let bounds = Bounds {
            format,
            takes: 3,
            forgets: 1,
            existing_checked: false,
            ..Bounds::takeovers(vec![One, Two])
        };
        assert_fails(bounds, "a record below the checkpoint is delivered");
    }
}

#[test]
fn looking_for_the_first_object_only_loses_records() {
    for format in FORMATS {
        let bounds =
            Bounds { format, crashes: 1, trims: 1, all_found: false, ..Bounds::takeovers(vec![Two, Two]) };
        assert_fails(bounds, "a record below the checkpoint is delivered");
    }
}

/// A batch whose pending trio is gone is still known by the row.
#[test]
fn forgetting_what_was_prepared_doubles_records() {
    let bounds =
        |remembered| Bounds { takes: 3, forgets: 1, remembered, ..Bounds::takeovers(vec![Made::One; 2]) };
    assert_fails(bounds(false), "no record is doubled");
    check(bounds(true)).assert_properties();
}

/// Each worker copies rows, over every way to bring a batch to its end: its own, another's, a repair, records that are gone,
/// a batch that was forgotten.
#[test]
fn copies_survive_everything() {
    let both = |bounds: Bounds| Bounds { copies: vec![true; bounds.transforms.len()], ..bounds };
    for bounds in [
        Bounds::default(),
        Bounds { lost_answers: 0, ..Bounds { transforms: vec![One, Two], ..Bounds::default() } },
        Bounds { crashes: 1, trims: 1, ..Bounds::takeovers(vec![One, Two]) },
        Bounds { crashes: 1, ..Bounds::takeovers(vec![Two, TURNED]) },
        Bounds { takes: 3, forgets: 1, ..Bounds::takeovers(vec![One, Two]) },
        Bounds { format: PendingFormat::One, takes: 3, forgets: 1, ..Bounds::takeovers(vec![One, One]) },
    ] {
        let checked = check(both(bounds));
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
}

/// Beside workers that copy nothing, as while the setting is rolled out, a copy may be missing; none is doubled or of
/// another row.
#[test]
fn copies_beside_workers_without_them_are_of_rows_that_are_there() {
    for copies in [vec![true, false], vec![false, true]] {
        let checked = check(Bounds { copies, ..Bounds { transforms: vec![One, Two], ..Bounds::default() } });
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
}

#[test]
fn copies_that_are_left_out_once_are_missing() {
    let both = |bounds: Bounds| Bounds { crashes: 1, trims: 1, copies: vec![true; 2], ..bounds };
    for bounds in [
        Bounds { copies_created: false, ..Bounds::takeovers(vec![One, One]) },
        Bounds { copies_found: false, ..Bounds::takeovers(vec![One, One]) },
        Bounds { copies_read: false, ..Bounds::takeovers(vec![One, Two]) },
    ] {
        assert_fails(both(bounds), "a copy below the checkpoint is there");
    }
}

/// Batches end amid aggregates, are taken over there, repaired, forgotten, and taken on by Java workers.
#[test]
fn aggregates_survive_everything() {
    let packed = |records, packed, bounds: Bounds| Bounds { packed, records, ..bounds };
    for bounds in [
        packed(2, 2, Bounds { lost_answers: 0, ..Bounds::default() }),
        packed(3, 3, Bounds { crashes: 1, trims: 1, ..Bounds::takeovers(vec![One, Two]) }),
        packed(4, 2, Bounds::takeovers(vec![Two, TURNED_UNNAMED])),
        packed(3, 3, Bounds { takes: 3, forgets: 1, ..Bounds::takeovers(vec![One, One]) }),
        packed(3, 3, Bounds { crashes: 1, ..Bounds::takeovers(vec![Streamed, One]) }),
    ] {
        let checked = check(bounds);
        checked.assert_properties();
        println!("{} states", checked.unique_state_count());
    }
}

/// While builds that unpack and others are in one fleet: what the others left is gone on from, and they leave alone what
/// they do not understand.
#[test]
fn builds_that_do_not_unpack_are_gone_on_from() {
    for format in FORMATS {
        for transforms in [vec![TakesWhole, One], vec![TakesWhole, Two], vec![One, TakesWhole]] {
            let bounds = Bounds { format, records: 4, packed: 2, ..Bounds::takeovers(transforms) };
            let checked = check(Bounds { crashes: 1, ..bounds });
            checked.assert_properties();
            println!("{} states", checked.unique_state_count());
        }
    }
}

#[test]
fn taking_a_whole_aggregate_for_its_first_record_doubles_records() {
    let bounds = Bounds { records: 4, packed: 2, ..Bounds::takeovers(vec![TakesWhole, One]) };
    assert_fails(Bounds { whole_told: false, ..bounds }, "no record is doubled");
}

#[test]
fn ending_at_the_first_record_of_an_aggregate_loses_records() {
    let bounds = Bounds { records: 2, packed: 2, ..Bounds::takeovers(vec![One, One]) };
    assert_fails(Bounds { ends_at_first: true, ..bounds }, "a record below the checkpoint is delivered");
}

#[test]
fn unpacking_without_saying_so_doubles_records() {
    let bounds = Bounds { packed: 2, ..Bounds::takeovers(vec![One, TakesWhole]) };
    assert_fails(Bounds { unpacking_told: false, ..bounds }, "no record is doubled");
}
