//! Taking connections, for the servers and proxies of this machine.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A listener that fails, as one does without a free file descriptor, is asked again after this time.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs `serve` on each connection, side by side, until `stop` is cancelled. Connections that are open then are closed.
/// `name` says in the log whose they are.
pub(crate) async fn connections<F>(
    listener: TcpListener,
    name: &'static str,
    stop: CancellationToken,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%error, "could not set nodelay");
                    }
                    open.spawn(serve(socket));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection to {name}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}
