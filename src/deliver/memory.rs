//! The lake in memory: the twin of an object store for tests and simulations, faults included.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::sink::{Created, GIVEN_UP, MayCreate, Sink, SinkError};

/// What goes wrong, and how often. Shares of calls, from 0 to 1. The same seed gives the same faults for the same
/// order of calls.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How long a request, and then its answer, is on the way. Empty: no delay.
    pub delay: Range<Duration>,
    /// Refused without effect: throttled, or the request never arrived.
    pub refused: f64,
    /// The object is created and the answer lost.
    pub lost_answer: f64,
    /// The sender hears nothing and gives up; the object is created up to `late_max` afterwards.
    pub late: f64,
    /// See `late`.
    pub late_max: Duration,
}

type Observer = Arc<dyn Fn(&str, &Bytes, Created) + Send + Sync>;

/// Objects in memory. A put that was sent arrives, also when its sender is gone: a dropped call or a crashed
/// worker takes nothing back.
#[derive(Default)]
pub struct MemorySink {
    observer: Option<Observer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    on_the_way: Vec<Put>,
    faults: Faults,
    rng: Option<ChaCha8Rng>,
}

struct Put {
    arrives: Instant,
    key: String,
    body: Bytes,
    answer: Arc<OnceLock<Created>>,
}

