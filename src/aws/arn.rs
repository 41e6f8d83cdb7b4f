//! ARNs as people give them: what they say, and what is wrong with a text that is none.
//!
//! Owns: how a stream is named by its name or its ARN, and a role by its ARN.
//! Does not own: whether there is such a stream or role, and who may use it.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::table::{TABLE_LIKE, TableAddress, TableArn};

/// Letters of a stream's name at most (API Reference).
const STREAM_NAME_MAX: usize = 128;
/// Letters of a role's name at most, without its path (IAM).
const ROLE_NAME_MAX: usize = 64;
/// Bytes of a role's ARN at most (STS).
const ROLE_ARN_MAX: usize = 2048;

const STREAM_LIKE: &str = "arn:aws:kinesis:eu-north-1:111122223333:stream/NAME";
const ROLE_LIKE: &str = "arn:aws:iam::111122223333:role/NAME";

/// Partitions that are not `aws`, with how the names of their regions begin. One that AWS makes later is not in it, and
/// must not be refused.
const PARTITIONS: [(&str, &str); 7] = [
    ("aws-cn", "cn-"),
    ("aws-us-gov", "us-gov-"),
    ("aws-iso", "us-iso-"),
    ("aws-iso-b", "us-isob-"),
    ("aws-iso-e", "eu-isoe-"),
    ("aws-iso-f", "us-isof-"),
    ("aws-eusc", "eusc-"),
];

/// What is wrong with a text that should be an ARN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArn {
    /// Nothing of an ARN.
    #[error("is not an ARN; expected a form like {0}")]
    NoArn(&'static str),
    /// Fewer than six parts.
    #[error("is incomplete: an ARN has six parts separated by colons, like {0}")]
    Short(&'static str),
    /// Its second part.
    #[error(
        "has the unknown partition {0:?}; partitions are aws, aws-cn, aws-us-gov and others that start with aws-"
    )]
    Partition(String),
    /// Its third part.
    #[error("is the ARN of a resource of {found}, not of {wanted}; expected a form like {like}")]
    Service {
        /// What it has.
        found: String,
        /// What it should have.
        wanted: &'static str,
        /// An example.
        like: &'static str,
    },
    /// Its fourth part.
    #[error("has the invalid region {0:?}; regions look like eu-north-1")]
    Region(String),
    /// A role has none.
    #[error("has the region {0:?}, but the ARN of a role has none, like {ROLE_LIKE}")]
    RoleRegion(String),
    /// Its second and fourth part.
    #[error("has the region {region}, which does not belong to its partition {partition}")]
    OtherPartition {
        /// The partition.
        partition: String,
        /// The region.
        region: String,
    },
    /// Its fifth part.
    #[error("has the invalid account {0:?}; an account ID has 12 digits")]
    Account(String),
    /// Of one that reads a stream by enhanced fan-out.
    #[error("is the ARN of a consumer; use the ARN of its stream, {0}")]
    Consumer(String),
    /// What its last part begins with.
    #[error("names the resource {found:?}, not a {wanted}; expected a form like {like}")]
    Resource {
        /// What it has.
        found: String,
        /// What it should have.
        wanted: &'static str,
        /// An example.
        like: &'static str,
    },
    /// Nothing comes after the slash.
    #[error("has no name after \"{0}/\"")]
    NoName(&'static str),
    /// A stream's name, alone or in an ARN.
    #[error("must be 1 to {STREAM_NAME_MAX} letters, digits, '.', '_' or '-', or an ARN like {STREAM_LIKE}")]
    StreamName,
    /// A table's name, alone or in an ARN.
    #[error(
        "must be 3 to 255 letters, digits, '.', '_' or '-', or an ARN like {TABLE_LIKE} or that of its stream"
    )]
    TableName,
    /// A role's name, in its ARN.
    #[error(
        "must end with a role name of 1 to {ROLE_NAME_MAX} letters, digits, '+', '=', ',', '.', '@', '_' or '-'"
    )]
    RoleName,
    /// Of who has assumed a role already.
    #[error("is the ARN of a session; use the ARN of its role, like {ROLE_LIKE}")]
    Session,
}

