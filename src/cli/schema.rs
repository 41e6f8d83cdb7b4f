//! `kinetide schema`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Exit;
use crate::config::{self, DEFAULT_TRANSFORM};
use crate::terminal::{print_text, say_error};
use crate::transform::{Builtin, Column, ColumnType, DEAD_LETTER_COLUMNS, ErrorCode, Provider};

/// Flags of `kinetide schema`.
#[derive(Debug, Args)]
#[command(after_help = "docs/READING.md shows how to use the output, reader by reader.\n\n\
    Exit code: 0 when printed, 2 for wrong settings.\n\nExamples:\n  \
    kinetide schema --transform crypto-transactions --format athena --location s3://my-lake/landing/transactions\n  \
    kinetide schema --transform dynamodb-cdc --format duckdb --location ./lake/landing/trades\n  \
    kinetide schema --transform market-snapshot --provider coincap --format spark\n  \
    kinetide schema --dead-letters --format spark")]
pub struct SchemaArgs {
    /// The transform that makes the rows.
    #[arg(long, env = "KINETIDE_TRANSFORM", value_name = "NAME", default_value = DEFAULT_TRANSFORM,
          value_parser = PossibleValuesParser::new(Builtin::NAMES))]
    transform: String,

    /// Whose rows, for market-snapshot.
    #[arg(long, value_name = "NAME", default_value = "coingecko",
          value_parser = PossibleValuesParser::new(Provider::ALL.map(Provider::as_str)))]
    provider: String,

    /// The settings file of `kinetide run`: the scales of its enrichment table decide decimal types.
    #[arg(long, env = "KINETIDE_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,

    /// The reader to print the types for.
    #[arg(long, value_name = "READER", value_enum)]
    format: Format,

    /// Print the types of dead letters instead of rows.
    #[arg(long)]
    dead_letters: bool,

    /// URL of the folder of rows, or of dead letters, for athena and duckdb.
    #[arg(long, value_name = "URL", default_value = "s3://BUCKET/FOLDER")]
    location: String,

    /// Table name, for athena.
    #[arg(long, value_name = "NAME", default_value = "landing")]
    table: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A CREATE TABLE statement with partition projection.
    Athena,
    /// A query over all rows.
    Duckdb,
    /// Python: a `pyarrow.Schema`.
    Pyarrow,
    /// Python: a schema for `scan_ndjson`.
    Polars,
    /// Column DDL for `spark.read.schema`.
    Spark,
    /// JSON Schema of one row.
    JsonSchema,
}

/// Prints the types.
///
/// # Errors
/// When stdout cannot be written.
pub async fn run(args: SchemaArgs) -> anyhow::Result<Exit> {
    let transform = match config::transform(&args.transform, args.settings.as_deref()) {
        Ok(transform) => transform,
        Err(error) => {
            say_error(error);
            return Ok(Exit::BadSettings);
        }
    };
    print_text(&text(&args, &transform))?;
    Ok(Exit::Done)
}

fn text(args: &SchemaArgs, transform: &Builtin) -> String {
    let provider = Provider::named(&args.provider).expect("the flag takes only names of providers");
    let columns =
        if args.dead_letters { DEAD_LETTER_COLUMNS.to_vec() } else { transform.columns_of(provider) };
    match args.format {
        Format::Athena => athena(args, &columns),
        Format::Duckdb => duckdb(args, &columns),
        Format::Pyarrow => {
            list("import pyarrow as pa\n\nschema = pa.schema([\n", "])\n", &columns, |column| {
                format!("    (\"{}\", {}),\n", column.name, pyarrow_type(column.kind))
            })
        }
        Format::Polars => list("import polars as pl\n\nschema = {\n", "}\n", &columns, |column| {
            format!("    \"{}\": {}\n", column.name, polars_type(column.kind))
        }),
        Format::Spark => {
            joined(&columns, |column| format!("`{}` {}", column.name, sql_type(column.kind, "STRING"))) + "\n"
        }
        Format::JsonSchema => json_schema(&columns),
    }
}

fn list(start: &str, end: &str, columns: &[Column], line: impl Fn(&Column) -> String) -> String {
    start.to_owned() + &columns.iter().map(line).collect::<String>() + end
}