enum Fate {
    Answered,
    Refused,
    LostAnswer,
    Late(Duration),
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Fault(&'static str);

impl MemorySink {
    /// An empty lake without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `observer` at every put that arrives, with what it found.
    pub fn with_observer(mut self, observer: impl Fn(&str, &Bytes, Created) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// From now on calls fail and are slow as `faults` says, drawn from `seed`.
    pub fn set_faults(&self, seed: u64, faults: Faults) {
        let mut state = self.state();
        state.rng = Some(ChaCha8Rng::seed_from_u64(seed));
        state.faults = faults;
    }

    /// Every object, at once and without faults: what an onlooker of a test sees.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.arrived().objects.clone()
    }

    /// Puts an object there as a person would who knows nothing of us: over one that exists, and no observer sees it.
    pub fn put_unobserved(&self, key: &str, body: Bytes) {
        self.arrived().objects.insert(key.to_owned(), body);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state after all puts that are due have arrived, in the order of their times.
    fn arrived(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(next) = (0..state.on_the_way.len())
            .filter(|&index| state.on_the_way[index].arrives <= now)
            .min_by_key(|&index| state.on_the_way[index].arrives)
        {
            let put = state.on_the_way.remove(next);
            let created = if state.objects.contains_key(&put.key) { Created::Existed } else { Created::New };
            if let Some(observer) = &self.observer {
                observer(&put.key, &put.body, created);
            }
            state.objects.entry(put.key).or_insert(put.body);
            // Nobody else sets it; nobody may be left to read it.
            let _ = put.answer.set(created);
        }
        state
    }

    /// Draws what happens to one call: its fate, and how long request and answer are on the way.
    fn draw(&self) -> (Fate, Duration, Duration) {
        let mut state = self.state();
        let State { faults, rng: Some(rng), .. } = &mut *state else {
            return (Fate::Answered, Duration::ZERO, Duration::ZERO);
        };
        let mut delay = || {
            if faults.delay.is_empty() { Duration::ZERO } else { rng.random_range(faults.delay.clone()) }
        };
        let (there, back) = (delay(), delay());
        let late_by = faults.late_max.mul_f64(rng.random());
        let fate = match rng.random::<f64>() {
            luck if luck < faults.refused => Fate::Refused,
            luck if luck < faults.refused + faults.lost_answer => Fate::LostAnswer,
            luck if luck < faults.refused + faults.lost_answer + faults.late => Fate::Late(late_by),
            _ => Fate::Answered,
        };
        (fate, there, back)
    }

    async fn look<T>(
        &self,
        action: &'static str,
        key: &str,
        look: impl FnOnce(Option<&Bytes>) -> T + Send,
    ) -> Result<T, SinkError> {
        let (fate, there, back) = self.draw();
        pause(there).await;
        let seen = look(self.arrived().objects.get(key));
        pause(back).await;
        match fate {
            Fate::Answered => Ok(seen),
            Fate::Refused => Err(failed(action, key, "refused")),
            Fate::LostAnswer | Fate::Late(_) => Err(failed(action, key, "no answer")),
        }
    }
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

fn failed(action: &'static str, key: &str, reason: &'static str) -> SinkError {
    SinkError { action, key: key.to_owned(), source: Box::new(Fault(reason)) }
}

#[async_trait]
impl Sink for MemorySink {
    async fn create_while(&self, key: &str, body: Bytes, may: MayCreate) -> Result<Created, SinkError> {
        if !may() {
            return Err(failed("create", key, GIVEN_UP));
        }
        let (fate, there, back) = self.draw();
        let late_by = match fate {
            Fate::Refused => {
                pause(there + back).await;
                return Err(failed("create", key, "refused"));
            }
            // The sender gives up when an answer would have come; the put arrives after that.
            Fate::Late(by) => back + by,
            Fate::Answered | Fate::LostAnswer => Duration::ZERO,
        };
        let answer = Arc::new(OnceLock::new());
        self.state().on_the_way.push(Put {
            arrives: Instant::now() + there + late_by,
            key: key.to_owned(),
            body,
            answer: Arc::clone(&answer),
        });
        pause(there).await;
        drop(self.arrived());
        pause(back).await;
        match (fate, answer.get()) {
            (Fate::Answered, Some(created)) => Ok(*created),
            _ => Err(failed("create", key, "no answer")),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        self.look("read", key, |object| object.cloned()).await
    }

    async fn exists(&self, key: &str) -> Result<bool, SinkError> {
        self.look("find", key, |object| object.is_some()).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn body(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn slow() -> Range<Duration> {
        SECOND..SECOND * 2
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_that_was_sent_arrives_though_its_sender_is_gone() {
        let sink = MemorySink::new();
        sink.set_faults(1, Faults { delay: slow(), ..Faults::default() });
        assert!(sink.create("a", body("1")).now_or_never().is_none(), "sent, and dropped");
        assert!(sink.objects().is_empty());
        sleep(SECOND * 2).await;
        assert_eq!(sink.objects(), BTreeMap::from([("a".to_owned(), body("1"))]));
        assert_eq!(sink.create("a", body("2")).await.unwrap(), Created::Existed);
        assert_eq!(sink.read("a").await.unwrap(), Some(body("1")));
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_it_says() {
        let sink = MemorySink::new();
        sink.set_faults(2, Faults { refused: 1.0, ..Faults::default() });
        assert!(sink.create("a", body("1")).await.is_err() && sink.exists("a").await.is_err());
        assert!(sink.objects().is_empty());

        sink.set_faults(2, Faults { lost_answer: 1.0, ..Faults::default() });
        assert!(sink.create("a", body("1")).await.is_err());
        assert_eq!(sink.objects().len(), 1);

        let late = Faults { delay: slow(), late: 1.0, late_max: SECOND * 10, ..Faults::default() };
        sink.set_faults(2, late);
        assert!(sink.create("b", body("1")).await.is_err());
        assert_eq!(sink.objects().len(), 1, "not there yet when the sender gives up");
        sleep(SECOND * 10).await;
        assert_eq!(sink.objects().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_history() {
        async fn history(seed: u64) -> Vec<String> {
            let log = Arc::new(Mutex::new(Vec::new()));
            let (start, seen) = (Instant::now(), Arc::clone(&log));
            let sink = MemorySink::new().with_observer(move |key, _, created| {
                seen.lock().unwrap().push(format!("{:?} {key} {created:?}", start.elapsed()));
            });
            let faults =
                Faults { delay: slow(), refused: 0.2, lost_answer: 0.2, late: 0.2, late_max: SECOND * 9 };
            sink.set_faults(seed, faults);
            for n in 0..40 {
                let created = sink.create(&format!("k{}", n % 7), body("x")).await.is_ok();
                log.lock().unwrap().push(format!("told {created}"));
            }
            drop(sink);
            Arc::into_inner(log).unwrap().into_inner().unwrap()
        }
        assert_eq!(history(3).await, history(3).await);
        assert_ne!(history(3).await, history(4).await);
    }
}
