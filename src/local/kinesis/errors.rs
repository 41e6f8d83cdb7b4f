//! Errors as the service sends them: a name, a message and an HTTP status.

/// An error of the API. Becomes `{"__type":…,"message":…}` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct ApiError {
    /// Name of the exception, as in the service model.
    pub kind: &'static str,
    /// Text for people.
    pub message: String,
    /// HTTP status: 400, or 500 for a fault of the server.
    pub status: u16,
}

/// The account that all names live in.
pub(crate) const ACCOUNT: &str = "000000000000";

impl ApiError {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: 400 }
    }

    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentException", message)
    }

    pub(crate) fn resource_in_use(message: impl Into<String>) -> Self {
        Self::new("ResourceInUseException", message)
    }

    pub(crate) fn limit_exceeded(message: impl Into<String>) -> Self {
        Self::new("LimitExceededException", message)
    }

    pub(crate) fn expired_next_token() -> Self {
        Self::new("ExpiredNextTokenException", "NextToken expired. Start the listing again without it.")
    }

    pub(crate) fn serialization(message: impl Into<String>) -> Self {
        Self::new("SerializationException", message)
    }

    pub(crate) fn unknown_operation(operation: &str) -> Self {
        Self::new("UnknownOperationException", format!("Operation {operation:?} is not known."))
    }

    /// `member` failed the constraint of the service model; `value` is what was given.
    pub(crate) fn validation(value: &str, member: &str, constraint: &str) -> Self {
        let message = format!(
            "1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {constraint}"
        );
        Self::new("ValidationException", message)
    }

    pub(crate) fn on_demand(stream: &str) -> Self {
        let message = format!(
            "Request is invalid. Stream {stream} under account {ACCOUNT} is in On-Demand mode. UpdateShardCount is only \
             supported for data streams with the provisioned capacity mode."
        );
        Self::new("ValidationException", message)
    }

    pub(crate) fn stream_not_found(stream: &str, account: &str) -> Self {
        Self::new("ResourceNotFoundException", format!("Stream {stream} under account {account} not found."))
    }

    pub(crate) fn shard_not_found(shard: &str, stream: &str) -> Self {
        let message = format!("Shard {shard} in stream {stream} under account {ACCOUNT} does not exist");
        Self::new("ResourceNotFoundException", message)
    }

    pub(crate) fn consumer_not_found(consumer: &str) -> Self {
        Self::new("ResourceNotFoundException", format!("Consumer {consumer}, account {ACCOUNT} not found."))
    }

    pub(crate) fn throttled(shard: &str, stream: &str) -> Self {
        let message = format!("Rate exceeded for shard {shard} in stream {stream} under account {ACCOUNT}.");
        Self::new("ProvisionedThroughputExceededException", message)
    }

    pub(crate) fn throttled_on_purpose() -> Self {
        Self::new("ProvisionedThroughputExceededException", "Rate exceeded (a fault that was asked for).")
    }

    pub(crate) fn internal_on_purpose() -> Self {
        Self { status: 500, ..Self::new("InternalFailure", "Internal failure (a fault that was asked for).") }
    }

    /// The iterator was made `age_ms` ago, longer than `ttl_ms`.
    pub(crate) fn expired_iterator(age_ms: i64, ttl_ms: u128) -> Self {
        let message = format!(
            "Iterator expired. The iterator was created {age_ms} milliseconds ago, which is further in the past \
             than the tolerated delay of {ttl_ms} milliseconds."
        );
        Self::new("ExpiredIteratorException", message)
    }

    /// The body on the wire.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::json!({"__type": self.kind, "message": self.message}).to_string().into_bytes()
    }
}

impl From<serde_json::Error> for ApiError {
    /// A member that is missing is a validation error, everything else that cannot be read is a serialization
    /// error, as in the service.
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        let Some(member) = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
        else {
            // The position only: the text may quote values.
            return Self::serialization(format!(
                "The request body is not valid at column {}.",
                error.column()
            ));
        };
        let mut member = member.to_owned();
        if let Some(first) = member.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        Self::validation("null", &member, "Member must not be null")
    }
}
