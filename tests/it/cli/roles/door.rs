//! Between workers and one service: notes who asks, and lets in whom it likes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::super::endpoints::{Endpoint, serve};
use super::super::permissions::gate::forward;

/// A call, as its signature and its body say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    /// Of Kinesis and DynamoDB; else the method.
    pub(super) operation: String,
    pub(super) key: String,
    pub(super) region: String,
    /// Whether it names a stream by `StreamName`, and by `StreamARN`.
    pub(super) stream: [bool; 2],
}

pub(super) struct Door {
    pub(super) endpoint: Endpoint,
    calls: Arc<Mutex<BTreeSet<Call>>>,
}

impl Door {
    /// `admits`: whether a call with this access key is passed on; else it is told that its session has run out.
    pub(super) async fn to(url: &str, admits: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let calls = Arc::new(Mutex::new(BTreeSet::new()));
        let (client, target, admits) = (reqwest::Client::new(), url.to_owned(), Arc::new(admits));
        let noted = Arc::clone(&calls);
        let router = Router::new().fallback(move |request: Request| {
            let (client, target) = (client.clone(), target.clone());
            let (admits, noted) = (Arc::clone(&admits), Arc::clone(&noted));
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, usize::MAX).await.unwrap();
                let call = Call::of(&parts, &body);
                let admitted = admits(&call.key);
                let json = parts.headers.contains_key("x-amz-target");
                noted.lock().unwrap().insert(call);
                if !admitted {
                    return refusal(json);
                }
                forward(&client, &target, Request::from_parts(parts, Body::from(body))).await
            }
        });
        Self { endpoint: serve(router).await, calls }
    }

    /// Each different call so far.
    pub(super) fn calls(&self) -> BTreeSet<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Call {
    fn of(parts: &axum::http::request::Parts, body: &[u8]) -> Self {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let operation = header("x-amz-target").and_then(|target| target.rsplit('.').next());
        let scope =
            header("authorization").and_then(|text| text.split("Credential=").nth(1)).unwrap_or_default();
        let scope: Vec<&str> = scope.split('/').collect();
        let temporary = scope[0].starts_with("ASIA");
        assert_eq!(header("x-amz-security-token"), temporary.then_some("token"), "{scope:?}");
        let names = |member: &str| {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            body.get(member).is_some()
        };
        Self {
            operation: operation.unwrap_or(parts.method.as_str()).to_owned(),
            key: scope.first().copied().unwrap_or_default().to_owned(),
            region: scope.get(2).copied().unwrap_or_default().to_owned(),
            stream: [names("StreamName"), names("StreamARN")],
        }
    }
}

fn refusal(json: bool) -> Response {
    if json {
        let code = "ExpiredTokenException";
        let body = format!(
            r#"{{"__type":"{code}","message":"The security token included in the request is expired"}}"#
        );
        return (StatusCode::BAD_REQUEST, [("x-amzn-errortype", code)], body).into_response();
    }
    let body = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
    (StatusCode::BAD_REQUEST, [("content-type", "application/xml")], body).into_response()
}
