//! What every sink must do: one list of checks, run on the twin in memory, on a folder, and on an S3 server whose
//! endpoint the environment names.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use kinetide::deliver::memory::MemorySink;
use kinetide::deliver::{Created, LakeUrl, Sink, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Lake = Arc<dyn Sink>;

/// What kinds of stores differ in.
#[derive(Clone, Copy)]
struct Store {
    /// `p` and `p/q` may both be objects; in a folder one is a file and the other would make it a folder.
    flat: bool,
}

/// Every check; each uses its own keys, so that they may share one lake.
async fn conforms(lake: Lake, store: Store) {
    what_is_missing_is_none(&lake).await;
    what_is_created_is_read_back(&lake).await;
    the_first_one_stays(&lake).await;
    each_key_has_one_winner(&lake).await;
    an_object_is_whole_or_not_there(&lake).await;
    a_large_object_has_one_winner(&lake).await;
    if store.flat {
        a_key_may_be_the_beginning_of_another(&lake).await;
    }
}

async fn what_is_missing_is_none(lake: &Lake) {
    assert_eq!(lake.read("missing/a").await.unwrap(), None);
    assert!(!lake.exists("missing/a").await.unwrap());
}

async fn what_is_created_is_read_back(lake: &Lake) {
    let key = "landing/year=2026/month=01/day=15/hour=09/trades-shardId-0-1-2-r1.ndjson.gz";
    let body = Bytes::from_static(b"\x1f\x8b rows\n");
    assert_eq!(lake.create(key, body.clone()).await.unwrap(), Created::New);
    assert!(lake.exists(key).await.unwrap());
    assert_eq!(lake.read(key).await.unwrap(), Some(body));
    assert_eq!(lake.create("empty", Bytes::new()).await.unwrap(), Created::New);
    assert_eq!(lake.read("empty").await.unwrap(), Some(Bytes::new()));
}

async fn the_first_one_stays(lake: &Lake) {
    assert_eq!(lake.create("stays/a", "first".into()).await.unwrap(), Created::New);
    for body in ["first", "second", ""] {
        assert_eq!(lake.create("stays/a", body.into()).await.unwrap(), Created::Existed);
    }
    assert_eq!(lake.read("stays/a").await.unwrap(), Some("first".into()));
}

/// Eight writers, ten keys: ten times `New`, and what is there is what a winner wrote.
async fn each_key_has_one_winner(lake: &Lake) {
    let create = |writer: usize, key: usize| async move {
        let (name, body) = (format!("race/{key}"), format!("{writer} wrote {key}"));
        loop {
            // A store may refuse while others write the same key. Who asks again hears what came of it.
            if let Ok(created) = lake.create(&name, body.clone().into()).await {
                return (name, body, created);
            }
        }
    };
    let races = (0..8).flat_map(|writer| (0..10).map(move |key| create(writer, key)));
    let won: BTreeMap<String, String> = join_all(races)
        .await
        .into_iter()
        .filter(|(.., created)| *created == Created::New)
        .map(|(name, body, _)| (name, body))
        .collect();
    assert_eq!(won.len(), 10);
    for (name, body) in won {
        assert_eq!(lake.read(&name).await.unwrap(), Some(body.into()), "{name}");
    }
}

/// Who looks while a large object is being written sees all of it or nothing.
async fn an_object_is_whole_or_not_there(lake: &Lake) {
    let body: Bytes = (0u32..2_000_000).flat_map(u32::to_le_bytes).collect();
    let watch = async {
        loop {
            if let Some(seen) = lake.read("whole").await.unwrap() {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let (created, seen) = tokio::join!(lake.create("whole", body.clone()), watch);
    assert_eq!(created.unwrap(), Created::New);
    assert!(seen == body, "{} of {} bytes seen", seen.len(), body.len());
}

/// Two writers of an object that goes to S3 in parts. The winner's stays, also for who comes later.
async fn a_large_object_has_one_winner(lake: &Lake) {
    let body = |writer: u8| Bytes::from(vec![writer; (17 << 20) + usize::from(writer)]);
    let create = |writer: u8| async move {
        loop {
            if let Ok(created) = lake.create("large", body(writer)).await {
                return created;
            }
        }
    };
    let (first, second) = tokio::join!(create(1), create(2));
    let winner = match (first, second) {
        (Created::New, Created::Existed) => 1,
        (Created::Existed, Created::New) => 2,
        both => panic!("{both:?}"),
    };
    assert_eq!(lake.create("large", body(3)).await.unwrap(), Created::Existed);
    assert!(lake.read("large").await.unwrap() == Some(body(winner)));
}

async fn a_key_may_be_the_beginning_of_another(lake: &Lake) {
    for key in ["p", "p/q", "o/p", "o"] {
        assert_eq!(lake.create(key, key.into()).await.unwrap(), Created::New);
    }
    for key in ["p", "p/q", "o/p", "o"] {
        assert_eq!(lake.read(key).await.unwrap(), Some(key.into()));
    }
}

#[tokio::test]
async fn memory_conforms() {
    conforms(Arc::new(MemorySink::new()), Store { flat: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&LakeUrl::Folder(folder.path().join("lake")), None, None).await.unwrap();
    conforms(Arc::new(lake), Store { flat: false }).await;
}

/// Two sinks, as two processes have them, on one folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_openings_of_a_folder_are_one_lake() {
    let folder = tempfile::tempdir().unwrap();
    let url = LakeUrl::Folder(folder.path().to_owned());
    let (one, other) = (open(&url, None, None).await.unwrap(), open(&url, None, None).await.unwrap());
    let race = |n: usize| {
        let (one, other, key) = (&one, &other, format!("a/{n}"));
        async move { tokio::join!(one.create(&key, "1".into()), other.create(&key, "2".into())) }
    };
    for (first, second) in join_all((0..20).map(race)).await {
        let both = [first.unwrap(), second.unwrap()];
        assert_eq!(both.iter().filter(|created| **created == Created::New).count(), 1);
    }
}

/// `KINETIDE_TEST_S3` is the endpoint of an S3 server; credentials come from the usual AWS variables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_conforms() {
    #[expect(clippy::disallowed_methods, reason = "the switch of this test, not a setting")]
    let Ok(endpoint) = std::env::var("KINETIDE_TEST_S3") else {
        println!("skipped: s3 because KINETIDE_TEST_S3 names no endpoint");
        return;
    };
    let bucket = format!("kinetide-test-{}", std::process::id());
    create_bucket(&endpoint, &bucket).await;
    let url = LakeUrl::S3 { bucket, prefix: "lake/a".into() };
    let lake = open(&url, Some("us-east-1"), Some(&endpoint)).await.unwrap();
    conforms(Arc::new(lake), Store { flat: true }).await;
}

/// `PUT /bucket`. Local S3 servers do not check who asks, so the credential is a name only.
pub(crate) async fn create_bucket(endpoint: &str, bucket: &str) {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "PUT /{bucket} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260115/us-east-1/s3/aws4_request, \
         SignedHeaders=host, Signature=0\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "bucket not created: {answer}");
}
