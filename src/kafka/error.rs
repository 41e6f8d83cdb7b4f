//! What can go wrong between this process and a broker.

use kafka_protocol::error::ResponseError;

/// Why a broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// No answer, or the connection broke: worth another try.
    #[error("broker {broker}: {problem}")]
    Unreachable {
        /// Host and port.
        broker: String,
        /// What happened.
        problem: String,
    },
    /// A person has to mend it: access, certificates, versions.
    #[error("broker {broker}: {problem}")]
    Refused {
        /// Host and port.
        broker: String,
        /// What is wrong.
        problem: String,
    },
    /// An error code about a topic or a partition.
    #[error("broker {broker} says {}", code_of(*.code))]
    Code {
        /// Host and port.
        broker: String,
        /// What the broker says.
        code: ResponseError,
    },
    /// There is no such topic, or not any more.
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// The topic has no such partition.
    #[error("topic {topic} has no partition {partition}")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// Nobody leads the partition now.
    #[error("partition {partition} of topic {topic} has no leader at the moment")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
}

/// The code in Kafka's spelling, like `NOT_LEADER_OR_FOLLOWER (6)`.
fn code_of(code: ResponseError) -> String {
    let name = match code {
        ResponseError::Unknown(code) => return format!("an unknown error ({code})"),
        code => format!("{code:?}"),
    };
    let mut spelled = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.push(letter.to_ascii_uppercase());
    }
    format!("{spelled} ({})", code.code())
}

impl KafkaError {
    pub(super) fn unreachable(broker: &str, problem: impl ToString) -> Self {
        Self::Unreachable { broker: broker.to_owned(), problem: problem.to_string() }
    }

    pub(super) fn refused(broker: &str, problem: impl ToString) -> Self {
        Self::Refused { broker: broker.to_owned(), problem: problem.to_string() }
    }

    /// The error of a code; nothing for 0.
    pub(super) fn of(broker: &str, code: i16) -> Option<Self> {
        let code = ResponseError::try_from_code(code)?;
        Some(match code {
            ResponseError::TopicAuthorizationFailed
            | ResponseError::ClusterAuthorizationFailed
            | ResponseError::GroupAuthorizationFailed
            | ResponseError::TransactionalIdAuthorizationFailed
            | ResponseError::SaslAuthenticationFailed
            | ResponseError::UnsupportedSaslMechanism
            | ResponseError::UnsupportedVersion
            | ResponseError::UnsupportedForMessageFormat
            | ResponseError::IllegalSaslState
            | ResponseError::PolicyViolation
            | ResponseError::InvalidTopicException => Self::refused(broker, code_of(code)),
            code => Self::Code { broker: broker.to_owned(), code },
        })
    }

    /// The code, where a broker gave one.
    pub(crate) fn code(&self) -> Option<ResponseError> {
        match self {
            Self::Code { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True when the partition may live elsewhere by now, or will soon: it is to be looked up again.
    pub(super) fn moved(&self) -> bool {
        match self {
            // One that came lately is not known yet.
            Self::Unreachable { .. } | Self::NoLeader { .. } | Self::NoPartition { .. } => true,
            Self::Code { code, .. } => matches!(
                code,
                ResponseError::NotLeaderOrFollower
                    | ResponseError::LeaderNotAvailable
                    | ResponseError::FencedLeaderEpoch
                    | ResponseError::UnknownLeaderEpoch
                    | ResponseError::UnknownTopicOrPartition
                    | ResponseError::UnknownTopicId
                    | ResponseError::InconsistentTopicId
                    | ResponseError::ReplicaNotAvailable
                    | ResponseError::KafkaStorageError
                    | ResponseError::OffsetNotAvailable
                    | ResponseError::BrokerNotAvailable
                    | ResponseError::NetworkException
                    | ResponseError::PreferredLeaderNotAvailable
            ),
            Self::Refused { .. } | Self::NoTopic(_) => false,
        }
    }

    /// True when it may pass by itself.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Code { .. } | Self::NoLeader { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is told of a partition may know more than we do.
    #[test]
    fn a_partition_that_is_not_known_is_looked_up() {
        let error = KafkaError::NoPartition { topic: "t".to_owned(), partition: 3 };
        assert!(error.moved() && !error.may_pass());
        assert!(!KafkaError::NoTopic("t".to_owned()).moved());
    }

    #[test]
    fn codes_are_said_as_kafka_spells_them() {
        for (code, said) in [
            (6, "broker b:1 says NOT_LEADER_OR_FOLLOWER (6)"),
            (1, "broker b:1 says OFFSET_OUT_OF_RANGE (1)"),
            (100, "broker b:1 says UNKNOWN_TOPIC_ID (100)"),
            (29, "broker b:1: TOPIC_AUTHORIZATION_FAILED (29)"),
            (4711, "broker b:1 says an unknown error (4711)"),
        ] {
            assert_eq!(KafkaError::of("b:1", code).unwrap().to_string(), said);
        }
        assert!(KafkaError::of("b:1", 0).is_none());
    }
}