/// Where a stream is: partition, region, account and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamArn {
    partition: String,
    region: String,
    account: String,
    name: String,
}

impl StreamArn {
    /// Its partition, like `aws` or `aws-cn`.
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// The region of the stream.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The account that owns the stream.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for StreamArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, name } = self;
        write!(f, "arn:{partition}:kinesis:{region}:{account}:stream/{name}")
    }
}

impl FromStr for StreamArn {
    type Err = BadArn;

    fn from_str(text: &str) -> Result<Self, BadArn> {
        let parts = Parts::of(text, STREAM_LIKE)?;
        parts.is_of("kinesis", "Kinesis", STREAM_LIKE)?;
        let Parts { partition, region, account, resource, .. } = parts;
        check_region(partition, region)?;
        check_account(account)?;
        let name = after_kind(resource, "stream", STREAM_LIKE)?;
        let (name, consumer) = name.split_once('/').map_or((name, None), |(name, rest)| (name, Some(rest)));
        if !is_stream_name(name) {
            return Err(BadArn::StreamName);
        }
        let arn = Self {
            partition: partition.to_owned(),
            region: region.to_owned(),
            account: account.to_owned(),
            name: name.to_owned(),
        };
        match consumer {
            None => Ok(arn),
            Some(rest) if rest.starts_with("consumer/") => Err(BadArn::Consumer(arn.to_string())),
            Some(_) => Err(BadArn::StreamName),
        }
    }
}

/// A stream as its operator names it: by name, where region and account are those of who asks, or by ARN, which says them;
/// or the table whose changes are read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StreamAddress {
    /// The name of a Kinesis stream.
    Name(String),
    /// The ARN of a Kinesis stream.
    Arn(StreamArn),
    /// The table that a stream of DynamoDB Streams is of.
    Table(TableAddress),
    /// The name of a topic of Kafka.
    Topic(String),
}

/// What tells the name of a table from that of a stream, which has no slash in it.
const OF_TABLE: &str = "table/";
/// The same for a topic.
const OF_TOPIC: &str = "topic/";

impl StreamAddress {
    /// The stream of this name, in the region and account of who asks.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Name(name.into())
    }

    /// The name of the stream, the table or the topic.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Topic(name) => name,
            Self::Arn(arn) => arn.name(),
            Self::Table(table) => table.name(),
        }
    }

    /// The ARN of a Kinesis stream, where it is known.
    pub fn arn(&self) -> Option<&StreamArn> {
        match self {
            Self::Arn(arn) => Some(arn),
            Self::Name(_) | Self::Table(_) | Self::Topic(_) => None,
        }
    }

    /// The table, where it is one whose changes are read.
    pub fn table(&self) -> Option<&TableAddress> {
        match self {
            Self::Table(table) => Some(table),
            Self::Name(_) | Self::Arn(_) | Self::Topic(_) => None,
        }
    }

    /// True for a topic of Kafka.
    pub fn is_topic(&self) -> bool {
        matches!(self, Self::Topic(_))
    }

    /// The region to ask for it: its own, where it is known, else the one that is given.
    pub fn region_or<'a>(&'a self, given: Option<&'a str>) -> Option<&'a str> {
        let of_table = self.table().and_then(TableAddress::arn).map(TableArn::region);
        self.arn().map(StreamArn::region).or(of_table).or(given)
    }

    /// What to look at when there is no such stream.
    pub fn check(&self) -> &'static str {
        match self {
            Self::Name(_) => "check --stream, --region and the account",
            Self::Arn(_) => "check the region, the account and the name in --stream",
            Self::Table(_) => "check --table, --region and the account",
            Self::Topic(_) => "check --topic and --kafka-bootstrap",
        }
    }
}

impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Arn(arn) => arn.fmt(f),
            Self::Table(TableAddress::Name(name)) => write!(f, "{OF_TABLE}{name}"),
            Self::Table(table) => table.fmt(f),
            Self::Topic(name) => write!(f, "{OF_TOPIC}{name}"),
        }
    }
}

