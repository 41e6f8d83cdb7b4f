//! Reading a lake's folder: which objects there are, the lines of one, and which dead letters were replayed.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};

use flate2::bufread::MultiGzDecoder;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::Deserialize;

/// What an object holds, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// Rows of one hour, counted in hours since the epoch; `None` where the path does not say which.
    Landing(Option<i64>),
    /// Records that could not be made into rows.
    DeadLetters,
    /// Copies of rows of one hour, likewise.
    Alerts(Option<i64>),
    /// What another consumer wrote.
    Foreign,
}

/// An object to check.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) meta: ObjectMeta,
    pub(super) zone: Zone,
}

/// Folder of the records of replays, below the dead letters.
const REPLAYS: &str = "errors/_replays";

/// Which dead letters were made into rows later: by object, ranges of lines, counted from 1.
#[derive(Debug, Default)]
pub(super) struct Replays {
    lines: HashMap<Path, Vec<(u64, u64)>>,
    /// Records that are not to be understood.
    pub(super) broken: Vec<String>,
}

impl Replays {
    pub(super) fn of(&self, object: &Path, line: u64) -> bool {
        let ranges = self.lines.get(object);
        ranges.is_some_and(|ranges| ranges.iter().any(|&(first, last)| first <= line && line <= last))
    }
}

#[derive(Deserialize)]
struct Plan {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    key: String,
    lines: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct Done {
    sealed: Vec<String>,
}

/// Reads what replays have recorded. Where one has not come to its end, the objects of rows that are there count.
pub(super) async fn replays(store: &dyn ObjectStore, root: &Path) -> Result<Replays, object_store::Error> {
    let within = |path: &str| root.parts().chain(Path::from(path).parts()).collect::<Path>();
    let folder = within(REPLAYS);
    let mut documents = BTreeMap::new();
    let mut listing = store.list(Some(&folder));
    while let Some(meta) = listing.try_next().await? {
        let bytes = store.get(&meta.location).await?.bytes().await?;
        documents.insert(meta.location.to_string(), bytes);
    }
    let mut found = Replays::default();
    for (path, text) in &documents {
        // `<object>/<number>.json`, and beside it `<number>.done.json` when it has come to its end.
        let Some(plan_path) = path.strip_suffix(".json").filter(|path| !path.ends_with(".done")) else {
            continue;
        };
        let plan = serde_json::from_slice::<Plan>(text);
        let done = documents.get(&format!("{plan_path}.done.json"));
        let done = done.map(|text| serde_json::from_slice::<Done>(text)).transpose();
        let (Ok(plan), Ok(done)) = (plan, done) else {
            found.broken.push(path.clone());
            continue;
        };
        let object = plan_path.strip_prefix(folder.as_ref()).and_then(|path| path.rsplit_once('/'));
        let object = within(&format!("errors{}", object.map_or("", |(object, _)| object)));
        for Output { key, lines } in plan.outputs {
            let landed = match &done {
                Some(done) => !done.sealed.contains(&key),
                None => has_lines(store, &within(&key)).await?,
            };
            if landed {
                found.lines.entry(object.clone()).or_default().extend(lines);
            }
        }
    }
    Ok(found)
}

async fn has_lines(store: &dyn ObjectStore, path: &Path) -> Result<bool, object_store::Error> {
    match store.get(path).await {
        Ok(object) => Ok(each_line(&object.bytes().await?, |_| ()).is_ok_and(|lines| lines > 0)),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Folder of the copies of rows.
const ALERTS: &str = "alerts/high_risk";

/// All objects of rows, dead letters and copies. Other files (`_intents`, something half written) are not the lake's rows.
pub(super) async fn list(store: &dyn ObjectStore, root: &Path) -> Result<Vec<Object>, object_store::Error> {
    let mut objects = Vec::new();
    for folder in ["landing", "errors", ALERTS] {
        let prefix = root.parts().chain(Path::from(folder).parts()).collect::<Path>();
        let mut listing = store.list(Some(&prefix));
        while let Some(meta) = listing.try_next().await? {
            if meta.location.as_ref().ends_with(".ndjson.gz") {
                let zone = match folder {
                    "landing" => Zone::Landing(hour(&meta.location)),
                    ALERTS => Zone::Alerts(hour(&meta.location)),
                    _ => Zone::DeadLetters,
                };
                objects.push(Object { meta, zone });
            }
        }
    }
    Ok(objects)
}

/// The hour of `…/year=2026/month=01/day=15/hour=09/…`, zero padded.
fn hour(location: &Path) -> Option<i64> {
    let part = |name: &str, width: usize| {
        location.parts().find_map(|part| {
            let value = part.as_ref().strip_prefix(name)?.strip_prefix('=')?;
            if value.len() == width { value.parse::<i16>().ok() } else { None }
        })
    };
    let small = |name| i8::try_from(part(name, 2)?).ok();
    let day = jiff::civil::Date::new(part("year", 4)?, small("month")?, small("day")?).ok()?;
    let time = jiff::civil::Time::new(small("hour")?, 0, 0, 0).ok()?;
    let start = day.to_datetime(time).to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(start.timestamp().as_second() / 3600)
}

/// Gives each line of a gzip object of one or more members. The error says what is broken; lines before it were
/// given.
pub(super) fn each_line(gzip: &[u8], mut line: impl FnMut(&str)) -> Result<u64, String> {
    let mut reader = BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(gzip));
    let mut bytes = Vec::with_capacity(4096);
    let mut count = 0;
    loop {
        bytes.clear();
        let broken = |what: String| format!("line {}: {what}", count + 1);
        let read =
            reader.read_until(b'\n', &mut bytes).map_err(|error| broken(format!("broken gzip: {error}")))?;
        if read == 0 {
            return Ok(count);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(broken("the last line has no line end".to_owned()));
        }
        line(str::from_utf8(&bytes).map_err(|_| broken("not UTF-8".to_owned()))?);
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_hour() {
        let of = |path: &str| hour(&Path::from(path));
        assert_eq!(of("l/landing/transactions/year=1970/month=01/day=02/hour=03/a.ndjson.gz"), Some(27));
        assert_eq!(of("landing/transactions/year=2026/month=01/day=15/hour=09/a.ndjson.gz"), Some(491_241));
        for wrong in [
            "landing/a.ndjson.gz",
            "landing/year=2026/month=1/day=15/hour=9/a",
            "landing/year=2026/month=13/day=15/hour=09/a",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
