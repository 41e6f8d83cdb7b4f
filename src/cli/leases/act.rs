//! The changes: flags, what is asked before, and the writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, IsTerminal, Read};

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args};
use futures::stream::{self, StreamExt};
use serde::Serialize;

use super::super::wait_line::WaitLine;
use super::change::{self, Allowed, Planned, RowChange, parse_checkpoint};
use super::table::wrapped;
use super::{Change, Exit, Fleet, chain};
use crate::clock::wall_clock_s;
use crate::fetch::{FetchError, StartAt};
use crate::lease::{Lease, LeaseKey, LeaseTable, Observer, WorkerId, WriteError, apply};
use crate::shard::{Checkpoint, StartFrom};
use crate::terminal::{ask, print, print_text, printable_lines, say, say_error};

/// Writes at the same time.
const CONCURRENCY: usize = 20;
/// Of what there is so many are named where something is not there.
const NAMED_MAX: usize = 5;

/// A live owner renews its lease all the while: so often in a row a write goes again over the renewed row.
const RENEWALS_MAX: u32 = 10;

/// Bytes of an answer to a question.
const ANSWER_MAX: u64 = 1_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct Confirm {
    /// Show what would be written; write nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,

    /// Write without asking.
    #[arg(long, conflicts_with = "dry_run")]
    pub(in crate::cli) yes: bool,
}

/// Flags of `kinetide leases release`.
#[derive(Debug, Args)]
#[command(
    after_help = "If the owner is alive and another worker is active, the lease is handed off to the worker with the fewest \
    leases: the owner delivers its open batch first. Otherwise the owner is removed immediately, and the leader assigns \
    the lease to a worker.\n\nExample:\n  \
    kinetide leases release shardId-000000000003 --stream trades"
)]
pub(super) struct ReleaseArgs {
    /// Lease keys (shard ids), as `kinetide leases` shows them.
    #[arg(required = true, value_name = "SHARD")]
    shards: Vec<String>,

    #[command(flatten)]
    confirm: Confirm,
}

/// Flags of `kinetide leases evict`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["shards", "worker"]))]
#[command(
    after_help = "The owner notices at its next write, at most a third of the failover time later, and drops its open \
    batch; the next owner reads those records again, so nothing is lost or duplicated. If a hand-off is in progress, it \
    ends, and the next owner starts at once.\n\n\
    Examples:\n  \
    kinetide leases evict shardId-000000000003 --stream trades\n  \
    kinetide leases evict --worker ip-10-0-1-7:3f2a --stream trades --yes"
)]
pub(super) struct EvictArgs {
    /// Lease keys (shard ids), as `kinetide leases` shows them.
    #[arg(value_name = "SHARD")]
    shards: Vec<String>,

    /// All leases that this worker owns.
    #[arg(long, value_name = "ID")]
    worker: Option<String>,

    #[command(flatten)]
    confirm: Confirm,
}

/// Flags of `kinetide leases set-checkpoint`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exactly once does not hold for the records between the old and the new checkpoint: moving back delivers \
    them twice, moving ahead skips them. The output includes the command that restores the old checkpoint.\n\n\
    The command is refused while a batch is pending (prepared but not committed, so that some of its objects may be in the \
    lake). With --force the batch is no longer pending, but the lease remembers it (last_prepared) until a checkpoint \
    passes its end. What happens to its rows depends on the new checkpoint:\n  \
    - before the checkpoint that the batch started from: all its records are delivered again;\n  \
    - from there to before its end: the next owner seals the batch's objects and delivers only the rows that are in none \
    of them, so nothing is duplicated;\n  \
    - at its end or later: rows that are not in the lake yet will never be delivered.\n\
    A batch is not remembered if its description is above 48 KiB, and is not repaired if it belongs to another lake or was \
    repaired 64 times: its rows may be duplicated. `kinetide leases --json` shows both batches, with lake and objects, as \
    pending and last_prepared.\n\nExamples:\n  \
    kinetide leases set-checkpoint shardId-000000000003 trim-horizon --stream trades --dry-run\n  \
    kinetide leases set-checkpoint shardId-000000000003 49590338271490256608559692538361571095921575989136588898 \
    --stream trades --evict"
)]
pub(super) struct SetCheckpointArgs {
    /// Lease key (shard id), as `kinetide leases` shows it.
    #[arg(value_name = "SHARD")]
    shard: String,

    /// New checkpoint: the sequence number of the last record that is done, or trim-horizon, latest (the last record in
    /// the shard now), at-timestamp, or shard-end.
    #[arg(value_name = "POSITION", value_parser = parse_checkpoint)]
    position: Checkpoint,

