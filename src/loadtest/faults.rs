//! What the network and the services do to a request: spells of bad weather, and what they mean for one request.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::time::Instant;

use crate::trial::scene::TrialSource;

/// A service behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Kinesis Data Streams.
    Kinesis,
    /// DynamoDB.
    DynamoDb,
    /// S3.
    S3,
    /// DynamoDB Streams.
    #[serde(rename = "dynamodb-streams")]
    DynamoDbStreams,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kinesis => "Kinesis",
            Self::DynamoDb => "DynamoDB",
            Self::S3 => "S3",
            Self::DynamoDbStreams => "DynamoDB Streams",
        })
    }
}

/// What a spell does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Refuse a share of the requests.
    Throttle,
    /// Fail a share of the requests.
    Broken,
    /// Be late with a share of the answers.
    Slow,
    /// Cut the connection of a share of the requests.
    Cut,
    /// Swallow everything.
    Partition,
    /// S3 has no room for new objects.
    NoRoom,
    /// Deny one call.
    Deny(&'static str),
    /// Do not answer one call.
    Hang(&'static str),
}

/// The calls to the lease table that a worker makes again and again.
const TABLE_CALLS: [&str; 4] = ["UpdateItem", "GetItem", "Query", "Scan"];

/// The calls that are denied or left without an answer: those that workers which read in these ways make again and again,
/// and of which they have to recover by themselves.
pub(super) fn calls(sources: &[TrialSource]) -> Vec<&'static str> {
    let mut calls = Vec::new();
    for call in sources.iter().flat_map(|source| source.calls()).chain(TABLE_CALLS) {
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    calls
}

/// Bad weather for a while.
#[derive(Clone, Debug)]
pub(super) struct Spell {
    /// What it does.
    pub(super) weather: Weather,
    /// The worker it is for; all when `None`.
    pub(super) worker: Option<String>,
    /// Share of the requests, 0 to 1.
    pub(super) rate: f64,
    /// When it is over.
    pub(super) until: Instant,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Strike {
    /// It is answered with an error and had no effect.
    Refuse(Refusal),
    /// It goes through, and its answer is an error all the same.
    RefuseAfter(Refusal),
    /// It goes through, later.
    Delay(Duration),
    /// The connection is cut, and it had no effect.
    Cut,
    /// It goes through, and the connection is cut before its answer.
    CutAfter,
    /// Nothing until then, neither way.
    Hold(Instant),
}

/// An error as the service spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// Code of the error.
    pub(super) code: &'static str,
}

/// The spells of now.
#[derive(Debug, Default)]
pub(super) struct Sky {
    spells: Vec<Spell>,
}

impl Sky {
    /// Begins a spell.
    pub(super) fn add(&mut self, spell: Spell) {
        self.spells.push(spell);
    }

    /// Ends one kind of spell for one worker.
    pub(super) fn end(&mut self, weather: Weather, worker: &str) {
        self.spells.retain(|spell| spell.weather != weather || spell.worker.as_deref() != Some(worker));
    }

    /// Ends all spells.
    pub(super) fn clear(&mut self) {
        self.spells.clear();
    }

    /// When a worker reaches the servers again, if it does not now.
    pub(super) fn partitioned_until(&self, worker: &str, now: Instant) -> Option<Instant> {
        let spells = self.over(worker, now).filter(|spell| spell.weather == Weather::Partition);
        spells.map(|spell| spell.until).max()
    }

    /// What happens to a request of a worker. `operation`: as in `GetRecords`, for S3 the HTTP method.
    pub(super) fn strike(
        &mut self,
        service: Service,
        worker: &str,
        operation: &str,
        now: Instant,
        rng: &mut ChaCha8Rng,
    ) -> Option<Strike> {
        self.spells.retain(|spell| spell.until > now);
        if let Some(until) = self.partitioned_until(worker, now) {
            return Some(Strike::Hold(until));
        }
        let meant = |spell: &&Spell| match spell.weather {
            Weather::Deny(call) | Weather::Hang(call) => call == operation,
            _ => true,
        };
        let spell = self.over(worker, now).filter(meant).find(|spell| rng.random_bool(spell.rate))?;
        let coin = rng.random_bool(0.5);
        Some(match spell.weather {
            Weather::Throttle => Strike::Refuse(throttled(service, operation)),
            Weather::Broken if coin => Strike::Refuse(broken(service, rng.random_bool(0.5))),
            Weather::Broken => Strike::RefuseAfter(broken(service, rng.random_bool(0.5))),
            Weather::Slow => Strike::Delay(Duration::from_millis(rng.random_range(100..3_000))),
            Weather::Cut if coin => Strike::Cut,
            Weather::Cut => Strike::CutAfter,
            Weather::Partition => Strike::Hold(spell.until),
            Weather::NoRoom if service == Service::S3 && operation == "PUT" => {
                Strike::Refuse(Refusal { status: 507, code: "InsufficientStorage" })
            }
            Weather::NoRoom => return None,
            Weather::Deny(_) => Strike::Refuse(Refusal { status: 400, code: "AccessDeniedException" }),
            Weather::Hang(_) => Strike::Hold(spell.until),
        })
    }

    fn over(&self, worker: &str, now: Instant) -> impl Iterator<Item = &Spell> {
        let hit = move |spell: &&Spell| {
            spell.until > now && spell.worker.as_deref().is_none_or(|whose| whose == worker)
        };
        self.spells.iter().filter(hit)
    }
}

/// How each service says that requests come too soon
/// ([Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html#API_GetRecords_Errors),
/// [DynamoDB](https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html),
/// [S3](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html)).
fn throttled(service: Service, operation: &str) -> Refusal {
    let data =
        ["GetRecords", "GetShardIterator", "GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"];
    match service {
        Service::S3 => Refusal { status: 503, code: "SlowDown" },
        Service::DynamoDbStreams if operation == "GetRecords" => {
            Refusal { status: 400, code: "LimitExceededException" }
        }
        Service::DynamoDbStreams => Refusal { status: 400, code: "ThrottlingException" },
        _ if data.contains(&operation) => {
            Refusal { status: 400, code: "ProvisionedThroughputExceededException" }
        }
        Service::Kinesis => Refusal { status: 400, code: "LimitExceededException" },
        Service::DynamoDb => Refusal { status: 400, code: "ThrottlingException" },
    }
}

fn broken(service: Service, unavailable: bool) -> Refusal {
    match service {
        _ if unavailable => Refusal { status: 503, code: "ServiceUnavailable" },
        Service::Kinesis => Refusal { status: 500, code: "InternalFailure" },
        Service::DynamoDb | Service::DynamoDbStreams => Refusal { status: 500, code: "InternalServerError" },
        Service::S3 => Refusal { status: 500, code: "InternalError" },
    }
}

/// Content type and body of an error.
pub(super) fn body_of(service: Service, refusal: Refusal) -> (&'static str, String) {
    let code = refusal.code;
    match service {
        Service::Kinesis => (
            "application/x-amz-json-1.1",
            format!(r#"{{"__type":"{code}","message":"made by the load test"}}"#),
        ),
        Service::DynamoDb | Service::DynamoDbStreams => (
            "application/x-amz-json-1.0",
            format!(
                r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"made by the load test"}}"#
            ),
        ),
        Service::S3 => (
            "application/xml",
            format!(
                r#"<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made by the load test</Message></Error>"#
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spell(weather: Weather, worker: Option<&str>, rate: f64, until: Instant) -> Spell {
        Spell { weather, worker: worker.map(str::to_owned), rate, until }
    }

    #[test]
    fn a_partition_is_for_one_worker_and_ends() {
        let (mut sky, now, mut rng) = (Sky::default(), Instant::now(), ChaCha8Rng::seed_from_u64(1));
        sky.add(spell(Weather::Partition, Some("a"), 1.0, now + SECOND));
        let mut strike =
            |sky: &mut Sky, worker, at| sky.strike(Service::DynamoDb, worker, "Scan", at, &mut rng);
        assert_eq!(strike(&mut sky, "a", now), Some(Strike::Hold(now + SECOND)));
        assert_eq!(strike(&mut sky, "b", now), None);
        assert_eq!(sky.partitioned_until("a", now), Some(now + SECOND));
        assert_eq!(strike(&mut sky, "a", now + SECOND), None);
        assert_eq!(sky.partitioned_until("a", now), None);
    }

    #[test]
    fn errors_are_those_of_the_service() {
        let (mut sky, now, mut rng) = (Sky::default(), Instant::now(), ChaCha8Rng::seed_from_u64(1));
        sky.add(spell(Weather::Throttle, None, 1.0, now + SECOND));
        for (service, operation, code) in [
            (Service::Kinesis, "GetRecords", "ProvisionedThroughputExceededException"),
            (Service::Kinesis, "ListShards", "LimitExceededException"),
            (Service::DynamoDb, "UpdateItem", "ProvisionedThroughputExceededException"),
            (Service::DynamoDb, "DescribeTable", "ThrottlingException"),
            (Service::S3, "PUT", "SlowDown"),
            (Service::DynamoDbStreams, "GetRecords", "LimitExceededException"),
            (Service::DynamoDbStreams, "DescribeStream", "ThrottlingException"),
        ] {
            let Some(Strike::Refuse(refusal)) = sky.strike(service, "w", operation, now, &mut rng) else {
                panic!("{operation} is not refused");
            };
            assert_eq!(refusal.code, code);
            assert!(body_of(service, refusal).1.contains(code));
        }
    }

    #[test]
    fn a_share_of_the_requests_is_struck_some_after_their_effect() {
        let (mut sky, now, mut rng) = (Sky::default(), Instant::now(), ChaCha8Rng::seed_from_u64(1));
        sky.add(spell(Weather::Broken, None, 0.3, now + SECOND));
        let mut strikes = [0, 0, 0];
        for _ in 0..1_000 {
            strikes[match sky.strike(Service::S3, "w", "PUT", now, &mut rng) {
                None => 0,
                Some(Strike::Refuse(_)) => 1,
                Some(Strike::RefuseAfter(_)) => 2,
                other => panic!("{other:?}"),
            }] += 1;
        }
        assert!((650..750).contains(&strikes[0]) && strikes[1] > 100 && strikes[2] > 100, "{strikes:?}");
        sky.clear();
        assert_eq!(sky.strike(Service::S3, "w", "PUT", now, &mut rng), None);
    }

    #[test]
    fn one_call_is_denied_or_left_without_an_answer() {
        let (mut sky, now, mut rng) = (Sky::default(), Instant::now(), ChaCha8Rng::seed_from_u64(1));
        sky.add(spell(Weather::Deny("UpdateItem"), None, 1.0, now + SECOND));
        sky.add(spell(Weather::Hang("GetRecords"), None, 1.0, now + SECOND));
        let mut strike = |service, operation| sky.strike(service, "w", operation, now, &mut rng);
        let Some(Strike::Refuse(refusal)) = strike(Service::DynamoDb, "UpdateItem") else { panic!("denied") };
        assert_eq!((refusal.status, refusal.code), (400, "AccessDeniedException"));
        assert_eq!(strike(Service::Kinesis, "GetRecords"), Some(Strike::Hold(now + SECOND)));
        assert_eq!(
            (strike(Service::DynamoDb, "Query"), strike(Service::Kinesis, "ListShards")),
            (None, None)
        );
    }

    #[test]
    fn calls_are_those_of_the_kinds_that_are_read_each_once() {
        let all = calls(&[TrialSource::Kinesis, TrialSource::FanOut, TrialSource::DynamodbStreams]);
        let reading = ["ListShards", "GetShardIterator", "GetRecords", "SubscribeToShard", "DescribeStream"];
        assert_eq!(all, [&reading[..], &TABLE_CALLS].concat());
        assert!(!calls(&[TrialSource::FanOut]).contains(&"GetRecords"));
    }

    #[test]
    fn a_full_bucket_refuses_new_objects_only() {
        let (mut sky, now, mut rng) = (Sky::default(), Instant::now(), ChaCha8Rng::seed_from_u64(1));
        sky.add(spell(Weather::NoRoom, Some("w"), 1.0, now + SECOND));
        let mut strike = |service, operation| sky.strike(service, "w", operation, now, &mut rng);
        assert!(matches!(strike(Service::S3, "PUT"), Some(Strike::Refuse(Refusal { status: 507, .. }))));
        assert_eq!((strike(Service::S3, "GET"), strike(Service::Kinesis, "GetRecords")), (None, None));
    }
}