impl FromStr for StreamAddress {
    type Err = BadArn;

    fn from_str(text: &str) -> Result<Self, BadArn> {
        if let Some(name) = text.strip_prefix(OF_TABLE) {
            return Ok(Self::Table(name.parse()?));
        }
        if let Some(name) = text.strip_prefix(OF_TOPIC) {
            return Ok(Self::Topic(name.to_owned()));
        }
        if Parts::of(text, STREAM_LIKE).is_ok_and(|parts| parts.service == "dynamodb") {
            return Ok(Self::Table(text.parse()?));
        }
        // No name has a colon in it.
        if text.contains(':') {
            return Ok(Self::Arn(text.parse()?));
        }
        if is_stream_name(text) { Ok(Self::named(text)) } else { Err(BadArn::StreamName) }
    }
}

/// A role of IAM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RoleArn(String);

impl RoleArn {
    /// The ARN as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RoleArn {
    type Error = BadArn;

    fn try_from(text: String) -> Result<Self, BadArn> {
        text.parse()
    }
}

impl FromStr for RoleArn {
    type Err = BadArn;

    fn from_str(text: &str) -> Result<Self, BadArn> {
        let parts = Parts::of(text, ROLE_LIKE)?;
        if parts.service == "sts" && parts.resource.starts_with("assumed-role/") {
            return Err(BadArn::Session);
        }
        parts.is_of("iam", "IAM", ROLE_LIKE)?;
        if !parts.region.is_empty() {
            return Err(BadArn::RoleRegion(parts.region.to_owned()));
        }
        check_account(parts.account)?;
        let whole = after_kind(parts.resource, "role", ROLE_LIKE)?;
        let name = whole.rsplit('/').next().unwrap_or_default();
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        let named = (1..=ROLE_NAME_MAX).contains(&name.len()) && name.bytes().all(letter);
        let path = whole.bytes().all(|b| b.is_ascii_graphic());
        if named && path && text.len() <= ROLE_ARN_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadArn::RoleName)
        }
    }
}

/// The parts of any ARN.
pub(super) struct Parts<'a> {
    pub(super) partition: &'a str,
    service: &'a str,
    pub(super) region: &'a str,
    pub(super) account: &'a str,
    pub(super) resource: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn of(text: &'a str, like: &'static str) -> Result<Self, BadArn> {
        let rest = text.strip_prefix("arn:").ok_or(BadArn::NoArn(like))?;
        let parts: Vec<&str> = rest.splitn(5, ':').collect();
        let [partition, service, region, account, resource] = parts[..] else {
            return Err(BadArn::Short(like));
        };
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let of_aws =
            partition == "aws" || partition.strip_prefix("aws-").is_some_and(|rest| !rest.is_empty());
        if !of_aws || !partition.bytes().all(letter) {
            return Err(BadArn::Partition(partition.to_owned()));
        }
        Ok(Self { partition, service, region, account, resource })
    }

    pub(super) fn is_of(
        &self,
        service: &str,
        wanted: &'static str,
        like: &'static str,
    ) -> Result<(), BadArn> {
        let found = self.service;
        if found == service {
            return Ok(());
        }
        let found = if found.is_empty() { "no service".to_owned() } else { found.to_owned() };
        Err(BadArn::Service { found, wanted, like })
    }
}

pub(super) fn check_region(partition: &str, region: &str) -> Result<(), BadArn> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.is_empty() || !region.bytes().all(letter) {
        return Err(BadArn::Region(region.to_owned()));
    }
    if PARTITIONS.iter().any(|(of, start)| (*of == partition) != region.starts_with(start)) {
        let (partition, region) = (partition.to_owned(), region.to_owned());
        return Err(BadArn::OtherPartition { partition, region });
    }
    Ok(())
}

pub(super) fn check_account(account: &str) -> Result<(), BadArn> {
    let right = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    if right { Ok(()) } else { Err(BadArn::Account(account.to_owned())) }
}

