//! The connections of the endpoints: how many there may be, and how long each may take to ask.
//!
//! Where there is no room for another one, the one that has asked for nothing for the longest time makes room. So those
//! that only hang cannot keep a probe out, however many they are, and they take no descriptors from the worker.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at a time. Probes, scrapers and some people need a handful; a process has 1,024 descriptors by default.
pub(super) const OPEN_MAX: usize = 256;
/// A request's line and headers have this long, and a connection without a request is kept for as long.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(15);
/// Bytes of a request's line and headers.
const HEAD_BYTES: usize = 16 << 10;
/// Its headers.
const HEADERS_MAX: usize = 64;
/// How long open connections may go on after the stop.
const GOODBYE: Duration = Duration::from_secs(1);
/// A listener that fails, as one does without a free descriptor, is asked again after this time.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`.
///
/// # Errors
/// When the listener is no more.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let open = Arc::<Open>::default();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    if let Some(place) = Open::enter(&open) {
                        tasks.spawn(one(socket, router.clone(), place, stop.clone()));
                    }
                }
                // The peer has gone already, or there is no descriptor left.
                Err(error) => {
                    tracing::debug!(%error, "could not accept a connection");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = timeout(GOODBYE, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Serves one connection until it ends, or until another one needs its place.
async fn one(socket: TcpStream, router: Router, place: Place, stop: CancellationToken) {
    let place = Arc::new(place);
    let routes = TowerToHyperService::new(router);
    let asked = Arc::clone(&place);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (answer, serving) = (routes.call(request), asked.serve());
        async move {
            let answer = answer.await;
            drop(serving);
            answer
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(socket), service)
    );
    let ended = tokio::select! {
        biased;
        () = place.given_up.cancelled() => return,
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the HTTP endpoints failed");
    }
}

/// The connections that are open.
#[derive(Default)]
struct Open(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    next: u64,
    slots: BTreeMap<u64, Slot>,
}

struct Slot {
    /// Since when it has asked for nothing; `None` while it is answered.
    idle_since: Option<Instant>,
    given_up: CancellationToken,
}

/// A connection's place among those that are open, until it is dropped.
struct Place {
    open: Arc<Open>,
    id: u64,
    given_up: CancellationToken,
}

/// While one is there, a request is being answered.
struct Serving(Arc<Open>, u64);

impl Open {
    /// A place for one more; none while all of them are being answered.
    fn enter(open: &Arc<Self>) -> Option<Place> {
        let mut all = open.lock();
        if all.slots.len() >= OPEN_MAX {
            let idle = all.slots.iter().filter_map(|(id, slot)| Some((slot.idle_since?, *id)));
            let (_, longest) = idle.min()?;
            if let Some(slot) = all.slots.remove(&longest) {
                slot.given_up.cancel();
            }
        }
        let (id, given_up) = (all.next, CancellationToken::new());
        all.next += 1;
        all.slots.insert(id, Slot { idle_since: Some(Instant::now()), given_up: given_up.clone() });
        Some(Place { open: Arc::clone(open), id, given_up })
    }

    fn set_idle_since(&self, id: u64, since: Option<Instant>) {
        if let Some(slot) = self.lock().slots.get_mut(&id) {
            slot.idle_since = since;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn serve(&self) -> Serving {
        self.open.set_idle_since(self.id, None);
        Serving(Arc::clone(&self.open), self.id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().slots.remove(&self.id);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.set_idle_since(self.1, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_makes_room_and_nobody_who_is_answered() {
        let open = Arc::<Open>::default();
        let mut places = Vec::new();
        for _ in 0..OPEN_MAX {
            places.push(Open::enter(&open).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let (first, second) = (&places[0], &places[1]);
        drop(first.serve());
        assert_eq!(open.lock().slots.len(), OPEN_MAX);
        let next = Open::enter(&open).unwrap();
        assert!(second.given_up.is_cancelled() && !first.given_up.is_cancelled());
        let answered: Vec<Serving> = places.iter().chain([&next]).map(Place::serve).collect();
        assert!(Open::enter(&open).is_none(), "all of them are being answered");
        drop(answered);
        assert!(Open::enter(&open).is_some());
        drop((places, next));
        assert_eq!(open.lock().slots.len(), 0);
    }
}
