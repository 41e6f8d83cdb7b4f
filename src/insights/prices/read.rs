//! Reading the objects of prices of a lake: the last eight days, the newest hour first.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::figures::PriceFigures;
use super::gather::Gathered;
use super::row::{Line, Price};
use crate::batch::{TooLong, each_line};
use crate::cause::chain;
use crate::clock::utc;
use crate::deliver::said;
use crate::insights::read::{
    BYTES_AT_ONCE, FOREIGN, PARALLEL, Place, ReadError, Unreadable, fetched, joined, listed, place, root,
};
use crate::insights::row::NotARow;

const DAY_US: i64 = 86_400_000_000;
/// So many days before the day of the newest hour are read, as the views of `athena/market/` do.
const DAYS: i64 = 8;

/// What to read.
#[derive(Clone, Debug)]
pub struct PriceScope {
    /// Folder of the prices in the lake.
    pub folder: String,
    /// Snapshots of this time or later, µs since the epoch.
    pub since_us: i64,
    /// Snapshots of this time or earlier.
    pub until_us: i64,
    /// The clock: what is more than a day ahead of it does not count, or a poller with a wrong clock would hide all others.
    pub now_us: i64,
}

/// What was read of prices, and what could not be.
#[derive(Debug, Default, Serialize)]
pub struct PriceCoverage {
    /// Objects that were read to their end.
    pub objects: u64,
    /// Prices that count.
    pub rows: u64,
    /// Prices that were there once more.
    pub rows_twice: u64,
    /// Prices of snapshots before or after the time that was asked for.
    pub rows_outside: u64,
    /// Lines without an id or a time.
    pub rows_without_key: u64,
    /// Values that are no numbers, or do not fit their column: they count as missing.
    pub values_unreadable: u64,
    /// When the first snapshot was made.
    pub first_snapshot: Option<String>,
    /// When the last snapshot was made.
    pub last_snapshot: Option<String>,
    /// What is not in the figures.
    pub unreadable: Unreadable,
}

impl PriceCoverage {
    /// Whether everything could be read.
    pub fn whole(&self) -> bool {
        self.unreadable.none() && self.values_unreadable == 0
    }
}

/// What lies in the folder of an hour, by the start of the hour in µs.
type Hours = BTreeMap<i64, Vec<ObjectMeta>>;

/// The lines of an object.
#[derive(Default)]
struct Seen {
    prices: Vec<Price>,
    outside: u64,
    without_key: u64,
    odd: u64,
    /// By problem the first line and how many.
    unreadable: BTreeMap<String, (u64, u64)>,
}

