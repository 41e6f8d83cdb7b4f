//! Rows through a Firehose that is not ours, into an S3 that is not ours.

use std::collections::BTreeMap;

use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_firehose::types::{DeliveryStreamType, ExtendedS3DestinationConfiguration};
use futures::TryStreamExt;
use kinetide::internals::deliver::{LakeUrl, open};
use object_store::ObjectStoreExt;

use super::super::stage::{STREAM, Stage};
use super::server::lines;

const REGION: &str = "us-east-1";

/// `KINETIDE_TEST_MINISTACK` is the endpoint of ministack 1.5.33. It writes each record as an object at once and
/// compresses nothing (so it shows the calls, not what AWS makes of them).
#[tokio::test(flavor = "multi_thread")]
async fn ministack_stores_every_row() {
    #[expect(clippy::disallowed_methods, reason = "the switch of this test, not a setting")]
    let Ok(endpoint) = std::env::var("KINETIDE_TEST_MINISTACK") else {
        println!("skipped: Firehose on ministack because KINETIDE_TEST_MINISTACK names no endpoint");
        return;
    };
    let name = format!("firehose-{}", uuid::Uuid::new_v4());
    crate::sink_conformance::create_bucket(&endpoint, &name).await;
    for gzip in ["firehose", "records"] {
        let delivery_stream = format!("{name}-{gzip}");
        create(&endpoint, &delivery_stream, &name, gzip).await;
        let stage = Stage::new(2).await;
        let worker = stage
            .worker(&[
                ("--firehose", &delivery_stream),
                ("--firehose-endpoint", &endpoint),
                ("--firehose-gzip", gzip),
                ("--region", REGION),
            ])
            .await;
        stage.put(0..500);
        stage.all_delivered().await;
        let records = worker.metric("kinetide_firehose_records_total ").await;
        assert!((2.0..100.0).contains(&records), "packed: {records}");
        worker.drain().await;

        let url = LakeUrl::S3 { bucket: name.clone(), prefix: gzip.to_owned() };
        let lake = open(&url, Some(REGION), Some(&endpoint)).await.unwrap();
        let objects: Vec<_> = lake.store().list(Some(lake.prefix())).try_collect().await.unwrap();
        let mut rows = BTreeMap::<String, u64>::new();
        for object in objects {
            let body = lake.store().get(&object.location).await.unwrap().bytes().await.unwrap();
            for row in lines(&body) {
                *rows.entry(row["sequence_number"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        let mut put = Vec::new();
        stage
            .aws
            .kinesis()
            .visit(STREAM, |_| 0, |_, record| put.push(record.sequence_number.as_str().to_owned()))
            .unwrap();
        put.sort();
        assert_eq!(
            (put.len(), rows.values().sum::<u64>()),
            (500, 500),
            "nothing failed, so nothing is doubled"
        );
        assert!(rows.into_keys().eq(put));
    }
}

async fn create(endpoint: &str, name: &str, bucket: &str, prefix: &str) {
    let config = aws_sdk_firehose::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::for_tests())
        .endpoint_url(endpoint)
        .build();
    let destination = ExtendedS3DestinationConfiguration::builder()
        .role_arn("arn:aws:iam::000000000000:role/firehose")
        .bucket_arn(format!("arn:aws:s3:::{bucket}"))
        .prefix(format!("{prefix}/"))
        .build()
        .unwrap();
    let call = Client::from_conf(config).create_delivery_stream().delivery_stream_name(name);
    let call = call.delivery_stream_type(DeliveryStreamType::DirectPut);
    Box::pin(call.extended_s3_destination_configuration(destination).send()).await.unwrap();
}
