//! Asking a provider over HTTPS.

use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use reqwest::header::{ACCEPT, HeaderValue, RETRY_AFTER, USER_AGENT};
use tokio::time::timeout;

use super::answer::{Response, Trouble};
use super::request::Request;
use super::secret::Secret;
use crate::aws::web_client;
use crate::cause::chain;

/// More than any reply has: ten times the largest that was seen, per entry, for as many entries as there can be.
const BODY_MAX: usize = 32 << 20;

/// A request without a response that could be used.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What kind of trouble.
    pub trouble: Trouble,
    /// What the network said, for people.
    pub detail: String,
}

/// Where snapshots come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// One request, with its response whole, within a time.
    ///
    /// # Errors
    /// When there is no whole response.
    async fn fetch(&self, key: Option<&Secret>, within: Duration) -> Result<Response, Failed>;
}

/// A provider.
#[derive(Debug)]
pub struct HttpSource {
    client: reqwest::Client,
    request: Request,
}

impl HttpSource {
    /// Asks this.
    ///
    /// # Errors
    /// When no client can be made, as with certificates that cannot be read.
    pub fn new(request: Request) -> Result<Self, String> {
        Ok(Self { client: web_client()?, request })
    }

    async fn ask(&self, key: Option<&Secret>) -> Result<Response, Failed> {
        let agent = concat!("kinetide/", env!("CARGO_PKG_VERSION"));
        let mut call = self.client.get(self.request.url.clone());
        call = call.header(ACCEPT, "application/json").header(USER_AGENT, agent);
        if let Some(key) = key {
            let (name, before) = self.request.header;
            let value = HeaderValue::from_str(&format!("{before}{}", key.reveal()));
            let mut value = value.map_err(|_| failed(Trouble::NoKey, "the key cannot stand in a header"))?;
            value.set_sensitive(true);
            call = call.header(name, value);
        }
        let mut response = call.send().await.map_err(|error| no_response(&error))?;
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.map(str::to_owned);
        let mut body = BytesMut::new();
        // What a refusal says is not kept: it may repeat the key.
        while status == 200
            && let Some(chunk) = response.chunk().await.map_err(|error| no_response(&error))?
        {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(failed(Trouble::TooLarge, "the body has more than 32 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status, retry_after, body: body.freeze() })
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn fetch(&self, key: Option<&Secret>, within: Duration) -> Result<Response, Failed> {
        let late = |_| failed(Trouble::TimedOut, &format!("no whole response within {within:?}"));
        timeout(within, self.ask(key)).await.map_err(late)?
    }
}

fn failed(trouble: Trouble, detail: &str) -> Failed {
    Failed { trouble, detail: detail.to_owned() }
}

fn no_response(error: &reqwest::Error) -> Failed {
    let trouble = if error.is_timeout() {
        Trouble::TimedOut
    } else if error.is_connect() {
        Trouble::Unreachable
    } else {
        Trouble::CutOff
    };
    failed(trouble, &chain(error))
}
