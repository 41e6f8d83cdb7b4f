//! Which tables an application keeps its rows in, and whether its fleet works by rules that we follow. Pure.
//!
//! KCL 2.x has the lease table only. KCL 3.0 to 3.4 keep leader and workers in two more tables; KCL 3.5 keeps all in
//! the lease table, and moves older applications there by a migration that a Java leader drives.

use std::collections::BTreeMap;

use crate::lease::fleet::TableSnapshot;
use crate::lease::key::LeaseKey;
use crate::lease::row::WorkerId;

/// Key of the row that says by which rules the fleet works (`MigrationState`).
pub(super) const CLIENT_VERSION_ROW: &str = "Migration3.0";
/// What we write there for an application that has no such row.
pub(super) const CLIENT_VERSION_3X: &str = "CLIENT_VERSION_3X";
/// Key of the row that says how far the move to the single table is (`TableMigrationState`).
pub(super) const TABLE_MIGRATION_ROW: &str = "TableMigration3.5";

/// Where the rows of leader and workers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// All in the lease table: KCL 3.5.
    Single,
    /// In tables of their own: KCL 3.0 to 3.4, and 3.5 before its migration.
    Three,
}

/// One of KCL's two state rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// `cv` or `tm`.
    pub(super) name: String,
    /// `mb`: the worker or tool that wrote it.
    pub(super) by: String,
}

/// The layout of an application with (`legacy`) or without a table of its own for the coordinator's state, and the
/// state of its migration. An error says what to do.
///
/// In the state PENDING the rows of the coordinator have left their table and the lock has not, and it ends in a
/// change of layout under running workers; a Java leader finishes it in a day.
pub(super) fn layout(legacy: bool, migration: Option<&State>) -> Result<Layout, String> {
    if !legacy {
        return Ok(Layout::Single);
    }
    let Some(state) = migration else { return Ok(Layout::Three) };
    match state.name.as_str() {
        "TABLE_MIGRATION_STATUS_INIT" | "TABLE_MIGRATION_STATUS_DEPLOYED" => Ok(Layout::Three),
        "TABLE_MIGRATION_STATUS_COMPLETE" => Ok(Layout::Single),
        "TABLE_MIGRATION_STATUS_PENDING" => Err(format!(
            "its application is being migrated to a single table: row {TABLE_MIGRATION_ROW} is {state}; let \
             its Java workers finish the migration and start this worker when the row is \
             TABLE_MIGRATION_STATUS_COMPLETE, or roll the migration back"
        )),
        _ => Err(format!(
            "row {TABLE_MIGRATION_ROW} is {state}, which this version does not know; use a newer version of kinetide"
        )),
    }
}

/// Whether the fleet is known to work by the rules of KCL 3.x; false when it has not said. An error says what to do.
pub(super) fn works_as_3x(version: Option<&State>) -> Result<bool, String> {
    let Some(state) = version else { return Ok(false) };
    match state.name.as_str() {
        CLIENT_VERSION_3X | "CLIENT_VERSION_3X_WITH_ROLLBACK" => Ok(true),
        "CLIENT_VERSION_2X" => Err(format!(
            "its fleet runs in KCL 2.x mode: row {CLIENT_VERSION_ROW} is {state}; upgrade the fleet to KCL 3.x \
             first, or stop it and delete that row"
        )),
        "CLIENT_VERSION_INIT" | "CLIENT_VERSION_UPGRADE_FROM_2X" => Err(format!(
            "its fleet is being upgraded from KCL 2.x: row {CLIENT_VERSION_ROW} is {state}; start this worker when \
             the row is CLIENT_VERSION_3X_WITH_ROLLBACK or CLIENT_VERSION_3X"
        )),
        _ => Err(format!(
            "row {CLIENT_VERSION_ROW} is {state}, which this version does not know; use a newer version of kinetide"
        )),
    }
}

/// The leases whose owner has no row as a worker, with their counters: those of dead workers, or of a fleet that
/// works by the rules of KCL 2.x and says so nowhere.
pub(super) fn unreported(table: &TableSnapshot) -> BTreeMap<LeaseKey, u64> {
    let leases =
        table.leases.iter().filter(|lease| lease.actual_owner().is_some_and(|owner| !reports(table, owner)));
    leases.map(|lease| (lease.key.clone(), lease.counter)).collect()
}

/// A worker without a row of its own that has renewed one of the leases in `before`: so it is alive.
pub(super) fn alive_and_unreported(
    before: &BTreeMap<LeaseKey, u64>,
    now: &TableSnapshot,
) -> Option<WorkerId> {
    let moved =
        now.leases.iter().filter(|lease| before.get(&lease.key).is_some_and(|seen| lease.counter > *seen));
    moved.filter_map(|lease| lease.actual_owner()).find(|owner| !reports(now, owner)).cloned()
}

