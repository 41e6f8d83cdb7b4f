//! Endpoints that misbehave: one that never answers, one that forbids, one that can be cut off.

use axum::Router;
use axum::http::StatusCode;
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
    forbidding_with("User: nobody is not authorized").await
}

/// The same with these words.
pub(super) async fn forbidding_with(message: &'static str) -> Endpoint {
    serve(Router::new().fallback(move || async move {
        let body = serde_json::json!({"__type": "AccessDeniedException", "message": message}).to_string();
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
