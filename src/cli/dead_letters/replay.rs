//! `kinetide dead-letters replay`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use futures::stream::{self, StreamExt};
use serde::{Serialize, Serializer};

use super::super::Exit;
use super::super::wait_line::WaitLine;
use super::refuse;
use super::scan::{Lake, Loaded, Objects, Which, load};
use super::text::{Problems, aligned, counted};
use crate::batch::BatchLimits;
use crate::cause::chain;
use crate::config::{
    BadSetting, DEFAULT_TRANSFORM, EncryptionArgs, default_landing, folder, layout, transform_and_alerts,
};
use crate::dead_letters::{Job, Letter, LetterObject, ReplayError, Replayed, rehearse, replay};
use crate::deliver::Sink;
use crate::terminal::{ask, print_text, say};
use crate::transform::{BadRecord, ErrorCode, TransformId};

/// Objects that are replayed at the same time.
const CONCURRENCY: usize = 4;

/// Bytes of an answer to a question.
const ANSWER_MAX: u64 = 1_000;

#[derive(Debug, Args)]
#[command(
    after_help = "Transforms each matching dead letter that is not yet replayed. Those that become rows land in the landing \
    folder, with their own shard id and sequence number; the others stay dead letters. Nothing is deleted. At most one \
    replay lands a dead letter, even if replays are killed, run twice, or run with different transforms.\n\n\
    If several streams land in one lake, give --stream. Without --dry-run and --yes it shows what would land, and asks.\n\n\
    Exit code: 0 when no matching dead letter is left open, 1 when some still fail or cannot be read (also with \
    --dry-run), or when the answer was no, 2 for wrong settings, or without --yes when stdin is not a terminal.\n\n\
    Examples:\n  \
    kinetide dead-letters replay --lake s3://my-lake/crypto --transform crypto-transactions --dry-run\n  \
    kinetide dead-letters replay --lake s3://my-lake/raw --stream trades --reason wrong_type --since 24h --yes"
)]
pub(super) struct ReplayArgs {
    /// How a record becomes rows: crypto-transactions, dynamodb-cdc, json, market-snapshot or raw. Must be the same as the workers'.
    #[arg(long, env = "KINETIDE_TRANSFORM", value_name = "NAME", default_value = DEFAULT_TRANSFORM)]
    transform: String,

    /// TOML file for settings that are not flags: its tables are enrichment and columns. Must be the same as the workers'.
    #[arg(long, env = "KINETIDE_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,

    /// Folder in the lake for rows [default: landing/transactions for crypto-transactions, else landing/STREAM].
    #[arg(long, env = "KINETIDE_LANDING", value_name = "FOLDER")]
    landing: Option<String>,

    #[command(flatten)]
    pub(super) encryption: EncryptionArgs,

    /// Show what would land, and why the others still fail; write nothing.
    #[arg(long)]
    dry_run: bool,

    /// Replay without asking.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// What a replay came to, or would.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    transform: String,
    landing: String,
    objects: u64,
    /// Dead letters that became rows by this replay, or would.
    landed: u64,
    /// The same by the folder in which they landed.
    landed_by_folder: BTreeMap<String, u64>,
    /// Dead letters that another replay had made rows of when this one came to them.
    already_there: u64,
    /// Dead letters that still fail, by the reason of now.
    #[serde(serialize_with = "by_name")]
    failed: BTreeMap<ErrorCode, u64>,
    /// Replays of before that would be brought to their end.
    interrupted_replays: u64,
    /// Objects that did not land because another replay was faster; what was in them is tried again.
    sealed_by_others: u64,
    unreadable: Problems,
}