    /// Remove the owner first if it is alive.
    #[arg(long)]
    evict: bool,

    /// Allow moving back (records are delivered twice), dropping a pending batch, and a sequence number that the stream
    /// does not accept.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    confirm: Confirm,
}

/// Flags of `kinetide leases delete`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["shards", "all"]))]
#[command(
    after_help = "The leader recreates the lease of every shard that the stream still has within two minutes, at the initial \
    position: its records are delivered again. It refuses to delete a lease whose owner is alive, or one that belongs to \
    a stream other than --stream.\n\n\
    Example:\n  \
    kinetide leases delete --all --stream trades --dry-run"
)]
pub(super) struct DeleteArgs {
    /// Lease keys (shard ids), as `kinetide leases` shows them.
    #[arg(value_name = "SHARD")]
    shards: Vec<String>,

    /// All leases of the application. Stop its workers first.
    #[arg(long)]
    all: bool,

    /// Delete leases even if they may belong to another stream.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    confirm: Confirm,
}

impl Change {
    pub(super) fn confirm(&self) -> &Confirm {
        match self {
            Self::Release(args) => &args.confirm,
            Self::Evict(args) => &args.confirm,
            Self::SetCheckpoint(args) => &args.confirm,
            Self::Delete(args) => &args.confirm,
        }
    }
}

/// Why nobody could confirm this change, before anything is looked at.
pub(in crate::cli) fn unconfirmed(Confirm { dry_run, yes }: &Confirm) -> Option<&'static str> {
    let asks = !dry_run && !yes;
    (asks && !io::stdin().is_terminal()).then_some(
        "stdin is not a terminal, so nobody can confirm: give --yes to write, or --dry-run to look",
    )
}

/// What became of one lease.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    shard: &'a str,
    outcome: &'static str,
    does: &'a str,
    warnings: &'a [String],
    undo: Option<String>,
    before: Row<'a>,
    after: Option<Row<'a>>,
    /// What went wrong.
    problem: Option<String>,
}

/// The attributes of a row that a change is about.
#[derive(Debug, Serialize)]
struct Row<'a> {
    owner: Option<&'a str>,
    checkpoint_owner: Option<&'a str>,
    counter: u64,
    checkpoint: &'a str,
    checkpoint_sub: u64,
    pending: bool,
}

impl<'a> Row<'a> {
    fn new(lease: &'a Lease) -> Self {
        Self {
            owner: lease.owner.as_ref().map(WorkerId::as_str),
            checkpoint_owner: lease.checkpoint_owner.as_ref().map(WorkerId::as_str),
            counter: lease.counter,
            checkpoint: lease.checkpoint.as_str(),
            checkpoint_sub: lease.checkpoint.sub(),
            pending: lease.pending.is_some(),
        }
    }
}

/// What the writes of one lease came to.
pub(super) enum Done {
    Nothing,
    Written(Option<Lease>),
    MovedOn { row: Option<Lease>, steps_before: usize },
    Unknown(String),
}

/// Looks, says what it would write, asks, writes.
pub(super) async fn run(fleet: &Fleet, change: Change) -> anyhow::Result<Exit> {
    let with_streams = matches!(change, Change::SetCheckpoint(_) | Change::Delete(_));
    let mut observer = fleet.observer(with_streams);
    let mut progress = WaitLine::default();
    let meant = |lease: &Lease| is_meant(&change, lease);
    let watched = observer.watch(meant, |text| progress.say(&text)).await;
    progress.done();
    watched.map_err(|error| fleet.table_trouble(error))?;

    let planned = plan(fleet, &observer, &change).await?;
    show(fleet, &change, &planned)?;
    let confirm = change.confirm();
    let nothing = planned.iter().all(|planned| planned.steps.is_empty());
    if !confirm.dry_run && !nothing && !confirm.yes && !asked()? {
        say("nothing was written");
        return Ok(Exit::Failed);
    }
    let done = if confirm.dry_run || nothing {
        planned.iter().map(|_| Done::Nothing).collect()
    } else {
        write_all(&*fleet.table, &planned).await
    };
    report(fleet, confirm.dry_run, &planned, &done)
}

