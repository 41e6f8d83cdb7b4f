//! The endpoints for operators and their machines: metrics, health, readiness, status, the fleet.
//!
//! Owns: paths and status codes, who is answered (`access`), how much askers may take (`connections`).
//! Does not own: the state (`status`), the names (`metrics`).

mod access;
mod connections;
mod token;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::access::Access;
pub use self::token::Token;
use super::console;
use super::history::History;
use super::scrape;
use super::status::Status;

/// Every path with what it gives, as the answer to an unknown path lists them.
const PATHS: [(&str, &str); 7] = [
    ("/", "the console, for people"),
    ("/metrics", "metrics in the Prometheus text format"),
    ("/healthz", "200, or 503 when a restart would help: for liveness probes"),
    ("/readyz", "200 while the worker does its part of the work, else 503 with the reasons"),
    ("/api/status", "state of the process and its shards as JSON"),
    ("/api/leases", "the whole fleet from the lease table, as `kinetide leases --json --no-lag` prints it"),
    ("/api/history", "what this worker saw in the last hours as JSON"),
];

/// How often histograms are folded, so that they do not grow between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What the endpoints show.
#[derive(Clone)]
pub struct HttpState {
    /// State of the process.
    pub status: Arc<Status>,
    /// The recorder's handle, from `metrics::install`.
    pub metrics: PrometheusHandle,
    /// What this worker saw.
    pub history: Arc<History>,
    /// Asks the lease table.
    pub fleet: AskFleet,
}

/// The fleet as the lease table had it a moment ago.
#[derive(Clone)]
pub struct FleetReport {
    /// The report; where the table was not read, why.
    pub json: Bytes,
    /// The table was read.
    pub read: bool,
    /// When.
    pub at: Instant,
}

/// Asks for the fleet; answers within seconds.
pub type AskFleet = Arc<dyn Fn() -> BoxFuture<'static, FleetReport> + Send + Sync>;

/// Who may ask for more than health, readiness and metrics.
pub struct Guard {
    /// The address that was bound.
    pub bound: SocketAddr,
    /// The secret, where there is one.
    pub token: Option<Token>,
}

/// All routes, behind the guard.
pub fn router(state: HttpState, guard: Guard) -> Router {
    let access = Arc::new(Access::new(guard.bound, guard.token));
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/status", get(status))
        .route("/api/leases", get(leases))
        .route("/api/history", get(history))
        .merge(console::routes())
        .fallback(not_found)
        .with_state(state)
        .layer(from_fn_with_state(access, guarded))
}

/// Serves `router` until `stop`, and keeps the recorder in order meanwhile.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> io::Result<()> {
    let upkeep = async {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        served = connections::serve(listener, router, stop) => served,
        () = upkeep => Ok(()),
    }
}

/// Asks the guard first, and tells browsers to do nothing clever with what they get.
async fn guarded(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let of_api = request.uri().path().starts_with("/api/");
    let mut response = match access.check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    let mut say = |name: HeaderName, value| drop(headers.insert(name, HeaderValue::from_static(value)));
    say(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    say(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if of_api {
        say(header::CACHE_CONTROL, "no-store");
    }
    response
}

async fn prometheus(State(state): State<HttpState>) -> impl IntoResponse {
    let mut text = state.metrics.render();
    text.push_str(&scrape::gauges(&state.status.snapshot(), &state.status.trouble_seconds()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn healthz(State(state): State<HttpState>) -> (StatusCode, String) {
    match state.status.sick() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn readyz(State(state): State<HttpState>) -> (StatusCode, String) {
    let readiness = state.status.readiness();
    let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, readiness.text())
}

async fn status(State(state): State<HttpState>) -> impl IntoResponse {
    Json(state.status.snapshot())
}

async fn leases(State(state): State<HttpState>) -> Response {
    let report = (state.fleet)().await;
    let code = if report.read { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let age = report.at.elapsed().as_secs().to_string();
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::AGE, age.as_str())];
    (code, headers, report.json).into_response()
}

async fn history(State(state): State<HttpState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], state.history.json())
}

async fn not_found() -> (StatusCode, String) {
    let mut text = String::from("no such path; there are:\n");
    for (path, what) in PATHS {
        let _ = writeln!(text, "{path}  {what}");
    }
    (StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests;
