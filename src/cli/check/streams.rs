//! One stream: whether it is there and can be read, and how it is.

use aws_sdk_dynamodbstreams::types::StreamDescription;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, StreamDescriptionSummary};
use serde_json::json;

use super::report::Item;
use super::service::{bounded, credentials, endpoint};
use crate::aws::{Ear, Heard, explain, stream_config};
use crate::cause::chain;
use crate::config::{Config, RetrievalSetting, StreamConfig};
use crate::fetch::fanout::kinesis::PLACES;
use crate::fetch::{FetchError, Polled, StartAt};
use crate::lease::{RETENTION_HOURS_MIN, StreamLeases};
use crate::preflight::{
    StartError, check_stream, check_table_stream, oddity, retention_hours, table_oddities,
};
use crate::service::{Brokers, Reading, StreamClient};
use crate::shard::Shard;
use crate::shard::dynamodbstreams::Which;

/// Streams number their shards from 0.
const NO_SHARD: &str = "shardId-999999999999";

/// What was found of a stream.
pub(super) struct Looked {
    pub(super) items: Vec<Item>,
    pub(super) heard: Heard,
    /// It can be compared with leases.
    pub(super) leases: Option<StreamLeases>,
}

pub(super) async fn look(config: &Config, stream: &StreamConfig) -> Looked {
    let about = format!("stream {}", stream.address);
    let (region, url) = (config.region.as_deref(), config.endpoints.of(&stream.address));
    let role = stream.role.as_ref();
    let mut items = Vec::new();
    if role.is_some() {
        let sdk = stream_config(&stream.address, role, url, region).await;
        items.push(credentials(&about, &sdk, stream.role.as_ref()).await);
    }
    let mut rest = vec!["endpoint", "stream", "shards", "reading"];
    if stream.retrieval.by != RetrievalSetting::Polling {
        rest.push("fan-out");
    }
    if items.iter().any(|role| !role.is_ok()) {
        items
            .extend(rest.iter().map(|item| Item::not_looked_at(&about, *item, "the role cannot be assumed")));
        return Looked { items, heard: Heard::default(), leases: None };
    }
    let ear = Ear::default();
    let which = if config.streams.several { Which::Newest } else { Which::All };
    let brokers = Brokers::of(&config.endpoints);
    let client =
        StreamClient::new(&stream.address, role, url, region, which, &brokers, Some(ear.clone())).await;
    let found = found(&client, stream, &about).await;
    let heard = ear.heard();
    let answered = if stream.address.is_topic() {
        let item = brokers_item(&about, config, found.as_ref().err());
        let answered = item.is_ok();
        items.push(item);
        answered
    } else {
        items.push(endpoint(&about, &heard, found.as_ref().err().map(|error| error.problem())));
        heard.answered
    };
    if !answered {
        let why = "the endpoint does not answer";
        items.extend(rest[1..].iter().map(|item| Item::not_looked_at(&about, *item, why)));
        return Looked { items, heard, leases: None };
    }
    let is_there = found.is_ok();
    let (item, summary) = found.unwrap_or_else(|error| (Item::refused("stream", &error), None));
    items.push(item);
    // Each needs a permission of its own, so that each is tried, whatever became of the other.
    let Reading { polled, lister, starts, .. } = client.reading(&stream.address);
    let listed = match bounded(lister.list()).await {
        Ok(listed) => listed.map_err(|error| chain(&error)),
        Err(late) => Err(late),
    };
    match listed {
        Ok(shards) => {
            items.push(counted(&about, &shards));
            items.push(read(&about, &*polled, &shards).await);
        }
        Err(problem) => {
            items.push(Item::failed(&about, "shards", problem));
            items.push(Item::not_looked_at(&about, "reading", "the shards are not known"));
        }
    }
    if let (StreamClient::Kinesis(client), true) = (&client, stream.retrieval.by != RetrievalSetting::Polling)
    {
        // The SDK's futures are large.
        items.push(Box::pin(fan_out(&about, client, config, stream, summary.as_ref())).await);
    }
    let leases = is_there.then(|| StreamLeases {
        name: stream.address.to_string().into(),
        lister,
        starts,
        initial: stream.initial.clone(),
        initial_timestamp_us: stream.initial_timestamp_us,
    });
    Looked { items, heard, leases }
}

/// What is said of the stream itself.
async fn found(
    client: &StreamClient,
    stream: &StreamConfig,
    about: &str,
) -> Result<(Item, Option<StreamDescriptionSummary>), StartError> {
    match client {
        StreamClient::Kinesis(client) => {
            let summary = check_stream(client, &stream.address).await?;
            Ok((described(about, &summary), Some(summary)))
        }
        StreamClient::Table(streams) => {
            let found = check_table_stream(streams, &stream.address).await?;
            let oddities = table_oddities(&found, stream);
            Ok((of_table(about, &found, &oddities), None))
        }
        #[cfg(feature = "kafka")]
        StreamClient::Topic(topic) => {
            let found = crate::preflight::check_topic(topic, &stream.address).await?;
            let oddities = crate::preflight::topic_oddities(&found, stream);
            Ok((of_topic(about, &found, &oddities), None))
        }
    }
}