fn is_meant(change: &Change, lease: &Lease) -> bool {
    let named = |shards: &[String]| shards.iter().any(|shard| shard == lease.key.as_str());
    match change {
        // Every worker is a candidate, and nobody gets leases who is silent.
        Change::Release(_) | Change::Delete(DeleteArgs { all: true, .. }) => true,
        Change::Evict(EvictArgs { worker: Some(worker), .. }) => {
            lease.actual_owner().is_some_and(|owner| owner.as_str() == worker)
        }
        Change::Evict(args) => named(&args.shards),
        Change::SetCheckpoint(args) => args.shard == lease.key.as_str(),
        Change::Delete(args) => named(&args.shards),
    }
}

async fn plan(fleet: &Fleet, observer: &Observer, change: &Change) -> anyhow::Result<Vec<Planned>> {
    let view = &observer.fleet;
    let live = |lease: &Lease| view.get(&lease.key).is_some_and(|seen| view.is_live(seen, observer.now));
    let leases = meant(fleet, observer, change)?;
    Ok(match change {
        Change::Release(_) => {
            let mut load = load(observer);
            leases.iter().map(|lease| release(lease, live(lease), &mut load)).collect()
        }
        Change::Evict(_) => leases.iter().map(|lease| change::evict(lease, live(lease))).collect(),
        Change::SetCheckpoint(args) => {
            let lease = leases.first().context("one lease is named")?;
            let allowed = Allowed { evict: args.evict, force: args.force };
            let listing = observer.listing(&lease.key).unwrap_or_default();
            let listed = listing.iter().find(|shard| shard.id == *lease.key.shard());
            let target = match &args.position {
                Checkpoint::Latest => latest(fleet, lease).await?,
                position => position.clone(),
            };
            let planned = change::set_checkpoint(lease, live(lease), &target, listed, allowed)?;
            if !planned.steps.is_empty() && !args.force {
                check_position(fleet, observer, lease, &target).await?;
            }
            vec![planned]
        }
        Change::Delete(args) => {
            if args.all {
                none_active(observer)?;
            }
            for of_one in leases.chunk_by(|a, b| a.key.stream() == b.key.stream()) {
                let key = &of_one[0].key;
                let named = fleet.stream_of(key).map(|stream| &stream.named);
                let stream = observer.stream(key).or(named);
                if let Err(problem) = change::may_delete(of_one, stream, observer.listing(key))
                    && !args.force
                {
                    return Err(anyhow!("table {}: {problem}", fleet.application));
                }
            }
            leases.iter().map(|lease| change::delete(lease, live(lease))).collect::<Result<_, _>>()?
        }
    })
}

/// The leases that a change names.
fn meant(fleet: &Fleet, observer: &Observer, change: &Change) -> anyhow::Result<Vec<Lease>> {
    let find = |shard: &String| {
        let seen = observer.fleet.get(&LeaseKey::parse(shard));
        let odd = observer.fleet.odd().iter().find(|row| row.key == *shard);
        seen.map(|seen| seen.lease.clone()).ok_or_else(|| match odd {
            Some(row) => anyhow!("{shard}: its row is not understood: {}; repair it by hand", row.problem),
            None => {
                let table = &fleet.application;
                let there = some(observer.fleet.leases().map(|seen| seen.lease.key.as_str()));
                anyhow!("{shard}: no such lease in table {table}, which has {there}")
            }
        })
    };
    let all =
        || observer.fleet.leases().map(|seen| &seen.lease).filter(|lease| is_meant(change, lease)).cloned();
    let mut leases: Vec<Lease> = match change {
        Change::Release(ReleaseArgs { shards, .. })
        | Change::Evict(EvictArgs { shards, worker: None, .. })
        | Change::Delete(DeleteArgs { shards, all: false, .. }) => {
            shards.iter().map(find).collect::<Result<_, _>>()?
        }
        Change::SetCheckpoint(args) => vec![find(&args.shard)?],
        Change::Evict(_) | Change::Delete(_) => all().collect(),
    };
    leases.sort_by(|a, b| a.key.cmp(&b.key));
    leases.dedup_by(|a, b| a.key == b.key);
    if let (Change::Evict(EvictArgs { worker: Some(worker), .. }), true) = (change, leases.is_empty()) {
        let owners: BTreeSet<&str> = observer
            .fleet
            .leases()
            .filter_map(|seen| seen.lease.actual_owner())
            .map(WorkerId::as_str)
            .collect();
        let there = some(owners.into_iter());
        return Err(anyhow!(
            "worker {worker} has no lease in table {}; owners there: {there}",
            fleet.application
        ));
    }
    Ok(leases)
}