fn joined(columns: &[Column], one: impl Fn(&Column) -> String) -> String {
    columns.iter().map(one).collect::<Vec<_>>().join(",\n")
}

fn sql_type(kind: ColumnType, text: &str) -> String {
    match kind {
        ColumnType::Text => text.to_owned(),
        ColumnType::Boolean => "BOOLEAN".to_owned(),
        ColumnType::BigInt => "BIGINT".to_owned(),
        ColumnType::Double => "DOUBLE".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
    }
}

fn pyarrow_type(kind: ColumnType) -> String {
    match kind {
        ColumnType::Text => "pa.string()".to_owned(),
        ColumnType::Boolean => "pa.bool_()".to_owned(),
        ColumnType::BigInt => "pa.int64()".to_owned(),
        ColumnType::Double => "pa.float64()".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("pa.decimal128({precision}, {scale})"),
    }
}

/// Polars reads decimals of JSON as doubles only.
fn polars_type(kind: ColumnType) -> String {
    match kind {
        ColumnType::Text => "pl.String,".to_owned(),
        ColumnType::Boolean => "pl.Boolean,".to_owned(),
        ColumnType::BigInt => "pl.Int64,".to_owned(),
        ColumnType::Double => "pl.Float64,".to_owned(),
        ColumnType::Decimal { precision, scale } => {
            format!("pl.Float64,  # decimal({precision},{scale}): exact by way of pyarrow")
        }
    }
}

/// Hive's SerDe: its folder names are the partitions, so no crawler and no `MSCK REPAIR` is needed.
fn athena(args: &SchemaArgs, columns: &[Column]) -> String {
    let location = args.location.trim_end_matches('/');
    let columns = joined(columns, |column| {
        format!("  `{}` {}", column.name.to_lowercase(), sql_type(column.kind, "string").to_lowercase())
    });
    let (mut partitions, mut folders, mut reasons) = (String::new(), String::new(), String::new());
    if args.dead_letters {
        let names = ErrorCode::ALL.map(ErrorCode::as_str).join(",");
        partitions.push_str("reason string, ");
        folders.push_str("${reason}/");
        reasons = format!("  'projection.reason.type'='enum', 'projection.reason.values'='{names}',\n");
    }
    partitions.push_str("year int, month int, day int, hour int");
    folders.push_str("year=${year}/month=${month}/day=${day}/hour=${hour}");
    let mut projection = reasons;
    for (name, range, digits) in
        [("year", "2024,2035", 4), ("month", "1,12", 2), ("day", "1,31", 2), ("hour", "0,23", 2)]
    {
        let _ = writeln!(
            projection,
            "  'projection.{name}.type'='integer', 'projection.{name}.range'='{range}', \
             'projection.{name}.digits'='{digits}',"
        );
    }
    format!(
        "CREATE EXTERNAL TABLE {table} (\n{columns}\n)\nPARTITIONED BY ({partitions})\n\
         ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'\nLOCATION '{location}/'\nTBLPROPERTIES (\n  \
         'classification'='json', 'compressionType'='gzip', 'projection.enabled'='true',\n{projection}  \
         'storage.location.template'='{location}/{folders}/'\n);\n",
        table = args.table,
    )
}

fn duckdb(args: &SchemaArgs, columns: &[Column]) -> String {
    let columns =
        joined(columns, |column| format!("    \"{}\": '{}'", column.name, sql_type(column.kind, "VARCHAR")));
    let location = args.location.trim_end_matches('/').replace('\'', "''");
    // `09` would be text and `12` a number.
    let partitions = "year: 'INTEGER', month: 'INTEGER', day: 'INTEGER', hour: 'INTEGER'";
    format!(
        "SELECT * FROM read_json('{location}/**/*.ndjson.gz', format = 'newline_delimited',\n  \
         hive_partitioning = true, hive_types = {{{partitions}}},\n  maximum_object_size = 67108864, \
         columns = {{\n{columns}\n  }});\n"
    )
}

