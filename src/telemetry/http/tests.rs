//! The endpoints over real sockets: what they show, to whom, and how they bear askers that misbehave.

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

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

/// An answer: its code, and what came before and after the empty line.
struct Answer {
    code: u16,
    head: String,
    body: String,
}

const SECRET: &str = "correct-horse-battery";

/// On the loopback address, without a token.
async fn server() -> Server {
    serving("127.0.0.1:80", None).await
}

/// As if it had bound this address.
async fn serving(bound: &str, token: Option<&str>) -> Server {
    let status = Status::new(facts("w"), Duration::from_millis(300));
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || metrics::leases_held(2));
    let report = FleetReport { json: r#"{"error":"no table"}"#.into(), read: false, at: Instant::now() };
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
    let guard = Guard { bound: bound.parse().unwrap(), token: token.map(|token| Token::new(token).unwrap()) };
    task.spawn(serve(listener, router(state, guard), handle, stop.clone()));
    Server { address, status, stop, task }
}

impl Server {
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask("GET", path, "").await;
        (answer.code, answer.body)
    }

    /// `more`: further lines of the head.
    async fn ask(&self, method: &str, path: &str, more: &str) -> Answer {
        let host = if more.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        self.send(&format!("{method} {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // A server that has seen enough closes while this is still on its way.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer { code: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
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
        let expected = if path == "/api/leases" { 503 } else { 200 };
        assert_eq!(server.get(path).await.0, expected, "{path}");
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

#[tokio::test]
async fn a_fleet_that_cannot_be_read_is_an_error_and_every_answer_is_guarded_from_browsers() {
    let server = server().await;
    let answer = server.ask("GET", "/api/leases", "").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, r#"{"error":"no table"}"#));
    for header in ["age: 0", "cache-control: no-store", "content-type: application/json"] {
        assert!(answer.head.contains(header), "{header} not in\n{}", answer.head);
    }
    for path in ["/api/status", "/api/history", "/metrics", "/nothing"] {
        let head = server.ask("GET", path, "").await.head;
        assert!(head.contains("x-content-type-options: nosniff"), "{path}\n{head}");
        assert_eq!(head.contains("cache-control: no-store"), path.starts_with("/api/"), "{path}\n{head}");
    }
    let head = server.ask("HEAD", "/api/status", "").await;
    assert_eq!((head.code, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn the_token_opens_the_api_as_bearer_and_as_password() {
    let server = serving("0.0.0.0:80", Some(SECRET)).await;
    let basic = base64_simd::STANDARD.encode_to_string(format!("me:{SECRET}"));
    for right in [format!("Bearer {SECRET}"), format!("Basic {basic}")] {
        let answer = server.ask("GET", "/api/status", &format!("Authorization: {right}\r\n")).await;
        assert_eq!(answer.code, 200, "{right}");
    }
    for wrong in ["", "Authorization: Bearer wrong-horse-battery\r\n"] {
        let answer = server.ask("GET", "/api/status", wrong).await;
        assert!(answer.head.contains("www-authenticate: basic realm=\"kinetide\""), "{}", answer.head);
        assert_eq!(answer.code, 401);
        assert!(answer.body.contains("KINETIDE_HTTP_TOKEN") && !answer.body.contains(SECRET));
    }
    for open in ["/metrics", "/healthz"] {
        assert_eq!(server.get(open).await.0, 200);
    }
}

#[tokio::test]
async fn off_loopback_without_a_token_the_answer_says_how_to_set_one() {
    let server = serving("0.0.0.0:80", None).await;
    for path in ["/", "/console/app.js", "/api/status", "/api/leases", "/api/history", "/nothing"] {
        let (code, body) = server.get(path).await;
        assert!(code == 403 && body.contains("KINETIDE_HTTP_TOKEN"), "{path} {code} {body}");
    }
    server.status.set_working();
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_web_page_under_a_foreign_name_reads_nothing() {
    let server = server().await;
    for path in ["/", "/api/status", "/api/leases"] {
        assert_eq!(server.ask("GET", path, "Host: evil.example\r\n").await.code, 403, "{path}");
    }
    assert_eq!(server.ask("GET", "/healthz", "Host: evil.example\r\n").await.code, 200);
}

#[tokio::test]
async fn nothing_is_written_and_no_path_leads_to_a_file() {
    let server = server().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = server.ask(method, "/api/leases", "").await;
        assert!(answer.code == 405 && answer.head.contains("allow: get, head"), "{method}\n{}", answer.head);
    }
    let answer = server.ask("GET", "/healthz", "Content-Length: 5\r\n").await;
    assert!(answer.code == 413 && answer.head.contains("connection: close"), "{}", answer.head);
    for path in
        ["/console/", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/api/", "//etc/passwd", "/src", "/."]
    {
        let answer = server.ask("GET", path, "").await;
        assert!(!answer.body.contains("root:") && (answer.code == 404 || path == "/console/"), "{path}");
    }
}

#[tokio::test]
async fn a_huge_head_is_refused_and_the_next_request_answered() {
    let server = server().await;
    let (long, huge) = ("x".repeat(32 << 10), "x".repeat(1 << 20));
    let many: String = (0..80).map(|n| format!("X-{n}: y\r\n")).collect();
    for request in [
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nX: {long}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nX: {huge}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{many}\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{long}"),
        format!("{long} / HTTP/1.1\r\n\r\n"),
    ] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ =
            timeout(Duration::from_secs(60), socket.read_to_end(&mut answer)).await.expect("it is closed");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
        assert_eq!(server.get("/healthz").await.0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_to_its_end_is_given_up() {
    let server = server().await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(600), slow.read_to_end(&mut answer)).await;
    let limit = connections::HEAD_TIME..connections::HEAD_TIME + Duration::from_secs(1);
    assert!(ended.is_ok() && limit.contains(&began.elapsed()), "{:?}", began.elapsed());
}

/// Ten thousand, or as many as this process may have descriptors for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_ten_thousand_connections_hang() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let server = server().await;
    let before = getrlimit(Resource::Nofile);
    // The rest of this process has some too.
    let allowed = before.maximum.unwrap_or(u64::MAX).min(11_000);
    setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), ..before }).unwrap();
    let count = usize::try_from(allowed.saturating_sub(500)).unwrap().min(10_000);
    eprintln!("{count} connections hang");
    let mut hanging = Vec::new();
    for number in 0..count {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        // Those whose place was given to another one are closed.
        let _ = socket.write_all(b"GET /api/status HTTP/1.1\r\nHost: ").await;
        hanging.push(socket);
        if number % 500 == 499 {
            let probe = timeout(Duration::from_secs(20), server.get("/healthz")).await;
            assert_eq!(probe.expect("a probe is answered"), (200, "ok\n".to_owned()));
        }
    }
    let hangs = |socket: &&TcpStream| {
        socket.try_read(&mut [0; 16]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 0..400 {
        if hanging.iter().filter(hangs).count() <= connections::OPEN_MAX {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let open = hanging.iter().filter(hangs).count();
    assert!(count > 2 * connections::OPEN_MAX && open <= connections::OPEN_MAX, "{open} of {count} are open");
    drop(hanging);
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!(server.get("/healthz").await.0, 200);
}
