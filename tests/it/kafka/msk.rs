//! A broker by script, for what a broker of Kafka does not have: roles of AWS, as MSK takes them, and sessions that end.
//!
//! It computes each signature anew by the steps that AWS describes, with code of its own. What the library for Java sends
//! is compared in `aws::msk`.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use kinetide::internals::kafka::{Cluster, KafkaError, KafkaSettings, Mechanism, Password, Sasl};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::secure::fixture;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE//token+with/odd=signs==";

/// What a client has said of itself, in order: the mechanism and what it sent.
type Said = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What a broker answers to it.
type Judge = fn(&str, &[u8]) -> bool;

struct Scripted {
    port: u16,
    said: Said,
    _tasks: JoinSet<()>,
}

impl Scripted {
    async fn start(judge: Judge, lifetime_ms: i64) -> Self {
        let certificates: Vec<_> =
            CertificateDer::pem_file_iter(fixture("server.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Said::default();
        let (heard, mut tasks) = (Arc::clone(&said), JoinSet::new());
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
                clients.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut mechanism = String::new();
                    while let Ok(length) = stream.read_i32().await {
                        let mut frame = vec![0; usize::try_from(length).unwrap()];
                        stream.read_exact(&mut frame).await.unwrap();
                        let answer = answer(&frame, &mut mechanism, judge, lifetime_ms, &heard);
                        stream.write_i32(i32::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                });
            }
        });
        Self { port, said, _tasks: tasks }
    }

    fn bootstrap(&self) -> String {
        format!("localhost:{}", self.port)
    }

    fn said(&self) -> Vec<(String, Vec<u8>)> {
        self.said.lock().unwrap().clone()
    }
}

/// The bytes behind a length of two or four.
fn after<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> &'a [u8] {
    let (length, rest) = bytes.split_at(length_bytes);
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (taken, rest) = rest.split_at(length);
    *bytes = rest;
    taken
}

