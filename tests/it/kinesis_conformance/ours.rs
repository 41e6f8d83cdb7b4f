//! What only the embedded server has: limits, faults, short-lived iterators, and the bytes of its errors.

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, ScalingType, ShardIteratorType, StartingPosition, StreamStatus,
};
use kinetide::internals::local::kinesis::KinesisSettings;
use kinetide::internals::local::{LocalAws, LocalSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{OURS, Server, client, kind};

async fn start(kinesis: KinesisSettings) -> (LocalAws, Server) {
    let aws = LocalAws::start(LocalSettings { kinesis, ..LocalSettings::default() }).await.unwrap();
    let server = Server { client: client(aws.kinesis_url()), can: OURS };
    server.create("s", 1).await;
    (aws, server)
}

const SHARD: &str = "shardId-000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn iterators_expire() {
    let ttl = Duration::from_millis(30);
    let (_aws, server) = start(KinesisSettings { iterator_ttl: ttl, ..KinesisSettings::default() }).await;
    let iterator = server.iterator("s", SHARD, ShardIteratorType::Latest).await;
    tokio::time::sleep(ttl * 2).await;
    let error = server.client.get_records().shard_iterator(iterator).send().await.unwrap_err();
    assert_eq!(kind(&error), "ExpiredIteratorException");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_limits_throttle_reads_and_writes() {
    let (aws, server) = start(KinesisSettings { real_limits: true, ..KinesisSettings::default() }).await;
    let entry = PutRecordsRequestEntry::builder().partition_key("k").data(Blob::new(vec![0; 250_000]));
    let put = server.client.put_records().stream_name("s").set_records(Some(vec![entry.build().unwrap(); 6]));
    let put = put.send().await.unwrap();
    assert_eq!(put.failed_record_count, Some(2), "4 of 6 records of 250 kB make 1 MB");
    let codes: Vec<_> = put.records.iter().map(|result| result.error_code.as_deref()).collect();
    assert_eq!(codes[4..], [Some("ProvisionedThroughputExceededException"); 2]);
    // The handle knows no limits. A full page overdraws the shard for seconds.
    for _ in 0..9 {
        aws.kinesis().put("s", "k", &vec![0; 1_000_000]).unwrap();
    }
    let iterator = server.iterator("s", SHARD, ShardIteratorType::TrimHorizon).await;
    assert!(server.get(&iterator, 10_000).await.records.len() > 9);
    let refused = server.client.get_records().shard_iterator(&iterator).send().await.unwrap_err();
    assert_eq!(kind(&refused), "ProvisionedThroughputExceededException");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_strike_and_a_lost_answer_keeps_the_work() {
    let (aws, server) = start(KinesisSettings::default()).await;
    let put = || server.client.put_record().stream_name("s").partition_key("k").data(Blob::new("x")).send();
    for (fault, expected, kept) in [
        ("PutRecord:throttle:1", "ProvisionedThroughputExceededException", 0),
        ("PutRecord:5xx:1", "InternalFailure", 0),
        ("PutRecord:cut:1", "no service error", 0),
        ("*:lost-answer:1", "no service error", 1),
    ] {
        let before = aws.kinesis().count("s").unwrap();
        aws.kinesis().set_faults(vec![fault.parse().unwrap()], 1);
        assert_eq!(kind(&put().await.unwrap_err()), expected, "{fault}");
        assert_eq!(aws.kinesis().count("s").unwrap() - before, kept, "{fault}");
    }
    aws.kinesis().set_faults(vec!["PutRecord:delay=80ms:1".parse().unwrap()], 1);
    let started = tokio::time::Instant::now();
    put().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(80));
    aws.kinesis().set_faults(Vec::new(), 0);
    put().await.unwrap();
}

/// A newer subscription takes the shard over after five seconds; the older one is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_taken_over() {
    use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;

    let (_aws, server) = start(KinesisSettings::default()).await;
    let client = &server.client;
    let arn = client.describe_stream_summary().stream_name("s").send().await.unwrap();
    let arn = arn.stream_description_summary.unwrap().stream_arn;
    let consumer =
        client.register_stream_consumer().stream_arn(arn).consumer_name("app").send().await.unwrap();
    let consumer = consumer.consumer.unwrap().consumer_arn;
    let position = StartingPosition::builder().r#type(ShardIteratorType::Latest).build().unwrap();
    let subscribe = || {
        let call = client.subscribe_to_shard().consumer_arn(&consumer).shard_id(SHARD);
        call.starting_position(position.clone()).send()
    };
    let mut first = subscribe().await.unwrap().event_stream;
    assert_eq!(kind(&subscribe().await.unwrap_err()), "ResourceInUseException");
    tokio::time::sleep(Duration::from_millis(5_050)).await;
    let _second = subscribe().await.unwrap();
    let error = loop {
        match first.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the older subscription ended without a word"),
            Err(error) => break error.into_service_error(),
        }
    };
    assert!(matches!(error, SubscribeToShardEventStreamError::ResourceInUseException(_)), "{error:?}");
}

