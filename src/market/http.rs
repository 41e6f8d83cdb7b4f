//! The endpoints of a poller: metrics, liveness, readiness.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::poller::Counts;
use crate::clock::wall_clock_us;
use crate::telemetry::http;

/// Intervals without a snapshot after which a poller is not ready.
const LATE: i64 = 3;

/// Serves the endpoints until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    counts: Arc<Counts>,
    every: Duration,
    stop: CancellationToken,
) -> io::Result<()> {
    let (rendered, started_s) = (metrics.clone(), wall_clock_us() / 1_000_000);
    let ready = move || {
        let answer = ready(counts.newest_s(), started_s, wall_clock_us() / 1_000_000, every);
        std::future::ready(answer)
    };
    let router = Router::new()
        .route("/metrics", get(move || std::future::ready(rendered.render())))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready));
    http::serve(listener, router, metrics, stop).await
}

/// Whether a snapshot came in time. All times in s since the epoch; `newest_s` 0 before the first.
fn ready(newest_s: i64, started_s: i64, now_s: i64, every: Duration) -> (StatusCode, String) {
    let every_s = i64::try_from(every.as_secs()).unwrap_or(i64::MAX / LATE);
    let age_s = now_s - newest_s.max(started_s);
    if age_s <= LATE * every_s {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("no snapshot for {age_s} s\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poller_is_ready_while_snapshots_come() {
        let every = Duration::from_secs(300);
        for (newest_s, now_s, expected) in
            [(0, 1_000, true), (0, 1_901, false), (1_800, 2_700, true), (1_800, 2_701, false)]
        {
            assert_eq!(
                ready(newest_s, 1_000, now_s, every).0 == StatusCode::OK,
                expected,
                "{newest_s} {now_s}"
            );
        }
    }
}
