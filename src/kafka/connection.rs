//! One connection to one broker: frames there and back, by their numbers; who we are.
//!
//! A broker answers in the order in which it was asked, so many may ask at once. A request whose caller has gone is written
//! whole all the same, and its answer thrown away: the connection stays in step.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::ask::Ask;
use super::error::KafkaError;
use super::sasl::Scram;
use super::settings::{Mechanism, Password, Sasl};
use super::tls::Tls;
use crate::aws::{AWS_MSK_IAM, MskIdentity};

/// A connection is there, TLS and user included, within this time.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// No answer is longer: a larger one is not from a broker.
const FRAME_MAX: usize = 256 << 20;
/// Requests on their way at once; further ones wait.
const QUEUE: usize = 64;
/// How we call ourselves.
const CLIENT: &str = "kinetide";

/// How brokers are spoken to.
pub(super) struct Manner {
    pub(super) tls: Option<Tls>,
    pub(super) identity: Option<Identity>,
}

/// As whom they are asked, ready to prove it.
pub(super) enum Identity {
    User { mechanism: Mechanism, user: String, password: Password },
    Msk(Box<MskIdentity>),
}

impl Identity {
    pub(super) fn of(sasl: Sasl) -> Self {
        match sasl {
            Sasl::User { mechanism, user, password } => Self::User { mechanism, user, password },
            Sasl::AwsMskIam { region } => Self::Msk(Box::new(MskIdentity::new(region))),
        }
    }

    fn mechanism(&self) -> &'static str {
        match self {
            Self::User { mechanism, .. } => mechanism.as_str(),
            Self::Msk(_) => AWS_MSK_IAM,
        }
    }

    /// What to do about one who is not let in.
    fn advice(&self) -> &'static str {
        match self {
            Self::User { .. } => {
                "does not let this user in; check --kafka-user, the password and --kafka-sasl"
            }
            Self::Msk(_) => {
                "does not let the AWS credentials of this process in; allow kafka-cluster:Connect on the cluster, and check \
                 its region and the clock of this process"
            }
        }
    }
}

/// What waits for answers, by the number of the request.
#[derive(Default)]
struct Waiting(Mutex<Option<HashMap<i32, oneshot::Sender<Bytes>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<i32, oneshot::Sender<Bytes>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody will be answered any more.
    fn close(&self) {
        self.lock().take();
    }
}

struct Outgoing {
    number: i32,
    frame: Bytes,
    answer: oneshot::Sender<Bytes>,
}

/// A connection that is open and knows what the broker can.
pub(super) struct Connection {
    broker: String,
    requests: mpsc::Sender<Outgoing>,
    waiting: Arc<Waiting>,
    numbers: AtomicI32,
    versions: HashMap<i16, (i16, i16)>,
    /// From here on another connection is to be used: the broker will end this session.
    ends: Option<Instant>,
    _tasks: JoinSet<()>,
}

impl Connection {
    /// Connects, finds out what the broker speaks, and says who we are.
    pub(super) async fn open(host: &str, port: u16, manner: &Manner) -> Result<Self, KafkaError> {
        let broker = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match timeout(CONNECT_TIMEOUT, Self::opened(host, port, manner, &broker)).await {
            Ok(opened) => opened,
            Err(_) => {
                let problem = format!("did not respond within {} s", CONNECT_TIMEOUT.as_secs());
                Err(KafkaError::unreachable(&broker, problem))
            }
        }
    }

