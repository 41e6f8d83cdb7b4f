//! `kinetide consumers`: the consumers for enhanced fan-out that a stream has, and how one is removed.
//!
//! Workers register theirs by themselves and never deregister one: AWS bills a consumer by the hour for each shard, and
//! takes the subscriptions of whoever uses it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, anyhow};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::types::Consumer;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Exit;
use super::leases::{Confirm, asked, unconfirmed};
use super::one_stream::{AWS, Named, StreamArgs};
use crate::aws::{OfStream, StreamAddress, explain};
use crate::clock::utc;
use crate::config::{BadSetting, application, duration, endpoint, within};
use crate::fetch::fanout::kinesis::PLACES;
use crate::terminal::{ask, print, print_text, printable_lines, say, say_error};

/// Pages of a listing; a stream has 50 consumers at most.
const PAGES_MAX: usize = 10;

/// Flags of `kinetide consumers`.
#[derive(Debug, Args)]
#[command(
    after_help = "Workers with --retrieval fan-out or auto register their consumer by themselves, under the name of \
    the application or of --consumer-name, and never deregister it: it stays, and AWS bills it, until somebody does. \
    docs/FAN-OUT.md explains what it costs.\n\n\
    Exit code: 0 when listed or deregistered, 1 when it is refused or AWS does not answer, 2 for wrong settings, or when \
    --yes is needed because stdin is not a terminal.\n\nExamples:\n  \
    kinetide consumers list --stream trades\n  \
    kinetide consumers deregister kinetide-trades --stream trades --dry-run\n  \
    kinetide consumers deregister kinetide-trades --stream trades --yes"
)]
pub struct ConsumersArgs {
    #[command(flatten)]
    stream: StreamArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the consumers of the stream.
    List,
    /// Deregister a consumer: its subscriptions end at once, and AWS stops billing it.
    Deregister(DeregisterArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "It refuses while workers of the application are active, or where that is not known: workers with \
    --retrieval fan-out would register the consumer again, others would poll. --force deregisters it all the same."
)]
struct DeregisterArgs {
    /// Name of the consumer, as the list shows it.
    #[arg(value_name = "NAME")]
    consumer: String,

    /// Application whose workers use the consumer [default: the consumer's name].
    #[arg(long, env = "KINETIDE_APPLICATION", value_name = "NAME")]
    application: Option<String>,

    /// Failover time of the workers, 1s to 10m. Must be the value that the workers run with.
    #[arg(long, env = "KINETIDE_FAILOVER_TIME", value_name = "TIME", default_value = "10s", value_parser = duration)]
    failover_time: Duration,

    /// DynamoDB endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_DYNAMODB_ENDPOINT", value_name = "URL")]
    dynamodb_endpoint: Option<String>,

    /// Deregister it although workers are active, or may be.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    confirm: Confirm,
}

/// Runs the command.
///
/// # Errors
/// When the stream cannot be asked, or the change is refused.
pub async fn run(args: ConsumersArgs) -> anyhow::Result<Exit> {
    let ConsumersArgs { stream, command } = args;
    let named = match settings(&stream, &command) {
        Ok(named) => named,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let client = stream.client(&named).await?;
    let arn = stream_arn(&client, &named.address).await?;
    let consumers = list(&client, &arn, &named.address).await?;
    match command {
        Command::List => show(&consumers, &named.address, stream.json),
        Command::Deregister(args) => deregister(&client, &stream, &named, &consumers, args).await,
    }
}

fn settings(args: &StreamArgs, command: &Command) -> Result<Named, String> {
    let text = |problem: BadSetting| problem.to_string();
    let named = args.checked()?;
    if let Command::Deregister(args) = command {
        within("failover-time", args.failover_time, Duration::from_secs(1), Duration::from_secs(600))
            .map_err(text)?;
        endpoint("dynamodb-endpoint", args.dynamodb_endpoint.clone()).map_err(text)?;
        application(args.application.as_deref(), named.address.name()).map_err(text)?;
        if let Some(problem) = unconfirmed(&args.confirm) {
            return Err(problem.to_owned());
        }
    }
    Ok(named)
}

async fn stream_arn(client: &Client, address: &StreamAddress) -> anyhow::Result<String> {
    if let Some(arn) = address.arn() {
        return Ok(arn.to_string());
    }
    let answer =
        client.describe_stream_summary().of(address).send().await.map_err(|error| match error.code() {
            Some("ResourceNotFoundException") => {
                anyhow!("stream {address}: does not exist; {}", address.check())
            }
            _ => anyhow!("stream {address}: {}", explain(&error)),
        })?;
    let summary = answer.stream_description_summary;
    Ok(summary.with_context(|| format!("stream {address}: its description is empty"))?.stream_arn)
}

async fn list(client: &Client, arn: &str, address: &StreamAddress) -> anyhow::Result<Vec<Consumer>> {
    let (mut all, mut token) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let call = client.list_stream_consumers().stream_arn(arn).set_next_token(token);
        let page = call.send().await.map_err(|error| anyhow!("stream {address}: {}", explain(&error)))?;
        all.extend(page.consumers.unwrap_or_default());
        token = page.next_token;
        if token.is_none() {
            return Ok(all);
        }
    }
    Err(anyhow!("stream {address}: the list of its consumers does not end"))
}

