//! Finding dead letter objects, newest hour first, folder by folder: memory does not grow with their number.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, ObjectStore};

use super::object::LetterObject;
use super::replay::again;
use crate::batch::{hour_folder, is_hidden};
use crate::transform::parse_utc_us;

/// Names of the folders from the reason to the hour, and how many digits follow.
const LEVELS: [(&str, usize); 4] = [("year=", 4), ("month=", 2), ("day=", 2), ("hour=", 2)];

/// Which hours to look at.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first, µs since the epoch.
    pub since_us: i64,
    /// The last, included.
    pub until_us: i64,
}

/// Something below the folder of the dead letters that is not one of their objects. It is told, not passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Odd(pub String);

/// One hour in which there may be dead letters.
#[derive(Debug)]
pub struct Hour {
    /// Its start, µs since the epoch.
    pub start_us: i64,
    folder: Folder,
}

/// A folder of time, in all reasons that have it.
#[derive(Debug)]
struct Folder {
    /// From the year on.
    parts: Vec<String>,
    reasons: Vec<String>,
}

/// A walk over the folder of the dead letters.
pub struct Walk {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Empty: all.
    reasons: Vec<String>,
    since: Vec<String>,
    until: Vec<String>,
    started: bool,
    /// Every reason that has a folder, meant or not.
    there: Vec<String>,
    /// The next one last.
    stack: Vec<Folder>,
    odd: Vec<Odd>,
}

