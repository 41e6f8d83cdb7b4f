//! The checks of every sink, run on the twin in memory, on a folder, and on an S3 server whose
//! endpoint the environment names.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use futures::future::join_all;
use kinetide::internals::deliver::memory::MemorySink;
use kinetide::internals::deliver::{Created, LakeUrl, Sink, open};
use kinetide::testing::{Store, sink_conforms};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn memory_conforms() {
    sink_conforms(Arc::new(MemorySink::new()), Store { flat: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&LakeUrl::Folder(folder.path().join("lake")), None, None).await.unwrap();
    sink_conforms(Arc::new(lake), Store { flat: false }).await;
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
    sink_conforms(Arc::new(lake), Store { flat: true }).await;
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