/// Workers that run would make deleted leases anew at once.
pub(super) fn none_active(observer: &Observer) -> anyhow::Result<()> {
    let mut active = observer.fleet.active_workers(observer.now, wall_clock_s()).peekable();
    if active.peek().is_none() {
        return Ok(());
    }
    Err(anyhow!(
        "active workers: {}; stop them first. A worker that was killed counts as active until its row is old, at most a \
         minute",
        some(active.map(|worker| worker.row.id.as_str()))
    ))
}

/// The first few of what there is, in words.
fn some<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = all.collect();
    let (shown, more) = (all.len().min(NAMED_MAX), all.len().saturating_sub(NAMED_MAX));
    match (shown, more) {
        (0, _) => "none".to_owned(),
        (_, 0) => all.join(", "),
        _ => format!("{} and {more} more", all[..shown].join(", ")),
    }
}

/// Leases of each worker that may be given more.
fn load(observer: &Observer) -> BTreeMap<WorkerId, usize> {
    let active = observer.fleet.active_workers(observer.now, wall_clock_s());
    let mut load: BTreeMap<WorkerId, usize> = active.map(|worker| (worker.row.id.clone(), 0)).collect();
    for seen in observer.fleet.leases().filter(|seen| !seen.lease.finished()) {
        if let Some(count) = seen.lease.owner.as_ref().and_then(|owner| load.get_mut(owner)) {
            *count += 1;
        }
    }
    load
}

/// Hands a lease to the worker with the fewest, which has one more then.
fn release(lease: &Lease, live: bool, load: &mut BTreeMap<WorkerId, usize>) -> Planned {
    let others = load.iter().filter(|(worker, _)| Some(*worker) != lease.actual_owner());
    let to =
        others.min_by_key(|(worker, count)| (**count, (*worker).clone())).map(|(worker, _)| worker.clone());
    let planned = change::release(lease, live, to.as_ref());
    if let (false, Some(count)) = (planned.steps.is_empty(), to.and_then(|to| load.get_mut(&to))) {
        *count += 1;
    }
    planned
}

/// Where "latest" is now: each later owner would take that word for another place.
async fn latest(fleet: &Fleet, lease: &Lease) -> anyhow::Result<Checkpoint> {
    let key: &LeaseKey = &lease.key;
    let Some(stream) = fleet.stream_of(key) else {
        return Err(anyhow!("{key}: set --stream, to look up the last record of the shard"));
    };
    let found = stream.starts.find(key.shard(), StartFrom::Tip).await;
    let found = found.map_err(|error| anyhow!("{}; check --stream, or try again", chain(&error)))?;
    // The records up to a position may have left the stream already.
    Ok(match &lease.checkpoint {
        done @ Checkpoint::At(_) => found.at.max(done.clone()),
        _ => found.at,
    })
}

/// Asks the stream whether there can be such a record.
async fn check_position(
    fleet: &Fleet,
    observer: &Observer,
    lease: &Lease,
    position: &Checkpoint,
) -> anyhow::Result<()> {
    let key: &LeaseKey = &lease.key;
    let (Checkpoint::At(position), Some(stream)) = (position, fleet.stream_of(key)) else {
        return Ok(());
    };
    let advice = "give another position, the right --stream, or --force";
    if let Some(problem) = observer.listing_problem(key) {
        return Err(anyhow!("{key}: the position cannot be checked: {problem}; {advice}"));
    }
    let checked = stream.records.lag(key.shard(), &StartAt::At(position.sequence.clone())).await;
    let stream = &stream.address;
    checked.map(drop).map_err(|error| match error {
        FetchError::Foreign(problem) => {
            anyhow!("{key}: stream {stream} refuses this position: {problem}; {advice}")
        }
        error => anyhow!("{key}: the position cannot be checked: {}; {advice}", chain(&error)),
    })
}

/// Says what would be written: on stdout, or on stderr when stdout is for machines.
fn show(fleet: &Fleet, change: &Change, planned: &[Planned]) -> anyhow::Result<()> {
    let mut text = String::new();
    for Planned { seen, does, warnings, undo, .. } in planned {
        text.push_str(&wrapped(&format!("{}: {does}", seen.key), "", "  "));
        for warning in warnings {
            text.push_str(&wrapped(warning, "  Warning: ", "    "));
        }
        if let Some(undo) = undo {
            // On one line, to be copied.
            text.push_str(&format!("  To undo: {}\n", fleet.command(undo)));
        }
    }
    if planned.is_empty() {
        text.push_str("No leases.\n");
    } else if matches!(change, Change::Delete(_)) {
        let again = "The next shard sync recreates these leases at the initial position, for the shards that the stream \
                     still has: their records are delivered again.";
        text.push_str(&wrapped(again, "", ""));
    }
    if fleet.json {
        ask(text);
    } else {
        print_text(&printable_lines(&text))?;
    }
    Ok(())
}