fn show(consumers: &[Consumer], address: &StreamAddress, as_json: bool) -> anyhow::Result<Exit> {
    if as_json {
        print(Value::from_iter(consumers.iter().map(described)))?;
        return Ok(Exit::Done);
    }
    let width = consumers.iter().map(|consumer| consumer.consumer_name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for consumer in consumers {
        text.push_str(&format!(
            "{:width$}  {:8}  since {}\n",
            consumer.consumer_name,
            consumer.consumer_status.as_str(),
            created(consumer)
        ));
    }
    let count = match consumers.len() {
        1 => "1 consumer".to_owned(),
        count => format!("{count} consumers"),
    };
    text.push_str(&format!("{count} of stream {address}; {PLACES}\n"));
    print_text(&printable_lines(&text))?;
    Ok(Exit::Done)
}

fn created(consumer: &Consumer) -> String {
    utc(consumer.consumer_creation_timestamp.secs().saturating_mul(1_000_000))
}

fn described(consumer: &Consumer) -> Value {
    json!({
        "consumer": consumer.consumer_name,
        "arn": consumer.consumer_arn,
        "status": consumer.consumer_status.as_str(),
        "created": created(consumer),
    })
}

async fn deregister(
    client: &Client,
    stream: &StreamArgs,
    named: &Named,
    consumers: &[Consumer],
    args: DeregisterArgs,
) -> anyhow::Result<Exit> {
    let address = &named.address;
    let found = consumers.iter().find(|consumer| consumer.consumer_name == args.consumer);
    let Some(consumer) = found else {
        let names: BTreeSet<&str> =
            consumers.iter().map(|consumer| consumer.consumer_name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { Vec::from_iter(names).join(", ") };
        return Err(anyhow!("stream {address} has no consumer {}; its consumers: {there}", args.consumer));
    };
    let users = users(stream, named, &args).await;
    let text = format!(
        "consumer {} of stream {address}, {} since {}: its subscriptions end at once, and AWS stops billing it\n{}\n",
        consumer.consumer_name,
        consumer.consumer_status.as_str(),
        created(consumer),
        users.as_ref().map_or_else(|problem| format!("{problem:#}"), Clone::clone),
    );
    if stream.json {
        ask(text);
    } else {
        print_text(&printable_lines(&text))?;
    }
    if users.is_err() && !args.force {
        return Err(anyhow!(
            "consumer {} is not deregistered: it may be in use; stop the workers, name their application with \
             --application, or give --force",
            consumer.consumer_name
        ));
    }
    if !args.confirm.dry_run {
        if !args.confirm.yes && !asked()? {
            say("nothing was deregistered");
            return Ok(Exit::Failed);
        }
        // By its ARN, which one that is registered again under its name does not have.
        let call = client.deregister_stream_consumer().consumer_arn(&consumer.consumer_arn);
        call.send().await.map_err(|error| anyhow!("consumer {}: {}", args.consumer, explain(&error)))?;
    }
    let outcome = if args.confirm.dry_run { "dry_run" } else { "deregistered" };
    if stream.json {
        let mut described = described(consumer);
        described["outcome"] = outcome.into();
        print(described)?;
    } else if !args.confirm.dry_run {
        print_text(&printable_lines(&format!("consumer {} deregistered\n", args.consumer)))?;
    }
    Ok(Exit::Done)
}

/// That nobody uses the consumer; an error says who does, or why that is not known.
async fn users(stream: &StreamArgs, named: &Named, args: &DeregisterArgs) -> anyhow::Result<String> {
    let application = args.application.clone().unwrap_or_else(|| args.consumer.clone());
    let endpoint = args.dynamodb_endpoint.clone();
    let fleet = stream.fleet(named, application.clone(), args.failover_time, endpoint);
    let fleet = fleet.await.context("whether workers use it is not known")?;
    fleet.none_active().await.context("workers use it, or may")?;
    Ok(format!("no worker of {application} is active"))
}