/// Sends one call by hand; answers status line, headers and body.
async fn raw(aws: &LocalAws, target: &str, content_type: &str, body: &str) -> (String, String, String) {
    let address = aws.kinesis_url().strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nx-amz-target: {target}\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_bytes_of_the_service() {
    const JSON: &str = "application/x-amz-json-1.1";
    let (aws, _server) = start(KinesisSettings::default()).await;
    let call = |operation: &str| format!("Kinesis_20131202.{operation}");

    let (status, headers, body) =
        raw(&aws, &call("DescribeStreamSummary"), JSON, r#"{"StreamName":"nope"}"#).await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert!(
        headers.contains("x-amzn-requestid: ")
            && headers.contains("content-type: application/x-amz-json-1.1")
    );
    let expected = r#"{"__type":"ResourceNotFoundException","message":"Stream nope under account 000000000000 not found."}"#;
    assert_eq!(body, expected);

    for (target, content_type, body, expected) in [
        (call("MakeCoffee"), JSON, "{}", "UnknownOperationException"),
        ("DynamoDB_20120810.ListTables".to_owned(), JSON, "{}", "UnknownOperationException"),
        (call("GetRecords"), JSON, "{", "SerializationException"),
        (call("GetRecords"), JSON, "{}", "ValidationException"),
        (call("GetRecords"), JSON, r#"{"ShardIterator":"x","Limit":10001}"#, "ValidationException"),
        (call("DescribeStream"), JSON, "{}", "InvalidArgumentException"),
        (call("ListShards"), JSON, r#"{"NextToken":"x","StreamName":"s"}"#, "InvalidArgumentException"),
        (
            call("PutRecord"),
            JSON,
            r#"{"StreamName":"s","PartitionKey":"k","Data":"???"}"#,
            "SerializationException",
        ),
        (call("ListStreams"), "application/x-amz-cbor-1.1", "\u{0}", "SerializationException"),
    ] {
        let (status, _, answer) = raw(&aws, &target, content_type, body).await;
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{target}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["__type"], expected, "{target} {body}");
        assert!(answer["message"].is_string());
    }
    let (status, _, body) = raw(&aws, &call("ListStreams"), JSON, "").await;
    assert!(status.ends_with("200 OK") && body.contains(r#""StreamNames":["s"]"#), "{body}");
}

/// Each call that names a stream takes its ARN, and knows no stream of another region or account.
#[tokio::test(flavor = "multi_thread")]
async fn an_arn_is_looked_at_in_every_call() {
    const JSON: &str = "application/x-amz-json-1.1";
    let (aws, server) = start(KinesisSettings::default()).await;
    let iterator = server.iterator("s", SHARD, ShardIteratorType::TrimHorizon).await;
    let call = async |operation: &str, arn: &str, more: &str| {
        let body = format!(r#"{{"StreamARN":"{arn}"{more}}}"#);
        let (status, _, answer) = raw(&aws, &format!("Kinesis_20131202.{operation}"), JSON, &body).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        if status.ends_with("200 OK") {
            return "done".to_owned();
        }
        format!("{}: {}", answer["__type"].as_str().unwrap(), answer["message"].as_str().unwrap())
    };
    let ours = "arn:aws:kinesis:us-east-1:000000000000:stream/s";
    let get = format!(r#","ShardIterator":"{iterator}""#);
    let shard = format!(r#","ShardId":"{SHARD}","ShardIteratorType":"LATEST""#);
    for (operation, more) in [
        ("DescribeStreamSummary", ""),
        ("DescribeStream", ""),
        ("ListShards", ""),
        ("GetShardIterator", &shard),
        ("GetRecords", &get),
        ("PutRecord", r#","PartitionKey":"k","Data":"AAAA""#),
        ("PutRecords", r#","Records":[{"PartitionKey":"k","Data":"AAAA"}]"#),
        ("UpdateMaxRecordSize", r#","MaxRecordSizeInKiB":1024"#),
        ("IncreaseStreamRetentionPeriod", r#","RetentionPeriodHours":24"#),
        ("DecreaseStreamRetentionPeriod", r#","RetentionPeriodHours":24"#),
        ("ListStreamConsumers", ""),
        ("RegisterStreamConsumer", r#","ConsumerName":"c""#),
        ("DescribeStreamConsumer", r#","ConsumerName":"c""#),
        ("DeregisterStreamConsumer", r#","ConsumerName":"c""#),
        ("SplitShard", r#","ShardToSplit":"shardId-000000000000","NewStartingHashKey":"7""#),
        (
            "MergeShards",
            r#","ShardToMerge":"shardId-000000000001","AdjacentShardToMerge":"shardId-000000000002""#,
        ),
        ("UpdateShardCount", r#","TargetShardCount":2,"ScalingType":"UNIFORM_SCALING""#),
    ] {
        for (arn, account) in [
            ("arn:aws:kinesis:us-east-1:111122223333:stream/s", "111122223333"),
            ("arn:aws:kinesis:eu-north-1:000000000000:stream/s", "000000000000"),
        ] {
            let said = call(operation, arn, more).await;
            let expected = format!("ResourceNotFoundException: Stream s under account {account} not found.");
            assert_eq!(said, expected, "{operation} {arn}");
        }
        let said = call(operation, "s", more).await;
        assert!(said.starts_with("ValidationException: ") && said.contains(r"\d{12}"), "{operation}: {said}");
        assert_eq!(call(operation, ours, more).await, "done", "{operation}");
    }
    server.create("other", 1).await;
    let other = "arn:aws:kinesis:us-east-1:000000000000:stream/other";
    for (operation, more) in [("GetRecords", get.as_str()), ("ListShards", r#","StreamName":"s""#)] {
        let said = call(operation, other, more).await;
        assert!(said.starts_with("InvalidArgumentException: "), "{said}");
    }
    let foreign = "arn:aws:kinesis:us-east-1:111122223333:stream/s/consumer/c:1";
    let position = StartingPosition::builder().r#type(ShardIteratorType::Latest).build().unwrap();
    let subscribe = server.client.subscribe_to_shard().consumer_arn(foreign).shard_id(SHARD);
    let refused = subscribe.starting_position(position).send().await.unwrap_err();
    assert_eq!(kind(&refused), "ResourceNotFoundException");
    assert_eq!(call("DeleteStream", ours, "").await, "done");
}

/// Escapes in a request body are read as JSON and come back as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn escaped_texts_survive() {
    let (aws, server) = start(KinesisSettings::default()).await;
    let body = r#"{"StreamName":"s","PartitionKey":"a\"\\\n\u00e9","Data":"\/\/8="}"#;
    let (status, _, _) = raw(&aws, "Kinesis_20131202.PutRecord", "application/x-amz-json-1.1", body).await;
    assert!(status.ends_with("200 OK"));
    server.put("s", "ключ", &[255, 255]).await;
    let (records, _) = server.drain("s", SHARD).await;
    assert_eq!(records[0].partition_key.as_deref(), Some("a\"\\\né"));
    assert_eq!(records[1].partition_key.as_deref(), Some("ключ"));
    assert!(records.iter().all(|record| record.data.as_ref() == [255, 255]));
}

/// While its shards change a stream is `UPDATING`; it takes ten such changes in a day.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_shards_changes_one_use_after_the_other_and_ten_times_a_day() {
    let resize = async |server: &Server, target| {
        let update = server.client.update_shard_count().stream_name("s").target_shard_count(target);
        update.scaling_type(ScalingType::UniformScaling).send().await
    };
    let slow = KinesisSettings { resize_time: Duration::from_secs(600), ..KinesisSettings::default() };
    let (_aws, server) = start(slow).await;
    assert_eq!(resize(&server, 2).await.unwrap().current_shard_count, Some(1));
    let summary = server.client.describe_stream_summary().stream_name("s").send().await.unwrap();
    let summary = summary.stream_description_summary.unwrap();
    assert_eq!((summary.stream_status, summary.open_shard_count), (StreamStatus::Updating, 2));
    assert_eq!(kind(&resize(&server, 4).await.unwrap_err()), "ResourceInUseException");

    let limited = KinesisSettings { real_limits: true, ..KinesisSettings::default() };
    let (_aws, server) = start(limited).await;
    for use_ in 0..10 {
        resize(&server, 2 - use_ % 2).await.unwrap();
    }
    assert_eq!(kind(&resize(&server, 2).await.unwrap_err()), "LimitExceededException");
}
