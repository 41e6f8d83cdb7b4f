//! Firehose and CloudWatch, where they are used.

use aws_sdk_firehose::types::DeliveryStreamDescription;
use serde_json::json;

use super::report::Item;
use super::service::{Part, bounded, endpoint};
use crate::aws::{CloudWatch, Ear, Heard, reach, sdk_config};
use crate::config::Config;
use crate::preflight::{MAY_NOT_LOOK, check_firehose};

pub(super) async fn firehose(config: &Config) -> Part {
    let Some((name, packing)) = config.lake.as_ref().and_then(|lake| lake.firehose.as_ref()) else {
        return Part::default();
    };
    let about = format!("delivery stream {name}");
    let sdk = sdk_config(config.endpoints.firehose.as_deref(), config.region.as_deref()).await;
    let ear = Ear::default();
    let client = aws_sdk_firehose::config::Builder::from(&sdk).interceptor(ear.clone()).build();
    let found = check_firehose(&aws_sdk_firehose::Client::from_conf(client), name, *packing).await;
    let heard = ear.heard();
    let mut items = vec![endpoint(&about, &heard, found.as_ref().err().map(|error| error.problem()))];
    items.push(match &found {
        Ok(Some(stream)) => described(&about, stream),
        Ok(None) => Item::not_looked_at(&about, "stream", MAY_NOT_LOOK),
        Err(error) if heard.answered => Item::refused("stream", error),
        Err(_) => Item::not_looked_at(&about, "stream", "the endpoint does not answer"),
    });
    let why = "firehose:PutRecordBatch cannot be tried without delivering a record";
    items.push(Item::not_looked_at(&about, "permissions", why));
    Part { items, heard }
}

fn described(about: &str, stream: &DeliveryStreamDescription) -> Item {
    let to_s3 = stream.destinations().iter().find_map(|each| each.extended_s3_destination_description());
    let bucket = to_s3.map(|s3| s3.bucket_arn());
    let to = bucket.map_or_else(String::new, |bucket| format!(", to {bucket}"));
    let status = stream.delivery_stream_status().as_str();
    let said = format!("{status}, source Direct PUT{to}");
    Item::ok(about, "stream", said).with(json!({ "status": status, "bucket": bucket }))
}

pub(super) async fn cloudwatch(config: &Config) -> Part {
    const ABOUT: &str = "CloudWatch";
    let Some(settings) = &config.cloudwatch else { return Part::default() };
    let sdk = sdk_config(config.endpoints.cloudwatch.as_deref(), config.region.as_deref()).await;
    let namespace = settings.namespace.as_ref().unwrap_or(&config.application);
    let client = match CloudWatch::new(&sdk).await {
        Ok(client) => client,
        Err(problem) => {
            let items = vec![
                Item::failed(ABOUT, "endpoint", problem),
                Item::not_looked_at(ABOUT, "metrics", "there is no endpoint"),
            ];
            return Part { items, heard: Heard::default() };
        }
    };
    let answer = bounded(reach(client.url())).await.and_then(|answer| answer);
    let heard = match &answer {
        Ok(heard) => heard.clone(),
        Err(_) => Heard::silent(client.url()),
    };
    let mut items = vec![endpoint(ABOUT, &heard, answer.as_ref().err().map(String::as_str))];
    if answer.is_err() {
        items.push(Item::not_looked_at(ABOUT, "metrics", "the endpoint does not answer"));
        return Part { items, heard };
    }
    // No metric is in it: a wrong call, which who may not make it is told first.
    let empty = json!({ "Namespace": namespace, "MetricData": [] }).to_string();
    let item = match bounded(client.put(empty.into())).await {
        Ok(Ok(())) => Item::ok(ABOUT, "metrics", format!("namespace {namespace} takes metrics")),
        Ok(Err(refused)) if refused.for_ever => {
            let why = "cloudwatch:PutMetricData cannot be tried without sending a metric; it was not denied";
            Item::not_looked_at(ABOUT, "metrics", why)
        }
        Ok(Err(refused)) => Item::failed(ABOUT, "metrics", refused.to_string()),
        Err(late) => Item::failed(ABOUT, "metrics", late),
    };
    items.push(item);
    Part { items, heard }
}