/// Whether a broker answered: what it says of the topic comes after that.
fn brokers_item(about: &str, config: &Config, problem: Option<&StartError>) -> Item {
    let brokers =
        config.endpoints.kafka.as_ref().map(|kafka| kafka.bootstrap.to_string()).unwrap_or_default();
    let missing = problem.is_some_and(|problem| problem.problem().starts_with("does not exist"));
    match problem {
        Some(problem) if !missing => {
            Item::failed(about, "endpoint", format!("{brokers}: {}", problem.problem()))
        }
        _ => Item::ok(about, "endpoint", format!("{brokers} answers")),
    }
    .with(json!({ "url": brokers }))
}

#[cfg(feature = "kafka")]
fn of_topic(about: &str, topic: &crate::kafka::Topic, oddities: &[String]) -> Item {
    let partitions = topic.partitions.len();
    let said = format!("{partitions} partitions, id {}, in cluster {}", topic.id_text(), topic.cluster);
    let item = if oddities.is_empty() {
        Item::ok(about, "stream", said)
    } else {
        Item::warning(about, "stream", format!("{said}; {}", oddities.join("; ")))
    };
    item.with(json!({
        "topic": topic.name,
        "topic_id": topic.id_text(),
        "cluster": topic.cluster,
        "partitions": partitions,
    }))
}

fn of_table(about: &str, stream: &StreamDescription, oddities: &[String]) -> Item {
    let status = stream.stream_status().map_or("status not said", |status| status.as_str());
    let view = stream.stream_view_type().map_or("view type not said", |view| view.as_str());
    let label = stream.stream_label().unwrap_or("label not said");
    let said = format!("{status}, {view}, turned on {label}, keeps records for {RETENTION_HOURS_MIN} h");
    let item = if oddities.is_empty() {
        Item::ok(about, "stream", said)
    } else {
        Item::warning(about, "stream", format!("{said}; {}", oddities.join("; ")))
    };
    item.with(json!({
        "arn": stream.stream_arn(),
        "status": stream.stream_status().map(|status| status.as_str()),
        "view_type": stream.stream_view_type().map(|view| view.as_str()),
        "table": stream.table_name(),
        "label": stream.stream_label(),
        "retention_hours": RETENTION_HOURS_MIN,
    }))
}

fn described(about: &str, stream: &StreamDescriptionSummary) -> Item {
    let mode = stream.stream_mode_details().map(|details| details.stream_mode().as_str());
    let distribution = stream.record_distribution_strategy().map(|strategy| strategy.as_str());
    let encryption = stream.encryption_type().map(|kind| kind.as_str());
    let hours = retention_hours(stream);
    let mut said = vec![stream.stream_status().as_str().to_owned()];
    said.push(match mode {
        Some("ON_DEMAND") => "on-demand".to_owned(),
        Some(mode) => mode.to_lowercase(),
        None => "mode not said".to_owned(),
    });
    said.extend(distribution.map(|distribution| format!("record distribution {distribution}")));
    said.push(format!("keeps records for {hours} h"));
    said.push(match (encryption, stream.key_id()) {
        (Some("KMS"), Some(key)) => format!("encrypted with KMS key {key}"),
        (Some("NONE"), _) => "not encrypted by KMS".to_owned(),
        (Some(kind), _) => format!("encryption {kind}"),
        (None, _) => "encryption not said".to_owned(),
    });
    said.push(match stream.consumer_count() {
        Some(1) => "1 consumer with enhanced fan-out".to_owned(),
        Some(count) => format!("{count} consumers with enhanced fan-out"),
        None => "consumers not said".to_owned(),
    });
    let said = said.join(", ");
    let item = match oddity(stream) {
        Some(oddity) => Item::warning(about, "stream", format!("{said}; {oddity}")),
        None => Item::ok(about, "stream", said),
    };
    item.with(json!({
        "arn": stream.stream_arn(),
        "status": stream.stream_status().as_str(),
        "mode": mode,
        "record_distribution": distribution,
        "retention_hours": hours,
        "encryption": encryption,
        "kms_key": stream.key_id(),
        "consumers": stream.consumer_count(),
        "created": crate::clock::utc(stream.stream_creation_timestamp().secs().saturating_mul(1_000_000)),
    }))
}

fn counted(about: &str, shards: &[Shard]) -> Item {
    let open = shards.iter().filter(|shard| !shard.closed).count();
    let closed = shards.len() - open;
    let item = Item::ok(about, "shards", format!("{open} open, {closed} closed"));
    item.with(json!({ "open": open, "closed": closed }))
}