/// The answer to a request, in the few versions that this broker says it knows.
fn answer(frame: &[u8], mechanism: &mut String, judge: Judge, lifetime_ms: i64, said: &Said) -> Vec<u8> {
    let (header, mut rest) = frame.split_at(8);
    let mut out = header[4..].to_vec();
    after(&mut rest, 2);
    match header[1] {
        // ApiVersions: SaslHandshake 1, SaslAuthenticate 1, Metadata 12, ApiVersions 3.
        18 => {
            out.extend([0, 0, 5]);
            for (api, version) in [(17u16, 1u16), (36, 1), (3, 12), (18, 3)] {
                [api, version, version].iter().for_each(|number| out.extend(number.to_be_bytes()));
                out.push(0);
            }
            out.extend([0, 0, 0, 0, 0]);
        }
        17 => {
            *mechanism = String::from_utf8(after(&mut rest, 2).to_vec()).unwrap();
            out.extend([0; 6]);
        }
        36 => {
            let proof = after(&mut rest, 4);
            said.lock().unwrap().push((mechanism.clone(), proof.to_vec()));
            let (code, words, taken) = match judge(mechanism, proof) {
                true => (0u16, "", &br#"{"version":"2020_10_22","request-id":"1"}"#[..]),
                false => (58, "Access denied", &b""[..]),
            };
            out.extend(code.to_be_bytes());
            out.extend(u16::try_from(words.len()).unwrap().to_be_bytes());
            out.extend(words.as_bytes());
            out.extend(u32::try_from(taken.len()).unwrap().to_be_bytes());
            out.extend(taken);
            out.extend(lifetime_ms.to_be_bytes());
        }
        // Metadata: no broker, no cluster id, and a topic that does not exist.
        3 => {
            out.extend([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 3, 0]);
            out.extend([0; 17]);
            out.extend([1, 0, 0, 0, 0, 0, 0]);
        }
        other => panic!("request {other}"),
    }
    out
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The signature of a request, by the steps of AWS.
fn signature(request: &Value) -> String {
    let text = |name: &str| request[name].as_str().unwrap_or_else(|| panic!("{name} is not in {request}"));
    let names = ["Action", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires"];
    let names = names.into_iter().chain(["X-Amz-Security-Token", "X-Amz-SignedHeaders"]);
    let there = names.filter(|name| request.get(name.to_lowercase()).is_some());
    let query = there.map(|name| format!("{name}={}", encoded(text(&name.to_lowercase()))));
    let query = query.collect::<Vec<_>>().join("&");
    let nothing = hex(&Sha256::digest(b""));
    let canonical = format!("GET\n/\n{query}\nhost:{}\n\nhost\n{nothing}", text("host"));
    let (_, scope) = text("x-amz-credential").split_once('/').unwrap();
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", text("x-amz-date"));
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part));
    hex(&hmac(&key, &to_sign))
}

/// Whether these are the credentials that the broker knows.
fn lets_in(mechanism: &str, proof: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Value>(proof) else { return false };
    mechanism == "AWS_MSK_IAM" && request["x-amz-signature"] == signature(&request).as_str()
}

fn generate(broker: &Scripted, credentials: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
    command
        .args(["generate", "--topic", "orders", "--records", "1", "--region", "eu-north-1"])
        .args(["--kafka-bootstrap", &broker.bootstrap(), "--kafka-tls", "--kafka-ca"])
        .arg(fixture("ca.pem"))
        .args(["--kafka-sasl", "aws-msk-iam"])
        .env_clear()
        .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")])
        .envs(credentials.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_msk_lets_in_whoever_signs_with_its_credentials() {
    let broker = Scripted::start(lets_in, 0).await;
    let key = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let session = [key[0], key[1], ("AWS_SESSION_TOKEN", TOKEN)];
    let other = [key[0], ("AWS_SECRET_ACCESS_KEY", "another")];
    for (credentials, says) in [
        (&key[..], "topic orders does not exist"),
        (&session, "topic orders does not exist"),
        (&other, "allow kafka-cluster:Connect"),
        (&[], "no AWS credentials"),
    ] {
        let ran = generate(&broker, credentials).output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(1) && said.contains(says), "{says:?} is not in\n{said}");
        assert!(!said.contains(SECRET) && !said.contains(TOKEN), "{said}");
    }
    let requests: Vec<Value> =
        broker.said().iter().map(|(_, proof)| serde_json::from_slice(proof).unwrap()).collect();
    assert_eq!(requests.len(), 3, "{requests:?}");
    for (request, token) in requests.iter().zip([None, Some(TOKEN), None]) {
        assert_eq!(request.get("x-amz-security-token").and_then(Value::as_str), token);
        for (name, value) in [
            ("version", "2020_10_22"),
            ("host", "localhost"),
            ("action", "kafka-cluster:Connect"),
            ("x-amz-expires", "900"),
        ] {
            assert_eq!(request[name], value, "{name}");
        }
        let scope = request["x-amz-credential"].as_str().unwrap();
        assert!(scope.ends_with("/eu-north-1/kafka-cluster/aws4_request"), "{scope}");
    }
}

/// A broker that ends sessions ends the connection of whoever goes on with one.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_left_before_it_ends() {
    let broker =
        Scripted::start(|mechanism, proof| mechanism == "PLAIN" && proof == b"\0reader\0secret", 2_000).await;
    let user = Sasl::User {
        mechanism: Mechanism::Plain,
        user: "reader".to_owned(),
        password: Password::new("secret"),
    };
    let settings = KafkaSettings {
        tls: true,
        ca: Some(fixture("ca.pem")),
        sasl: Some(user),
        ..KafkaSettings::plain(broker.bootstrap().parse().unwrap())
    };
    let cluster = Cluster::new(settings);
    let asked = async || {
        let answer = cluster.topic_named("orders").await;
        assert!(matches!(answer, Err(KafkaError::NoTopic(_))), "{answer:?}");
        broker.said().len()
    };
    assert_eq!([asked().await, asked().await], [1, 1]);
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    assert_eq!([asked().await, asked().await], [2, 2]);
}

/// What is signed is only ever sent over TLS.
#[tokio::test]
async fn without_tls_nothing_is_signed() {
    let ran = Command::new(env!("CARGO_BIN_EXE_kinetide"))
        .args([
            "generate",
            "--topic",
            "orders",
            "--kafka-bootstrap",
            "127.0.0.1:9",
            "--kafka-sasl",
            "aws-msk-iam",
        ])
        .current_dir(Path::new("/"))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(2) && said.contains("--kafka-tls"), "{said}");
}
