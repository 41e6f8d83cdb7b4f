//! Endpoints that misbehave: one that never answers, one that forbids, one that can be cut off, an S3 with moods.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running endpoint; ends with its owner.
pub(super) struct Endpoint {
    pub(super) url: String,
    _tasks: JoinSet<()>,
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

pub(super) async fn serve(router: Router) -> Endpoint {
    let (listener, url) = listen().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Endpoint { url, _tasks: tasks }
}

/// Accepts and never answers.
pub(super) async fn black_hole() -> Endpoint {
    let (listener, url) = listen().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    Endpoint { url, _tasks: tasks }
}

/// Forbids everything, as AWS does without a permission.
pub(super) async fn forbidding() -> Endpoint {
    serve(Router::new().fallback(|| async {
        let body = r#"{"__type":"AccessDeniedException","message":"User: nobody is not authorized"}"#;
        let headers =
            [("x-amzn-errortype", "AccessDeniedException"), ("content-type", "application/x-amz-json-1.1")];
        (StatusCode::BAD_REQUEST, headers, body)
    }))
    .await
}

/// A proxy that can be cut off: then every connection breaks and no new one is served.
pub(super) struct Proxy {
    pub(super) endpoint: Endpoint,
    on: watch::Sender<bool>,
}

impl Proxy {
    pub(super) async fn to(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let (on, seen) = watch::channel(true);
        let (listener, url) = listen().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut seen) = (target.clone(), seen.clone());
                connections.spawn(async move {
                    if !*seen.borrow() {
                        return;
                    }
                    let mut server = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = seen.wait_for(|on| !on) => {}
                    }
                });
            }
        });
        Self { endpoint: Endpoint { url, _tasks: tasks }, on }
    }

    pub(super) fn turn(&self, on: bool) {
        self.on.send_replace(on);
    }
}

/// What an S3 does with the next put.
#[derive(Clone, Copy)]
pub(super) enum Mood {
    /// Refuses with this code; nothing is stored.
    Refuse(u16),
    /// Stores the object and answers an error all the same.
    StoreAndFail,
}

/// An S3 that knows puts with `If-None-Match`, gets and heads.
pub(super) struct S3 {
    pub(super) endpoint: Endpoint,
    objects: Objects,
}

type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;
type Moods = Arc<Mutex<Vec<Mood>>>;

impl S3 {
    /// The moods come one a put, the last one first; afterwards all goes well.
    pub(super) async fn start(moods: Vec<Mood>) -> Self {
        let objects = Objects::default();
        let state = (Arc::clone(&objects), Arc::new(Mutex::new(moods)));
        Self { endpoint: serve(Router::new().fallback(answer).with_state(state)).await, objects }
    }

    /// Writes the objects of a bucket into a folder.
    pub(super) fn save(&self, bucket: &str, folder: &Path) {
        for (key, body) in self.objects.lock().unwrap().iter() {
            let key = key.strip_prefix(&format!("/{bucket}/")).expect("only one bucket is used");
            let path = folder.join(key.replace("%3D", "="));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, body).unwrap();
        }
    }
}

async fn answer(
    State((objects, moods)): State<(Objects, Moods)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut objects = objects.lock().unwrap();
    let key = uri.path().to_owned();
    let etag = [("etag", "\"1\""), ("last-modified", "Thu, 15 Jan 2026 09:30:00 GMT")];
    if method == Method::PUT {
        let mood = moods.lock().unwrap().pop();
        if let Some(Mood::Refuse(code)) = mood {
            return StatusCode::from_u16(code).unwrap().into_response();
        }
        assert_eq!(headers.get("if-none-match").unwrap(), "*", "every put is create-only");
        if objects.contains_key(&key) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        objects.insert(key, body);
        return match mood {
            Some(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            None => (etag, "").into_response(),
        };
    }
    match objects.get(&key) {
        Some(body) => (etag, body.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
