//! A forwarder between one worker and DynamoDB that counts what the worker asks for, and what DynamoDB would charge.
//!
//! Requests and answers pass unaltered, so nothing asks DynamoDB for the capacity it consumed: units follow from the
//! sizes of rows, by the rules of
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What the requests of one kind were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) requests: u32,
    /// Refused by their condition; these cost as much.
    pub(super) refused: u32,
    pub(super) read_units: f64,
    pub(super) write_units: f64,
    pub(super) bytes: usize,
}

impl Count {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.read_units += other.read_units;
        self.write_units += other.write_units;
        self.bytes += other.bytes;
    }
}

pub(super) type Counts = BTreeMap<&'static str, Count>;

pub(super) struct Meter {
    url: String,
    seen: Arc<Mutex<Seen>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    counts: Counts,
    /// The last known size of each row, by its key.
    rows: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Forward {
    to: String,
    client: reqwest::Client,
    seen: Arc<Mutex<Seen>>,
}

impl Meter {
    /// Listens on a port of its own.
    pub(super) async fn start(to: &str) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let forward = Forward { to: to.to_owned(), client, seen: Arc::clone(&seen) };
        let router = Router::new().fallback(pass).with_state(forward);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, _server: server }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> Counts {
        std::mem::take(&mut self.seen.lock().unwrap().counts)
    }

    /// The size of the largest row as last seen, in bytes.
    pub(super) fn largest_row(&self) -> usize {
        self.seen.lock().unwrap().rows.values().copied().max().unwrap_or_default()
    }
}

async fn pass(State(forward): State<Forward>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let mut call = forward.client.post(&forward.to).body(body.clone());
    for (name, value) in headers.iter().filter(|(name, _)| *name != header::HOST) {
        call = call.header(name, value);
    }
    let answer = match call.send().await {
        Ok(answer) => answer,
        Err(error) => {
            let body = Body::from(error.to_string());
            return Response::builder().status(StatusCode::BAD_GATEWAY).body(body).unwrap();
        }
    };
    let mut passed = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            passed = passed.header(name, value);
        }
    }
    let refused = !answer.status().is_success();
    let received = answer.bytes().await.unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or_default();
    let response = serde_json::from_slice(&received).unwrap_or_default();
    forward.seen.lock().unwrap().count(&operation, &request, refused, &response, body.len() + received.len());
    passed.body(Body::from(received)).unwrap()
}

impl Seen {
    fn count(&mut self, operation: &str, request: &Value, refused: bool, answer: &Value, bytes: usize) {
        let attributes = |name: &str| answer[name].as_object().map(|_| &answer[name]);
        let returned = answer["Items"].as_array().into_iter().flatten();
        // Entries of an index are not rows.
        let rows = returned.clone().filter(|_| request["IndexName"].is_null());
        for row in rows.chain(attributes("Attributes")).chain(attributes("Item")).chain(request.get("Item")) {
            self.rows.insert(key(row).to_owned(), size(row));
        }
        let key = [&request["Key"], &request["Item"]].into_iter().map(key).find(|key| !key.is_empty());
        let key = key.unwrap_or_default();
        let row = self.rows.get(key).copied().unwrap_or(0);
        let share = if request["ConsistentRead"] == true { 1.0 } else { 0.5 };
        let read = match operation {
            "GetItem" => started(row, 4096) * share,
            "Query" => started(returned.map(size).sum(), 4096) * share,
            "Scan" => {
                // What a filter keeps back is read all the same.
                let rows = usize::try_from(answer["ScannedCount"].as_u64().unwrap_or(0)).unwrap();
                let all: usize = self.rows.values().sum();
                started(rows * all / self.rows.len().max(1), 4096) * share
            }
            _ => 0.0,
        };
        let write = match operation {
            "UpdateItem" | "PutItem" | "DeleteItem" => started(row, 1024),
            _ => 0.0,
        };
        let kind = kind(operation, key, request);
        let refused = u32::from(refused);
        let count = Count { requests: 1, refused, read_units: read, write_units: write, bytes };
        self.counts.entry(kind).or_default().add(&count);
    }
}