/// Asks for one record of one shard: that takes the permissions to read, and that for the key of an encrypted stream.
async fn read(about: &str, source: &dyn Polled, shards: &[Shard]) -> Item {
    const ITEM: &str = "reading";
    let Some(Shard { id, .. }) = shards.iter().find(|shard| !shard.closed) else {
        return Item::not_looked_at(about, ITEM, "no shard is open");
    };
    let one_record = async {
        let iterator = source.iterator(id, &StartAt::TrimHorizon).await?;
        source.fetch(id, &iterator, 1).await
    };
    match bounded(one_record).await {
        Ok(Ok(_)) => Item::ok(about, ITEM, format!("{id} can be read")),
        // Only who may read is told to do so more slowly.
        Ok(Err(error @ FetchError::Throttled)) => {
            let text = format!("{id}: {}; others read it at the same time", chain(&error));
            Item::warning(about, ITEM, text)
        }
        Ok(Err(error)) => Item::failed(about, ITEM, format!("{id}: {}", chain(&error))),
        Err(late) => Item::failed(about, ITEM, late),
    }
}

/// Whether the consumer is there, and whether it may be subscribed as. Nothing is registered, and no shard is taken: it
/// asks for one that there is not, which only who may subscribe is told.
async fn fan_out(
    about: &str,
    client: &aws_sdk_kinesis::Client,
    config: &Config,
    stream: &StreamConfig,
    found: Option<&StreamDescriptionSummary>,
) -> Item {
    const ITEM: &str = "fan-out";
    let name = stream.retrieval.consumer_of(&config.application);
    // Where it cannot be, auto polls.
    let problem = |text: String| match stream.retrieval.by {
        RetrievalSetting::Auto => {
            Item::warning(about, ITEM, format!("{text}; until then the stream is polled"))
        }
        _ => Item::failed(about, ITEM, text),
    };
    let Some(arn) = found.map(|summary| summary.stream_arn()) else {
        return Item::not_looked_at(about, ITEM, "the stream's ARN is not known");
    };
    let describe = client.describe_stream_consumer().stream_arn(arn).consumer_name(name).send();
    let consumer = match bounded(describe).await {
        Ok(Ok(answer)) => answer.consumer_description,
        Ok(Err(error)) if error.code() == Some("ResourceNotFoundException") => {
            let text = format!(
                "consumer {name} is not registered yet: the first worker does it, which needs \
                 kinesis:RegisterStreamConsumer and a free place; {PLACES}"
            );
            return Item::warning(about, ITEM, text);
        }
        Ok(Err(error)) => return problem(format!("consumer {name}: {}", explain(&error))),
        Err(late) => return problem(late),
    };
    let Some(consumer) = consumer else { return problem(format!("consumer {name}: no description")) };
    let start = StartingPosition::builder().r#type(ShardIteratorType::Latest).build();
    let subscribe = client
        .subscribe_to_shard()
        .dry_run(true)
        .consumer_arn(&consumer.consumer_arn)
        .shard_id(NO_SHARD)
        .starting_position(start.expect("its type is set"));
    let status = consumer.consumer_status.as_str();
    match bounded(subscribe.send()).await {
        Ok(Err(error))
            if matches!(error.code(), Some("DryRunOperationException" | "ResourceNotFoundException")) =>
        {
            Item::ok(about, ITEM, format!("consumer {name} is {status}, and may be subscribed as"))
        }
        Ok(Ok(_)) => Item::ok(about, ITEM, format!("consumer {name} is {status}, and may be subscribed as")),
        Ok(Err(error)) => problem(format!("consumer {name} is {status}: {}", explain(&error))),
        Err(late) => problem(late),
    }
    .with(json!({ "consumer": name, "arn": consumer.consumer_arn, "status": status }))
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::DateTime;
    use aws_sdk_kinesis::types::{RecordDistributionStrategy, StreamStatus};

    use super::*;
    use crate::cli::check::report::Verdict;

    #[test]
    fn who_needs_an_order_is_warned_of_a_stream_that_has_none() {
        let described = |strategy| {
            let stream = StreamDescriptionSummary::builder()
                .stream_name("trades")
                .stream_arn("arn:aws:kinesis:us-east-1:123456789012:stream/trades")
                .stream_status(StreamStatus::Active)
                .retention_period_hours(24)
                .stream_creation_timestamp(DateTime::from_secs(0))
                .set_enhanced_monitoring(Some(Vec::new()))
                .open_shard_count(1)
                .record_distribution_strategy(strategy);
            described("stream trades", &stream.build().unwrap())
        };
        let auto = described(RecordDistributionStrategy::Auto);
        assert!(matches!(auto.verdict, Verdict::Warning), "{}", auto.text);
        assert!(
            auto.text.contains("record distribution AUTO") && auto.text.contains("ordering key"),
            "{}",
            auto.text
        );
        let by_key = described(RecordDistributionStrategy::UserPartitionKey);
        assert!(matches!(by_key.verdict, Verdict::Ok), "{}", by_key.text);
    }
}