pub(in crate::cli) fn asked() -> io::Result<bool> {
    ask("Write this? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn write_all(table: &dyn LeaseTable, planned: &[Planned]) -> Vec<Done> {
    stream::iter(planned).map(|planned| write(table, planned)).buffered(CONCURRENCY).collect().await
}

/// The steps of one lease, each on the condition that the row is as the one before left it, heartbeats of a live owner
/// apart.
pub(super) async fn write(table: &dyn LeaseTable, planned: &Planned) -> Done {
    if planned.steps.is_empty() {
        return Done::Nothing;
    }
    let mut row = planned.seen.clone();
    for (steps_before, step) in planned.steps.iter().enumerate() {
        let mut renewals = 0;
        let (outcome, expected) = loop {
            let (outcome, expected) = match step {
                RowChange::Write(write) => {
                    (table.write(&row, write).await.map(Some), Some(apply(&row, write)))
                }
                RowChange::Delete => (table.delete(&row).await.map(|()| None), None),
            };
            match outcome {
                Err(WriteError::Conflict(Some(now)))
                    if steps_before == 0 && renewals < RENEWALS_MAX && planned.is_renewed(&now) =>
                {
                    renewals += 1;
                    row = *now;
                }
                outcome => break (outcome, expected),
            }
        };
        let written = match outcome {
            Ok(written) => written,
            Err(WriteError::Conflict(row)) => {
                return Done::MovedOn { row: row.map(|row| *row), steps_before };
            }
            Err(WriteError::NotWritten(source)) => {
                return Done::Unknown(format!("not written: {}", chain(&*source)));
            }
            // Read again, not guessed.
            Err(error @ WriteError::Unknown(_)) => match table.get(&row.key).await {
                Ok(now) if now == expected => now,
                _ => {
                    let advice = "check with `kinetide leases` before trying again";
                    return Done::Unknown(format!("{}; {advice}", chain(&error)));
                }
            },
        };
        match written {
            Some(written) => row = written,
            None => return Done::Written(None),
        }
    }
    Done::Written(Some(row))
}

fn report(fleet: &Fleet, dry_run: bool, planned: &[Planned], done: &[Done]) -> anyhow::Result<Exit> {
    let outcomes: Vec<Outcome<'_>> =
        planned.iter().zip(done).map(|(planned, done)| outcome(fleet, dry_run, planned, done)).collect();
    let failed = outcomes.iter().filter(|outcome| outcome.problem.is_some()).count();
    let written = outcomes.iter().filter(|outcome| outcome.outcome == "written").count();
    let printed = if fleet.json {
        print(serde_json::to_string(&outcomes).context("could not print the result")?)
    } else if dry_run {
        print("Dry run: nothing was written.")
    } else {
        let left = outcomes.len() - written - failed;
        print(format!("{written} written, {failed} failed, {left} unchanged."))
    };
    for outcome in &outcomes {
        if let Some(problem) = &outcome.problem {
            say_error(format!("{}: {problem}", outcome.shard));
        }
    }
    printed?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

fn outcome<'a>(fleet: &Fleet, dry_run: bool, planned: &'a Planned, done: &'a Done) -> Outcome<'a> {
    let (word, after, problem) = match done {
        Done::Nothing if planned.steps.is_empty() => ("nothing_to_do", None, None),
        Done::Nothing if dry_run => ("dry_run", None, None),
        Done::Nothing => ("nothing_to_do", None, None),
        Done::Written(row) => ("written", row.as_ref(), None),
        Done::MovedOn { row, steps_before } => {
            let now = row.as_ref().map_or("it was deleted".to_owned(), |row| {
                let owner = row.actual_owner().map_or("nobody", WorkerId::as_str);
                format!("its owner is {owner}, its counter {} and not {}", row.counter, planned.seen.counter)
            });
            let evicted =
                if *steps_before > 0 { "; its owner was removed, nothing else was written" } else { "" };
            let problem = format!("the row changed since it was shown: {now}{evicted}; try again");
            ("moved_on", row.as_ref(), Some(problem))
        }
        Done::Unknown(problem) => ("unknown", None, Some(problem.clone())),
    };
    Outcome {
        shard: planned.seen.key.as_str(),
        outcome: word,
        does: &planned.does,
        warnings: &planned.warnings,
        undo: planned.undo.as_ref().map(|undo| fleet.command(undo)),
        before: Row::new(&planned.seen),
        after: after.map(Row::new),
        problem,
    }
}
