//! HTTP/1.1 and HTTP/2 on loopback, over TLS too: one task per connection, faults, and the headers that the service sends.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
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

/// The connection is closed without an answer; of one that carries other calls too, only this call's stream.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// The first byte of whoever wants to speak TLS: a record of a handshake.
const HANDSHAKE: u8 = 22;

/// Serves until `stop` is cancelled, with `tls` those too who speak it. Connections that are open then are closed.
pub(crate) async fn serve(
    listener: TcpListener,
    kinesis: Kinesis,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let serve = |socket| serve_connection(socket, kinesis.clone(), tls.clone());
    accept::connections(listener, "the embedded Kinesis", stop, serve).await;
}

async fn serve_connection(socket: TcpStream, kinesis: Kinesis, tls: Option<TlsAcceptor>) {
    let served = match tls {
        Some(tls) if speaks_tls(&socket).await => match tls.accept(socket).await {
            Ok(socket) => serve_calls(socket, kinesis).await,
            Err(error) => Err(error.into()),
        },
        _ => serve_calls(socket, kinesis).await,
    };
    // An error is a client that went away or trusts somebody else, or a fault on purpose.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the embedded Kinesis ended");
    }
}

async fn speaks_tls(socket: &TcpStream) -> bool {
    let mut first = [0];
    matches!(socket.peek(&mut first).await, Ok(1)) && first[0] == HANDSHAKE
}

async fn serve_calls<S>(socket: S, kinesis: Kinesis) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let kinesis = kinesis.clone();
        async move { handle(&kinesis, request).await }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(1 << 20);
    server.serve_connection(TokioIo::new(socket), service).await
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
