//! What was looked at and what was found, as `--json` prints it. `docs/CHECK.md` documents the members.

use serde::Serialize;
use serde_json::{Map, Value};

use super::settings::Setting;
use crate::preflight::StartError;

/// How an item stands. What is not known is none of the good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// A worker can start, and people should know this.
    Warning,
    /// A worker would not start, or not do its work.
    Failed,
    /// It cannot be known: something that it depends on failed, or finding out would change something.
    NotLookedAt,
}

/// One thing that was to be looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Item {
    /// What it is a part of, as the messages of a start name it.
    pub(super) about: String,
    /// Which part.
    pub(super) item: String,
    pub(super) verdict: Verdict,
    /// What was found, and what to do.
    pub(super) text: String,
    /// The same for machines, where there is more to it than words.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) facts: Map<String, Value>,
}

impl Item {
    fn new(verdict: Verdict, about: &str, item: impl Into<String>, text: impl Into<String>) -> Self {
        let (item, text) = (item.into(), text.into());
        Self { about: about.to_owned(), item, verdict, text, facts: Map::new() }
    }

    pub(super) fn ok(about: &str, item: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, about, item, text)
    }

    pub(super) fn warning(about: &str, item: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, about, item, text)
    }

    pub(super) fn failed(about: &str, item: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, about, item, text)
    }

    /// What a start would say.
    pub(super) fn refused(item: impl Into<String>, error: &StartError) -> Self {
        Self::failed(error.what(), item, error.problem())
    }

    pub(super) fn not_looked_at(about: &str, item: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Verdict::NotLookedAt, about, item, why)
    }

    /// With these facts, an object.
    pub(super) fn with(self, facts: Value) -> Self {
        let Value::Object(facts) = facts else { unreachable!("facts have names") };
        Self { facts, ..self }
    }

    pub(super) fn is_ok(&self) -> bool {
        matches!(self.verdict, Verdict::Ok | Verdict::Warning)
    }
}

/// `1 lease`, `2 leases`.
pub(super) fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) application: String,
    /// How many items stand so.
    pub(super) ok: usize,
    pub(super) warnings: usize,
    pub(super) failed: usize,
    pub(super) not_looked_at: usize,
    pub(super) settings: Vec<Setting>,
    pub(super) items: Vec<Item>,
}

impl Report {
    pub(super) fn new(application: &str, settings: Vec<Setting>, items: Vec<Item>) -> Self {
        let count = |verdict| items.iter().filter(|item| item.verdict == verdict).count();
        Self {
            application: application.to_owned(),
            ok: count(Verdict::Ok),
            warnings: count(Verdict::Warning),
            failed: count(Verdict::Failed),
            not_looked_at: count(Verdict::NotLookedAt),
            settings,
            items,
        }
    }
}
