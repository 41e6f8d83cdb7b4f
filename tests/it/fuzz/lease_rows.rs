//! Rows of the lease table between two good ones, as DynamoDB answers them.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use kinetide::internals::lease::dynamodb::DynamoDbLeaseTable;
use kinetide::internals::lease::{Lease, LeaseKey, LeaseTable, TableSnapshot};
use serde_json::{Map, Value};

use super::fuzz;

const GOOD: [&str; 2] = ["good-first", "good-last"];

/// Gives the same answer to whatever it is asked.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<Vec<u8>>>);

impl HttpConnector for Script {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let body = SdkBody::from(self.0.lock().unwrap().clone());
        HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), body)))
    }
}

impl HttpClient for Script {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn table(script: &Script) -> DynamoDbLeaseTable {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-north-1"))
        .credentials_provider(Credentials::for_tests())
        .retry_config(RetryConfig::disabled())
        .http_client(script.clone())
        .build();
    DynamoDbLeaseTable::new(aws_sdk_dynamodb::Client::from_conf(config), "kinetide-trades")
}

fn good(key: &str) -> String {
    format!(
        r#"{{"leaseKey":{{"S":"{key}"}},"leaseCounter":{{"N":"7"}},"checkpoint":{{"S":"42"}},
            "leaseOwner":{{"S":"w1"}},"checkpointSubSequenceNumber":{{"N":"0"}}}}"#
    )
}

/// The item, if DynamoDB could answer with it: an object of values with one type each, which has a key.
fn item(bytes: &[u8]) -> Option<Map<String, Value>> {
    let Value::Object(item) = serde_json::from_slice(bytes).ok()? else { return None };
    let key = item.get("leaseKey")?["S"].as_str()?;
    (!key.is_empty() && item.values().all(is_value)).then_some(item)
}

fn is_value(value: &Value) -> bool {
    let Some(value) = value.as_object().filter(|value| value.len() == 1) else { return false };
    let (tag, value) = value.iter().next().expect("it has one member");
    let texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    match tag.as_str() {
        "S" | "N" => value.is_string(),
        "B" => value.as_str().is_some_and(|text| base64_simd::STANDARD.check(text.as_bytes()).is_ok()),
        "BOOL" => value.is_boolean(),
        "NULL" => value.as_bool() == Some(true),
        "SS" | "NS" => texts(value),
        "L" => value.as_array().is_some_and(|list| list.iter().all(is_value)),
        "M" => value.as_object().is_some_and(|map| map.values().all(is_value)),
        _ => false,
    }
}

/// A lease must say what its row says, wherever losing it would let somebody else read or read again.
fn agrees(lease: &Lease, item: &Map<String, Value>) {
    let text = |name: &str| item.get(name).and_then(|value| value["S"].as_str());
    let number =
        |name: &str| item.get(name).map(|value| value["N"].as_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(Some(lease.key.as_str()), text("leaseKey"));
    assert_eq!(Some(lease.counter), number("leaseCounter"));
    assert_eq!(lease.owner.as_ref().map(|owner| owner.as_str()), text("leaseOwner"));
    assert_eq!(item.contains_key("leaseOwner"), lease.owner.is_some());
    assert_eq!(item.contains_key("checkpointOwner"), lease.checkpoint_owner.is_some());
    assert_eq!(Some(lease.checkpoint.as_str()), text("checkpoint"));
    if lease.checkpoint.position().is_some() {
        assert_eq!(lease.checkpoint.sub(), number("checkpointSubSequenceNumber").unwrap_or(0));
    }
    let pending = lease.pending.as_ref();
    assert_eq!(pending.map(|pending| pending.checkpoint.as_str()), text("pendingCheckpoint"));
    assert_eq!(pending.is_some(), item.contains_key("pendingCheckpoint"));
    let state = item.get("pendingCheckpointState").and_then(|value| value["B"].as_str());
    if let Some(pending) = pending {
        let state = state.map(|text| base64_simd::STANDARD.decode_to_vec(text).unwrap());
        assert_eq!(pending.state.as_deref(), state.as_deref());
    }
    for (name, ids) in [("parentShardId", &lease.parents), ("childShardIds", &lease.children)] {
        let listed = item.get(name).map_or(0, |value| value["SS"].as_array().unwrap().len());
        assert_eq!(listed, ids.len());
    }
}

fn check(snapshot: &TableSnapshot, item: &Map<String, Value>) -> String {
    let kind = item.get("entityType").and_then(|value| value["S"].as_str());
    let others = |lease: &&Lease| !GOOD.contains(&lease.key.as_str());
    let goods = snapshot.leases.iter().filter(|lease| !others(lease)).count();
    assert_eq!(goods, 2, "the rows beside it are read");
    let lease = snapshot.leases.iter().find(others);
    if let Some(lease) = lease {
        agrees(lease, item);
    }
    if let Some(odd) = snapshot.odd.first() {
        assert_eq!(odd.key, item["leaseKey"]["S"]);
    }
    let elsewhere = ["LEADER", "STREAM", "CLIENT_VERSION_MIGRATION", "TABLE_MIGRATION"];
    let is_elsewhere = kind.is_some_and(|kind| elsewhere.contains(&kind));
    let found = (usize::from(lease.is_some()), snapshot.workers.len(), snapshot.odd.len());
    assert_eq!(found.0 + found.1 + found.2, usize::from(!is_elsewhere), "{found:?}: one row is one thing");
    let problem = snapshot.odd.first().map_or("", |odd| &odd.problem);
    format!("{kind:?} {found:?} {problem}")
}

#[test]
fn a_row_of_the_lease_table_is_understood_or_odd_and_the_others_are_read() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = Script::default();
    let table = table(&script);
    let answer = |text: Vec<u8>| *script.0.lock().unwrap() = text;
    fuzz("lease-rows", 300, Vec::new(), |row| {
        let [first, last] = GOOD.map(good);
        let rows = [br#"{"Items":["#, first.as_bytes(), b",", row, b",", last.as_bytes(), b"]}"].concat();
        answer(rows);
        let snapshot = runtime.block_on(table.snapshot());
        answer([br#"{"Item":"#, row, b"}"].concat());
        let lease = runtime.block_on(table.get(&LeaseKey::parse("any")));
        let leader = runtime.block_on(table.leader());
        // What DynamoDB cannot answer must only not panic; its SDK refuses two types of one value, for example.
        let item = item(row).filter(|item| !GOOD.iter().any(|key| item["leaseKey"]["S"] == *key));
        let (Some(item), Ok(snapshot), Ok(lease)) = (item, &snapshot, &lease) else {
            return format!("{} {} {}", snapshot.is_ok(), lease.is_ok(), leader.is_ok());
        };
        if let Some(lease) = lease {
            agrees(lease, &item);
        }
        if let Ok(leader) = &leader {
            let leader = leader.as_ref().unwrap();
            let owner =
                item.get("ownerName").and_then(|value| value["S"].as_str()).filter(|text| !text.is_empty());
            assert_eq!(leader.owner.as_str(), owner.unwrap_or("(unknown)"));
        }
        format!("{} {}", check(snapshot, &item), leader.is_ok())
    });
}
