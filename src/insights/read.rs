//! Reading the landing objects of a lake: several at a time, in memory that does not grow with their number.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::figures::Figures;
use super::latest::{Full, Latest};
use super::row::{NotARow, Row};
use crate::batch::{OBJECT_BYTES_MAX, TooLong, each_line, hour_folder, is_hidden};
use crate::cause::chain;
use crate::clock::utc;
use crate::deliver::said;
use crate::transform::parse_utc_us;

/// Objects at a time.
pub(super) const PARALLEL: usize = 8;
/// Compressed bytes at a time; an object that has more is read alone.
pub(super) const BYTES_AT_ONCE: usize = 64 << 20;
/// Problems that are named; the others are counted.
const NAMED_MAX: usize = 20;
/// In `year=2026/month=01/day=15/hour=09`.
const HOUR_FOLDERS: usize = 4;
const HOUR_US: i64 = 3_600_000_000;

/// What to read.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Folder of the rows in the lake.
    pub landing: String,
    /// Changes of this time or later, µs since the epoch.
    pub since_us: i64,
    /// Changes of this time or earlier.
    pub until_us: i64,
    /// Bytes that the newest states may take, about.
    pub memory: usize,
}

/// What was read, and what could not be.
#[derive(Debug, Default, Serialize)]
pub struct Coverage {
    /// Objects that were read to their end.
    pub objects: u64,
    /// Rows that count.
    pub rows: u64,
    /// Rows of changes before or after the time that was asked for.
    pub rows_outside: u64,
    /// Rows of items without a `transaction_id`: they belong to no trade.
    pub rows_without_key: u64,
    /// When the first change was made.
    pub first_change: Option<String>,
    /// When the last change was made.
    pub last_change: Option<String>,
    /// What is not in the figures.
    pub unreadable: Unreadable,
}

/// What could not be read.
#[derive(Debug, Default, Serialize)]
pub struct Unreadable {
    /// Objects of which nothing counts.
    pub objects: u64,
    /// Lines that are no rows, in objects that count otherwise.
    pub rows: u64,
    /// The first of both.
    pub named: Vec<Named>,
}

/// What keeps an object from counting where no rows land.
pub(super) const FOREIGN: &str = "not where rows land, or not named like their objects; not read";

/// One problem of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// Its key.
    pub object: String,
    /// The first line that has it; none where it is the whole object.
    pub line: Option<u64>,
    /// Lines that have it.
    pub rows: u64,
    /// What it is.
    pub problem: String,
}

impl Unreadable {
    /// Whether everything could be read.
    pub fn none(&self) -> bool {
        self.objects == 0 && self.rows == 0
    }

    /// One line for each problem that is named, and one for the others.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.named.iter().map(ToString::to_string).collect();
        let named: u64 =
            self.named.iter().map(|named| if named.line.is_some() { named.rows } else { 1 }).sum();
        let more = self.objects + self.rows - named;
        if more > 0 {
            lines.push(format!("{more} more objects or lines could not be read"));
        }
        lines
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.rows) {
            (None, _) => write!(f, "{}: {}", self.object, self.problem),
            (Some(line), 1) => write!(f, "{}, line {line}: {}", self.object, self.problem),
            (Some(line), rows) => {
                write!(f, "{}, line {line} and {} more: {}", self.object, rows - 1, self.problem)
            }
        }
    }
}