/// What a request is for, by the row it names.
fn kind(operation: &str, key: &str, request: &Value) -> &'static str {
    let update = format!("{}{}", request["UpdateExpression"], request["AttributeUpdates"]);
    match (operation, key) {
        ("Scan", _) => "scan of the table",
        ("Query", _) => "query for own leases",
        ("GetItem", "Leader") => "look at the lock",
        ("GetItem", key) if key.starts_with("shardId-") => "read of a lease",
        ("GetItem", _) => "read of another row",
        ("UpdateItem" | "PutItem", "Leader") => "heartbeat of the leader",
        // The pending one has a capital C.
        ("UpdateItem", key) if key.starts_with("shardId-") && update.contains("checkpointSub") => {
            "checkpoint"
        }
        ("UpdateItem", key) if key.starts_with("shardId-") && update.contains("pendingCheckpointSub") => {
            "prepare"
        }
        ("UpdateItem", key) if key.starts_with("shardId-") && !update.contains("leaseOwner") => "renew",
        ("UpdateItem" | "PutItem", key) if key.starts_with("shardId-") => "other write to a lease",
        ("UpdateItem" | "PutItem", "Migration3.0") => "other write",
        ("UpdateItem" | "PutItem", _) => "report of a worker",
        ("DescribeTable", _) => "description (free)",
        _ => "other",
    }
}

/// The key of a row in the single table.
fn key(row: &Value) -> &str {
    row["leaseKey"]["S"].as_str().unwrap_or_default()
}

/// Units of so many bytes, at least one.
fn started(bytes: usize, unit: usize) -> f64 {
    f64::from(u32::try_from(bytes.div_ceil(unit).max(1)).unwrap())
}

/// The size of a row as DynamoDB counts it.
fn size(row: &Value) -> usize {
    let attributes = row.as_object().into_iter().flatten();
    attributes.map(|(name, value)| name.len() + size_of_value(value)).sum()
}

fn size_of_value(value: &Value) -> usize {
    let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else { return 0 };
    let text = |value: &Value| value.as_str().map_or(0, str::len);
    let all = |size: fn(&Value) -> usize| value.as_array().into_iter().flatten().map(size).sum::<usize>();
    match kind.as_str() {
        "S" => text(value),
        "N" => text(value).div_ceil(2) + 1,
        "B" => text(value) / 4 * 3,
        "SS" => all(|each| each.as_str().map_or(0, str::len)),
        "L" => 3 + all(|each| 1 + size_of_value(each)),
        "M" => 3 + size(value) + value.as_object().map_or(0, serde_json::Map::len),
        _ => 1,
    }
}

#[test]
fn units_follow_from_sizes() {
    let row = serde_json::json!({
        "leaseKey": {"S": "shardId-000000000000"}, "leaseCounter": {"N": "1234"},
        "opr": {"M": {"C": {"L": [{"N": "100"}]}}}, "childShardIds": {"SS": ["a", "bc"]}
    });
    // leaseKey 8 + 20, leaseCounter 12 + 3, opr 3 + 3 + (1 + (3 + (1 + 3))) + 1, childShardIds 13 + 3
    assert_eq!(size(&row), 28 + 15 + 15 + 16);
    let mut seen = Seen::default();
    let scan = serde_json::json!({"ConsistentRead": true});
    seen.count("Scan", &scan, false, &serde_json::json!({"Items": [row], "ScannedCount": 100}), 0);
    let renew = serde_json::json!({
        "Key": {"leaseKey": {"S": "shardId-000000000000"}}, "UpdateExpression": "SET leaseCounter = :next"
    });
    seen.count("UpdateItem", &renew, true, &Value::Null, 0);
    assert_eq!(seen.counts["scan of the table"].read_units, 2.0);
    assert_eq!((seen.counts["renew"].write_units, seen.counts["renew"].refused), (1.0, 1));
}
