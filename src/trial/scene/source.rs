//! The kinds of streams that a play can be played on, and all in which they differ for it.

use clap::ValueEnum;
use serde::Serialize;

use crate::trial::workers::WorkerEndpoints;

/// Where workers read from, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialSource {
    /// Streams of Kinesis, polled.
    #[default]
    Kinesis,
    /// Streams of Kinesis, by enhanced fan-out.
    FanOut,
    /// The streams of tables, by DynamoDB Streams.
    DynamodbStreams,
    /// Topics of Kafka.
    Kafka,
}

impl TrialSource {
    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kinesis => "kinesis",
            Self::FanOut => "fan-out",
            Self::DynamodbStreams => "dynamodb-streams",
            Self::Kafka => "kafka",
        }
    }

    /// Whether the streams are those of tables.
    pub fn of_tables(self) -> bool {
        self == Self::DynamodbStreams
    }

    /// As for `--retrieval`, where that is not the default.
    pub fn retrieval(self) -> Option<&'static str> {
        (self == Self::FanOut).then_some(self.name())
    }

    /// Flags of `kinetide run` that choose it, and the flag that names a stream.
    pub fn flags(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Kinesis => (&[], "--stream"),
            Self::FanOut => (&["--retrieval", "fan-out"], "--stream"),
            Self::DynamodbStreams => (&["--source", "dynamodb-streams"], "--table"),
            Self::Kafka => (&["--source", "kafka"], "--topic"),
        }
    }

    /// The service that workers read from, as people call it.
    pub fn service(self) -> &'static str {
        match self {
            Self::Kinesis | Self::FanOut => "Kinesis",
            Self::DynamodbStreams => "DynamoDB Streams",
            Self::Kafka => "Kafka",
        }
    }

    /// The calls by which a worker reads again and again. Those of its start are not among them: when one of these fails, the
    /// start says so and ends.
    pub fn calls(self) -> [&'static str; 3] {
        match self {
            Self::Kinesis => ["ListShards", "GetShardIterator", "GetRecords"],
            Self::FanOut => ["ListShards", "GetShardIterator", "SubscribeToShard"],
            Self::DynamodbStreams => ["DescribeStream", "GetShardIterator", "GetRecords"],
            Self::Kafka => ["Metadata", "ListOffsets", "Fetch"],
        }
    }

    /// Where workers find that service.
    pub fn endpoint(self, endpoints: &WorkerEndpoints) -> Option<&str> {
        match self {
            Self::Kinesis | Self::FanOut => endpoints.kinesis.as_deref(),
            Self::DynamodbStreams => endpoints.dynamodb_streams.as_deref(),
            Self::Kafka => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_flag_and_of_json() {
        for source in TrialSource::value_variants() {
            let flag = source.to_possible_value().unwrap();
            assert_eq!(flag.get_name(), source.name());
            assert_eq!(serde_json::to_value(source).unwrap(), source.name());
        }
    }
}