/// Why a lake has no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The lake cannot be listed.
    #[error("{0}")]
    List(String),
    /// There are too many trades.
    #[error(transparent)]
    Full(#[from] Full),
    /// A task of this process ended.
    #[error("could not read on")]
    Ended(#[from] io::Error),
}

/// What an object came to.
enum Outcome {
    Rows(Seen),
    /// Nothing of it counts.
    Broken(String),
}

/// The rows of an object.
#[derive(Default)]
struct Seen {
    rows: u64,
    outside: u64,
    without_key: u64,
    /// First and last.
    changed_us: Option<(i64, i64)>,
    /// By problem the first line and how many.
    unreadable: BTreeMap<String, (u64, u64)>,
}

/// Reads the lake below `prefix`. `progress` is given how many objects and rows there are so far.
///
/// # Errors
/// When the lake cannot be listed, or its trades need more memory than they may have. Objects that cannot be read are no
/// error but part of what is found.
pub async fn read(
    store: &Arc<dyn ObjectStore>,
    prefix: &Path,
    scope: &Scope,
    mut progress: impl FnMut(u64, u64),
) -> Result<(Coverage, Figures), ReadError> {
    let root = root(prefix, &scope.landing);
    let latest = Arc::new(Mutex::new(Latest::new(scope.memory)));
    let room = Semaphore::new(BYTES_AT_ONCE);
    let meant = listed(store, &root, scope.since_us).filter_map(|listed| {
        let place = listed
            .as_ref()
            .map_or(Place::Hour(0), |meta| place(&root, meta, (scope.since_us, scope.until_us)));
        std::future::ready((place != Place::Other).then_some((listed, place)))
    });
    let (latest_of, room) = (&latest, &room);
    let reading = meant.map(|(listed, place)| async move {
        let meta = listed.map_err(|error| ReadError::List(said(&error)))?;
        let outcome = match place {
            Place::Hour(_) => object(store, &meta, scope, room, Arc::clone(latest_of)).await?,
            _ => Outcome::Broken(FOREIGN.to_owned()),
        };
        Ok::<_, ReadError>((meta.location, outcome))
    });
    let mut reading = Box::pin(reading.buffered(PARALLEL));
    let mut coverage = Coverage::default();
    let mut changed_us: Option<(i64, i64)> = None;
    while let Some(outcome) = reading.next().await {
        let (key, outcome) = outcome?;
        match outcome {
            Outcome::Broken(problem) => {
                coverage.unreadable.object(&key, problem);
            }
            Outcome::Rows(seen) => {
                coverage.add(&key, &seen);
                changed_us = joined(changed_us, seen.changed_us);
            }
        }
        progress(coverage.objects, coverage.rows);
    }
    drop(reading);
    coverage.first_change = changed_us.map(|(first, _)| utc(first));
    coverage.last_change = changed_us.map(|(_, last)| utc(last));
    coverage.unreadable.named.sort();
    let figures = Figures::of(&latest.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((coverage, figures))
}

/// The folder of rows below the prefix of a lake.
pub(super) fn root(prefix: &Path, folder: &str) -> Path {
    let root: Vec<&str> = [prefix.as_ref(), folder].into_iter().filter(|part| !part.is_empty()).collect();
    Path::parse(root.join("/")).expect("prefixes and folders are checked")
}

/// What is below it. Names begin with the time, so that S3 can start behind what is too old.
pub(super) fn listed<'a>(
    store: &'a Arc<dyn ObjectStore>,
    root: &Path,
    since_us: i64,
) -> BoxStream<'a, object_store::Result<ObjectMeta>> {
    match Path::parse(format!("{root}/{}", hour_folder(since_us.max(0)))) {
        Ok(first) if since_us > 0 => store.list_with_offset(Some(root), &first),
        _ => store.list(Some(root)),
    }
}

impl Unreadable {
    /// Nothing of an object counts.
    pub(super) fn object(&mut self, key: &Path, problem: String) {
        self.objects += 1;
        self.name(Named { object: key.to_string(), line: None, rows: 0, problem });
    }

    /// Lines of an object do not count: by problem the first one and how many.
    pub(super) fn lines_of(&mut self, key: &Path, problems: &BTreeMap<String, (u64, u64)>) {
        for (problem, (line, rows)) in problems {
            self.rows += rows;
            let (object, problem) = (key.to_string(), problem.clone());
            self.name(Named { object, line: Some(*line), rows: *rows, problem });
        }
    }

    fn name(&mut self, problem: Named) {
        if self.named.len() < NAMED_MAX {
            self.named.push(problem);
        }
    }
}

impl Coverage {
    fn add(&mut self, key: &Path, seen: &Seen) {
        self.objects += 1;
        self.rows += seen.rows;
        self.rows_outside += seen.outside;
        self.rows_without_key += seen.without_key;
        self.unreadable.lines_of(key, &seen.unreadable);
    }
}

pub(super) fn joined(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In an hour that is meant, which begins then.
    Hour(i64),
    /// Where no rows land.
    Foreign,
    /// In another hour, or not for readers of lakes.
    Other,
}

