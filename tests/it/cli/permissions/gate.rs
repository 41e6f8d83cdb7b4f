//! Between workers and one service: passes requests on, except those of operations in trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use super::super::endpoints::{Endpoint, serve};
use super::super::roles::sts;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Kinesis,
    DynamoDb,
    S3,
    Firehose,
    Sts,
    DynamoDbStreams,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Denied,
    Throttled,
    Hung,
    /// The next request is carried out, and its response lost.
    Unanswered,
}

pub(crate) struct Gate {
    pub(crate) endpoint: Endpoint,
    faults: Arc<Faults>,
}

struct Faults {
    service: Service,
    of: Mutex<BTreeMap<&'static str, Fault>>,
    changed: watch::Sender<u64>,
}

impl Gate {
    pub(crate) async fn to(service: Service, url: &str) -> Self {
        let faults = Arc::new(Faults { service, of: Mutex::default(), changed: watch::channel(0).0 });
        let (client, target, shared) = (reqwest::Client::new(), url.to_owned(), Arc::clone(&faults));
        let router = Router::new().fallback(move |request: Request| {
            let (client, target, faults) = (client.clone(), target.clone(), Arc::clone(&shared));
            async move { faults.pass(&client, &target, request).await }
        });
        Self { endpoint: serve(router).await, faults }
    }

    pub(crate) fn set(&self, operation: &'static str, fault: Option<Fault>) {
        let mut of = self.faults.of.lock().unwrap();
        match fault {
            Some(fault) => of.insert(operation, fault),
            None => of.remove(operation),
        };
        drop(of);
        // Whoever waits for an answer waits no longer.
        self.faults.changed.send_modify(|changes| *changes += 1);
    }
}

impl Faults {
    async fn pass(&self, client: &reqwest::Client, target: &str, request: Request) -> Response {
        let named = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = match named.and_then(|target| target.rsplit_once('.')) {
            Some((_, operation)) => operation.to_owned(),
            // The one that is asked for here.
            None if self.service == Service::Sts => "AssumeRole".to_owned(),
            None => request.method().as_str().to_owned(),
        };
        let fault = self.of.lock().unwrap().get(operation.as_str()).copied();
        match fault {
            None => forward(client, target, request).await,
            Some(Fault::Hung) => {
                let mut changes = self.changed.subscribe();
                changes.changed().await.unwrap();
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Some(Fault::Unanswered) => {
                self.of.lock().unwrap().remove(operation.as_str());
                forward(client, target, request).await;
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Some(fault) => self.refusal(fault, &operation),
        }
    }

    fn refusal(&self, fault: Fault, operation: &str) -> Response {
        if self.service == Service::Sts {
            return match fault {
                Fault::Denied => {
                    let message = format!("User: somebody is not authorized to perform: sts:{operation}");
                    sts::refusal(StatusCode::FORBIDDEN, "AccessDenied", &message)
                }
                _ => sts::refusal(StatusCode::BAD_REQUEST, "Throttling", "Rate exceeded"),
            };
        }
        if self.service == Service::S3 {
            let (status, code) = match fault {
                Fault::Denied => (StatusCode::FORBIDDEN, "AccessDenied"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            };
            let body = format!("<Error><Code>{code}</Code><Message>no {operation}</Message></Error>");
            return (status, [("content-type", "application/xml")], body).into_response();
        }
        let code = match (fault, self.service, operation) {
            (Fault::Denied, ..) => "AccessDeniedException",
            (_, Service::Kinesis, "ListShards") => "LimitExceededException",
            (_, Service::Kinesis, _) => "ProvisionedThroughputExceededException",
            (_, Service::Firehose, _) => "ServiceUnavailableException",
            _ => "ThrottlingException",
        };
        let status = match (fault, self.service) {
            (Fault::Throttled, Service::Firehose) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let message = format!("User: somebody is not authorized to perform: {operation}");
        let body = serde_json::json!({ "__type": code, "message": message }).to_string();
        let headers = [("x-amzn-errortype", code), ("content-type", "application/x-amz-json-1.1")];
        (status, headers, body).into_response()
    }
}

pub(crate) async fn forward(client: &reqwest::Client, target: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let sent = client
        .request(parts.method, format!("{target}{path}"))
        .headers(parts.headers)
        .body(body)
        .send()
        .await;
    let Ok(answer) = sent else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    let pushes = headers.get("content-type").is_some_and(|kind| kind == "application/vnd.amazon.eventstream");
    let body = if pushes {
        // Minutes long.
        Body::from_stream(futures::stream::try_unfold(answer, async |mut answer| {
            Ok::<_, reqwest::Error>(answer.chunk().await?.map(|piece| (piece, answer)))
        }))
    } else {
        let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
        Body::from(body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
