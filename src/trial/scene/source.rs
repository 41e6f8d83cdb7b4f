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

/// How one kind differs from the others.
struct Traits {
    name: &'static str,
    of_tables: bool,
    retrieval: Option<&'static str>,
    flags: &'static [&'static str],
    name_flag: &'static str,
    service: &'static str,
    calls: [&'static str; 3],
}

impl TrialSource {
    fn traits(self) -> Traits {
        match self {
            Self::Kinesis => Traits {
                name: "kinesis",
                of_tables: false,
                retrieval: None,
                flags: &[],
                name_flag: "--stream",
                service: "Kinesis",
                calls: ["ListShards", "GetShardIterator", "GetRecords"],
            },
            Self::FanOut => Traits {
                name: "fan-out",
                of_tables: false,
                retrieval: Some("fan-out"),
                flags: &["--retrieval", "fan-out"],
                name_flag: "--stream",
                service: "Kinesis",
                calls: ["ListShards", "GetShardIterator", "SubscribeToShard"],
            },
            Self::DynamodbStreams => Traits {
                name: "dynamodb-streams",
                of_tables: true,
                retrieval: None,
                flags: &["--source", "dynamodb-streams"],
                name_flag: "--table",
                service: "DynamoDB Streams",
                calls: ["DescribeStream", "GetShardIterator", "GetRecords"],
            },
            Self::Kafka => Traits {
                name: "kafka",
                of_tables: false,
                retrieval: None,
                flags: &["--source", "kafka"],
                name_flag: "--topic",
                service: "Kafka",
                calls: ["Metadata", "ListOffsets", "Fetch"],
            },
        }
    }

    /// As people type it.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// Whether the streams are those of tables.
    pub fn of_tables(self) -> bool {
        self.traits().of_tables
    }

    /// As for `--retrieval`, where that is not the default.
    pub fn retrieval(self) -> Option<&'static str> {
        self.traits().retrieval
    }

    /// Flags of `kinetide run` that choose it.
    pub fn flags(self) -> &'static [&'static str] {
        self.traits().flags
    }

    /// The flag of `kinetide run` that names one of its streams.
    pub fn name_flag(self) -> &'static str {
        self.traits().name_flag
    }

    /// The service that workers read from, as people call it.
    pub fn service(self) -> &'static str {
        self.traits().service
    }

    /// The calls by which a worker reads again and again. Those of its start are not among them: when one of these fails, the
    /// start says so and ends.
    pub fn calls(self) -> [&'static str; 3] {
        self.traits().calls
    }

    /// Where workers find that service.
    pub fn endpoint(self, endpoints: &WorkerEndpoints) -> Option<&str> {
        if self == Self::Kafka {
            return None;
        }
        let url = if self.of_tables() { &endpoints.dynamodb_streams } else { &endpoints.kinesis };
        url.as_deref()
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
