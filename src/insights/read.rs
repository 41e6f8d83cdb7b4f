//! Reading the landing objects of a lake: several at a time, in memory that does not grow with their number.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
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
const PARALLEL: usize = 8;
/// Compressed bytes at a time; an object that has more is read alone.
const BYTES_AT_ONCE: usize = 64 << 20;
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
    let root =
        [prefix.as_ref(), &scope.landing].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>();
    let root = Path::parse(root.join("/")).expect("prefixes and folders are checked");
    let latest = Arc::new(Mutex::new(Latest::new(scope.memory)));
    let room = Semaphore::new(BYTES_AT_ONCE);
    // Names begin with the time, so that S3 can start behind what is too old.
    let first = Path::parse(format!("{root}/{}", hour_folder(scope.since_us.max(0))));
    let listed = match first {
        Ok(first) if scope.since_us > 0 => store.list_with_offset(Some(&root), &first),
        _ => store.list(Some(&root)),
    };
    let meant = listed.filter_map(|listed| {
        let place = listed.as_ref().map_or(Place::Hour, |meta| place(&root, meta, scope));
        std::future::ready((place != Place::Other).then_some((listed, place)))
    });
    let (latest_of, room) = (&latest, &room);
    let reading = meant.map(|(listed, place)| async move {
        let meta = listed.map_err(|error| ReadError::List(said(&error)))?;
        let outcome = match place {
            Place::Hour => object(store, &meta, scope, room, Arc::clone(latest_of)).await?,
            _ => Outcome::Broken("not where rows land, or not named like their objects; not read".to_owned()),
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
                coverage.unreadable.objects += 1;
                coverage.name(Named { object: key.into(), line: None, rows: 0, problem });
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

impl Coverage {
    fn name(&mut self, problem: Named) {
        if self.unreadable.named.len() < NAMED_MAX {
            self.unreadable.named.push(problem);
        }
    }

    fn add(&mut self, key: &Path, seen: &Seen) {
        self.objects += 1;
        self.rows += seen.rows;
        self.rows_outside += seen.outside;
        self.rows_without_key += seen.without_key;
        for (problem, (line, rows)) in &seen.unreadable {
            self.unreadable.rows += rows;
            let (object, problem) = (key.to_string(), problem.clone());
            self.name(Named { object, line: Some(*line), rows: *rows, problem });
        }
    }
}

fn joined(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In an hour that is meant.
    Hour,
    /// Where no rows land.
    Foreign,
    /// In another hour, or not for readers of lakes.
    Other,
}

fn place(root: &Path, meta: &ObjectMeta, scope: &Scope) -> Place {
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
        Some(hour) if hour > scope.until_us || hour.saturating_add(HOUR_US) <= scope.since_us => Place::Other,
        Some(_) if name.ends_with(".gz") => Place::Hour,
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
    if meta.size > OBJECT_BYTES_MAX {
        return Ok(Outcome::Broken("larger than any object of kinetide; not read".to_owned()));
    }
    let bytes = usize::try_from(meta.size).unwrap_or(usize::MAX).min(BYTES_AT_ONCE);
    let _room = room.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
    let body = async { store.get(&meta.location).await?.bytes().await };
    let body = match body.await {
        Ok(body) => body,
        Err(object_store::Error::NotFound { .. }) => {
            return Ok(Outcome::Broken("it was deleted meanwhile".to_owned()));
        }
        Err(error) => return Ok(Outcome::Broken(said(&error))),
    };
    let range = (scope.since_us, scope.until_us);
    Ok(spawn_blocking(move || rows(&body, range, &latest)).await.map_err(io::Error::from)??)
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
