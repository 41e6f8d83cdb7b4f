//! Which stream a lease is of, in words that outlive the stream.

use std::fmt;
use std::sync::Arc;

use super::ShardId;
use crate::aws::{StreamAddress, TableArn};

/// A stream with what tells it from others of its name, written as in KCL's multi-stream lease keys:
/// `account:name:created`, the last in seconds since the epoch. What the service does not say is empty and equals
/// everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parts {
    account: String,
    name: String,
    created: Option<u64>,
}

/// What stands in the place of the account for a topic of Kafka. Its name is `CLUSTER:TOPIC-ID` then, or the name of the
/// topic where no more is known.
const KAFKA: &str = "kafka";

/// How one stream stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// As far as one can tell they are one.
    Same,
    /// They have one name, and were created at different times: deleted and made again, or in different regions.
    Namesake,
    /// Another name or account.
    Stranger,
}

impl StreamId {
    /// The stream with this name, of which nothing else is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self(Arc::new(Parts { account: String::new(), name: name.into(), created: None }))
    }

    /// The stream as its operator names it: an ARN says the account too.
    pub fn of(address: &StreamAddress) -> Self {
        if let Some(table) = address.table() {
            return match table.arn() {
                Some(arn) => Self::of_table(arn),
                None => Self::named(format!("$${}$", table.name())),
            };
        }
        if address.is_topic() {
            let (account, name) = (KAFKA.to_owned(), address.name().to_owned());
            return Self(Arc::new(Parts { account, name, created: None }));
        }
        let account = address.arn().map_or_else(String::new, |arn| arn.account().to_owned());
        Self(Arc::new(Parts { account, name: address.name().to_owned(), created: None }))
    }

    /// A stream of DynamoDB Streams, as the Java adapter names it: `account:region$account$table$label:1`.
    pub fn of_table(arn: &TableArn) -> Self {
        let created = arn.label().map(|_| 1);
        Self(Arc::new(Parts { account: arn.account().to_owned(), name: arn.encoded(), created }))
    }

    /// A topic of Kafka, by the ids of its cluster and its own: `kafka:CLUSTER:TOPIC-ID`. Colons of the cluster's id become
    /// underscores, as they end a part.
    pub fn of_topic(cluster: &str, topic: &str) -> Self {
        let name = format!("{}:{topic}", cluster.replace(':', "_"));
        Self(Arc::new(Parts { account: KAFKA.to_owned(), name, created: None }))
    }

    /// The shard of this stream that a lease key names by this text.
    pub fn shard_of_key(&self, text: &str) -> ShardId {
        match self.topic_id() {
            Some(topic) => ShardId::new(format!("{topic}-{text}")),
            None => ShardId::new(text),
        }
    }

    /// How a lease key names a shard of this stream. Those of Kafka have the topic's id in their own one, so that whatever
    /// is called by it is that of one topic: a key need not say it twice.
    pub fn in_key<'a>(&self, shard: &'a ShardId) -> &'a str {
        let text = shard.as_str();
        let partition = self.topic_id().and_then(|topic| text.strip_prefix(topic)?.strip_prefix('-'));
        partition.unwrap_or(text)
    }

    /// The id of the topic, where it is a topic of Kafka whose id is known.
    fn topic_id(&self) -> Option<&str> {
        let (_, topic) = self.0.name.split_once(':').filter(|_| self.is_topic())?;
        Some(topic)
    }

    /// True for a topic of Kafka.
    fn is_topic(&self) -> bool {
        self.0.account == KAFKA
    }

    /// The stream that settings name by this text, a name or an ARN.
    pub fn in_settings(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::named(text), |address| Self::of(&address))
    }

    /// With what the service said: the stream's ARN, and when it was created.
    #[must_use]
    pub fn described(self, arn: &str, created: Option<u64>) -> Self {
        let account = arn.split(':').nth(4).unwrap_or_default().to_owned();
        Self(Arc::new(Parts { account, name: self.0.name.clone(), created }))
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix(KAFKA).and_then(|rest| rest.strip_prefix(':')) {
            let (cluster, topic) = name.split_once(':')?;
            let whole = !cluster.is_empty() && !topic.is_empty() && !topic.contains(':');
            return whole.then(|| Self::of_topic(cluster, topic));
        }
        let mut parts = text.split(':');
        let (account, name, created) = (parts.next()?, parts.next()?, parts.next()?);
        let created = if created.is_empty() { None } else { Some(created.parse().ok()?) };
        let (account, name) = (account.to_owned(), name.to_owned());
        (!name.is_empty() && parts.next().is_none()).then(|| Self(Arc::new(Parts { account, name, created })))
    }

    /// True when account and time are known: so it can stand in a lease key (`StreamIdentifier`:
    /// `[0-9]+:[^:]+:[0-9]+`). Of a topic of Kafka: when its id is known.
    pub fn is_whole(&self) -> bool {
        if self.is_topic() {
            return self.topic_id().is_some();
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits(&self.0.account) && self.0.created.is_some()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the other one is this one.
    pub fn kinship(&self, other: &Self) -> Kinship {
        if self.is_topic() || other.is_topic() {
            // A name says nothing of an id.
            let told = self.is_whole() && other.is_whole();
            let may_be = self.is_topic() && other.is_topic() && (!told || self == other);
            return if may_be { Kinship::Same } else { Kinship::Stranger };
        }
        if let (Some(a), Some(b)) = (self.table(), other.table()) {
            // Streams of one table follow each other, as it is turned off and on again.
            let same = a.iter().zip(b).all(|(a, b)| *a == b || a.is_empty() || b.is_empty());
            return if same { Kinship::Same } else { Kinship::Stranger };
        }
        let accounts = [&self.0.account, &other.0.account];
        if self.0.name != other.0.name
            || accounts[0] != accounts[1] && accounts.iter().all(|account| !account.is_empty())
        {
            return Kinship::Stranger;
        }
        match (self.0.created, other.0.created) {
            (Some(a), Some(b)) if a != b => Kinship::Namesake,
            _ => Kinship::Same,
        }
    }

    /// The table that it is a stream of, where it is one.
    pub fn table_name(&self) -> Option<&str> {
        self.table().map(|[_, _, table]| table)
    }

    /// Region, account and table of a stream of DynamoDB Streams; no name of Kinesis has a dollar sign in it.
    fn table(&self) -> Option<[&str; 3]> {
        let mut parts = self.0.name.splitn(4, '$');
        let table = [parts.next()?, parts.next()?, parts.next()?];
        parts.next().map(|_| table)
    }

    /// For people: name, account and time.
    pub fn in_words(&self) -> String {
        if self.is_topic() {
            return match self.0.name.split_once(':') {
                Some((cluster, topic)) => format!("topic {topic} (its id) of Kafka cluster {cluster}"),
                None => format!("topic {} of Kafka", self.0.name),
            };
        }
        if let Some([region, account, table]) = self.table() {
            let label = self.0.name.rsplit('$').next().unwrap_or_default();
            let details = [("account", account), ("region", region), ("stream", label)];
            let said = details.iter().filter(|(_, value)| !value.is_empty());
            let said: Vec<String> = said.map(|(what, value)| format!("{what} {value}")).collect();
            let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
            return format!("of table {table}{said}");
        }
        let account = Some(&self.0.account).filter(|account| !account.is_empty());
        let account = account.map(|account| format!("account {account}"));
        let created = self.0.created.map(|seconds| format!("created {}", utc(seconds)));
        let details: Vec<String> = account.into_iter().chain(created).collect();
        if details.is_empty() {
            self.0.name.clone()
        } else {
            format!("{} ({})", self.0.name, details.join(", "))
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_topic() {
            return write!(f, "{KAFKA}:{}", self.0.name);
        }
        write!(f, "{}:{}:", self.0.account, self.0.name)?;
        self.0.created.map_or(Ok(()), |created| write!(f, "{created}"))
    }
}

/// Like `2026-01-15T09:30:00Z`; by the usual formula for civil dates.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_told_from_namesakes_and_strangers() {
        let trades =
            StreamId::named("trades").described("arn:aws:kinesis:eu-north-1:123:stream/trades", Some(1_000));
        let again = trades.clone().described("arn:aws:kinesis:eu-north-1:123:stream/trades", Some(1_001));
        let abroad = trades.clone().described("arn:aws-cn:kinesis:cn-north-1:9:stream/trades", Some(1_000));
        for (other, expected) in [
            (trades.clone(), Kinship::Same),
            (StreamId::named("trades"), Kinship::Same),
            (again, Kinship::Namesake),
            (abroad, Kinship::Stranger),
            (StreamId::named("orders"), Kinship::Stranger),
        ] {
            assert_eq!((trades.kinship(&other), other.kinship(&trades)), (expected, expected), "{other}");
            assert_eq!(StreamId::parse(&other.to_string()), Some(other));
        }
        assert_eq!(trades.to_string(), "123:trades:1000");
        assert_eq!(trades.in_words(), "trades (account 123, created 1970-01-01T00:16:40Z)");
        assert_eq!(StreamId::named("trades").in_words(), "trades");
        let address = |text: &str| StreamId::of(&text.parse().unwrap());
        let by_arn = address("arn:aws:kinesis:eu-north-1:111122223333:stream/trades");
        assert_eq!(
            (by_arn.to_string(), address("trades")),
            ("111122223333:trades:".into(), StreamId::named("trades"))
        );
        assert_eq!(by_arn.kinship(&trades), Kinship::Stranger);
        for text in ["trades", "arn:aws:kinesis:eu-north-1:111122223333:stream/trades"] {
            assert_eq!(StreamId::in_settings(text), address(text));
        }
        assert_eq!(StreamId::in_settings("no:address"), StreamId::named("no:address"));
    }

    #[test]
    fn topics_are_told_apart_by_their_ids() {
        let topic = StreamId::of_topic("gRE5whIsQoucH0jxnLkQnw", "gBEe4cIsQoucH0jxnLkQnw");
        let text = "kafka:gRE5whIsQoucH0jxnLkQnw:gBEe4cIsQoucH0jxnLkQnw";
        assert_eq!((topic.to_string().as_str(), StreamId::parse(text).as_ref()), (text, Some(&topic)));
        assert!(topic.is_whole());
        let named = StreamId::in_settings("topic/orders");
        assert!(!named.is_whole() && named.name() == "orders");
        let again = StreamId::of_topic("gRE5whIsQoucH0jxnLkQnw", "another");
        for (other, expected) in [
            (topic.clone(), Kinship::Same),
            (named.clone(), Kinship::Same),
            (again, Kinship::Stranger),
            (StreamId::named("orders"), Kinship::Stranger),
        ] {
            assert_eq!((topic.kinship(&other), other.kinship(&topic)), (expected, expected), "{other}");
        }
        assert_eq!(named.kinship(&StreamId::named("orders")), Kinship::Stranger, "of Kinesis");
        let shard = topic.shard_of_key("12");
        assert_eq!((shard.as_str(), topic.in_key(&shard)), ("gBEe4cIsQoucH0jxnLkQnw-12", "12"));
        for wrong in ["kafka:", "kafka:a", "kafka::b", "kafka:a:", "kafka:a:b:c"] {
            assert_eq!(StreamId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn streams_of_one_table_are_of_one_application() {
        let of = |text: &str| StreamId::in_settings(text);
        let arn = "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades";
        let (first, second) =
            (of(&format!("{arn}/stream/2026-01-15T09:30")), of(&format!("{arn}/stream/2026-01-16T09:30")));
        assert_eq!(first.to_string(), "111122223333:eu-north-1$111122223333$Trades$2026-01-15T09_30:1");
        assert!(first.is_whole() && first != second && !of(arn).is_whole());
        for (other, kinship) in [
            (second, Kinship::Same),
            (of(arn), Kinship::Same),
            (of("table/Trades"), Kinship::Same),
            (of("table/Orders"), Kinship::Stranger),
            (of(&arn.replace("eu-", "us-")), Kinship::Stranger),
            (of("Trades"), Kinship::Stranger),
        ] {
            assert_eq!((first.kinship(&other), other.kinship(&first)), (kinship, kinship), "{other}");
            assert_eq!(StreamId::parse(&other.to_string()), Some(other));
        }
        assert_eq!(
            first.in_words(),
            "of table Trades (account 111122223333, region eu-north-1, stream 2026-01-15T09_30)"
        );
        assert_eq!(of("table/Trades").in_words(), "of table Trades");
    }

    #[test]
    fn other_texts_are_no_streams() {
        for text in ["", "trades", "1:trades", "1::5", "1:trades:x", "1:trades:5:shardId-1", "1:trades:-5"] {
            assert_eq!(StreamId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_768_469_400, "2026-01-15T09:30:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
