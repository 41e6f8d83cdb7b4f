//! How far another consumer is, by what it writes: where its leases are, if it has any, is its own affair.
//!
//! Who reads a shard is taken from the `worker` of its newest lines. The files are read a second time for the verdict;
//! what is seen here may change until then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::readers::Held;
use crate::shard::ShardId;
use crate::trial::foreign::{each_line, list};
use crate::trial::{Ledger, Progress};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A shard that is in the lake to its last record is held for so long by who wrote it.
const FRESH: Duration = Duration::from_secs(5);

/// A lake that is being watched. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Follow {
    ledger: Ledger,
    writers: Arc<Mutex<Writers>>,
    _task: JoinSet<()>,
}

type Writers = HashMap<ShardId, Writer>;

/// Who wrote the newest lines of a shard.
#[derive(Debug)]
struct Writer {
    worker: Option<String>,
    lines: u64,
    at: Instant,
}

impl Follow {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path, ledger: Ledger) -> Self {
        let writers = Arc::new(Mutex::default());
        let mut task = JoinSet::new();
        task.spawn(watch(store, root, ledger.clone(), Arc::clone(&writers)));
        Self { ledger, writers, _task: task }
    }

    /// Shards of which something is in the lake.
    pub(super) fn shards(&self) -> usize {
        lock(&self.writers).len()
    }

    /// How far the consumer is, and who holds the shards that are not in the lake to their last record.
    pub(super) fn look(&self, now: Instant) -> (Progress, Vec<Held>) {
        let writers = lock(&self.writers);
        let mut held = Vec::new();
        let progress = self.ledger.progress_seen(|of| {
            let shard = ShardId::new(of.shard_id);
            let writer = writers.get(&shard);
            if of.unseen > 0 || writer.is_some_and(|writer| now < writer.at + FRESH) {
                let owner = writer.and_then(|writer| writer.worker.clone());
                held.push(Held {
                    key: shard.into(),
                    owner,
                    counter: writer.map_or(0, |writer| writer.lines),
                });
            }
        });
        (progress, held)
    }
}

/// Reads every file that is new or has changed, again and again.
async fn watch(store: Arc<dyn ObjectStore>, root: Path, ledger: Ledger, writers: Arc<Mutex<Writers>>) {
    let mut known = HashMap::new();
    let mut waiting = Vec::new();
    loop {
        sleep(LOOK_EVERY).await;
        // A file may be gone again before it is read; a lake that cannot be read at all is found in the end.
        let Ok(files) = list(store.as_ref(), &root).await else { continue };
        for file in files {
            let state = (file.size, file.last_modified);
            if known.get(&file.location) == Some(&state) {
                continue;
            }
            let Ok(answer) = store.get(&file.location).await else { continue };
            let Ok(bytes) = answer.bytes().await else { continue };
            let read = tokio::task::spawn_blocking(move || lines(&bytes)).await;
            let (lines, of_shards) = read.expect("reading a file does not panic");
            waiting.extend(lines);
            note(&mut lock(&writers), of_shards, Instant::now());
            known.insert(file.location, state);
        }
        ledger.saw(&mut waiting);
    }
}

type Lines = Vec<(String, String)>;

/// Shard and sequence number of each line, and of each shard how many there are and who wrote the last.
fn lines(bytes: &[u8]) -> (Lines, HashMap<String, (u64, Option<String>)>) {
    let mut lines = Vec::new();
    let mut of_shards: HashMap<String, (u64, Option<String>)> = HashMap::new();
    let read = each_line(bytes, |line| {
        let Ok(line) = line else { return };
        let shard = line.shard_id.into_owned();
        let of_shard = of_shards.entry(shard.clone()).or_default();
        *of_shard = (of_shard.0 + 1, line.worker.map(|worker| worker.into_owned()));
        lines.push((shard, line.sequence_number.into_owned()));
    });
    if let Err(reason) = read {
        tracing::debug!(reason, "a file is still being written, or will never be finished");
    }
    (lines, of_shards)
}

fn note(writers: &mut Writers, of_shards: HashMap<String, (u64, Option<String>)>, at: Instant) {
    for (shard, (lines, worker)) in of_shards {
        let writer = writers.entry(ShardId::new(shard)).or_insert(Writer { worker: None, lines: 0, at });
        *writer = Writer { worker, lines: writer.lines + lines, at };
    }
}

fn lock(writers: &Mutex<Writers>) -> MutexGuard<'_, Writers> {
    writers.lock().expect("nothing panics under this lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_say_who_reads_a_shard() {
        let mut writers = Writers::new();
        let mut write = |text: &str, at| {
            let (lines, of_shards) = lines(text.as_bytes());
            note(&mut writers, of_shards, at);
            (lines.len(), writers[&ShardId::new("s")].worker.clone(), writers[&ShardId::new("s")].lines)
        };
        let line = |sequence: u8, worker: &str| {
            format!(r#"{{"shard_id":"s","sequence_number":"{sequence}","worker":"{worker}"}}"#) + "\n"
        };
        let start = Instant::now();
        assert_eq!(write(&(line(1, "a") + &line(2, "a")), start), (2, Some("a".to_owned()), 2));
        assert_eq!(write(&line(2, "b"), start), (1, Some("b".to_owned()), 3));
        let unnamed = r#"{"shard_id":"s","sequence_number":"3"}"#;
        assert_eq!(write(unnamed, start), (1, None, 4));
    }
}
