//! The HTTP endpoints of a worker, with what they ask.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consumer::Shared;
use crate::report::{Live, LiveSettings};
use crate::shard::{ShardLister, StreamId};
use crate::telemetry::history::History;
use crate::telemetry::http::{self, Guard, HttpState};
use crate::telemetry::status::Status;

/// The streams that a worker reads now, each with who lists it.
type Listers = Box<dyn Fn() -> Vec<(StreamId, Arc<dyn ShardLister>)> + Send + Sync>;

pub(super) fn listers(shared: &Arc<Shared>) -> Listers {
    let shared = Arc::clone(shared);
    Box::new(move || {
        let streams = shared.streams.all().into_iter();
        streams.map(|stream| (StreamId::in_settings(&stream.address), Arc::clone(&stream.lister))).collect()
    })
}

/// Serves them until `stop`.
pub(super) fn spawn(
    edge: &mut JoinSet<()>,
    listener: TcpListener,
    metrics: PrometheusHandle,
    status: Arc<Status>,
    fleet: LiveSettings,
    guard: Guard,
    stop: &CancellationToken,
) {
    let history = History::new(Arc::clone(&status));
    edge.spawn(Arc::clone(&history).run(stop.clone()));
    let live = Live::new(fleet);
    edge.spawn(Arc::clone(&live).run(stop.clone()));
    let fleet = Arc::new(move || {
        let live = Arc::clone(&live);
        Box::pin(async move { live.ask().await }) as _
    });
    let router = http::router(HttpState { status, metrics: metrics.clone(), history, fleet }, guard);
    let stop = stop.clone();
    edge.spawn(async move {
        if let Err(error) = http::serve(listener, router, metrics, stop).await {
            tracing::error!(%error, "the HTTP endpoints stopped; the worker continues without them");
        }
    });
}
