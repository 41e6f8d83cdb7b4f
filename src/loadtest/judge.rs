//! From a lake and what was seen of a run to its verdict.

use std::time::Duration;

use tokio::time::Instant;

use super::proxy::Network;
use super::run::Run;
use super::verdict::{self, LatencyMs, Requests, StreamVerdict, Verdict};
use crate::produce::Totals;
use crate::shard::Checkpoint;
use crate::terminal::say;
use crate::trial::{Checked, LakeCheck, TrialError, verify_foreign, verify_streams};

/// Reads the lake back. `totals`: what was put into each stream, in `seconds` until the last commit.
pub(super) async fn judge(mut run: Run<'_>, totals: &[Totals], seconds: f64) -> Result<Verdict, TrialError> {
    say("reading the lake back");
    run.follow = None;
    let (store, root) = run.stage.lake_store().await?;
    let mut shown = Instant::now();
    let shown = |read, all| {
        if shown.elapsed() > Duration::from_secs(2) {
            shown = Instant::now();
            say(format!("{read} of {all} objects read"));
        }
    };
    let mut puts = run.ledger.clone().close();
    let Checked { all: lake, each } = match (&run.plan.worker_command, puts.pop()) {
        (Some(_), Some(puts)) => verify_foreign(store, &root, puts, shown).await?,
        (_, last) => {
            // With LATEST the lake knows nothing of what was written before.
            let whole = !matches!(run.plan.initial, Some((_, Checkpoint::Latest)));
            let mut streams = Vec::new();
            for (number, puts) in puts.into_iter().chain(last).enumerate() {
                let table = if whole { run.stage.scene.table(number).await? } else { None };
                streams.push((puts.with_alerts(run.plan.alerts), table));
            }
            verify_streams(store, &root, streams, shown).await?
        }
    };
    let requests = requests(&run.stage.network, lake.records_put);
    let mut streams = Vec::new();
    for (number, mut check) in each.into_iter().enumerate() {
        check.stream.clone_from(&run.stage.scene.streams()[number]);
        let (exactly_once, no_verdict) =
            verdict::exactly_once(check.lake.ok(), totals[number].written, check.lake.records_put);
        let latency_ms = LatencyMs::of(&std::mem::take(&mut check.lake.latencies));
        let lag_ms_max = run.lag_ms_max[number];
        let source = run.stage.scene.source(number);
        streams.push(StreamVerdict { source, check, exactly_once, no_verdict, latency_ms, lag_ms_max });
    }
    run.stage.strike().await;
    let counts = run.mischief.counts();
    let put_seconds = totals.iter().map(|totals| totals.seconds).fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let per_second = |seconds: f64| lake.records_put as f64 / seconds.max(f64::MIN_POSITIVE);
    let (exactly_once, no_verdict) = verdict::of_all(lake.ok(), &streams);
    Ok(Verdict {
        worker_command: run.plan.worker_command.clone(),
        seed: run.plan.seed,
        put: lake.records_put,
        delivered: lake.records_put - lake.missing,
        dead_letters: lake.dead_letters,
        missing: lake.missing,
        duplicated: lake.duplicated,
        exactly_once,
        no_verdict,
        streams,
        resent: totals.iter().map(|totals| totals.resent).sum(),
        put_seconds,
        seconds,
        put_per_second: per_second(put_seconds),
        delivered_per_second: per_second(seconds),
        latency_ms: LatencyMs::of(&lake.latencies),
        lag_ms_max: run.lag_ms_max.iter().copied().max().unwrap_or(0),
        workers_killed: counts.killed,
        zombies: counts.zombies,
        reshards: counts.reshards,
        ended_by_themselves: run.ended_by_themselves,
        faults: run.mischief.into_faults(),
        unread_ms_otherwise: run.unread_ms_otherwise,
        requests,
        workers: run.crew.uses(),
        samples: run.samples,
        lake: LakeCheck { latencies: Default::default(), ..lake },
    })
}

fn requests(network: &Network, records: u64) -> Vec<Requests> {
    let mut found: Vec<Requests> = Vec::new();
    for ((service, operation), count) in network.counts() {
        if found.last().is_none_or(|last| last.service != service) {
            let (requests, struck, per_million_records) = (0, 0, 0);
            found.push(Requests { service, requests, struck, per_million_records, operations: Vec::new() });
        }
        let Some(of_service) = found.last_mut() else { continue };
        of_service.requests += count.requests;
        of_service.struck += count.struck;
        of_service.operations.push((operation, count.requests));
    }
    for of_service in &mut found {
        of_service.per_million_records = of_service.requests * 1_000_000 / records.max(1);
    }
    found
}
