//! `kinetide check`: everything that a worker with these settings needs, item by item, and what to do about what is not so.

mod clock;
mod lake;
mod look;
mod out;
mod report;
mod service;
mod settings;
mod streams;
mod table;
mod text;

use clap::Args;

use self::report::Report;
use super::Exit;
use crate::config::RunArgs;
use crate::config::variables::{Unknown, given};
use crate::terminal::{print, print_text, printable_lines, say_error};

/// Flags of `kinetide check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,

    /// Print JSON: one object.
    #[arg(long)]
    json: bool,
}

/// The help page's end; a flattened group of flags brings its own.
pub(super) const AFTER_HELP: &str = "Takes the flags and variables of `kinetide run`, prints each setting and where it \
    comes from, and looks at everything that a worker needs: stream, shards, lease table, lake, Firehose, CloudWatch, \
    roles, permissions, clock. What makes a worker refuse to start is said in the same words. One failed item does not \
    stop the others; what depends on it is listed as not looked at.\n\n\
    It takes no lease, creates no table and delivers no record. The lake keeps what each start of a worker writes: \
    _kinetide/probe. Each item is given up after about 10 s, the lease table after the failover time and 10 s.\n\n\
    docs/CHECK.md explains every item and every member of --json.\n\n\
    Exit code: 0 when nothing failed, 1 when something did, 2 for wrong settings.\n\nExamples:\n  \
    kinetide check --stream trades --lake s3://my-lake/raw --region eu-north-1\n  \
    kinetide check --stream trades --lake s3://my-lake/raw --json | jq '.items[] | select(.verdict == \"failed\")'";

/// Runs the command. `unknown`: variables that nobody knows.
///
/// # Errors
/// When the report cannot be written.
pub async fn run(args: CheckArgs, unknown: &[Unknown]) -> anyhow::Result<Exit> {
    crate::clock::be_wrong_by(args.run.clock_offset);
    let config = match super::run::checked(args.run) {
        Ok((_, config)) => config,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let (region, items) = Box::pin(look::look(&config, unknown)).await;
    let report = Report::new(&config.application, settings::effective(given(), &config, region), items);
    if args.json {
        print(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_text(&printable_lines(&text::rendered(&report)))?;
    }
    Ok(if report.failed > 0 { Exit::Failed } else { Exit::Done })
}