/// Reads the prices of the lake below `prefix`; `None` where nothing is in their folder. `progress` is given how many objects
/// and rows there are so far.
///
/// # Errors
/// When the lake cannot be listed. Objects that cannot be read are no error but part of what is found.
pub async fn read_prices(
    store: &Arc<dyn ObjectStore>,
    prefix: &Path,
    scope: &PriceScope,
    mut progress: impl FnMut(u64, u64),
) -> Result<Option<(PriceCoverage, PriceFigures)>, ReadError> {
    let mut coverage = PriceCoverage::default();
    let hours = hours(store, prefix, scope, &mut coverage).await?;
    if hours.is_empty() && coverage.unreadable.none() {
        return Ok(None);
    }
    let (range, room) = ((scope.since_us, scope.until_us), Semaphore::new(BYTES_AT_ONCE));
    let newest_first =
        hours.into_iter().rev().flat_map(|(hour, objects)| objects.into_iter().map(move |meta| (hour, meta)));
    let room = &room;
    let reading = futures::stream::iter(newest_first).map(|(hour, meta)| async move {
        let seen = fetched(store, &meta, room, move |body| seen(body, range)).await?;
        Ok::<_, ReadError>((hour, meta.location, seen.and_then(|seen| seen)))
    });
    let mut reading = Box::pin(reading.buffered(PARALLEL));
    let (mut gathered, mut snapshots) = (Gathered::default(), None);
    let mut open: Option<(i64, Vec<Price>)> = None;
    while let Some(outcome) = reading.next().await {
        let (hour, key, seen) = outcome?;
        if let Some((whole, prices)) = open.take_if(|(open, _)| *open != hour) {
            coverage.rows_twice += gathered.hour(whole / 1_000_000, prices);
        }
        let prices = &mut open.get_or_insert((hour, Vec::new())).1;
        match seen {
            Err(problem) => coverage.unreadable.object(&key, problem),
            Ok(seen) => {
                coverage.objects += 1;
                coverage.rows += seen.prices.len() as u64;
                coverage.rows_outside += seen.outside;
                coverage.rows_without_key += seen.without_key;
                coverage.values_unreadable += seen.odd;
                coverage.unreadable.lines_of(&key, &seen.unreadable);
                snapshots =
                    seen.prices.iter().fold(snapshots, |all, price| joined(all, Some((price.at, price.at))));
                prices.extend(seen.prices);
            }
        }
        progress(coverage.objects, coverage.rows);
    }
    if let Some((whole, prices)) = open {
        coverage.rows_twice += gathered.hour(whole / 1_000_000, prices);
    }
    coverage.rows -= coverage.rows_twice;
    coverage.first_snapshot = snapshots.map(|(first, _)| utc(first * 1_000_000));
    coverage.last_snapshot = snapshots.map(|(_, last)| utc(last * 1_000_000));
    coverage.unreadable.named.sort();
    Ok(Some((coverage, PriceFigures::of(gathered))))
}

/// The hours to read, at most those of the last days. What lies elsewhere is noted as unreadable.
async fn hours(
    store: &Arc<dyn ObjectStore>,
    prefix: &Path,
    scope: &PriceScope,
    coverage: &mut PriceCoverage,
) -> Result<Hours, ReadError> {
    let root = root(prefix, &scope.folder);
    let ahead_us = scope.now_us.saturating_add(DAY_US);
    let mut hours = Hours::new();
    let mut objects = listed(store, &root, scope.since_us);
    while let Some(meta) = objects.try_next().await.map_err(|error| ReadError::List(said(&error)))? {
        match place(&root, &meta, (scope.since_us, scope.until_us)) {
            Place::Other => {}
            Place::Foreign => coverage.unreadable.object(&meta.location, FOREIGN.to_owned()),
            Place::Hour(hour) if hour > ahead_us => {
                let problem = "more than a day ahead of this machine's clock; not read".to_owned();
                coverage.unreadable.object(&meta.location, problem);
            }
            Place::Hour(hour) => {
                hours.entry(hour).or_default().push(meta);
                // Listings of years do not stay in memory.
                if let Some(newest) = hours.last_key_value().map(|(newest, _)| *newest) {
                    let first = newest - newest.rem_euclid(DAY_US) - DAYS * DAY_US;
                    hours.retain(|hour, _| *hour >= first);
                }
            }
        }
    }
    Ok(hours)
}

/// The lines of an object, or why nothing of it counts.
fn seen(body: &[u8], (since_us, until_us): (i64, i64)) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let whole = each_line(body, |number, line| {
        match line.map_err(|TooLong| NotARow::TooLong).and_then(Line::parse) {
            Err(problem) => seen.unreadable.entry(problem.to_string()).or_insert((number, 0)).1 += 1,
            Ok(Line::WithoutKey) => seen.without_key += 1,
            Ok(Line::Price(price, _)) if !(since_us..=until_us).contains(&(price.at * 1_000_000)) => {
                seen.outside += 1;
            }
            Ok(Line::Price(price, odd)) => {
                seen.odd += odd;
                seen.prices.push(*price);
            }
        }
        ControlFlow::Continue(())
    });
    whole.map(|_| seen).map_err(|broken| chain(&broken))
}