/// What comes after `stream/` or `role/`.
fn after_kind<'a>(resource: &'a str, kind: &'static str, like: &'static str) -> Result<&'a str, BadArn> {
    let (found, name) = resource.split_once('/').unwrap_or((resource, ""));
    if found != kind {
        return Err(BadArn::Resource { found: found.to_owned(), wanted: kind, like });
    }
    if name.is_empty() { Err(BadArn::NoName(kind)) } else { Ok(name) }
}

fn is_stream_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=STREAM_NAME_MAX).contains(&text.len()) && text.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regions() -> impl Strategy<Value = (&'static str, &'static str)> {
        prop::sample::select(vec![
            ("aws", "eu-north-1"),
            ("aws", "us-east-1"),
            ("aws", "mx-central-1"),
            ("aws-cn", "cn-northwest-1"),
            ("aws-us-gov", "us-gov-west-1"),
            ("aws-iso", "us-iso-east-1"),
            ("aws-iso-b", "us-isob-east-1"),
            ("aws-eusc", "eusc-de-east-1"),
            ("aws-new", "moon-base-1"),
        ])
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(
            (partition, region) in regions(),
            account in "[0-9]{12}",
            name in "[a-zA-Z0-9_.-]{1,128}",
        ) {
            let text = format!("arn:{partition}:kinesis:{region}:{account}:stream/{name}");
            let address: StreamAddress = text.parse().unwrap();
            let arn = address.arn().unwrap();
            prop_assert_eq!(
                (arn.partition(), arn.region(), arn.account(), arn.name()),
                (partition, region, &account[..], &name[..])
            );
            prop_assert_eq!(address.to_string(), text);
            prop_assert_eq!((address.name(), address.region_or(Some("x"))), (&name[..], Some(region)));

            let bare: StreamAddress = name.parse().unwrap();
            prop_assert_eq!((bare.arn(), bare.region_or(Some("x")), bare.to_string()), (None, Some("x"), name));
        }

        /// Also one letter away from a good one.
        #[test]
        fn any_text_is_an_address_or_refused_with_a_reason(
            text in prop_oneof![
                any::<String>(),
                "arn:[a-z:/-]{0,40}",
                (0..60_usize, any::<char>()).prop_map(|(at, c)| {
                    let mut text: Vec<char> = "arn:aws:kinesis:eu-north-1:111122223333:stream/trades".chars().collect();
                    let at = at % text.len();
                    text[at] = c;
                    text.into_iter().collect()
                }),
            ],
        ) {
            match text.parse::<StreamAddress>() {
                Ok(address) => prop_assert_eq!(address.to_string(), &text[..]),
                Err(problem) => prop_assert!(problem.to_string().len() > 10),
            }
            if let Ok(role) = text.parse::<RoleArn>() {
                prop_assert_eq!(role.as_str(), text);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_stream_is_said() {
        for (text, words) in [
            ("", "must be 1 to 128 letters"),
            ("my stream", "must be 1 to 128 letters"),
            ("stream/trades", "or an ARN like arn:aws:kinesis:"),
            (&"a".repeat(129), "must be 1 to 128 letters"),
            ("trades:", "is not an ARN"),
            ("ARN:aws:kinesis:eu-north-1:111122223333:stream/trades", "is not an ARN"),
            (" arn:aws:kinesis:eu-north-1:111122223333:stream/trades", "is not an ARN"),
            ("arn:aws:kinesis:eu-north-1:stream/trades", "is incomplete"),
            ("arn:gcp:kinesis:eu-north-1:111122223333:stream/trades", "the unknown partition \"gcp\""),
            ("arn:aws-:kinesis:eu-north-1:111122223333:stream/trades", "the unknown partition \"aws-\""),
            ("table/a b", "must be 3 to 255 letters"),
            ("arn:aws:dynamodb:eu-north-1:111122223333:table/t", "must be 3 to 255 letters"),
            ("arn:aws:firehose:eu-north-1:111122223333:deliverystream/d", "a resource of firehose"),
            ("arn:aws::eu-north-1:111122223333:stream/trades", "a resource of no service"),
            ("arn:aws:kinesis::111122223333:stream/trades", "the invalid region \"\""),
            ("arn:aws:kinesis:eu north 1:111122223333:stream/trades", "the invalid region \"eu north 1\""),
            (
                "arn:aws:kinesis:cn-north-1:111122223333:stream/trades",
                "the region cn-north-1, which does not belong to its partition aws",
            ),
            (
                "arn:aws-cn:kinesis:eu-north-1:111122223333:stream/trades",
                "which does not belong to its partition aws-cn",
            ),
            (
                "arn:aws-us-gov:kinesis:us-iso-east-1:111122223333:stream/t",
                "which does not belong to its partition aws-us-gov",
            ),
            ("arn:aws:kinesis:eu-north-1::stream/trades", "the invalid account \"\""),
            ("arn:aws:kinesis:eu-north-1:1111-2222-3333:stream/trades", "an account ID has 12 digits"),
            ("arn:aws:kinesis:eu-north-1:111122223333:trades", "names the resource \"trades\", not a stream"),
            ("arn:aws:kinesis:eu-north-1:111122223333:stream/", "has no name after \"stream/\""),
            ("arn:aws:kinesis:eu-north-1:111122223333:stream", "has no name"),
            ("arn:aws:kinesis:eu-north-1:111122223333:stream/tra des", "must be 1 to 128 letters"),
            ("arn:aws:kinesis:eu-north-1:111122223333:stream/trades:1", "must be 1 to 128 letters"),
            ("arn:aws:kinesis:eu-north-1:111122223333:stream/trades/x", "must be 1 to 128 letters"),
            (
                "arn:aws:kinesis:eu-north-1:111122223333:stream/trades/consumer/c:1525898737",
                "use the ARN of its stream, arn:aws:kinesis:eu-north-1:111122223333:stream/trades",
            ),
        ] {
            let problem = text.parse::<StreamAddress>().unwrap_err().to_string();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    #[test]
    fn a_table_is_told_from_a_stream() {
        for text in
            ["table/Trades", "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades/stream/2026-01-15T09:30"]
        {
            let address: StreamAddress = text.parse().unwrap();
            assert_eq!((address.name(), address.to_string().as_str()), ("Trades", text));
            assert!(address.table().is_some() && address.arn().is_none());
        }
        let by_arn: StreamAddress = "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades".parse().unwrap();
        assert_eq!(by_arn.region_or(Some("x")), Some("eu-north-1"));
        assert!("Trades".parse::<StreamAddress>().unwrap().table().is_none());
    }

    #[test]
    fn a_role_is_named_by_its_arn() {
        for text in [
            "arn:aws:iam::111122223333:role/reader",
            "arn:aws-cn:iam::111122223333:role/team/data+lake/reader@1",
            "arn:aws-us-gov:iam::111122223333:role/aws-service-role/x,y=z_.",
        ] {
            assert_eq!(text.parse::<RoleArn>().unwrap().to_string(), text);
        }
        for (text, words) in [
            ("reader", "is not an ARN; expected a form like arn:aws:iam::111122223333:role/NAME"),
            ("arn:aws:iam::role/reader", "is incomplete"),
            ("arn:aws:iam:eu-north-1:111122223333:role/reader", "the ARN of a role has none"),
            ("arn:aws:iam::1:role/reader", "an account ID has 12 digits"),
            ("arn:aws:iam::111122223333:user/anna", "names the resource \"user\", not a role"),
            ("arn:aws:iam::111122223333:role/", "has no name"),
            ("arn:aws:iam::111122223333:role/path/", "must end with a role name"),
            ("arn:aws:iam::111122223333:role/rea der", "must end with a role name"),
            ("arn:aws:sts::111122223333:assumed-role/reader/session", "use the ARN of its role"),
            ("arn:aws:s3:::bucket", "a resource of s3, not of IAM"),
        ] {
            let problem = text.parse::<RoleArn>().unwrap_err().to_string();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
