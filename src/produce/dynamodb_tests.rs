use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::aws::sdk_config;
use crate::generate::Source;
use crate::generate::synthetic::{Mix, Synthetic};
use crate::produce::run::{Event, Plan, Sink, Totals, run};

const TABLE: &str = "CryptoTransactions";

/// The embedded DynamoDB on a free port, stopped when dropped.
struct Server {
    client: Client,
    _stop: tokio_util::sync::DropGuard,
    _tasks: tokio::task::JoinSet<()>,
}

async fn server() -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let database = dynoxide::Database::memory().unwrap();
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        dynoxide::server::serve_with_shutdown(listener, database, stopped).await.unwrap();
    });
    let client = Client::new(&sdk_config(Some(&endpoint), None).await);
    Server { client, _stop: stop.drop_guard(), _tasks: tasks }
}

fn synthetic(seed: u64, mix: Mix) -> Source {
    Source::Synthetic(Box::new(Synthetic::new(seed, mix)))
}

fn json(item: &Item) -> serde_json::Value {
    let mut out = Vec::new();
    envelope::write_item(item, &mut out);
    serde_json::from_slice(&out).unwrap()
}

async fn contents(client: &Client) -> HashMap<String, serde_json::Value> {
    let mut items = HashMap::new();
    let add = |bytes: &[u8]| {
        let item: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        items.insert(item[KEY]["S"].as_str().unwrap().to_owned(), item);
    };
    scan(client, TABLE, add).await.unwrap();
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_ends_as_the_changes_say() {
    let server = server().await;
    assert!(create_table(&server.client, TABLE).await.unwrap());
    assert!(!create_table(&server.client, TABLE).await.unwrap(), "it is there already");

    // Few keys, so that changes of one key follow each other closely.
    let mix = Mix { live_keys_max: 40, ttl_rate: 0.02, ..Mix::default() };
    let sink = Sink::Table(Arc::new(TableWriter::new(server.client.clone(), TABLE)));
    let plan = Plan { records: Some(3000), ..Plan::default() };
    let mut last = Totals::default();
    let event = |event: Event<'_>| {
        if let Event::Progress(totals) = event {
            assert!(totals.written >= last.written);
            last = totals.clone();
        }
    };
    let totals = run(plan, synthetic(5, mix), sink, event, CancellationToken::new()).await.unwrap();
    assert_eq!((totals.written, totals.given_up, totals.interrupted), (3000, 0, false));
    assert_eq!(totals.inserts + totals.modifies + totals.removes, 3000);
    assert_eq!(last.written, 3000);

    let mut expected = HashMap::new();
    for change in Synthetic::new(5, mix).take(3000) {
        match &change.kind {
            ChangeKind::Insert(new) | ChangeKind::Modify { new, .. } => {
                expected.insert(change.key.to_string(), json(new));
            }
            ChangeKind::Remove(_) => {
                expected.remove(change.key.as_ref());
            }
            other => panic!("not for a table: {other:?}"),
        }
    }
    let mut found = contents(&server.client).await;
    // A set has no order.
    for item in found.values_mut().chain(expected.values_mut()) {
        for set in ["SS", "NS", "BS"] {
            for value in item.as_object_mut().unwrap().values_mut() {
                if let Some(members) = value.get_mut(set).and_then(|set| set.as_array_mut()) {
                    members.sort_by_key(ToString::to_string);
                }
            }
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_an_error_at_once() {
    let server = server().await;
    let sink = Sink::Table(Arc::new(TableWriter::new(server.client.clone(), "NoSuchTable")));
    let plan = Plan { records: Some(10), ..Plan::default() };
    let error =
        run(plan, synthetic(1, Mix::default()), sink, |_| {}, CancellationToken::new()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("table NoSuchTable") && message.contains("ResourceNotFound"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_early_and_says_so() {
    let server = server().await;
    create_table(&server.client, TABLE).await.unwrap();
    let sink = Sink::Table(Arc::new(TableWriter::new(server.client.clone(), TABLE)));
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let event = move |event: Event<'_>| {
        if matches!(event, Event::Progress(totals) if totals.written >= 100) {
            stop.cancel();
        }
    };
    let plan = Plan { rate: Some(2000.0), ..Plan::default() };
    let totals = run(plan, synthetic(1, Mix::default()), sink, event, cancel).await.unwrap();
    assert!(totals.interrupted && totals.written >= 100, "{totals:?}");
    let inserted = contents(&server.client).await.len() as u64;
    assert_eq!(inserted, totals.inserts - totals.removes);
}
