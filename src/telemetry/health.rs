//! What `/healthz` and `/readyz` answer, and why. Pure.
//!
//! Owns: the rules (`docs/adr/0014-health-and-trouble.md`). Does not own: the facts (`status`, `trouble`, `pulse`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::status::{ShardSnapshot, ShardState};
use super::trouble::TroubleSnapshot;

/// The reason of a shard that waits for a person: it does not move again by itself.
pub const HALTED: &str = "halted";

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The lease table has not answered yet.
    Starting,
    /// It takes part in the work.
    Working,
    /// It gives its work away and ends.
    Draining,
}

/// Whether a process takes part in the work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why not; empty when it is ready.
    pub not_ready: Vec<String>,
    /// Shards that cannot move, whether the process is ready or not.
    pub stuck: Vec<String>,
}

/// A process in this phase, with these troubles, so many streams, and these shards. A shard is stuck when it is halted, or
/// stalled for `patience`. Trouble with one of several streams is named, and does not keep the process from its work on the
/// others.
pub fn readiness(
    phase: Phase,
    table_lost: bool,
    troubles: &[TroubleSnapshot],
    streams: usize,
    shards: &[ShardSnapshot],
    patience: Duration,
) -> Readiness {
    let mut not_ready = Vec::new();
    match phase {
        Phase::Starting => not_ready.push("starting: the lease table has not answered yet".to_owned()),
        Phase::Working => {}
        Phase::Draining => not_ready.push("draining".to_owned()),
    }
    if table_lost {
        not_ready.push("the lease table is gone: nothing can be read".to_owned());
    }
    let lasting = || troubles.iter().filter(|trouble| trouble.lasting);
    let about: BTreeSet<&String> = lasting().filter_map(|trouble| trouble.stream.as_ref()).collect();
    let others_go_on = about.len() < streams;
    let stops = |trouble: &&TroubleSnapshot| trouble.stream.is_none() || !others_go_on;
    not_ready.extend(lasting().filter(stops).map(trouble_line));
    // One that waits for its parents moves when they have, and a finished one need not.
    let to_be_read =
        |shard: &&ShardSnapshot| !matches!(shard.state, ShardState::WaitingForParents | ShardState::Finished);
    let mut stuck: Vec<String> = shards.iter().filter_map(|shard| stuck_line(shard, patience)).collect();
    if !stuck.is_empty() && stuck.len() == shards.iter().filter(to_be_read).count() {
        not_ready.push(format!("none of the {} shards of this worker can move", stuck.len()));
    }
    stuck.extend(lasting().filter(|trouble| !stops(trouble)).map(trouble_line));
    Readiness { not_ready, stuck }
}

impl Readiness {
    /// True when nothing speaks against it.
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }

    /// The body of `/readyz`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.is_ready() {
            text.push_str("ready\n");
        }
        for reason in &self.not_ready {
            let _ = writeln!(text, "not ready: {reason}");
        }
        for shard in &self.stuck {
            let _ = writeln!(text, "stuck: {shard}");
        }
        text
    }
}

fn trouble_line(trouble: &TroubleSnapshot) -> String {
    let TroubleSnapshot { call, purpose, stream, cause, since, for_ms, failures, .. } = trouble;
    let about = stream.as_ref().map(|stream| format!("stream {stream}: ")).unwrap_or_default();
    format!(
        "{about}{call} ({purpose}) has failed for {} s, since {since}, {failures} times: {cause}",
        for_ms / 1000
    )
}

fn stuck_line(shard: &ShardSnapshot, patience: Duration) -> Option<String> {
    let reason = shard.stalled_reason()?;
    let stalled = Duration::from_millis(shard.stalled_for_ms.unwrap_or(0));
    if reason != HALTED && stalled < patience {
        return None;
    }
    let cause = shard.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    Some(format!("{} of {} for {} s ({reason}){cause}", shard.shard, shard.stream, stalled.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shard(id: &str, state: ShardState, stalled_s: Option<u64>) -> ShardSnapshot {
        ShardSnapshot {
            stalled_for_ms: stalled_s.map(|seconds| seconds * 1000),
            last_error: stalled_s.map(|_| "because".to_owned()),
            ..ShardSnapshot::of(id, state)
        }
    }

    fn of_shards(shards: &[ShardSnapshot]) -> Readiness {
        readiness(Phase::Working, false, &[], 1, shards, PATIENCE)
    }

    #[test]
    fn phases_and_a_lost_table() {
        let of = |phase, lost| readiness(phase, lost, &[], 1, &[], PATIENCE);
        assert_eq!(of(Phase::Working, false).text(), "ready\n");
        assert_eq!(of(Phase::Draining, false).text(), "not ready: draining\n");
        assert!(of(Phase::Starting, false).text().starts_with("not ready: starting"));
        assert!(!of(Phase::Working, true).is_ready());
    }

    #[test]
    fn only_lasting_trouble_counts_and_says_everything() {
        let trouble = |lasting| TroubleSnapshot {
            call: "ListShards",
            purpose: "listing the shards",
            stream: None,
            cause: "access denied".to_owned(),
            since: "2026-01-15T09:30:00Z".to_owned(),
            for_ms: 21_500,
            failures: 4,
            lasting,
        };
        let of = |lasting| readiness(Phase::Working, false, &[trouble(lasting)], 1, &[], PATIENCE);
        assert!(of(false).is_ready());
        assert_eq!(
            of(true).text(),
            "not ready: ListShards (listing the shards) has failed for 21 s, since 2026-01-15T09:30:00Z, 4 times: access \
             denied\n"
        );
    }

    #[test]
    fn trouble_with_one_of_several_streams_leaves_the_others_their_worker() {
        let trouble = |stream: &str| TroubleSnapshot {
            call: "ListShards",
            purpose: "listing the shards",
            stream: Some(stream.to_owned()),
            cause: "not found".to_owned(),
            since: "2026-01-15T09:30:00Z".to_owned(),
            for_ms: 21_500,
            failures: 4,
            lasting: true,
        };
        let of = |troubles: &[TroubleSnapshot]| readiness(Phase::Working, false, troubles, 2, &[], PATIENCE);
        let one = of(&[trouble("orders")]);
        assert!(one.is_ready() && one.stuck[0].starts_with("stream orders: ListShards"), "{one:?}");
        assert_eq!(of(&[trouble("orders"), trouble("trades")]).not_ready.len(), 2);
    }

    #[test]
    fn stuck_shards_are_named_and_all_of_them_make_it_unready() {
        use ShardState::{Finished, Reading, Stalled, WaitingForParents};
        let lake = |seconds| shard("s-1", Stalled("lake"), Some(seconds));
        let halted = || shard("s-2", Stalled(HALTED), Some(0));
        assert_eq!(of_shards(&[lake(19)]).text(), "ready\n", "a moment is part of a busy day");
        let some = of_shards(&[lake(25), halted(), shard("s-3", Reading, None)]);
        assert_eq!(
            some.text(),
            "ready\nstuck: s-1 of trades for 25 s (lake): because\nstuck: s-2 of trades for 0 s (halted): because\n"
        );
        let all = [lake(25), halted(), shard("s-4", Finished, None), shard("s-5", WaitingForParents, None)];
        assert_eq!(of_shards(&all).not_ready, ["none of the 2 shards of this worker can move"]);
        assert!(!of_shards(&[halted()]).is_ready());
        assert!(of_shards(&all[2..]).is_ready(), "nothing to read is no trouble");
        assert!(of_shards(&[]).is_ready());
    }
}