pub(super) async fn run(lake: &Lake, which: &Which, args: ReplayArgs, json: bool) -> anyhow::Result<Exit> {
    let job = match job(lake, which, &args) {
        Ok(job) => job,
        Err(problem) => return refuse(&problem),
    };
    if !args.dry_run && !args.yes && !io::stdin().is_terminal() {
        return refuse(
            "stdin is not a terminal, so nobody can confirm: give --yes to replay, or --dry-run to look",
        );
    }
    if !args.yes {
        let would = look(lake, which, &job).await?;
        if args.dry_run {
            return tell(&would, json);
        }
        if would.landed == 0 && would.interrupted_replays == 0 {
            return tell(&Report { dry_run: false, ..would }, json);
        }
        ask(format!("{}Replay them? [y/N] ", text(&would)));
        let mut answer = String::new();
        io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            say("nothing was written");
            return Ok(Exit::Failed);
        }
    }
    // Nothing else keeps two replays from landing a row twice.
    lake.sink.probe().await.with_context(|| format!("lake {}", lake.url))?;
    let report = replay_all(lake, which, &job).await?;
    tell(&report, json)
}

fn job(lake: &Lake, which: &Which, args: &ReplayArgs) -> Result<Job, String> {
    let text = |problem: BadSetting| problem.to_string();
    let (transform, alerts) =
        transform_and_alerts(&args.transform, args.settings.as_deref()).map_err(text)?;
    let landing = match &args.landing {
        Some(landing) => folder("landing", landing).map_err(text)?.to_owned(),
        None => default_landing(&transform, which.stream.as_deref())
            .ok_or("no folder for the rows: set --landing, or --stream for the default folder")?,
    };
    let layout = layout(&landing, &lake.errors, alerts).map_err(text)?;
    Ok(Job { transform: Arc::new(transform), layout, limits: BatchLimits::default() })
}

fn report(job: &Job, dry_run: bool) -> Report {
    let id: &TransformId = job.transform.id();
    Report { dry_run, transform: id.to_string(), landing: job.layout.landing.clone(), ..Report::default() }
}

fn by_name<S: Serializer>(failed: &BTreeMap<ErrorCode, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(failed.iter().map(|(reason, count)| (reason.as_str(), count)))
}

fn add(failed: &mut BTreeMap<ErrorCode, u64>, more: &BTreeMap<ErrorCode, u64>) {
    for (reason, count) in more {
        *failed.entry(*reason).or_default() += count;
    }
}

/// What would land, without a write.
async fn look(lake: &Lake, which: &Which, job: &Job) -> anyhow::Result<Report> {
    let mut report = report(job, true);
    let mut progress = WaitLine::default();
    let mut objects = Objects::new(lake, which);
    while let Some((_, hour)) = objects.next_hour(&mut report.unreadable).await? {
        let mut loading = stream::iter(hour).map(|object| load(lake, object)).buffered(CONCURRENCY);
        while let Some(loaded) = loading.next().await {
            report.objects += 1;
            let Loaded { object, key, bytes, chain: before, landed } = match loaded {
                Ok(loaded) => loaded,
                Err((key, problem)) => {
                    report.unreadable.add(&key, None, problem);
                    continue;
                }
            };
            report.interrupted_replays += u64::from(before.unfinished().is_some());
            let wanted = |line, letter: &Letter<'_>| !landed.contains(line) && which.means(&object, letter);
            match rehearse(&job.transform, &bytes, wanted) {
                Err(broken) => report.unreadable.add(&key, None, chain(&broken)),
                Ok(would) => {
                    report.landed += would.rows;
                    add(&mut report.failed, &would.failed);
                    for (line, problem) in would.unreadable {
                        report.unreadable.add(&key, Some(line), problem);
                    }
                }
            }
            progress.say(&format!("{} objects read …", report.objects));
        }
    }
    progress.done();
    objects.tell_unmatched(&mut report.unreadable);
    Ok(report)
}

