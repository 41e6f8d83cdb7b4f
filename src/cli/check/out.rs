//! Firehose and CloudWatch, where they are used.

use aws_sdk_firehose::types::DeliveryStreamDescription;
use serde_json::json;

use super::report::Item;
use super::service::{Part, bounded, endpoint};
use crate::aws::{CloudWatch, Ear, sdk_config};
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
    let ear = Ear::default();
    let client = CloudWatch::heard_by(&sdk, ear.clone());
    // No metric is in it: a wrong call, which who may not make it is told first.
    let put = bounded(client.put(namespace, Vec::new())).await;
    let heard = ear.heard();
    let problem = match &put {
        Ok(Ok(())) => None,
        Ok(Err(refused)) => Some(refused.to_string()),
        Err(late) => Some(late.clone()),
    };
    let mut items = vec![endpoint(ABOUT, &heard, problem.as_deref())];
    items.push(match (put, problem) {
        _ if !heard.answered => Item::not_looked_at(ABOUT, "metrics", "the endpoint does not answer"),
        (Ok(Err(refused)), _) if refused.for_ever => {
            let why = "cloudwatch:PutMetricData cannot be tried without sending a metric; it was not denied";
            Item::not_looked_at(ABOUT, "metrics", why)
        }
        (_, Some(problem)) => Item::failed(ABOUT, "metrics", problem),
        (_, None) => Item::ok(ABOUT, "metrics", format!("namespace {namespace} takes metrics")),
    });
    Part { items, heard }
}
