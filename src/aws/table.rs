//! Tables whose change streams are read: how people name them, and how the Java adapter names their streams.
//!
//! Owns: what a table's name or ARN and a stream's ARN say.
//! Does not own: which streams a table has (`shard::dynamodbstreams`).

use std::fmt;
use std::str::FromStr;

use super::arn::{BadArn, Parts, check_account, check_region};

/// Letters of a table's name (API reference).
const TABLE_NAME: std::ops::RangeInclusive<usize> = 3..=255;
/// The resource of a table, and that of its streams.
const TABLE: &str = "table";
const STREAM: &str = "stream";

pub(super) const TABLE_LIKE: &str = "arn:aws:dynamodb:eu-north-1:111122223333:table/NAME";

/// A table as its operator names it: by name, by its ARN, or by the ARN of one of its streams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TableAddress {
    /// Its name.
    Name(String),
    /// Its ARN, or that of one of its streams.
    Arn(TableArn),
}

/// Where a table is, and which of its streams is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableArn {
    partition: String,
    region: String,
    account: String,
    table: String,
    /// When the stream was turned on, as its ARN writes it. `None`: any stream of the table.
    label: Option<String>,
}

impl TableArn {
    /// The region of the table.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The account that owns it.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// What tells a stream from others of its table.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The stream as the DynamoDB Streams adapter for the KCL names it: `region$account$table$label`, where colons of the
    /// label are underscores, as a colon ends the name in a lease key.
    pub fn encoded(&self) -> String {
        let label = self.label.as_deref().unwrap_or_default().replace(':', "_");
        format!("{}${}${}${label}", self.region, self.account, self.table)
    }
}

impl TableAddress {
    /// The table of this name, in the region and account of who asks.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Name(name.into())
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Arn(arn) => &arn.table,
        }
    }

    /// Its ARN, where it is known.
    pub fn arn(&self) -> Option<&TableArn> {
        match self {
            Self::Name(_) => None,
            Self::Arn(arn) => Some(arn),
        }
    }
}

impl fmt::Display for TableArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, table, label } = self;
        write!(f, "arn:{partition}:dynamodb:{region}:{account}:{TABLE}/{table}")?;
        label.as_ref().map_or(Ok(()), |label| write!(f, "/{STREAM}/{label}"))
    }
}

impl fmt::Display for TableAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

impl FromStr for TableArn {
    type Err = BadArn;

    fn from_str(text: &str) -> Result<Self, BadArn> {
        let parts = Parts::of(text, TABLE_LIKE)?;
        parts.is_of("dynamodb", "DynamoDB", TABLE_LIKE)?;
        let Parts { partition, region, account, resource, .. } = parts;
        check_region(partition, region)?;
        check_account(account)?;
        let mut path = resource.splitn(4, '/');
        let kind = path.next().unwrap_or_default();
        if kind != TABLE {
            return Err(BadArn::Resource { found: kind.to_owned(), wanted: TABLE, like: TABLE_LIKE });
        }
        let table = path.next().filter(|name| is_table_name(name)).ok_or(BadArn::TableName)?;
        let label = match (path.next(), path.next()) {
            (None, None) => None,
            (Some(STREAM), Some(label)) if is_label(label) => Some(label.to_owned()),
            _ => return Err(BadArn::TableName),
        };
        Ok(Self {
            partition: partition.to_owned(),
            region: region.to_owned(),
            account: account.to_owned(),
            table: table.to_owned(),
            label,
        })
    }
}

impl FromStr for TableAddress {
    type Err = BadArn;

    fn from_str(text: &str) -> Result<Self, BadArn> {
        // No name has a colon in it.
        if text.contains(':') {
            return Ok(Self::Arn(text.parse()?));
        }
        if is_table_name(text) { Ok(Self::named(text)) } else { Err(BadArn::TableName) }
    }
}

fn is_table_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    TABLE_NAME.contains(&text.len()) && text.bytes().all(letter)
}

/// A time like `2026-01-15T09:30:00.123`; other servers write others.
fn is_label(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b".:_-+".contains(&b);
    !text.is_empty() && text.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM_ARN: &str =
        "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades/stream/2026-01-15T09:30:00.123";

    #[test]
    fn a_table_is_named_in_three_ways() {
        for (text, region, label) in [
            ("Trades", None, None),
            ("arn:aws:dynamodb:eu-north-1:111122223333:table/Trades", Some("eu-north-1"), None),
            (STREAM_ARN, Some("eu-north-1"), Some("2026-01-15T09:30:00.123")),
        ] {
            let address: TableAddress = text.parse().unwrap();
            assert_eq!((address.name(), address.to_string().as_str()), ("Trades", text));
            assert_eq!(address.arn().map(TableArn::region), region);
            assert_eq!(address.arn().and_then(TableArn::label), label);
        }
    }

    /// `StreamArn` → `streamName` of the adapter (`DynamoDBStreamsShardSyncer`, release 2.3.0).
    #[test]
    fn streams_are_named_as_the_java_adapter_names_them() {
        let arn: TableArn = STREAM_ARN.parse().unwrap();
        assert_eq!(arn.encoded(), "eu-north-1$111122223333$Trades$2026-01-15T09_30_00.123");
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said() {
        for (text, words) in [
            ("", "must be 3 to 255 letters"),
            ("ab", "must be 3 to 255 letters"),
            ("a table", "must be 3 to 255 letters"),
            (
                "arn:aws:kinesis:eu-north-1:111122223333:stream/trades",
                "a resource of kinesis, not of DynamoDB",
            ),
            ("arn:aws:dynamodb:eu-north-1:111122223333:global-table/Trades", "\"global-table\", not a table"),
            ("arn:aws:dynamodb:eu-north-1:111122223333:table/Trades/index/x", "must be 3 to 255"),
            ("arn:aws:dynamodb:eu-north-1:111122223333:table/Trades/stream/", "must be 3 to 255"),
            ("arn:aws:dynamodb:cn-north-1:111122223333:table/Trades", "does not belong to its partition"),
            ("arn:aws:dynamodb:eu-north-1:1:table/Trades", "an account ID has 12 digits"),
        ] {
            let problem = text.parse::<TableAddress>().unwrap_err().to_string();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