fn json_schema(columns: &[Column]) -> String {
    let properties: Map<String, Value> = columns
        .iter()
        .map(|column| {
            let kind = match column.kind {
                ColumnType::Text => json!({"type": ["string", "null"]}),
                ColumnType::Boolean => json!({"type": ["boolean", "null"]}),
                ColumnType::BigInt => json!({"type": ["integer", "null"]}),
                ColumnType::Double => json!({"type": ["number", "null"]}),
                ColumnType::Decimal { precision, scale } => json!({
                    "type": ["number", "null"], "description": format!("decimal({precision},{scale})"),
                }),
            };
            (column.name.to_owned(), kind)
        })
        .collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": properties,
    });
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::transform::{RecordContext, SourceKind, Transform, dead_letter_row};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SchemaArgs,
    }

    fn printed(line: &str) -> String {
        let args = Line::parse_from(std::iter::once("schema").chain(line.split_whitespace())).args;
        let transform = config::transform(&args.transform, None).unwrap();
        text(&args, &transform)
    }

    const FORMATS: [&str; 6] = ["athena", "duckdb", "pyarrow", "polars", "spark", "json-schema"];

    #[test]
    fn every_column_is_in_every_format() {
        for transform in Builtin::NAMES {
            let columns = config::transform(transform, None).unwrap().columns();
            for format in FORMATS {
                let text = printed(&format!("--transform {transform} --format {format}"));
                for column in &columns {
                    let quoted = [format!("`{}`", column.name), format!("\"{}\"", column.name)];
                    assert_eq!(
                        quoted.iter().map(|name| text.matches(name).count()).sum::<usize>(),
                        1,
                        "{format}: {}",
                        column.name
                    );
                }
            }
        }
    }

    #[test]
    fn types_of_trades_are_those_of_the_catalog() {
        let text = printed("--transform crypto-transactions --format athena --location s3://b/l/ --table t");
        for line in [
            "CREATE EXTERNAL TABLE t (",
            "  `event_id` string,",
            "  `cdc_ts_us` bigint,",
            "  `is_deleted` boolean,",
            "  `price` decimal(38,18),",
            "  `trade_value` decimal(21,8),",
            "  `normalized_price` decimal(10,2),",
            "  `adjusted_trade_fee` decimal(12,6),",
            "LOCATION 's3://b/l/'",
            "  'storage.location.template'='s3://b/l/year=${year}/month=${month}/day=${day}/hour=${hour}/'",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            printed("--dead-letters --format athena").contains("'projection.reason.values'='not_base64,")
        );
    }

    /// The names and their order are those of the rows.
    #[test]
    fn columns_are_those_of_the_rows() {
        let names = |row: &[u8]| -> Vec<String> {
            let text = str::from_utf8(row).unwrap();
            let found: Map<String, Value> = serde_json::from_str(text).unwrap();
            let mut names: Vec<String> = found.keys().cloned().collect();
            names.sort_by_key(|name| text.find(&format!("\"{name}\":")));
            names
        };
        let data = &br#"{"eventName":"REMOVE","dynamodb":{"ApproximateCreationDateTime":1,"Keys":{"transaction_id":{"S":"t"}}}}"#[..];
        let context = RecordContext {
            source: SourceKind::Kinesis,
            stream: None,
            shard_id: "s",
            sequence_number: "1",
            sub_sequence: None,
            key: None,
            arrival_us: 1_000_007,
            null: false,
        };
        for name in Builtin::NAMES {
            let transform = config::transform(name, None).unwrap();
            let mut row = Vec::new();
            let data =
                if name == "market-snapshot" { &br#"[{"id":"a","current_price":1}]"#[..] } else { data };
            transform.start().apply(&context, data, &mut row).unwrap();
            // Only rows that need it have it; the order of the others is in the transform's own tests.
            let columns = transform.columns();
            let expected = columns.iter().map(|column| column.name).filter(|name| *name != "unusable");
            let expected: Vec<_> = expected.map(str::to_owned).collect();
            assert_eq!(names(&row)[..expected.len()], expected, "{name}");
        }
        let mut row = Vec::new();
        let context = RecordContext { sub_sequence: Some(3), ..context };
        dead_letter_row(&context, &ErrorCode::NotJson.into(), b"x", &mut row);
        assert_eq!(names(&row), DEAD_LETTER_COLUMNS.map(|column| column.name.to_owned()));
    }
}
