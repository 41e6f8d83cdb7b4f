//! What is heard of an endpoint besides the answer: where it is, that it answers at all, and its clock.

use std::sync::{Arc, Mutex, MutexGuard};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;

use super::CHECK_NETWORK;
use super::network::Network;
use crate::cause::chain;
use crate::clock::wall_clock_us;

/// An endpoint, as far as it was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Scheme, host and port; none when no request was sent.
    pub url: Option<String>,
    /// It answered, whatever the answer was.
    pub answered: bool,
    /// By how much the clock of this host is ahead of its clock, µs; none when it did not say the time.
    pub ahead_us: Option<i64>,
}

impl Heard {
    /// An endpoint that did not answer.
    pub fn silent(url: &str) -> Self {
        Self { url: Some(origin(url)), ..Self::default() }
    }
}

/// Listens to the calls of a client; clones listen together.
#[derive(Clone, Debug, Default)]
pub struct Ear(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    heard: Heard,
    sent_us: i64,
}

impl Ear {
    /// What was heard so far.
    pub fn heard(&self) -> Heard {
        self.state().heard.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Ear {
    fn name(&self) -> &'static str {
        "Ear"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut state = self.state();
        state.heard.url = Some(origin(context.request().uri()));
        state.sent_us = wall_clock_us();
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut state = self.state();
        state.heard.answered = true;
        let date = context.response().headers().get("date");
        state.heard.ahead_us = date.and_then(|date| ahead_us(state.sent_us, wall_clock_us(), date));
        Ok(())
    }
}

/// Whether anybody answers there: an unsigned request, whatever the answer to it is. For clients that are none of the SDK.
///
/// # Errors
/// When nobody does, in one line for people. Has no time limit of its own beyond connecting.
pub async fn reach(url: &str) -> Result<Heard, String> {
    let client = Network::of_environment().web_client()?;
    let sent_us = wall_clock_us();
    let answer = client.head(url).send().await;
    let answer = answer.map_err(|error| format!("{}; {CHECK_NETWORK}", chain(&error.without_url())))?;
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let ahead_us = date.and_then(|date| ahead_us(sent_us, wall_clock_us(), date));
    Ok(Heard { url: Some(origin(url)), answered: true, ahead_us })
}

/// A URL without its path and query, and without the password that may stand in it.
fn origin(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.origin().ascii_serialization())
}

/// By how much a clock is surely ahead that said these times before and after an answer that says `date`, which knows whole
/// seconds only.
fn ahead_us(before_us: i64, after_us: i64, date: &str) -> Option<i64> {
    const SECOND_US: i64 = 1_000_000;
    let date_us = DateTime::from_str(date, Format::HttpDate).ok()?.secs().checked_mul(SECOND_US)?;
    let (ahead, behind) = (before_us - (date_us + SECOND_US), date_us - after_us);
    Some(if ahead > 0 { ahead } else { -behind.max(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_by_what_cannot_be_otherwise() {
        let date = "Thu, 15 Jan 2026 09:30:00 GMT";
        let at = 1_768_469_400_000_000;
        for (before, after, ahead) in [
            (at, at + 20_000, 0),
            (at + 900_000, at + 999_999, 0),
            (at - 5_000_000, at + 5_000_000, 0), // a slow answer says little
            (at + 61_000_000, at + 62_000_000, 60_000_000),
            (at - 62_000_000, at - 60_000_000, -60_000_000),
        ] {
            assert_eq!(ahead_us(before, after, date), Some(ahead), "{before} {after}");
        }
        assert_eq!(ahead_us(at, at, "yesterday"), None);
    }

    #[test]
    fn an_origin_tells_no_secrets() {
        let silent = Heard::silent("http://me:secret@127.0.0.1:1/lake");
        assert_eq!(silent.url.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(
            origin("https://me:secret@kinesis.example.com:8443/?x=1"),
            "https://kinesis.example.com:8443"
        );
    }

    #[tokio::test]
    async fn nobody_answers_at_a_closed_port() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let problem = reach(&format!("http://{closed}")).await.unwrap_err();
        assert!(problem.ends_with(CHECK_NETWORK), "{problem}");
    }
}