impl Walk {
    /// A walk over `errors`, a folder below `prefix` in `store`; over these reasons, or all when there are none.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &Path,
        errors: &str,
        reasons: Vec<String>,
        range: Range,
    ) -> Self {
        let parts = |us| hour_folder(us).split('/').map(str::to_owned).collect();
        Self {
            store,
            root: below(prefix.as_ref(), &[errors]),
            reasons,
            since: parts(range.since_us),
            until: parts(range.until_us),
            started: false,
            there: Vec::new(),
            stack: Vec::new(),
            odd: Vec::new(),
        }
    }

    /// What was found so far and is no dead letter object.
    pub fn take_odd(&mut self) -> Vec<Odd> {
        std::mem::take(&mut self.odd)
    }

    /// Every reason that has a folder, meant or not; known after the first hour was asked for.
    pub fn there(&self) -> &[String] {
        &self.there
    }

    /// The next hour, towards the past.
    ///
    /// # Errors
    /// When the lake cannot be listed.
    pub async fn next_hour(&mut self) -> Result<Option<Hour>, object_store::Error> {
        if !self.started {
            let (folders, objects) = self.list(&self.root).await?;
            let found: Vec<Odd> = objects.iter().map(|name| self.place(&[name])).collect();
            self.odd.extend(found);
            self.there.clone_from(&folders);
            let wanted = |reason: &String| self.reasons.is_empty() || self.reasons.contains(reason);
            let reasons = folders.into_iter().filter(wanted).collect();
            self.stack.push(Folder { parts: Vec::new(), reasons });
            self.started = true;
        }
        while let Some(folder) = self.stack.pop() {
            if folder.parts.len() == LEVELS.len() {
                match start(&folder.parts) {
                    Some(start_us) => return Ok(Some(Hour { start_us, folder })),
                    None => self.odd.push(self.place(&folder.parts)),
                }
                continue;
            }
            self.open(&folder).await?;
        }
        Ok(None)
    }

    /// Puts the folders in `folder` on the stack.
    async fn open(&mut self, folder: &Folder) -> Result<(), object_store::Error> {
        let (name, digits) = LEVELS[folder.parts.len()];
        let mut inside: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for reason in &folder.reasons {
            let (folders, objects) = self.list(&self.path(reason, &folder.parts)).await?;
            let odd =
                |part: &str| self.place(&[&[reason.as_str()], &texts(&folder.parts)[..], &[part]].concat());
            let is_time = |part: &str| {
                let number = part.strip_prefix(name);
                number.is_some_and(|n| n.len() == digits && n.bytes().all(|b| b.is_ascii_digit()))
            };
            let (times, others): (Vec<_>, Vec<_>) = folders.into_iter().partition(|part| is_time(part));
            let found: Vec<Odd> = others.iter().chain(&objects).map(|part| odd(part)).collect();
            self.odd.extend(found);
            for part in times {
                inside.entry(part).or_default().push(reason.clone());
            }
        }
        for (part, reasons) in inside {
            let parts = [&folder.parts[..], &[part]].concat();
            let depth = parts.len();
            if self.since[..depth] <= parts[..] && parts[..] <= self.until[..depth] {
                self.stack.push(Folder { parts, reasons });
            }
        }
        Ok(())
    }

    /// The objects of an hour, by reason and name.
    ///
    /// # Errors
    /// When the lake cannot be listed.
    pub async fn objects(&mut self, hour: &Hour) -> Result<Vec<LetterObject>, object_store::Error> {
        let Hour { start_us, folder } = hour;
        let mut found = Vec::new();
        for reason in &folder.reasons {
            let (folders, objects) = self.list(&self.path(reason, &folder.parts)).await?;
            let (ours, others): (Vec<_>, Vec<_>) =
                objects.into_iter().partition(|name| name.ends_with(".ndjson.gz"));
            for part in folders.iter().chain(&others) {
                let odd = self.place(&[&[reason.as_str()], &texts(&folder.parts)[..], &[part]].concat());
                self.odd.push(odd);
            }
            let object = |name| LetterObject { reason: reason.clone(), hour_us: *start_us, name };
            found.extend(ours.into_iter().map(object));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn path(&self, reason: &str, parts: &[String]) -> Path {
        below(self.root.as_ref(), &[&[reason], &texts(parts)[..]].concat())
    }

    fn place(&self, parts: &[impl AsRef<str>]) -> Odd {
        Odd(below(self.root.as_ref(), &parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).into())
    }

    /// Names of the folders and of the objects in a folder, without those that lakes pass over.
    async fn list(&self, folder: &Path) -> Result<(Vec<String>, Vec<String>), object_store::Error> {
        let listed = match again(|| self.store.list_with_delimiter(Some(folder))).await {
            Err(object_store::Error::NotFound { .. }) => return Ok((Vec::new(), Vec::new())),
            listed => listed?,
        };
        Ok(names(folder, &listed))
    }
}

/// Of folders and of objects, as a lake has them.
fn names(folder: &Path, listed: &ListResult) -> (Vec<String>, Vec<String>) {
    let name = |path: &Path| path.filename().unwrap_or_default().to_owned();
    let shown = |name: &String| !is_hidden(name);
    // Consoles and tools show folders where S3 has none by empty objects: the console by one that ends in a slash, which
    // `object_store` takes off; Hadoop by one that ends in `_$folder$`.
    let marks_a_folder = |object: &ObjectMeta| {
        let path = &object.location;
        let is_folder = path == folder || listed.common_prefixes.contains(path);
        object.size == 0 && (is_folder || path.as_ref().ends_with("_$folder$"))
    };
    let objects = listed.objects.iter().filter(|object| !marks_a_folder(object));
    (
        listed.common_prefixes.iter().map(name).filter(shown).collect(),
        objects.map(|object| name(&object.location)).filter(shown).collect(),
    )
}

/// A path as it is written. `join` of [`Path`] would write some characters otherwise.
fn below(root: &str, parts: &[&str]) -> Path {
    let all: Vec<&str> =
        std::iter::once(root).chain(parts.iter().copied()).filter(|part| !part.is_empty()).collect();
    Path::parse(all.join("/")).expect("prefixes and folders are checked, and what was listed is a path")
}

fn texts(parts: &[String]) -> Vec<&str> {
    parts.iter().map(String::as_str).collect()
}

/// The time that `year=…`, `month=…`, `day=…`, `hour=…` say.
fn start(parts: &[String]) -> Option<i64> {
    let mut numbers = parts.iter().map(|part| part.split_once('=').map_or("", |(_, number)| number));
    let mut next = || numbers.next().unwrap_or_default();
    parse_utc_us(format!("{}-{}-{}T{}:00:00", next(), next(), next(), next()).as_bytes())
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    const ALL: Range = Range { since_us: 0, until_us: i64::MAX };

    async fn walk(keys: &[&str], reasons: &[&str], range: Range) -> (Vec<String>, Vec<String>) {
        let store = Arc::new(InMemory::new());
        for key in keys {
            store.put(&Path::parse(key).unwrap(), "".into()).await.unwrap();
        }
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        let mut walk = Walk::new(store, &Path::from("lake"), "a/errors", reasons, range);
        let mut found = Vec::new();
        while let Some(hour) = walk.next_hour().await.unwrap() {
            let objects = walk.objects(&hour).await.unwrap();
            found.extend(objects.iter().map(|object| format!("lake/{}", object.key("a/errors"))));
        }
        (found, walk.take_odd().into_iter().map(|odd| odd.0).collect())
    }

    #[tokio::test]
    async fn objects_come_by_hour_from_the_newest_over_all_reasons() {
        let expected = [
            "lake/a/errors/no_tag/year=2026/month=10/day=01/hour=00/a.ndjson.gz",
            "lake/a/errors/no_tag/year=2026/month=09/day=30/hour=23/a.ndjson.gz",
            "lake/a/errors/not_json/year=2026/month=09/day=30/hour=23/a.ndjson.gz",
            "lake/a/errors/not_json/year=2026/month=09/day=30/hour=23/b.ndjson.gz",
            "lake/a/errors/not_json/year=2025/month=12/day=31/hour=23/a.ndjson.gz",
        ];
        let mut keys = expected.to_vec();
        keys.reverse();
        keys.push("lake/a/errors/_replays/no_tag/year=2026/month=10/day=01/hour=00/a.ndjson.gz/1.json");
        keys.push("lake/landing/trades/year=2026/month=10/day=01/hour=00/a.ndjson.gz");
        assert_eq!(walk(&keys, &[], ALL).await, (expected.map(str::to_owned).to_vec(), vec![]));
        assert_eq!(walk(&keys, &["no_tag", "x"], ALL).await.0, expected[..2]);
        let hour = parse_utc_us(b"2026-09-30T23:00:00Z").unwrap();
        let range = Range { since_us: hour + 1, until_us: hour + 2 };
        assert_eq!(walk(&keys, &[], range).await.0, expected[1..4]);
    }

    #[tokio::test]
    async fn what_marks_a_folder_is_passed_over() {
        let object = "lake/a/errors/no_tag/year=2026/month=10/day=01/hour=00/a.ndjson.gz";
        let keys = [
            "lake/a/errors/no_tag",
            "lake/a/errors/no_tag_$folder$",
            "lake/a/errors/no_tag/year=2026/month=10/day=01/hour=00_$folder$",
            object,
        ];
        assert_eq!(walk(&keys, &[], ALL).await, (vec![object.to_owned()], vec![]));
        // As `object_store` gives a key that ends in a slash.
        let folder = Path::from("lake/errors");
        let meta = |path: &str, size| ObjectMeta {
            location: Path::from(path),
            last_modified: std::time::UNIX_EPOCH.into(),
            size,
            e_tag: None,
            version: None,
        };
        let listed = ListResult {
            common_prefixes: vec![Path::from("lake/errors/no_tag"), Path::from("lake/errors/_replays")],
            objects: vec![
                meta("lake/errors", 0),
                meta("lake/errors/empty", 0),
                meta("lake/errors/no_tag", 1),
            ],
            extensions: object_store::Extensions::default(),
        };
        let expected = (vec!["no_tag".to_owned()], vec!["empty".to_owned(), "no_tag".to_owned()]);
        assert_eq!(names(&folder, &listed), expected);
    }

    #[tokio::test]
    async fn what_lies_elsewhere_is_told() {
        let odd = [
            "lake/a/errors/loose.ndjson.gz",
            "lake/a/errors/no_tag/loose",
            "lake/a/errors/no_tag/year=2026/month=1/x.ndjson.gz",
            "lake/a/errors/no_tag/year=2026/month=13/day=01/hour=00/x.ndjson.gz",
            "lake/a/errors/no_tag/year=2026/month=12/day=01/hour=00/x.json",
            "lake/a/errors/no_tag/year=2026/month=12/day=01/hour=00/deeper/x.ndjson.gz",
            "lake/a/errors/no_tag/ü~ [1]%20",
        ];
        let (found, told) = walk(&odd, &[], ALL).await;
        assert_eq!((found.len(), told.len()), (0, 7), "{told:?}");
        assert!(told.contains(&odd[6].to_owned()), "keys are shown as they are: {told:?}");
        assert!(told.contains(&"lake/a/errors/no_tag/year=2026/month=1".to_owned()), "{told:?}");
        assert_eq!(walk(&[], &[], ALL).await, (vec![], vec![]));
    }
}
