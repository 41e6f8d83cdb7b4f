//! Fuzzing without a nightly compiler: every reader of bytes from outside gets mutations of known inputs. It must
//! answer, never panic, never hang, and harm nothing beside the bad input.
//!
//! `tests/corpus/<reader>/` holds the seeds and every input that ever failed; all of them run first, unchanged.
//! Mutations follow from a fixed seed, some hundred for each reader. `KINETIDE_FUZZ_ITERATIONS=100000 cargo test fuzz`
//! runs that many. An input that fails is kept below `target/tmp/fuzz/`: fix the reader, and move it to the corpus.

mod aggregates;
mod answers;
mod changes;
mod dead_letters;
mod events;
mod gzip;
mod large;
mod lease_rows;
mod mutate;
mod readers;
mod records;
mod small;
mod snapshots;

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use kinetide::internals::batch::Batch;
use kinetide::internals::transform::Transform;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Mutations that answered in a new way are mutated further; so many are kept.
const POOL_MAX: usize = 500;
/// One input takes milliseconds. Far above what a busy machine makes of that: an input that takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Runs the corpus of `reader` and mutations of it. `check` panics at a wrong answer; it answers what kind of answer
/// it saw, so that inputs which lead to new ones can be mutated further.
fn fuzz(reader: &str, iterations: usize, more_seeds: Vec<Vec<u8>>, mut check: impl FnMut(&[u8]) -> String) {
    let iterations = self::iterations(iterations);
    let mut pool = [corpus(reader), more_seeds].concat();
    assert!(!pool.is_empty(), "{reader} has seeds");
    let mut seen = HashSet::new();
    for seed in &pool {
        seen.insert(attempt(reader, seed, &mut check));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(20_260_115);
    for _ in 0..iterations {
        let seed = pool.choose(&mut rng).expect("there are seeds");
        let input = mutate::mutate(seed, &pool, &mut rng);
        if seen.insert(attempt(reader, &input, &mut check)) && pool.len() < POOL_MAX {
            pool.push(input);
        }
    }
    eprintln!("{reader}: {iterations} mutations, {} kinds of answers", seen.len());
}

/// As many as usual, or as the environment says.
#[expect(clippy::disallowed_methods, reason = "how long the tests fuzz is no setting of the service")]
fn iterations(usual: usize) -> usize {
    std::env::var("KINETIDE_FUZZ_ITERATIONS").map_or(usual, |number| number.parse().unwrap())
}

/// The files of one reader's corpus, in the order of their names.
fn corpus(reader: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(reader);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Keeps the input if it fails.
fn attempt(reader: &str, input: &[u8], check: impl FnOnce(&[u8]) -> String) -> String {
    let answer = within_time(reader, input, || catch_unwind(AssertUnwindSafe(|| check(input))));
    answer.unwrap_or_else(|panic| {
        eprintln!("{reader} failed; its input is in {}", keep(reader, input));
        resume_unwind(panic)
    })
}

/// A test cannot stop its own thread: an input that hangs ends the process, after it was kept.
fn within_time<T>(reader: &str, input: &[u8], work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, watched) = channel::<()>();
        scope.spawn(move || {
            if watched.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{reader} hangs; its input is in {}", keep(reader, input));
                std::process::exit(1);
            }
        });
        let answer = work();
        drop(done);
        answer
    })
}

/// Writes the objects of a batch for the readers of `.ci/readers.py`, where a variable says a folder. Equal ones once.
#[expect(clippy::disallowed_methods, reason = "where tests leave objects is no setting of the service")]
fn keep_for_readers(batch: &Batch, transform: &dyn Transform) {
    let Ok(folder) = std::env::var("KINETIDE_TEST_READERS_DIR") else { return };
    for object in &batch.objects {
        let mut hasher = DefaultHasher::new();
        object.body.hash(&mut hasher);
        let kind = object.key.split('/').next().unwrap();
        let folder = Path::new(&folder).join(transform.id().name()).join(kind);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{:016x}.ndjson.gz", hasher.finish())), &object.body).unwrap();
    }
}

fn keep(reader: &str, input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(reader);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{:016x}", hasher.finish()));
    fs::write(&file, input).unwrap();
    file.display().to_string()
}
