//! An S3 in this process, as far as a lake needs it: puts, uploads in parts, gets and heads; with trouble by script, and
//! as slow as asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Put,
    Begin,
    Part,
    Complete,
    Abort,
    Get,
    Head,
}

/// What it does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    /// Refuses with this status and code; nothing is done.
    Refuse(u16, &'static str),
    /// Does it and answers an error all the same.
    DoAndFail,
    /// Does it and closes the connection without an answer.
    LoseAnswer,
    /// Does nothing and never answers.
    Silence,
    /// Does it whatever is there, as a server that does not know `If-None-Match`.
    Replace,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) op: Op,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: usize,
}

/// A running server; ends with its owner.
pub(crate) struct S3 {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Bytes of bodies that it takes in a second, over all connections.
    bytes_per_second: Option<f64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, Upload>,
    begun: u32,
    script: Vec<(Op, Mood)>,
    seen: Vec<Seen>,
    /// When the bytes taken so far are through.
    busy_until: Option<Instant>,
    /// Whether the script is for the probe of a start too, and it is seen; else all goes well with it.
    of_probe: bool,
}

struct Upload {
    key: String,
    parts: BTreeMap<usize, Bytes>,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is to be cut")]
struct Cut;

/// The object that each start creates twice.
const PROBE: &str = "/_kinetide/probe";

type Answer = (u16, Vec<(&'static str, String)>, Bytes);

impl S3 {
    /// Each entry of the script is for the next request of its kind; afterwards all goes well.
    pub(crate) async fn start(script: &[(Op, Mood)]) -> Self {
        Self::serve(script, None).await
    }

    /// The same, where the probe of a start is what it is about.
    pub(crate) async fn probed(script: &[(Op, Mood)]) -> Self {
        let s3 = Self::serve(script, None).await;
        s3.shared.state().of_probe = true;
        s3
    }

    /// Takes so many bytes a second.
    pub(crate) async fn slow(bytes_per_second: f64) -> Self {
        Self::serve(&[], Some(bytes_per_second)).await
    }

    async fn serve(script: &[(Op, Mood)], bytes_per_second: Option<f64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State { script: script.to_vec(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), bytes_per_second });
        let served = Arc::clone(&shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    // An error is a client that has gone, or an answer that the script loses.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, shared, _tasks: tasks }
    }

    /// Adds to the script.
    pub(crate) fn then(&self, op: Op, mood: Mood) {
        self.shared.state().script.push((op, mood));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// What was asked, in order.
    pub(crate) fn ops(&self) -> Vec<Op> {
        self.shared.state().seen.iter().map(|seen| seen.op).collect()
    }

    pub(crate) fn count(&self, op: Op) -> usize {
        self.ops().into_iter().filter(|seen| *seen == op).count()
    }

    /// Uploads that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.shared.state().uploads.len()
    }

    /// Keys of all objects, with their bucket.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.shared.state().objects.keys().cloned().collect()
    }

    /// Bytes of all objects but the probe.
    pub(crate) fn bytes(&self) -> usize {
        let state = self.shared.state();
        state.objects.iter().filter(|(key, _)| !key.ends_with(PROBE)).map(|(_, body)| body.len()).sum()
    }

    /// Writes the objects of a bucket into a folder.
    pub(crate) fn save(&self, bucket: &str, folder: &Path) {
        for (key, body) in &self.shared.state().objects {
            let key = key.strip_prefix(&format!("/{bucket}/")).expect("only one bucket is used");
            let path = folder.join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, body).unwrap();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The body, no faster than the pace.
    async fn take(&self, mut body: Incoming) -> Result<Bytes, Cut> {
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Cut)?.into_data() else { continue };
            taken.extend_from_slice(&data);
            if let Some(pace) = self.bytes_per_second {
                let through = {
                    let mut state = self.state();
                    let free = state.busy_until.unwrap_or_else(Instant::now).max(Instant::now());
                    let through =
                        free + Duration::from_secs_f64(f64::from(u32::try_from(data.len()).unwrap()) / pace);
                    *state.busy_until.insert(through)
                };
                sleep_until(through).await;
            }
        }
        Ok(taken.into())
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let (request, body) = request.into_parts();
    let body = shared.take(body).await?;
    let key = decoded(request.uri.path());
    let query: BTreeMap<&str, &str> = request.uri.query().map_or_else(BTreeMap::new, |query| {
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()
    });
    let op = match (&request.method, query.contains_key("uploadId")) {
        (&Method::PUT, false) => Op::Put,
        (&Method::PUT, true) => Op::Part,
        (&Method::POST, false) => Op::Begin,
        (&Method::POST, true) => Op::Complete,
        (&Method::DELETE, true) => Op::Abort,
        (&Method::GET, _) => Op::Get,
        (&Method::HEAD, _) => Op::Head,
        (method, _) => panic!("{method} {} is not of a lake", request.uri),
    };
    let mood = shared.state().see(&key, Seen { op, headers: request.headers.clone(), bytes: body.len() });
    let (status, headers, body) = match mood {
        Some(Mood::Refuse(status, code)) => error(status, code),
        Some(Mood::Silence) => std::future::pending().await,
        mood => {
            let mut headers = request.headers.clone();
            if matches!(mood, Some(Mood::Replace)) {
                headers.remove("if-none-match");
            }
            let answer = shared.state().obey(op, key, &query, &headers, body);
            match mood {
                Some(Mood::LoseAnswer) => return Err(Cut),
                Some(Mood::DoAndFail) => error(500, "InternalError"),
                _ => answer,
            }
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(body)).unwrap())
}

impl State {
    /// Notes a request; answers what the script has for it.
    fn see(&mut self, key: &str, seen: Seen) -> Option<Mood> {
        if key.ends_with(PROBE) && !self.of_probe {
            return None;
        }
        let next = self.script.iter().position(|(of, _)| *of == seen.op);
        self.seen.push(seen);
        next.map(|at| self.script.remove(at).1)
    }

    /// Does what S3 does.
    fn obey(
        &mut self,
        op: Op,
        key: String,
        query: &BTreeMap<&str, &str>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Answer {
        let upload_id = query.get("uploadId").copied().unwrap_or_default();
        let create_only = headers.get("if-none-match").is_some_and(|value| value == "*");
        let checksum = headers.get("x-amz-checksum-crc64nvme").map(|value| value.to_str().unwrap());
        if matches!(op, Op::Put | Op::Part) {
            let checksum = checksum.expect("what is sent has a checksum");
            // In a debug build the sum of a large one would take a second.
            if body.len() <= 1 << 20 && checksum != crc64_nvme(&body) {
                return error(400, "BadDigest");
            }
        }
        match op {
            Op::Put | Op::Complete if create_only && self.objects.contains_key(&key) => {
                error(412, "PreconditionFailed")
            }
            Op::Put => {
                self.objects.insert(key, body);
                done("")
            }
            Op::Begin => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                self.uploads.insert(id.clone(), Upload { key, parts: BTreeMap::new() });
                done(&format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            Op::Part => match self.uploads.get_mut(upload_id) {
                Some(upload) => {
                    upload.parts.insert(query["partNumber"].parse().unwrap(), body);
                    let mut answer = done("");
                    answer.1.extend(checksum.map(|sum| ("x-amz-checksum-crc64nvme", sum.to_owned())));
                    answer
                }
                None => error(404, "NoSuchUpload"),
            },
            Op::Complete => self.complete(upload_id, &key, &body),
            Op::Abort => match self.uploads.remove(upload_id) {
                Some(_) => (204, Vec::new(), Bytes::new()),
                None => error(404, "NoSuchUpload"),
            },
            Op::Get | Op::Head => match self.objects.get(&key) {
                Some(body) => {
                    let mut answer = done("");
                    answer.1.push(("last-modified", "Thu, 15 Jan 2026 09:30:00 GMT".to_owned()));
                    answer.2 = body.clone();
                    answer
                }
                None => error(404, "NoSuchKey"),
            },
        }
    }

    fn complete(&mut self, upload_id: &str, key: &str, body: &[u8]) -> Answer {
        let Some(upload) = self.uploads.get(upload_id).filter(|upload| upload.key == key) else {
            return error(404, "NoSuchUpload");
        };
        let text = std::str::from_utf8(body).unwrap();
        let named: Vec<usize> = text
            .split("<PartNumber>")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(text.matches("<ChecksumCRC64NVME>").count(), named.len(), "{text}");
        let Some(parts) = named.iter().map(|number| upload.parts.get(number)).collect::<Option<Vec<_>>>()
        else {
            return error(400, "InvalidPart");
        };
        if parts.split_last().is_none_or(|(_, others)| others.iter().any(|part| part.len() < 5 << 20)) {
            return error(400, "EntityTooSmall");
        }
        let whole = parts.into_iter().fold(Vec::new(), |mut whole, part| {
            whole.extend_from_slice(part);
            whole
        });
        self.objects.insert(key.to_owned(), whole.into());
        self.uploads.remove(upload_id);
        done("<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>")
    }
}

/// A path without its percent signs.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn done(body: &str) -> Answer {
    (200, vec![("etag", "\"1\"".to_owned())], Bytes::copy_from_slice(body.as_bytes()))
}

fn error(status: u16, code: &str) -> Answer {
    (status, Vec::new(), format!("<Error><Code>{code}</Code></Error>").into())
}

/// CRC-64/NVME as S3 writes it in a header.
fn crc64_nvme(bytes: &[u8]) -> String {
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut value, mut bit) = (index as u64, 0);
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 == 1 { 0x9a6c_9329_ac4b_c9b5 } else { 0 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let crc =
        bytes.iter().fold(u64::MAX, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]);
    base64_simd::STANDARD.encode_to_string((!crc).to_be_bytes())
}

#[test]
fn the_checksum_is_the_one_of_the_catalogue() {
    assert_eq!(
        crc64_nvme(b"123456789"),
        base64_simd::STANDARD.encode_to_string(0xae8b_1486_0a79_9888_u64.to_be_bytes())
    );
}
