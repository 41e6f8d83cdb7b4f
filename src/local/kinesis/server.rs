//! HTTP on loopback: one task per connection, faults, and the headers that the service sends.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Kinesis;
use super::api::{self, Answer};
use super::errors::ApiError;
use super::faults::FaultKind;
use crate::local::accept;

/// A full PutRecords call in base64, with room for its keys.
const BODY_BYTES_MAX: usize = 32 << 20;

const JSON: &str = "application/x-amz-json-1.1";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// Serves until `stop` is cancelled. Connections that are open then are closed.
pub(crate) async fn serve(listener: TcpListener, kinesis: Kinesis, stop: CancellationToken) {
    let serve = |socket| serve_connection(socket, kinesis.clone());
    accept::connections(listener, "the embedded Kinesis", stop, serve).await;
}

async fn serve_connection(socket: TcpStream, kinesis: Kinesis) {
    let service = service_fn(move |request| {
        let kinesis = kinesis.clone();
        async move { handle(&kinesis, request).await }
    });
    // An error is a client that went away, or a fault on purpose.
    if let Err(error) = hyper::server::conn::http1::Builder::new()
        .max_buf_size(1 << 20)
        .serve_connection(TokioIo::new(socket), service)
        .await
    {
        tracing::debug!(%error, "a connection to the embedded Kinesis ended");
    }
}

async fn handle(kinesis: &Kinesis, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = header("x-amz-target").strip_prefix("Kinesis_20131202.").unwrap_or_default();

    let struck = kinesis.strike(operation);
    tokio::time::sleep(struck.delay).await;
    let answer = match struck.fault {
        Some(FaultKind::Cut) => return Err(Cut),
        Some(FaultKind::Throttle) => Err(ApiError::throttled_on_purpose()),
        Some(FaultKind::ServerError) => Err(ApiError::internal_on_purpose()),
        _ if header("content-type").contains("cbor") => Err(ApiError::serialization(
            "This server speaks JSON only. Turn CBOR off, in Java with -Daws.cborEnabled=false.",
        )),
        _ => match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => {
                let empty = struck.fault == Some(FaultKind::Empty);
                api::answer(kinesis, operation, body.to_bytes(), empty)
            }
            Err(_) => Err(ApiError::serialization(format!(
                "The request body is above {BODY_BYTES_MAX} bytes or was cut off."
            ))),
        },
    };
    if struck.fault == Some(FaultKind::LostAnswer) {
        return Err(Cut);
    }
    Ok(response(answer))
}

fn response(answer: Result<Answer, ApiError>) -> Response<Body> {
    let (status, content_type, body) = match answer {
        Ok(Answer::Json(json)) => (200, JSON, full(json)),
        Ok(Answer::Events(subscription)) => {
            let frames: Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>> =
                Box::pin(subscription.into_frames());
            (200, "application/vnd.amazon.eventstream", StreamBody::new(frames).boxed_unsync())
        }
        Err(error) => (error.status, JSON, full(error.body())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let id = Uuid::new_v4().to_string();
    let id = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("local"));
    headers.insert("x-amzn-requestid", id.clone());
    headers.insert("x-amz-id-2", id);
    response
}

fn full(body: Vec<u8>) -> Body {
    Full::new(Bytes::from(body)).boxed_unsync()
}
