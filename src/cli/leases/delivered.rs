//! `kinetide leases delivered`: up to where each shard is in the lake, as the names of its objects say.
//!
//! For a lease table that is older than the lake, as one that was restored from a backup. Only names are read: the
//! objects of a batch say its first and last record.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;

use super::table::wrapped;
use super::{Exit, Fleet, Stream};
use crate::batch::{batch_of_name, name_start};
use crate::config::{BadSetting, LakeRoleArgs, endpoint, lake};
use crate::deliver::{LakeUrl, ObjectSink, S3Settings, open_existing};
use crate::lease::Lease;
use crate::shard::{Checkpoint, SequenceNumber};
use crate::terminal::{print, print_text, printable_lines, say_error};

/// Batches of a shard that are kept in mind: two are shown, and some may lie across each other where records came twice.
const KEPT: usize = 16;

const HINT: &str = "If the workers did not drain, the last batch of a shard may be in the lake only in part. Set the \
                    checkpoint of such a shard to the end of the batch before: then nothing is missing, and rows of the \
                    last batch may be there twice.";

/// Flags of `kinetide leases delivered`.
#[derive(Debug, Args)]
#[command(
    after_help = "For a lease table that is older than the lake, for example restored from a backup. A worker would deliver \
    all records after the old checkpoints again, in other batches. Stop the workers, run this, then the commands that it \
    prints; then start the workers.\n\n\
    It lists all objects of the lake (one request for 1,000 objects) and reads none. With --firehose rows are not in the \
    lake, so it knows only of dead letters.\n\n\
    Example:\n  \
    kinetide leases delivered --stream trades --lake s3://my-lake/crypto"
)]
pub(super) struct DeliveredArgs {
    /// The lake that the workers write to: s3://bucket/prefix, file:///folder, or a folder like /folder or ./folder.
    #[arg(long, env = "KINETIDE_LAKE", value_name = "URL")]
    lake: String,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,

    #[command(flatten)]
    role: LakeRoleArgs,
}

/// The batches of a shard that reach furthest: last and first record.
#[derive(Debug, Default)]
struct Reach(BTreeSet<(SequenceNumber, SequenceNumber)>);

impl Reach {
    fn add(&mut self, first: SequenceNumber, last: SequenceNumber) {
        self.0.insert((last, first));
        if self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// The end of the last batch.
    fn end(&self) -> Option<&SequenceNumber> {
        self.0.last().map(|(last, _)| last)
    }

    /// The end of the batch before.
    fn end_before(&self) -> Option<&SequenceNumber> {
        let (_, first) = self.0.last()?;
        self.0.iter().rev().map(|(last, _)| last).find(|last| *last < first)
    }
}

/// One shard.
#[derive(Debug, Serialize)]
struct Found<'a> {
    /// The key of its lease; what objects call it where there is no lease.
    lease: &'a str,
    /// Its checkpoint; none without a lease.
    checkpoint: Option<&'a str>,
    /// The last record of the last batch in the lake.
    delivered: Option<&'a str>,
    /// The same of the batch before.
    before_last_batch: Option<&'a str>,
    /// The lease is behind what is in the lake.
    behind: bool,
    /// Sets its checkpoint to where the lake is.
    command: Option<String>,
}