async fn replay_all(lake: &Lake, which: &Which, job: &Job) -> anyhow::Result<Report> {
    let mut report = report(job, false);
    let mut progress = WaitLine::default();
    let mut objects = Objects::new(lake, which);
    while let Some((_, hour)) = objects.next_hour(&mut report.unreadable).await? {
        let mut replaying = stream::iter(hour)
            .map(|object| async {
                let key = object.key(&lake.errors);
                (key, replay_one(lake, which, job, object).await)
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((key, outcome)) = replaying.next().await {
            report.objects += 1;
            match outcome {
                Ok(Some(Replayed { landed, already_there, failed, unreadable, sealed_by_others })) => {
                    for (folder, rows) in landed {
                        report.landed += rows;
                        *report.landed_by_folder.entry(folder).or_default() += rows;
                    }
                    report.already_there += already_there;
                    report.sealed_by_others += sealed_by_others;
                    add(&mut report.failed, &failed);
                    for (line, problem) in unreadable {
                        report.unreadable.add(&key, Some(line), problem);
                    }
                }
                Ok(None) => report.unreadable.add(&key, None, "it was deleted meanwhile"),
                // The next object would fare no better.
                Err(ReplayError::Lake(error)) if error.action == "create" => {
                    progress.done();
                    let rows = counted(report.landed, "row");
                    let advice = "run the same command again: it continues where this run stopped";
                    return Err(anyhow!("{}; {rows} landed before; {advice}", chain(&error)));
                }
                Err(error) => report.unreadable.add(&key, None, chain(&error)),
            }
            progress.say(&format!("{} objects, {} landed …", report.objects, counted(report.landed, "row")));
        }
    }
    progress.done();
    objects.tell_unmatched(&mut report.unreadable);
    Ok(report)
}

async fn replay_one(
    lake: &Lake,
    which: &Which,
    job: &Job,
    object: LetterObject,
) -> Result<Option<Replayed>, ReplayError> {
    let Some(bytes) = lake.sink.read(&object.key(&lake.errors)).await? else { return Ok(None) };
    let wanted = |letter: &Letter<'_>| which.means(&object, letter);
    replay(&lake.sink, job, &object, &bytes, &wanted).await.map(Some)
}

fn text(report: &Report) -> String {
    let Report { dry_run, transform, landing, landed, failed, interrupted_replays, sealed_by_others, .. } =
        report;
    // Of another folder where this replay has brought one of before to its end.
    let folders: Vec<String> = match report.landed_by_folder.iter().collect::<Vec<_>>()[..] {
        [] | [_] => report.landed_by_folder.keys().cloned().collect(),
        ref several => several.iter().map(|(folder, rows)| format!("{folder} ({rows})")).collect(),
    };
    let landing = if folders.is_empty() { landing.clone() } else { folders.join(", ") };
    let verb = if *dry_run { "would become" } else { "became" };
    let rows = if *landed == 1 { "a row" } else { "rows" };
    let mut out =
        format!("{} {verb} {rows} in {landing} with {transform}.\n", counted(*landed, "dead letter"));
    if report.already_there > 0 {
        let others = counted(report.already_there, "other");
        out.push_str(&format!("{others} had already been landed by another replay.\n"));
    }
    if !failed.is_empty() {
        let all: u64 = failed.values().sum();
        out.push_str(&format!("{} still fail{}:\n", counted(all, "other"), if all == 1 { "s" } else { "" }));
        let row = |(reason, count): (&ErrorCode, &u64)| {
            vec![format!("  {reason}"), count.to_string(), BadRecord::from(*reason).message]
        };
        out.push_str(&aligned(&failed.iter().map(row).collect::<Vec<_>>(), &[1]));
    }
    if *interrupted_replays > 0 {
        let replays = counted(*interrupted_replays, "interrupted replay");
        out.push_str(&format!("{replays} would be completed.\n"));
    }
    if *sealed_by_others > 0 {
        out.push_str(
            "Another replay with different settings ran at the same time: run only one, and run this again.\n",
        );
    }
    out
}

fn tell(report: &Report, json: bool) -> anyhow::Result<Exit> {
    let printed = print_text(&if json { serde_json::to_string(report)? + "\n" } else { text(report) });
    report.unreadable.tell();
    printed?;
    let all = report.failed.is_empty() && report.unreadable.none();
    Ok(if all { Exit::Done } else { Exit::Failed })
}