fn reports(table: &TableSnapshot, worker: &WorkerId) -> bool {
    table.workers.iter().any(|row| row.id == *worker)
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        write!(f, "{}, set by {}", short(&self.name), short(&self.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::fleet::WorkerRow;
    use crate::lease::row::Lease;
    use crate::shard::{Checkpoint, HashKeyRange, SequenceNumber, Shard, ShardId};

    fn state(name: &str) -> State {
        State { name: name.to_owned(), by: "java-a".to_owned() }
    }

    #[test]
    fn without_the_coordinators_table_all_is_in_one_whatever_a_row_says() {
        for migration in [None, Some(state("TABLE_MIGRATION_STATUS_PENDING")), Some(state("?"))] {
            assert_eq!(layout(false, migration.as_ref()), Ok(Layout::Single));
        }
    }

    #[test]
    fn the_state_of_the_migration_decides_the_layout() {
        assert_eq!(layout(true, None), Ok(Layout::Three));
        for (name, expected) in [
            ("INIT", Some(Layout::Three)),
            ("DEPLOYED", Some(Layout::Three)),
            ("PENDING", None),
            ("COMPLETE", Some(Layout::Single)),
            ("BAKED", None),
        ] {
            let state = state(&format!("TABLE_MIGRATION_STATUS_{name}"));
            match (layout(true, Some(&state)), expected) {
                (Ok(layout), Some(expected)) => assert_eq!(layout, expected, "{name}"),
                (Err(reason), None) => assert!(reason.contains(&state.to_string()), "{reason}"),
                (answer, _) => panic!("{name}: {answer:?}"),
            }
        }
    }

    #[test]
    fn only_fleets_of_kcl_3_are_joined() {
        assert_eq!(works_as_3x(None), Ok(false));
        for (name, joined) in [
            ("INIT", false),
            ("2X", false),
            ("UPGRADE_FROM_2X", false),
            ("3X_WITH_ROLLBACK", true),
            ("3X", true),
            ("4X", false),
        ] {
            let state = state(&format!("CLIENT_VERSION_{name}"));
            match works_as_3x(Some(&state)) {
                Ok(known) => assert!(known && joined, "{name}"),
                Err(reason) => assert!(!joined && reason.contains(&state.to_string()), "{name}: {reason}"),
            }
        }
    }

    fn lease(key: &str, owner: Option<&str>, counter: u64) -> Lease {
        let shard = Shard {
            id: ShardId::new(key),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 1 }),
            starting_sequence_number: SequenceNumber::from(1),
            closed: false,
        };
        Lease { owner: owner.map(WorkerId::new), counter, ..Lease::new(&shard, Checkpoint::Latest) }
    }

    fn table(leases: &[(&str, Option<&str>, u64)], workers: &[&str]) -> TableSnapshot {
        let worker = |id: &&str| WorkerRow {
            id: WorkerId::new(*id),
            updated: 1,
            samples: BTreeMap::new(),
            limits: BTreeMap::new(),
            properties: BTreeMap::new(),
            support: None,
        };
        TableSnapshot {
            leases: leases.iter().map(|(key, owner, counter)| lease(key, *owner, *counter)).collect(),
            workers: workers.iter().map(worker).collect(),
            odd: Vec::new(),
        }
    }

    #[test]
    fn a_fleet_of_kcl_2_is_known_by_renewing_without_reporting() {
        let before = table(&[("1", Some("a"), 5), ("2", Some("b"), 5), ("3", None, 5)], &["b"]);
        let suspects = unreported(&before);
        assert_eq!(suspects.keys().map(LeaseKey::as_str).collect::<Vec<_>>(), ["1"]);
        let later = |owner, counter, workers: &[&str]| {
            alive_and_unreported(&suspects, &table(&[("1", owner, counter), ("2", Some("b"), 9)], workers))
        };
        assert_eq!(later(Some("a"), 5, &["b"]), None, "the owner is dead");
        assert_eq!(later(Some("a"), 6, &["b"]), Some(WorkerId::new("a")));
        assert_eq!(later(Some("c"), 6, &["b"]), Some(WorkerId::new("c")), "taken by another of them");
        assert_eq!(later(Some("b"), 6, &["b"]), None, "taken by a worker of 3.x");
        assert_eq!(later(Some("a"), 6, &["a", "b"]), None, "it has reported since");
        assert_eq!(later(None, 6, &["b"]), None, "given up");
    }

    #[test]
    fn the_old_owner_of_a_hand_off_counts_as_the_owner() {
        let mut before = table(&[("1", Some("b"), 5)], &["b"]);
        before.leases[0].checkpoint_owner = Some(WorkerId::new("a"));
        assert_eq!(unreported(&before).len(), 1);
    }
}
