//! A door in front of a server that counts connections and bytes, and can let its connections go silent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Dropping it closes everything.
pub(super) struct Tap {
    address: SocketAddr,
    line: Arc<Line>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Line {
    accepted: AtomicUsize,
    open: AtomicUsize,
    answered: AtomicUsize,
    silence: Mutex<CancellationToken>,
}

impl Tap {
    /// In front of `url`.
    pub(super) async fn before(url: &str) -> Self {
        let server = url.split_once("://").unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line::default());
        let mut tasks = JoinSet::new();
        let for_all = Arc::clone(&line);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                for_all.accepted.fetch_add(1, Ordering::SeqCst);
                let (line, server) = (Arc::clone(&for_all), server.clone());
                connections.spawn(async move { line.connect(client, &server).await });
            }
        });
        Self { address, line, _tasks: tasks }
    }

    /// Its own URL.
    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> usize {
        self.line.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.line.open.load(Ordering::SeqCst)
    }

    /// Waits until the server has sent something, and then sends no more.
    pub(super) async fn quiet(&self) {
        let answered = || self.line.answered.load(Ordering::SeqCst);
        let mut before = 0;
        while before == 0 || before != answered() {
            before = answered();
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Nothing more comes through the connections of now, and they stay open. Later ones are as ever.
    pub(super) fn silence(&self) {
        std::mem::take(&mut *self.line.silence.lock().unwrap()).cancel();
    }
}

impl Line {
    async fn connect(&self, client: TcpStream, server: &str) {
        let silence = self.silence.lock().unwrap().clone();
        self.open.fetch_add(1, Ordering::SeqCst);
        let server = TcpStream::connect(server).await.unwrap();
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let asked = AtomicUsize::new(0);
        tokio::select! {
            () = pass(&mut from_client, &mut to_server, &asked) => {}
            () = pass(&mut from_server, &mut to_client, &self.answered) => {}
            () = silence.cancelled() => std::future::pending().await,
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Passes bytes on until one side has closed.
async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), bytes: &AtomicUsize) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                bytes.fetch_add(read, Ordering::SeqCst);
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
