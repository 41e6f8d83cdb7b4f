//! Reading a lake's folder: which objects there are, and the lines of one.

use std::io::{BufRead, BufReader};

use flate2::bufread::MultiGzDecoder;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

/// What an object holds, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// Rows of one hour, counted in hours since the epoch; `None` where the path does not say which.
    Landing(Option<i64>),
    /// Records that could not be made into rows.
    DeadLetters,
    /// What another consumer wrote.
    Foreign,
}

/// An object to check.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) meta: ObjectMeta,
    pub(super) zone: Zone,
}

/// All objects of the two zones. Other files (`_intents`, something half written) are not the lake's rows.
pub(super) async fn list(store: &dyn ObjectStore, root: &Path) -> Result<Vec<Object>, object_store::Error> {
    let mut objects = Vec::new();
    for folder in ["landing", "errors"] {
        let prefix = root.clone().join(folder);
        let mut listing = store.list(Some(&prefix));
        while let Some(meta) = listing.try_next().await? {
            if meta.location.as_ref().ends_with(".ndjson.gz") {
                let zone = match folder {
                    "landing" => Zone::Landing(hour(&meta.location)),
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
