//! `kinetide local`.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::Args;

use super::Exit;
use crate::local::kinesis::{Fault, KinesisSettings};
use crate::local::{LocalAws, LocalSettings};
use crate::shutdown::Signals;
use crate::terminal::Out;

/// Flags of `kinetide local`.
#[derive(Debug, Args)]
#[command(
    after_help = "Runs until SIGTERM or Ctrl-C. All data is in memory and is lost at the end. docs/LOCAL-AWS.md lists what \
    the servers can do.\n\nExit code: 0 after a signal, 1 when a server could not start, 2 for wrong settings.\n\n\
    Examples:\n  \
    kinetide local --stream trades:4\n  \
    kinetide local --table CryptoTransactions:transaction_id --stream trades:2 --forward CryptoTransactions:trades\n  \
    kinetide local --stream trades:1 --fault GetRecords:throttle:0.1 --fault '*:delay=50ms:0.5'\n  \
    kinetide local --stream trades:4 --tls test-ca.pem"
)]
pub struct LocalArgs {
    /// Port of Kinesis on loopback; 0 picks a free one.
    #[arg(long, env = "KINETIDE_LOCAL_KINESIS_PORT", default_value_t = 4567, value_name = "PORT")]
    kinesis_port: u16,

    /// Let Kinesis speak TLS too, on the same port, with HTTP/2 as enhanced fan-out has it at AWS. The certificate of the
    /// test CA, a new one with each start, is written to this file: clients trust it with AWS_CA_BUNDLE.
    #[arg(long, env = "KINETIDE_LOCAL_TLS", value_name = "CA_FILE")]
    tls: Option<PathBuf>,

    /// Port of DynamoDB on loopback; 0 picks a free one.
    #[arg(long, env = "KINETIDE_LOCAL_DYNAMODB_PORT", default_value_t = 8000, value_name = "PORT")]
    dynamodb_port: u16,

    /// Port of DynamoDB Streams on loopback; 0 picks a free one. Without it: the port after that of DynamoDB, or a free one
    /// where that is 0.
    #[arg(long, env = "KINETIDE_LOCAL_DYNAMODB_STREAMS_PORT", value_name = "PORT")]
    dynamodb_streams_port: Option<u16>,

    /// AWS region of all servers, as their ARNs name it.
    #[arg(long, env = "KINETIDE_LOCAL_REGION", default_value = "us-east-1")]
    region: String,

    /// Create a stream with this many shards. Repeatable.
    #[arg(long = "stream", value_name = "NAME:SHARDS")]
    streams: Vec<Named<u32>>,

    /// Create a table with this partition key (a string) and its DynamoDB stream. Repeatable.
    #[arg(long = "table", value_name = "NAME:KEY")]
    tables: Vec<Named<String>>,

    /// Forward every change of a table to a stream, as a Kinesis streaming destination of DynamoDB does. Repeatable.
    #[arg(long = "forward", value_name = "TABLE:STREAM")]
    forwards: Vec<Named<String>>,

    /// Enforce the throughput limits of real shards: 5 reads/s and 2 MiB/s, 1,000 records/s and 1 MiB/s written; and ten
    /// UpdateShardCount in 24 hours.
    #[arg(long, env = "KINETIDE_LOCAL_REAL_LIMITS")]
    real_limits: bool,

    /// Make Kinesis requests fail. OPERATION is a name or *. KIND is throttle, 5xx, delay=TIME, cut (connection closed,
    /// nothing done), lost-answer (done, then connection closed) or empty (a page without records). RATE is the share of
    /// requests, 0 to 1. Example: GetRecords:throttle:0.1. Repeatable.
    #[arg(long = "fault", value_name = "OPERATION:KIND:RATE")]
    faults: Vec<Fault>,

    /// Seed of the faults: the same seed and the same requests give the same faults.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    fault_seed: u64,

