//! Shard iterators and page tokens: opaque to clients, self-contained for the server.

use std::time::Duration;

use super::errors::ApiError;

/// Where a reader stands, as the client carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardIterator {
    /// When it was handed out, µs since the epoch.
    pub(crate) issued_us: i64,
    /// Creation time of the stream: an iterator does not outlive its stream.
    pub(crate) stream_created_us: i64,
    /// Index of the shard.
    pub(crate) shard: u32,
    /// Number of the next record to read.
    pub(crate) next: u64,
    /// Name of the stream.
    pub(crate) stream: String,
}

impl ShardIterator {
    /// The text handed to the client.
    pub(crate) fn encode(&self) -> String {
        let Self { issued_us, stream_created_us, shard, next, stream } = self;
        base64_simd::STANDARD.encode_to_string(format!(
            "kinetide-iterator:{issued_us}:{stream_created_us}:{shard}:{next}:{stream}"
        ))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// `InvalidArgumentException` when this server did not write it.
    pub(crate) fn decode(text: &str) -> Result<Self, ApiError> {
        Self::decode_fields(text).ok_or_else(|| ApiError::invalid_argument("Invalid ShardIterator."))
    }

    fn decode_fields(text: &str) -> Option<Self> {
        let plain = String::from_utf8(base64_simd::STANDARD.decode_to_vec(text).ok()?).ok()?;
        let mut fields = plain.strip_prefix("kinetide-iterator:")?.splitn(5, ':');
        Some(Self {
            issued_us: fields.next()?.parse().ok()?,
            stream_created_us: fields.next()?.parse().ok()?,
            shard: fields.next()?.parse().ok()?,
            next: fields.next()?.parse().ok()?,
            stream: fields.next()?.to_owned(),
        })
    }

    /// Refuses an iterator older than `ttl`.
    ///
    /// # Errors
    /// `ExpiredIteratorException`.
    pub(crate) fn check_age(&self, ttl: Duration, now_us: i64) -> Result<(), ApiError> {
        let age_us = now_us.saturating_sub(self.issued_us);
        if u128::try_from(age_us).unwrap_or(0) > ttl.as_micros() {
            return Err(ApiError::expired_iterator(age_us / 1_000, ttl.as_millis()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_iterator_survives_its_encoding(
            issued_us: i64, stream_created_us: i64, shard: u32, next: u64, stream in "[a-zA-Z0-9_.-]{1,128}",
        ) {
            let iterator = ShardIterator { issued_us, stream_created_us, shard, next, stream };
            prop_assert_eq!(ShardIterator::decode(&iterator.encode()), Ok(iterator));
        }

        #[test]
        fn any_other_text_is_refused_without_a_panic(text: String) {
            prop_assert_eq!(ShardIterator::decode(&text).unwrap_err().kind, "InvalidArgumentException");
        }
    }

    #[test]
    fn an_iterator_expires_after_its_time() {
        let iterator =
            ShardIterator { issued_us: 0, stream_created_us: 0, shard: 0, next: 1, stream: "s".into() };
        let ttl = Duration::from_secs(300);
        assert_eq!(iterator.check_age(ttl, 300_000_000), Ok(()));
        assert_eq!(iterator.check_age(ttl, 300_000_001).unwrap_err().kind, "ExpiredIteratorException");
    }
}
