//! The HTTP client of `SubscribeToShard`: a connection for each subscription, with a window that holds what a shard sends,
//! and pings that notice a connection gone silent: `docs/adr/0038-fan-out-over-http2.md`.
//!
//! The SDK's own client puts all calls to a host on one HTTP/2 connection and lets none of this be set. There a server that
//! allows fewer streams than there are shards leaves the rest waiting; three shards that nobody reads take the window of
//! all; and what has gone silent is never noticed.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use reqwest::{Body, Client};

use super::network::{Network, Unusable};

/// What a server may send before somebody reads it: 2 MB/s of a shard up to 100 ms of round trip. It is outside the byte
/// budget, so it must not be larger than it has to be.
const WINDOW: u32 = 512 << 10;

/// A subscription brings an event every five seconds at least; after this much silence the server is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(10);

/// And this much later the connection is given up: together well within the 35 s after which a reader gives up.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings `sdk` with the client for subscriptions. Other calls are better off with the client that `sdk` has: here
/// each pays for a connection of its own.
pub fn for_subscriptions(sdk: &SdkConfig, network: &Network) -> SdkConfig {
    sdk.clone().into_builder().http_client(http_client(network)).build()
}

fn http_client(network: &Network) -> SharedHttpClient {
    let connector = match client(network) {
        Ok(client) => SharedHttpConnector::new(OneConnectionEach(client)),
        Err(problem) => SharedHttpConnector::new(Unusable(problem)),
    };
    http_client_fn(move |_, _| connector.clone())
}

fn client(network: &Network) -> Result<Client, String> {
    let builder = network.clone().web_client_builder()?;
    let builder = builder
        .pool_max_idle_per_host(0)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW)
        // A connection of one call counts as idle as soon as the call is sent.
        .http2_keep_alive_while_idle(true)
        .http2_keep_alive_interval(PING_AFTER)
        .http2_keep_alive_timeout(PING_TIMEOUT);
    builder.build().map_err(|error| crate::cause::chain(&error))
}

/// Its pool keeps nothing, so that no two calls share a connection.
#[derive(Debug)]
struct OneConnectionEach(Client);

impl HttpConnector for OneConnectionEach {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let response = client.execute(to_reqwest(request)?).await.map_err(failed)?;
            let response = hyper::http::Response::<Body>::from(response).map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn to_reqwest(request: HttpRequest) -> Result<reqwest::Request, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (head, body) = request.into_parts();
    let body =
        body.bytes().ok_or_else(|| ConnectorError::user("the body of a call is not in memory".into()))?;
    let request = hyper::http::Request::from_parts(head, Body::from(bytes::Bytes::copy_from_slice(body)));
    request.try_into().map_err(failed)
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else if error.is_builder() {
        ConnectorError::user(error.into())
    } else {
        ConnectorError::io(error.into())
    }
}
