//! `kinetide leases convert`: moves an application between the two forms of lease keys, with its checkpoints and pending
//! batches.
//!
//! Each lease is written under its new key before the old row is deleted. A run that is cut short leaves rows of both
//! forms, which no worker takes; the same command goes on from there.

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::super::wait_line::WaitLine;
use super::act::{Confirm, asked, none_active};
use super::{Exit, Fleet};
use crate::cause::chain;
use crate::lease::{Lease, LeaseKey, LeaseTable, Observer};
use crate::shard::{Kinship, StreamId};
use crate::terminal::{ask, print, print_text, printable_lines, say, say_error};

/// Flags of `kinetide leases convert`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stop all workers first; it refuses while one is active. Checkpoints, pending batches and everything else in \
    the rows stay as they are. When it was interrupted, run it again.\n\n\
    Example:\n  \
    kinetide leases convert --to multi-stream --stream trades --application market --dry-run"
)]
pub(super) struct ConvertArgs {
    /// Form of the lease keys: with the stream in them, as workers of several streams use them, or without.
    #[arg(long, value_name = "FORM", value_enum)]
    to: Form,

    #[command(flatten)]
    pub(super) confirm: Confirm,
}

/// The two forms of lease keys, by KCL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// ACCOUNT:STREAM:CREATED:SHARD.
    MultiStream,
    /// SHARD.
    SingleStream,
}

/// One lease, before and after.
#[derive(Debug, PartialEq)]
pub(super) struct Move {
    pub(super) old: Lease,
    pub(super) new: Lease,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    lease: &'a str,
    to: &'a str,
    checkpoint: &'a str,
    pending: bool,
    outcome: &'static str,
    /// What went wrong.
    problem: Option<String>,
}

/// Which leases become which, of an application that reads `stream`.
///
/// # Errors
/// When a lease is of another stream: an application of several streams cannot become one of one stream.
pub(super) fn moves(leases: &[Lease], to: Form, stream: &StreamId) -> anyhow::Result<Vec<Move>> {
    let mut moves = Vec::new();
    for old in leases {
        let of = old.key.stream().cloned().or_else(|| StreamId::parse(old.stream.as_deref()?));
        if let Some(of) = of.filter(|of| of.kinship(stream) != Kinship::Same) {
            return Err(anyhow!(
                "the lease of {} belongs to stream {}, not to {}: an application of several streams cannot be \
                 converted; choose the stream with --stream, or leave the leases as they are",
                old.key,
                of.in_words(),
                stream.in_words()
            ));
        }
        if old.key.stream().is_some() == (to == Form::MultiStream) {
            continue;
        }
        let (key, named) = match to {
            Form::MultiStream => (LeaseKey::new(Some(stream), old.key.shard()), None),
            Form::SingleStream => (old.key.shard().clone().into(), Some(stream.to_string().into())),
        };
        // Nobody reads it now.
        let new = Lease { key, stream: named, owner: None, checkpoint_owner: None, ..old.clone() };
        moves.push(Move { old: old.clone(), new });
    }
    Ok(moves)
}

