//! The endpoints for operators and their machines: metrics, health, readiness, status.
//!
//! Owns: paths and status codes. Does not own: the state (`status`), the names (`metrics`).

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// How long open connections may go on after the stop.
const GOODBYE: Duration = Duration::from_secs(1);

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

/// The routes, for a server that has more of them.
pub fn router(state: HttpState) -> Router {
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
    let last_moment = async {
        stop.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        answer = server.into_future() => answer,
        () = last_moment => Ok(()),
        () = upkeep => Ok(()),
    }
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
    ([(header::CACHE_CONTROL, "no-store")], Json(state.status.snapshot()))
}

async fn leases(State(state): State<HttpState>) -> Response {
    let report = (state.fleet)().await;
    let code = if report.read { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let age = report.at.elapsed().as_secs().to_string();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::AGE, age.as_str()),
    ];
    (code, headers, report.json).into_response()
}

async fn history(State(state): State<HttpState>) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, state.history.json())
}

async fn not_found() -> (StatusCode, String) {
    let mut text = String::from("no such path; there are:\n");
    for (path, what) in PATHS {
        let _ = writeln!(text, "{path}  {what}");
    }
    (StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;
    use crate::telemetry::fleet::{FleetSnapshot, LedSnapshot, ReasonSnapshot};
    use crate::telemetry::metrics;
    use crate::telemetry::pulse::Pulse;
    use crate::telemetry::status::ShardState;
    use crate::telemetry::status::tests::facts;
    use crate::telemetry::trouble::{Call, Troubles};

    struct Server {
        address: std::net::SocketAddr,
        status: Arc<Status>,
        stop: CancellationToken,
        task: JoinSet<io::Result<()>>,
    }

    async fn server() -> Server {
        let status = Status::new(facts("w"), Duration::from_millis(300));
        let recorder = PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || metrics::leases_held(2));
        let report = FleetReport { json: "{}".into(), read: true, at: Instant::now() };
        let state = HttpState {
            status: Arc::clone(&status),
            metrics: recorder.handle(),
            history: History::new(Arc::clone(&status)),
            fleet: Arc::new(move || Box::pin(std::future::ready(report.clone()))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let handle = state.metrics.clone();
        task.spawn(serve(listener, router(state), handle, stop.clone()));
        Server { address, status, stop, task }
    }

    impl Server {
        async fn get(&self, path: &str) -> (u16, String) {
            let mut socket = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn metrics_hold_process_and_shard_gauges() {
        let server = server().await;
        let shard = server.status.shard("trades", "shard\"7", ShardState::Stalled("throttled"), 1);
        shard.page_fetched(Some(2500));
        let (code, text) = server.get("/metrics").await;
        assert_eq!(code, 200);
        for line in [
            "kinetide_leases_held 2",
            "# TYPE kinetide_delivered_age_seconds gauge",
            r#"kinetide_millis_behind_latest{stream="trades",shard="shard\"7"} 2500"#,
            r#"kinetide_delivered_age_seconds{stream="trades",shard="shard\"7"} 2.5"#,
            r#"kinetide_shard_stalled{stream="trades",shard="shard\"7",reason="throttled"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
        assert!(!text.contains("kinetide_shards_not_read{"), "only the leader says so");
        drop(shard);
        assert!(!server.get("/metrics").await.1.contains("shard="), "a shard that left is not reported");
        server.status.fleet_from(|| {
            let reason = ReasonSnapshot { shards: 3, longest_ms: Some(12_500) };
            let led = LedSnapshot { reasons: [("owner_silent", reason)].into(), ..LedSnapshot::default() };
            FleetSnapshot { led: Some(led), ..FleetSnapshot::default() }
        });
        let text = server.get("/metrics").await.1;
        for line in [
            r#"kinetide_shards_not_read{reason="owner_silent"} 3"#,
            r#"kinetide_shards_not_read_seconds{reason="owner_silent"} 12.5"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }

    #[tokio::test]
    async fn health_readiness_and_status_follow_the_process() {
        const LIST: Call = Call { operation: "ListShards", purpose: "listing" };
        let server = server().await;
        let troubles = Troubles::new(&[LIST], Duration::from_millis(300), Duration::from_secs(60));
        server.status.watch(Arc::clone(&troubles), Arc::<Pulse>::default());
        assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(server.get("/readyz").await.0, 503);
        server.status.set_working();
        assert_eq!(server.get("/readyz").await, (200, "ready\n".to_owned()));
        let (code, body) = server.get("/api/status").await;
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &json["worker"], &json["ready"]), (200, &"w".into(), &true.into()));
        assert_eq!((&json["delivered_age_ms"], &json["millis_behind_latest"]), (&().into(), &().into()));

        troubles.begin(LIST).failed("denied".to_owned());
        tokio::time::sleep(Duration::from_millis(350)).await;
        assert_eq!(server.get("/healthz").await.0, 200, "a restart mends no permission");
        let (code, body) = server.get("/readyz").await;
        assert!(code == 503 && body.contains("ListShards") && body.contains("denied"), "{body}");
        let metrics = server.get("/metrics").await.1;
        let line =
            metrics.lines().find(|line| line.starts_with("kinetide_coordinator_trouble_seconds{")).unwrap();
        let (name, seconds) = line.rsplit_once(' ').unwrap();
        assert!(name.ends_with("{call=\"ListShards\"}") && seconds.parse::<f64>().unwrap() >= 0.3, "{line}");
        troubles.begin(LIST).answered();
        assert_eq!(server.get("/readyz").await.0, 200);
        server.status.set_draining();
        assert_eq!(server.get("/readyz").await, (503, "not ready: draining\n".to_owned()));
    }

    #[tokio::test]
    async fn an_unknown_path_lists_the_known_ones_and_each_of_them_is_there() {
        let server = server().await;
        server.status.set_working();
        let (code, text) = server.get("/nothing").await;
        assert_eq!(code, 404);
        for (path, _) in PATHS {
            assert!(text.contains(path));
            assert_eq!(server.get(path).await.0, 200, "{path}");
        }
    }

    #[tokio::test]
    async fn it_stops_even_with_a_connection_left_open() {
        let mut server = server().await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        server.stop.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(5), server.task.join_next()).await;
        assert!(stopped.unwrap().unwrap().unwrap().is_ok());
    }
}