    async fn opened(host: &str, port: u16, manner: &Manner, broker: &str) -> Result<Self, KafkaError> {
        let unreachable = |error: io::Error| KafkaError::unreachable(broker, error);
        let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut connection = match &manner.tls {
            None => Self::over(stream, broker),
            Some(tls) => {
                let refused = |problem: String| {
                    // A listener without TLS closes, or answers with something else: nobody can mend it here.
                    KafkaError::refused(broker, format!("{problem}; check that this port speaks TLS"))
                };
                Self::over(tls.over(stream, host).await.map_err(refused)?, broker)
            }
        };
        let us = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = connection.ask_in(&us, 3, CONNECT_TIMEOUT).await.map_err(|error| match error {
            KafkaError::Unreachable { broker, problem } => {
                let advice = match &manner.tls {
                    None => "; if its listener speaks TLS, set --kafka-tls",
                    Some(tls) if !tls.shows => {
                        "; if its listener asks for a certificate, set --kafka-cert and --kafka-key"
                    }
                    Some(_) => "; check that it trusts the certificate of --kafka-cert",
                };
                KafkaError::Unreachable { broker, problem: problem + advice }
            }
            error => error,
        })?;
        if let Some(error) = KafkaError::of(broker, answer.error_code) {
            return Err(error);
        }
        let versions = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        connection.versions = versions.collect();
        if let Some(identity) = &manner.identity {
            connection.introduce(identity, host).await?;
        }
        Ok(connection)
    }

