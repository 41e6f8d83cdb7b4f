//! Bodies of good answers, taken before the SDK reads them.
//!
//! The SDK signs, sends and reads errors. It does not read the records: its reader costs more than the rest of the path and
//! holds a page several times over. So what the SDK does for a body is done here: a time limit for silence, and a check of
//! the length.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;

use crate::fetch::buffer::{Body, Buffer};
use crate::fetch::page::Page;
use crate::fetch::source::FetchError;

/// Silence within a body.
pub(in crate::fetch) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A good answer's body, not yet received, and what its head announces.
#[derive(Debug)]
pub(in crate::fetch) struct Taken {
    pub(in crate::fetch) body: SdkBody,
    length: Option<usize>,
    /// When it was sent, by the service's clock.
    pub(in crate::fetch) served_us: Option<i64>,
}

/// Takes the body of one good answer; clones share it, one in the SDK and one with the caller.
#[derive(Clone, Debug)]
pub(in crate::fetch) struct TakeBody {
    taken: Arc<Mutex<Option<Taken>>>,
    /// What the SDK reads in its place.
    instead: &'static str,
}

impl TakeBody {
    pub(in crate::fetch) fn leaving(instead: &'static str) -> Self {
        Self { taken: Arc::default(), instead }
    }

    /// What was taken.
    pub(in crate::fetch) fn body(&self) -> Result<Taken, FetchError> {
        self.slot().take().ok_or_else(|| FetchError::Unavailable("the response has no body".into()))
    }

    /// The page in it, by what reads such a body of usually at most `bytes_max`.
    pub(in crate::fetch) async fn page<F>(
        &self,
        bytes_max: usize,
        parse: impl FnOnce(Body) -> F,
    ) -> Result<Page, FetchError>
    where
        F: Future<Output = Result<Page, FetchError>>,
    {
        let taken = self.body()?;
        let served_us = taken.served_us;
        let mut page = parse(collect(taken, bytes_max).await?).await?;
        page.served_us = served_us;
        Ok(page)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Taken>> {
        self.taken.lock().expect("no code panics while it holds this lock")
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for TakeBody {
    fn name(&self) -> &'static str {
        "TakeBody"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if response.status().is_success() {
            let length = response.headers().get("content-length").and_then(|text| text.parse().ok());
            let served_us = response.headers().get("date").and_then(http_date_us);
            let body = std::mem::replace(response.body_mut(), SdkBody::from(self.instead));
            *self.slot() = Some(Taken { body, length, served_us });
        }
        Ok(())
    }
}

/// The `Date` of an answer, µs since the epoch.
fn http_date_us(text: &str) -> Option<i64> {
    DateTime::from_str(text, Format::HttpDate).ok()?.secs().checked_mul(1_000_000)
}

async fn collect(taken: Taken, bytes_max: usize) -> Result<Body, FetchError> {
    let mut body = ByteStream::new(taken.body);
    // A mad header must not reserve the machine.
    let room = taken.length.filter(|length| *length <= bytes_max).unwrap_or(0);
    let mut collected = Buffer::new(room);
    let mut received = 0;
    loop {
        let chunk = tokio::time::timeout(READ_TIMEOUT, body.try_next())
            .await
            .map_err(|_| FetchError::Unavailable("the response stopped half-way".into()))?
            .map_err(|e| FetchError::Unavailable(e.into()))?;
        match chunk {
            Some(chunk) => {
                received += chunk.len();
                if !collected.push(&chunk) {
                    break;
                }
            }
            None => break,
        }
    }
    match taken.length {
        Some(length) if length != received => Err(FetchError::Unavailable(
            format!("the response has {received} of {length} announced bytes").into(),
        )),
        _ => Ok(collected.finish()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_within_a_body_ends_the_fetch() {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("{")))]);
        let body = StreamBody::new(first.chain(futures::stream::pending()));
        let taken = Taken { body: SdkBody::from_body_1_x(body), length: None, served_us: None };
        let started = tokio::time::Instant::now();
        assert!(matches!(collect(taken, 1 << 20).await, Err(FetchError::Unavailable(_))));
        assert_eq!(started.elapsed().as_secs(), READ_TIMEOUT.as_secs());
    }
}