    /// Print the endpoints as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Two words with a colon between them.
#[derive(Clone, Debug)]
struct Named<T> {
    name: String,
    value: T,
}

impl<T: FromStr> FromStr for Named<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once(':')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .and_then(|(name, value)| Some(Self { name: name.to_owned(), value: value.parse().ok()? }))
            .ok_or_else(|| "must be two parts with a colon between them, like trades:4".to_owned())
    }
}

/// Runs the command.
pub async fn run(args: LocalArgs) -> anyhow::Result<Exit> {
    // Before anything is printed: whoever reads the output may send a signal at once.
    let mut signals = Signals::new().context("could not listen to signals")?;

    let settings = LocalSettings {
        kinesis: KinesisSettings {
            region: args.region,
            real_limits: args.real_limits,
            faults: args.faults,
            fault_seed: args.fault_seed,
            ..KinesisSettings::default()
        },
        kinesis_port: args.kinesis_port,
        ca_file: args.tls.clone(),
        dynamodb_port: args.dynamodb_port,
        dynamodb_streams_port: args.dynamodb_streams_port.unwrap_or_else(|| port_after(args.dynamodb_port)),
        ..LocalSettings::default()
    };
    let aws = LocalAws::start(settings).await?;
    for stream in &args.streams {
        aws.kinesis()
            .create_stream(&stream.name, stream.value)
            .with_context(|| format!("could not create the stream {}", stream.name))?;
    }
    for table in &args.tables {
        aws.create_table(&table.name, &table.value)
            .with_context(|| format!("could not create the table {}", table.name))?;
    }
    for forward in &args.forwards {
        aws.forward(&forward.name, &forward.value);
    }

    // Whoever reads it may stand in another folder.
    let ca_file = args.tls.map(std::path::absolute).transpose()?;
    let ca_file = ca_file.as_ref().map(|path| path.display().to_string());
    let text = if args.json { as_json(&aws, ca_file) } else { as_text(&aws, ca_file) };
    {
        Out.write_all(text.as_bytes())?;
        Out.flush()?;
    }
    signals.next().await;
    aws.shutdown().await;
    Ok(Exit::Done)
}

/// Whoever asks for a free port of DynamoDB runs several of these, so the port of its streams must be a free one too.
fn port_after(dynamodb_port: u16) -> u16 {
    match dynamodb_port {
        0 => 0,
        port => port.wrapping_add(1),
    }
}

fn as_json(aws: &LocalAws, ca_file: Option<String>) -> String {
    let mut value = serde_json::json!({
        "kinesis": aws.kinesis_url(),
        "dynamodb": aws.dynamodb_url(),
        "dynamodb_streams": aws.dynamodb_streams_url(),
        "region": aws.region(),
    });
    if let (Some(tls), Some(ca_file)) = (aws.kinesis_tls_url(), ca_file) {
        value["kinesis_tls"] = tls.into();
        value["ca_bundle"] = ca_file.into();
    }
    format!("{value}\n")
}

fn as_text(aws: &LocalAws, ca_file: Option<String>) -> String {
    let (kinesis, dynamodb, region) = (aws.kinesis_url(), aws.dynamodb_url(), aws.region());
    let tls = match (aws.kinesis_tls_url(), ca_file) {
        (Some(tls), Some(ca_file)) => format!(
            "
For Kinesis over TLS, with HTTP/2 for clients that speak it:

  export AWS_ENDPOINT_URL_KINESIS={tls}
  export AWS_CA_BUNDLE={ca_file}
"
        ),
        _ => String::new(),
    };
    let streams = aws.dynamodb_streams_url();
    format!(
        "Kinesis           {kinesis}
DynamoDB          {dynamodb}
DynamoDB Streams  {streams}

To point the AWS CLI, boto3 or an SDK at them (any credentials are accepted):

  export AWS_ENDPOINT_URL_KINESIS={kinesis}
  export AWS_ENDPOINT_URL_DYNAMODB={dynamodb}
  export AWS_ENDPOINT_URL_DYNAMODB_STREAMS={streams}
  export AWS_REGION={region} AWS_DEFAULT_REGION={region}
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
{tls}
Java clients also need -Daws.cborEnabled=false. Ctrl-C stops everything; nothing is kept.
"
    )
}
