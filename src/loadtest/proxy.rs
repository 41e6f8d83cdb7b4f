//! An HTTP proxy between one worker and one server, which does to requests what the sky says, and counts them.
//!
//! Each connection of the worker has one of its own to the server; bodies pass through as they come. Nothing is changed
//! on the way, so a server that checks signatures finds them right as long as it accepts the proxy's `Host`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::faults::{Refusal, Service, Sky, Strike, body_of};
use crate::local::accept;

type Body = BoxBody<Bytes, hyper::Error>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// What all proxies of a run share: the sky, and what they counted.
#[derive(Debug, Default)]
pub(super) struct Network {
    sky: Mutex<Sky>,
    counts: Mutex<BTreeMap<(Service, String), Counts>>,
}

/// Requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All that came.
    pub(super) requests: u64,
    /// Those that something was done to.
    pub(super) struck: u64,
}

/// Between one worker and one server.
#[derive(Debug)]
struct Line {
    network: Arc<Network>,
    service: Service,
    worker: String,
    /// Host and port of the server.
    server: String,
    rng: Mutex<ChaCha8Rng>,
}

impl Network {
    /// The weather.
    pub(super) fn sky(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().expect("nothing panics under this lock")
    }

    /// Requests by service and operation so far.
    pub(super) fn counts(&self) -> BTreeMap<(Service, String), Counts> {
        self.counts.lock().expect("nothing panics under this lock").clone()
    }

    fn count(&self, service: Service, operation: &str, struck: bool) {
        let mut counts = self.counts.lock().expect("nothing panics under this lock");
        let count = counts.entry((service, operation.to_owned())).or_default();
        count.requests += 1;
        count.struck += u64::from(struck);
    }
}

/// Opens a proxy on loopback for `worker` to the server at `url`, which is plain HTTP, until `stop`. Answers the URL.
///
/// # Errors
/// When there is no port.
pub(super) async fn open(
    network: Arc<Network>,
    (service, url): (Service, &str),
    worker: &str,
    seed: u64,
    stop: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let own_url = format!("http://{}", listener.local_addr()?);
    let server = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/').to_owned();
    let server = if server.contains(':') { server } else { format!("{server}:80") };
    let rng = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
    let line = Arc::new(Line { network, service, worker: worker.to_owned(), server, rng });
    tasks.spawn(serve(listener, line, stop));
    Ok(own_url)
}

async fn serve(listener: TcpListener, line: Arc<Line>, stop: CancellationToken) {
    let serve = |socket| serve_connection(socket, Arc::clone(&line));
    accept::connections(listener, "a proxy", stop, serve).await;
}

async fn serve_connection(socket: TcpStream, line: Arc<Line>) {
    // One request at a time: HTTP/1.1 without pipelining.
    let upstream = Arc::new(tokio::sync::Mutex::new(None));
    let service = service_fn(move |request| {
        let (line, upstream) = (Arc::clone(&line), Arc::clone(&upstream));
        async move { line.pass(&mut *upstream.lock().await, request).await }
    });
    // An error is a client that went away, or a fault on purpose.
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection through a proxy ended");
    }
}

/// A connection to the server, and the task that drives it.
type Upstream = (SendRequest<Incoming>, JoinSet<()>);

impl Line {
    async fn pass(
        &self,
        upstream: &mut Option<Upstream>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Cut> {
        let operation = operation(self.service, &request);
        let strike = {
            let mut rng = self.rng.lock().expect("nothing panics under this lock");
            self.network.sky().strike(self.service, &self.worker, &operation, Instant::now(), &mut rng)
        };
        self.network.count(self.service, &operation, strike.is_some());
        match strike {
            Some(Strike::Refuse(refusal)) => {
                // Read to its end, so that the client is not cut off while it sends.
                let read = request.into_body().collect().await;
                return read.map(|_| self.refusal(refusal)).map_err(|_| Cut);
            }
            Some(Strike::Delay(time)) => sleep(time).await,
            Some(Strike::Cut) => return Err(Cut),
            Some(Strike::Hold(until)) => {
                sleep_until(until).await;
                return Err(Cut);
            }
            Some(Strike::RefuseAfter(_) | Strike::CutAfter) | None => {}
        }
        let answer = self.forward(upstream, request).await?;
        // A partition that began meanwhile swallows the answer.
        let partitioned = self.network.sky().partitioned_until(&self.worker, Instant::now());
        if let Some(until) = partitioned {
            sleep_until(until).await;
            return Err(Cut);
        }
        match strike {
            Some(Strike::RefuseAfter(refusal)) => {
                took_effect(&operation, answer).await?;
                Ok(self.refusal(refusal))
            }
            Some(Strike::CutAfter) => {
                took_effect(&operation, answer).await?;
                Err(Cut)
            }
            _ => Ok(answer.map(BodyExt::boxed)),
        }
    }

    async fn forward(
        &self,
        upstream: &mut Option<Upstream>,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Cut> {
        if upstream.as_mut().is_some_and(|(sender, _)| sender.is_closed()) {
            *upstream = None;
        }
        if upstream.is_none() {
            *upstream = Some(self.connect().await.map_err(|error| {
                tracing::warn!(server = self.server, %error, "a proxy could not reach its server");
                Cut
            })?);
        }
        let Some((sender, _)) = upstream else { return Err(Cut) };
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let answer = answer.await;
        if answer.is_err() {
            *upstream = None;
        }
        answer.map_err(|error| {
            tracing::debug!(server = self.server, %error, "a proxy got no answer");
            Cut
        })
    }

    async fn connect(&self) -> Result<Upstream, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect(&self.server).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of a proxy ended");
            }
        });
        Ok((sender, driver))
    }

    fn refusal(&self, refusal: Refusal) -> Response<Body> {
        let (content_type, body) = body_of(self.service, refusal);
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(refusal.status).expect("the statuses are constants");
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

/// Reads an answer to its end: then the request has had its effect. That of a subscription has it at its beginning.
async fn took_effect(operation: &str, answer: Response<Incoming>) -> Result<(), Cut> {
    if operation != "SubscribeToShard" {
        answer.into_body().collect().await.map_err(|_| Cut)?;
    }
    Ok(())
}

/// `GetRecords` of `Kinesis_20131202.GetRecords`; the method where there is no such header.
fn operation(service: Service, request: &Request<Incoming>) -> String {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    match target.and_then(|target| target.rsplit_once('.')) {
        Some((_, operation)) if service != Service::S3 => operation.to_owned(),
        _ => request.method().as_str().to_owned(),
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