pub(super) async fn run(fleet: &Fleet, args: &ConvertArgs) -> anyhow::Result<Exit> {
    let mut observer = fleet.observer(true);
    let mut progress = WaitLine::default();
    let watched = observer.watch(|_| true, |text| progress.say(&text)).await;
    progress.done();
    watched.map_err(|error| fleet.table_trouble(error))?;
    none_active(&observer)?;
    let stream = the_stream(fleet, &observer)?;
    if let Some(odd) = observer.fleet.odd().first() {
        return Err(anyhow!(
            "{}: its row is not understood: {}; repair it by hand first",
            odd.key,
            odd.problem
        ));
    }
    let leases: Vec<Lease> = observer.fleet.leases().map(|seen| seen.lease.clone()).collect();
    let moves = moves(&leases, args.to, &stream)?;
    let mut text = String::new();
    for Move { old, new } in &moves {
        let pending = if old.pending.is_some() { ", with its pending batch" } else { "" };
        text.push_str(&format!("{} → {}, at {}{pending}\n", old.key, new.key, old.checkpoint.as_str()));
    }
    if moves.is_empty() {
        text.push_str("No lease to convert.\n");
    }
    if fleet.json {
        ask(text)
    } else {
        print_text(&printable_lines(&text))?
    }
    if !args.confirm.dry_run && !args.confirm.yes && !moves.is_empty() && !asked()? {
        say("nothing was written");
        return Ok(Exit::Failed);
    }
    let mut failed = false;
    let mut outcomes = Vec::new();
    for change in &moves {
        let problem = match args.confirm.dry_run {
            true => None,
            false => convert(&*fleet.table, change).await.err().map(|problem| format!("{problem:#}")),
        };
        if let Some(problem) = &problem {
            failed = true;
            say_error(format!("{}: {problem}", change.old.key));
        }
        outcomes.push(Outcome {
            lease: change.old.key.as_str(),
            to: change.new.key.as_str(),
            checkpoint: change.old.checkpoint.as_str(),
            pending: change.old.pending.is_some(),
            outcome: match (&problem, args.confirm.dry_run) {
                (Some(_), _) => "failed",
                (None, true) => "dry_run",
                (None, false) => "written",
            },
            problem,
        });
    }
    if fleet.json {
        print(serde_json::to_string(&outcomes).context("could not print the outcome")?)?;
    }
    if failed {
        say(
            "some leases were not converted, and no worker takes leases of both forms: run the command again",
        );
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Writes the new row, then deletes the old one. A new row that is there already, from a run that was cut short, counts
/// when it says the same.
async fn convert(table: &dyn LeaseTable, Move { old, new }: &Move) -> anyhow::Result<()> {
    if !table.create(new).await.map_err(|error| anyhow!("{}", chain(&error)))? {
        let there = table.get(&new.key).await.map_err(|error| anyhow!("{}", chain(&error)))?;
        let same = |row: &Lease| row.checkpoint == new.checkpoint && row.pending == new.pending;
        if !there.as_ref().is_some_and(same) {
            return Err(anyhow!(
                "a lease {} is there and says something else: delete one of the two",
                new.key
            ));
        }
    }
    table.delete(old).await.map_err(|error| anyhow!("the old row stays: {}", chain(&error)))
}

/// The one stream that is meant, with all that a key says of it.
fn the_stream(fleet: &Fleet, observer: &Observer) -> anyhow::Result<StreamId> {
    let [stream] = fleet.streams.as_slice() else {
        return Err(anyhow!("set --stream once: the stream whose leases to convert"));
    };
    if let Some(problem) = observer.listing_problems().next() {
        return Err(anyhow!("stream {}: {problem}", stream.address));
    }
    let id = observer.id_of(&stream.named).filter(|id| id.is_whole()).cloned();
    id.with_context(|| {
        format!(
            "stream {}: its account and time of creation are not known; allow DescribeStreamSummary",
            stream.address
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lease::Pending;
    use crate::lease::memory::MemoryLeaseTable;
    use crate::shard::{Checkpoint, Position, SequenceNumber, Shard, ShardId};

    fn stream() -> StreamId {
        StreamId::parse("111122223333:trades:1768469400").unwrap()
    }

    fn lease(number: u128) -> Lease {
        let shard = Shard {
            id: ShardId::new(format!("shardId-{number:012}")),
            parents: vec![ShardId::new("shardId-000000000009")],
            hash_range: None,
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        };
        let at = |number| Checkpoint::At(Position::new(SequenceNumber::from(number)));
        let pending = Some(Pending { checkpoint: at(number + 8), state: Some(Arc::from(&b"{}"[..])) });
        Lease {
            counter: 7,
            stream: Some(stream().to_string().into()),
            pending,
            ..Lease::new(&shard, at(number))
        }
    }

    #[tokio::test]
    async fn there_and_back_all_is_kept() {
        let table = MemoryLeaseTable::new();
        for number in [0, 1] {
            assert!(table.create(&lease(number)).await.unwrap());
        }
        let before = table.rows();
        let there = moves(&before, Form::MultiStream, &stream()).unwrap();
        // Cut short after the first write, and run again.
        assert!(table.create(&there[0].new).await.unwrap());
        let both = moves(&table.rows(), Form::MultiStream, &stream()).unwrap();
        assert_eq!(both, there);
        for change in &both {
            convert(&table, change).await.unwrap();
        }
        let keys: Vec<String> = table.rows().iter().map(|row| row.key.to_string()).collect();
        assert_eq!(keys, [0, 1].map(|number| format!("111122223333:trades:1768469400:shardId-{number:012}")));
        assert_eq!(moves(&table.rows(), Form::MultiStream, &stream()).unwrap(), []);
        for change in moves(&table.rows(), Form::SingleStream, &stream()).unwrap() {
            convert(&table, &change).await.unwrap();
        }
        assert_eq!(table.rows(), before);
    }

    #[tokio::test]
    async fn a_row_that_says_something_else_is_not_written_over() {
        let table = MemoryLeaseTable::new();
        let old = lease(0);
        assert!(table.create(&old).await.unwrap());
        let change = moves(&[old], Form::MultiStream, &stream()).unwrap().remove(0);
        let other = Lease { checkpoint: Checkpoint::TrimHorizon, ..change.new.clone() };
        assert!(table.create(&other).await.unwrap());
        assert!(convert(&table, &change).await.unwrap_err().to_string().contains("says something else"));
        assert_eq!(table.rows().len(), 2);
    }

    #[test]
    fn leases_of_another_stream_are_refused() {
        let other = StreamId::parse("111122223333:orders:1768469400").unwrap();
        let problem = moves(&[lease(0)], Form::MultiStream, &other).unwrap_err().to_string();
        assert!(problem.contains("belongs to stream trades"), "{problem}");
        let key = LeaseKey::new(Some(&stream()), &ShardId::new("s"));
        let several = Lease { key, ..lease(0) };
        assert!(moves(&[several], Form::SingleStream, &other).is_err());
    }
}