    /// Over what is connected.
    fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static, broker: &str) -> Self {
        let (reading, mut writing) = tokio::io::split(stream);
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let (requests, mut queue) = mpsc::channel::<Outgoing>(QUEUE);
        let mut tasks = JoinSet::new();
        let answered = Arc::clone(&waiting);
        tasks.spawn(async move {
            if let Err(error) = read_answers(reading, &answered).await {
                tracing::debug!(%error, "a connection to a Kafka broker ended");
            }
            answered.close();
        });
        let asked = Arc::clone(&waiting);
        tasks.spawn(async move {
            while let Some(Outgoing { number, frame, answer }) = queue.recv().await {
                match asked.lock().as_mut() {
                    Some(waiting) => drop(waiting.insert(number, answer)),
                    None => break,
                }
                if writing.write_all(&frame).await.and(writing.flush().await).is_err() {
                    break;
                }
            }
            asked.close();
        });
        Self {
            broker: broker.to_owned(),
            requests,
            waiting,
            numbers: AtomicI32::new(0),
            versions: HashMap::new(),
            ends: None,
            _tasks: tasks,
        }
    }

    /// Host and port.
    pub(super) fn broker(&self) -> &str {
        &self.broker
    }

    /// False when it is broken, or the broker will end it.
    pub(super) fn is_usable(&self) -> bool {
        self.waiting.lock().is_some() && self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    /// Asks in the newest version that both know.
    pub(super) async fn ask<A: Ask>(&self, request: &A, within: Duration) -> Result<A::Answer, KafkaError> {
        let (least, most) = A::VERSIONS;
        let theirs = self.versions.get(&A::KEY).copied().unwrap_or((0, -1));
        let version = most.min(theirs.1);
        if version < least.max(theirs.0) {
            let problem = format!(
                "knows {} in versions {} to {}, and {least} to {most} is needed: Kafka 3.1 or newer",
                A::NAME,
                theirs.0,
                theirs.1
            );
            return Err(KafkaError::refused(&self.broker, problem));
        }
        self.ask_in(request, version, within).await
    }

    async fn ask_in<A: Ask>(
        &self,
        request: &A,
        version: i16,
        within: Duration,
    ) -> Result<A::Answer, KafkaError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let wrong = |what: &str, error: anyhow::Error| {
            KafkaError::unreachable(&self.broker, format!("{what} {} v{version}: {error:#}", A::NAME))
        };
        let frame = framed(request, version, number).map_err(|error| wrong("cannot write", error))?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(Outgoing { number, frame, answer }).await.ok()?;
            answered.await.ok()
        };
        let Ok(answer) = timeout(within, asked).await else {
            // Who does not answer for so long is asked over another connection.
            self.waiting.close();
            let problem = format!("no answer to {} within {} s", A::NAME, within.as_secs());
            return Err(KafkaError::unreachable(&self.broker, problem));
        };
        let mut body = answer.ok_or_else(|| {
            KafkaError::unreachable(&self.broker, format!("closed the connection at {}", A::NAME))
        })?;
        let read = |body: &mut Bytes| {
            ResponseHeader::decode(body, A::Answer::header_version(version))?;
            A::Answer::decode(body, version)
        };
        read(&mut body).map_err(|error| wrong("cannot read the answer to", error))
    }

    /// Proves who we are.
    async fn introduce(&mut self, identity: &Identity, host: &str) -> Result<(), KafkaError> {
        let mechanism = identity.mechanism();
        let hello = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.ask(&hello, CONNECT_TIMEOUT).await?;
        if answer.error_code != 0 {
            let known: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
            let problem = format!("does not take {mechanism}: its listener takes {}", known.join(", "));
            return Err(KafkaError::refused(&self.broker, problem));
        }
        let refused = |error: super::sasl::ScramError| KafkaError::refused(&self.broker, error);
        let advice = identity.advice();
        let lifetime_ms = match identity {
            Identity::Msk(msk) => {
                let asks = Box::pin(msk.request(host)).await;
                let asks = asks.map_err(|problem| KafkaError::refused(&self.broker, problem))?;
                let (taken, lifetime_ms) = self.prove(asks.into(), advice).await?;
                if taken.is_empty() {
                    return Err(KafkaError::refused(&self.broker, advice));
                }
                lifetime_ms
            }
            Identity::User { mechanism: Mechanism::Plain, user, password } => {
                let said = format!("\0{user}\0{}", password.reveal());
                self.prove(said.into(), advice).await?.1
            }
            Identity::User { mechanism, user, password } => {
                let nonce = uuid::Uuid::new_v4().simple().to_string();
                let scram = Scram::new(*mechanism, user, password.reveal(), &nonce);
                let (challenge, _) = self.prove(scram.first().into(), advice).await?;
                let (proof, expected) = scram.answer(&challenge).map_err(refused)?;
                let (last, lifetime_ms) = self.prove(proof.into(), advice).await?;
                expected.check(&last).map_err(refused)?;
                lifetime_ms
            }
        };
        if let Some(ms) = u64::try_from(lifetime_ms).ok().filter(|ms| *ms > 0) {
            self.ends = Some(Instant::now() + Duration::from_millis(ms / 10 * 8));
        }
        Ok(())
    }

    /// One step of the proof: what the broker says to it, and how long the session may last, ms.
    async fn prove(&self, said: Bytes, advice: &str) -> Result<(Bytes, i64), KafkaError> {
        let answer =
            self.ask(&SaslAuthenticateRequest::default().with_auth_bytes(said), CONNECT_TIMEOUT).await?;
        if answer.error_code != 0 {
            let said = answer.error_message.map_or_else(String::new, |said| format!("; it says: {said}"));
            return Err(KafkaError::refused(&self.broker, format!("{advice}{said}")));
        }
        Ok((answer.auth_bytes, answer.session_lifetime_ms))
    }
}

/// A request as it is sent: its length, its header, itself.
fn framed<A: Ask>(request: &A, version: i16, number: i32) -> anyhow::Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(A::KEY)
        .with_request_api_version(version)
        .with_correlation_id(number)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    header.encode(&mut frame, A::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// Hands each answer to who waits for it, until there are no more.
async fn read_answers(stream: impl AsyncRead + Unpin, waiting: &Waiting) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(16 << 10, stream);
    loop {
        let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
        if !(4..=FRAME_MAX).contains(&length) {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        // Grown as it comes: a length alone takes no memory.
        let mut frame = Vec::with_capacity(length.min(1 << 20));
        (&mut stream).take(length as u64).read_to_end(&mut frame).await?;
        if frame.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let Some(answer) = waiting.lock().as_mut().map(|waiting| waiting.remove(&number)) else {
            return Ok(());
        };
        match answer {
            // Its caller may have gone.
            Some(answer) => drop(answer.send(frame.into())),
            None => return Err(io::Error::other("an answer that nobody has asked for")),
        }
    }
}
