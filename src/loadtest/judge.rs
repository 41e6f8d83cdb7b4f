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
    let puts = run.ledger.clone().close();
    let mut puts: Vec<_> = puts.into_iter().map(|puts| puts.with_alerts(run.plan.alerts)).collect();
    let Checked { all: lake, each } = if run.plan.worker_command.is_some() {
        // It has one stream.
        verify_foreign(store, &root, puts.remove(0), shown).await?
    } else {
        let streams = match run.plan.initial {
            // The lake knows nothing of what was written before.
            Some((_, Checkpoint::Latest)) => puts.into_iter().map(|puts| (puts, None)).collect(),
            _ => run.stage.scene.with_tables(puts).await?,
        };
        verify_streams(store, &root, streams, shown).await?
    };
    let requests = requests(&run.stage.network, lake.records_put);
    let mut streams = Vec::new();
    for (number, mut check) in each.into_iter().enumerate() {
        let stream = &run.stage.scene.streams[number];
        stream.name().clone_into(&mut check.stream);
        let (exactly_once, no_verdict) =
            verdict::exactly_once(check.lake.ok(), totals[number].written, check.lake.records_put);
        let latency_ms = LatencyMs::of(&std::mem::take(&mut check.lake.latencies));
        let lag_ms_max = run.lag_ms_max[number];
        let source = stream.source();
        streams.push(StreamVerdict { source, check, exactly_once, no_verdict, latency_ms, lag_ms_max });
    }
    run.stage.scene.strike().await;
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