pub(super) fn place(root: &Path, meta: &ObjectMeta, (since_us, until_us): (i64, i64)) -> Place {
    let below =
        meta.location.as_ref().strip_prefix(root.as_ref()).unwrap_or_default().trim_start_matches('/');
    let parts: Vec<&str> = below.split('/').collect();
    let Some((name, folders)) = parts.split_last() else { return Place::Other };
    // Consoles and tools mark folders by empty objects with their names.
    let marks_a_folder =
        meta.size == 0 && (name.is_empty() || name.contains('=') || name.ends_with("_$folder$"));
    if marks_a_folder || parts.iter().any(|part| is_hidden(part)) {
        return Place::Other;
    }
    match hour_us(folders) {
        Some(hour) if hour > until_us || hour.saturating_add(HOUR_US) <= since_us => Place::Other,
        Some(hour) if name.ends_with(".gz") => Place::Hour(hour),
        _ => Place::Foreign,
    }
}

/// The start of the hour whose folders these are.
fn hour_us(folders: &[&str]) -> Option<i64> {
    let numbers: Vec<&str> = folders.iter().filter_map(|folder| Some(folder.split_once('=')?.1)).collect();
    let [year, month, day, hour] = numbers.try_into().ok()?;
    let us = parse_utc_us(format!("{year}-{month}-{day}T{hour}:00:00").as_bytes())?;
    (folders.len() == HOUR_FOLDERS && hour_folder(us) == folders.join("/")).then_some(us)
}

async fn object(
    store: &Arc<dyn ObjectStore>,
    meta: &ObjectMeta,
    scope: &Scope,
    room: &Semaphore,
    latest: Arc<Mutex<Latest>>,
) -> Result<Outcome, ReadError> {
    let range = (scope.since_us, scope.until_us);
    let fetched = fetched(store, meta, room, move |body| rows(body, range, &latest)).await?;
    fetched.unwrap_or_else(|problem| Ok(Outcome::Broken(problem))).map_err(ReadError::Full)
}

/// What `read` makes of an object, or why there is nothing of it.
pub(super) async fn fetched<T: Send + 'static>(
    store: &Arc<dyn ObjectStore>,
    meta: &ObjectMeta,
    room: &Semaphore,
    read: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<Result<T, String>, ReadError> {
    if meta.size > OBJECT_BYTES_MAX {
        return Ok(Err("larger than any object of kinetide; not read".to_owned()));
    }
    let bytes = usize::try_from(meta.size).unwrap_or(usize::MAX).min(BYTES_AT_ONCE);
    let _room = room.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
    let body = async { store.get(&meta.location).await?.bytes().await };
    let body = match body.await {
        Ok(body) => body,
        Err(object_store::Error::NotFound { .. }) => {
            return Ok(Err("it was deleted meanwhile".to_owned()));
        }
        Err(error) => return Ok(Err(said(&error))),
    };
    Ok(Ok(spawn_blocking(move || read(&body)).await.map_err(io::Error::from)?))
}

/// The rows of an object: all, or none when it is broken.
fn rows(body: &[u8], (since_us, until_us): (i64, i64), latest: &Mutex<Latest>) -> Result<Outcome, Full> {
    if let Err(broken) = each_line(body, |_, _| ControlFlow::Continue(())) {
        return Ok(Outcome::Broken(chain(&broken)));
    }
    let (mut seen, mut full) = (Seen::default(), None);
    let whole = each_line(body, |number, line| {
        let row = match line.map_err(|TooLong| NotARow::TooLong).and_then(Row::parse) {
            Ok(row) => row,
            Err(problem) => {
                seen.unreadable.entry(problem.to_string()).or_insert((number, 0)).1 += 1;
                return ControlFlow::Continue(());
            }
        };
        if !(since_us..=until_us).contains(&row.changed_us) {
            seen.outside += 1;
            return ControlFlow::Continue(());
        }
        seen.rows += 1;
        seen.changed_us = joined(seen.changed_us, Some((row.changed_us, row.changed_us)));
        let Some(key) = &row.key else {
            seen.without_key += 1;
            return ControlFlow::Continue(());
        };
        match latest.lock().unwrap_or_else(PoisonError::into_inner).take(key, &row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(limit) => {
                full = Some(limit);
                ControlFlow::Break(())
            }
        }
    });
    whole.expect("it was read a moment ago");
    full.map_or(Ok(Outcome::Rows(seen)), Err)
}