pub(super) async fn run(fleet: &Fleet, args: DeliveredArgs) -> anyhow::Result<Exit> {
    let (url, sink) = match open(fleet, args).await {
        Ok(lake) => lake,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let table = fleet.table.snapshot().await.map_err(|error| fleet.table_trouble(error))?;
    let reaches = reaches(fleet, &sink).await.with_context(|| format!("lake {url} cannot be listed"))?;
    let found = compared(fleet, &table.leases, &reaches);
    if fleet.json {
        print(serde_json::to_string(&found)?)?;
    } else {
        print_text(&printable_lines(&in_words(&found)))?;
    }
    Ok(Exit::Done)
}

async fn open(fleet: &Fleet, args: DeliveredArgs) -> Result<(LakeUrl, ObjectSink), String> {
    let text = |problem: BadSetting| problem.to_string();
    if fleet.streams.is_empty() {
        return Err("no stream: set --stream, whose name begins those of its objects".to_owned());
    }
    let url = lake(&args.lake).map_err(text)?;
    let s3_endpoint = endpoint("s3-endpoint", args.s3_endpoint).map_err(text)?;
    let settings = S3Settings { role: args.role.checked(&url, None).map_err(text)?, ..S3Settings::default() };
    let opened = open_existing(&url, fleet.region.as_deref(), s3_endpoint.as_deref(), &settings).await;
    let sink = opened.map_err(|error| format!("--lake {:?}: {error}", url.to_string()))?;
    Ok((url, sink))
}

/// By how the names of their objects begin.
async fn reaches(fleet: &Fleet, sink: &ObjectSink) -> Result<BTreeMap<String, Reach>, object_store::Error> {
    // Shards of Kinesis, and not of a stream whose name begins like another one.
    let start = |stream: &Stream| format!("{}shardId-", name_start(stream.address.name(), None));
    let starts: Vec<String> = fleet.streams.iter().map(start).collect();
    let mut reaches: BTreeMap<String, Reach> = BTreeMap::new();
    let mut objects = sink.store().list(Some(sink.prefix()));
    while let Some(object) = objects.try_next().await? {
        let name = object.location.filename().unwrap_or_default();
        if let Some((head, first, last)) = batch_of_name(name)
            && starts.iter().any(|start| head.starts_with(start.as_str()))
        {
            // Most names are those of a shard that is known already.
            match reaches.get_mut(head) {
                Some(reach) => reach.add(first, last),
                None => reaches.entry(head.to_owned()).or_default().add(first, last),
            }
        }
    }
    Ok(reaches)
}

/// Each lease with what the lake has of its shard, then what the lake has of shards without one.
fn compared<'a>(fleet: &Fleet, leases: &'a [Lease], reaches: &'a BTreeMap<String, Reach>) -> Vec<Found<'a>> {
    let mut without: BTreeSet<&str> = reaches.keys().map(String::as_str).collect();
    let mut found = Vec::new();
    for lease in leases {
        let Some(stream) = fleet.stream_of(&lease.key) else { continue };
        let head = name_start(stream.address.name(), Some(lease.key.shard()));
        let head = head.trim_end_matches('-');
        without.remove(head);
        let reach = reaches.get(head);
        let end = reach.and_then(Reach::end);
        let behind = end.is_some_and(|end| match &lease.checkpoint {
            Checkpoint::At(at) => at.sequence < *end,
            Checkpoint::ShardEnd => false,
            _ => true,
        });
        let command = end.filter(|_| behind).map(|end| {
            let force = if lease.pending.is_some() { " --force" } else { "" };
            fleet.command(&format!("set-checkpoint {} {end}{force}", lease.key))
        });
        found.push(Found {
            lease: lease.key.as_str(),
            checkpoint: Some(lease.checkpoint.as_str()),
            delivered: end.map(SequenceNumber::as_str),
            before_last_batch: reach.and_then(Reach::end_before).map(SequenceNumber::as_str),
            behind,
            command,
        });
    }
    found.extend(without.into_iter().map(|head| {
        let reach = &reaches[head];
        Found {
            lease: head,
            checkpoint: None,
            delivered: reach.end().map(SequenceNumber::as_str),
            before_last_batch: reach.end_before().map(SequenceNumber::as_str),
            behind: false,
            command: None,
        }
    }));
    found
}

fn in_words(found: &[Found<'_>]) -> String {
    let mut text = String::new();
    for one in found {
        let known = |what: Option<&str>| what.unwrap_or("-").to_owned();
        text.push_str(&format!("{}\n", one.lease));
        text.push_str(&format!("  checkpoint              {}\n", one.checkpoint.unwrap_or("no lease")));
        text.push_str(&format!("  in the lake up to       {}\n", known(one.delivered)));
        text.push_str(&format!("  without its last batch  {}\n", known(one.before_last_batch)));
    }
    let commands: Vec<&str> = found.iter().filter_map(|one| one.command.as_deref()).collect();
    if commands.is_empty() {
        text.push_str("No lease is behind the lake.\n");
    } else {
        text.push_str(&format!("To read on from where the lake is:\n{}\n", commands.join("\n")));
        text.push_str(&wrapped(HINT, "", ""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_before_is_the_last_one_that_ends_before_the_last_one_begins() {
        let number = |number: u128| SequenceNumber::from(number);
        let mut reach = Reach::default();
        assert_eq!((reach.end(), reach.end_before()), (None, None));
        // The same batch has objects in several folders, and lists are in no order of numbers.
        for (first, last) in [(100, 120), (9, 20), (100, 120), (1, 8), (21, 99)] {
            reach.add(number(first), number(last));
        }
        assert_eq!((reach.end(), reach.end_before()), (Some(&number(120)), Some(&number(99))));
        // One that came twice, cut otherwise.
        reach.add(number(90), number(130));
        assert_eq!((reach.end(), reach.end_before()), (Some(&number(130)), Some(&number(20))));
        for n in 200..300 {
            reach.add(number(n * 10), number(n * 10 + 9));
        }
        assert_eq!((reach.0.len(), reach.end_before()), (KEPT, Some(&number(2989))));
    }
}
