//! The records of replays: what one is going to do, what it has done, and what follows from all of them.
//!
//! ```text
//!            plan N (create-only)             each key exists             done N
//! open ───────────────────────────► planned ───────────────────► decided ────────► open, N + 1
//! ```
//!
//! A key of a plan is *decided* once an object exists under it: rows, or a seal. Nothing changes it after that. Plan
//! N + 1 is made only when all keys of plan N are decided, from what they hold, so that no line is ever in the rows of
//! two plans.

use serde::{Deserialize, Serialize};

use crate::transform::{TransformId, fnv1a};

/// The version of both documents.
const VERSION: u32 = 1;

/// Numbers of lines of an object, from 1, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct LineSet(Vec<(u64, u64)>);

impl LineSet {
    /// Adds a line that comes after all others.
    pub fn push(&mut self, line: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => self.0.push((line, line)),
        }
    }

    /// Whether the line is in it.
    pub fn contains(&self, line: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= line);
        after > 0 && line <= self.0[after - 1].1
    }

    /// Number of lines.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether no line is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the lines of another; false when a line was in both.
    pub fn join(&mut self, other: &Self) -> bool {
        let before = self.len() + other.len();
        self.0.extend(&other.0);
        self.0.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for &(first, last) in &self.0 {
            match joined.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        self.0 = joined;
        self.len() == before
    }
}

impl From<LineSet> for Vec<(u64, u64)> {
    fn from(lines: LineSet) -> Self {
        lines.0
    }
}

impl TryFrom<Vec<(u64, u64)>> for LineSet {
    type Error = &'static str;

    /// Only the spelling that [`LineSet`] writes.
    fn try_from(ranges: Vec<(u64, u64)>) -> Result<Self, &'static str> {
        let sound =
            ranges.iter().all(|&(first, last)| 0 < first && first <= last && last <= u64::from(u32::MAX));
        let ordered = ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
        if sound && ordered { Ok(Self(ranges)) } else { Err("ranges of lines out of order") }
    }
}

/// What a replay is going to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayPlan {
    /// What makes the rows.
    pub transform: TransformId,
    /// Objects of rows, at least one.
    pub outputs: Vec<Output>,
}

/// One object of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its key in the lake.
    pub key: String,
    /// The dead letters whose rows it has.
    pub lines: LineSet,
}

/// What a replay has done: all keys of its plan are decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Hash of that plan, so that it is not taken for the end of another one.
    plan: u64,
    /// Keys under which no rows are, nor ever will be.
    pub sealed: Vec<String>,
}

/// A record of a replay cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// A newer version has other rules.
    #[error("it was written by a newer version of kinetide; use that version")]
    Newer,
    /// Not what this service writes.
    #[error("it is not what kinetide writes; compare it with docs/DEAD-LETTERS.md")]
    Foreign,
    /// It says something else than the other records.
    #[error("it contradicts the other records of the same object; compare them with docs/DEAD-LETTERS.md")]
    Contradiction,
}

#[derive(Deserialize)]
struct Version {
    kinetide: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanDocument {
    kinetide: u32,
    transform: String,
    outputs: Vec<Output>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DoneDocument {
    kinetide: u32,
    plan: String,
    sealed: Vec<String>,
}

/// A document of version 1.
fn document<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damaged> {
    let Version { kinetide } = serde_json::from_slice(bytes).map_err(|_| Damaged::Foreign)?;
    match kinetide {
        VERSION => serde_json::from_slice(bytes).map_err(|_| Damaged::Foreign),
        0 => Err(Damaged::Foreign),
        _ => Err(Damaged::Newer),
    }
}

fn bytes(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).expect("text and numbers are always JSON");
    bytes.push(b'\n');
    bytes
}

impl ReplayPlan {
    /// Reads the document.
    ///
    /// # Errors
    /// When it is not a plan, or two of its objects share a line or a key.
    pub fn parse(text: &[u8]) -> Result<Self, Damaged> {
        let PlanDocument { transform, outputs, .. } = document(text)?;
        let transform = transform.parse().map_err(|_| Damaged::Foreign)?;
        let mut all = LineSet::default();
        let apart = outputs.iter().all(|output| !output.lines.is_empty() && all.join(&output.lines));
        let mut keys: Vec<&str> = outputs.iter().map(|output| &output.key[..]).collect();
        keys.sort_unstable();
        let distinct = keys.windows(2).all(|pair| pair[0] != pair[1]);
        if outputs.is_empty() || !apart || !distinct {
            return Err(Damaged::Foreign);
        }
        Ok(Self { transform, outputs })
    }

    /// The document.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes(&PlanDocument {
            kinetide: VERSION,
            transform: self.transform.to_string(),
            outputs: self.outputs.clone(),
        })
    }

    /// The dead letters that are to become rows.
    pub fn lines(&self) -> LineSet {
        let mut lines = LineSet::default();
        for output in &self.outputs {
            lines.join(&output.lines);
        }
        lines
    }
}

impl Done {
    /// Nothing of the plan is sealed.
    pub fn of(plan: &ReplayPlan) -> Self {
        Self { plan: fnv1a(&plan.to_bytes()), sealed: Vec::new() }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// When it is not what [`Done::to_bytes`] writes.
    pub fn parse(text: &[u8]) -> Result<Self, Damaged> {
        let DoneDocument { plan, sealed, .. } = document(text)?;
        let hash = u64::from_str_radix(&plan, 16).map_err(|_| Damaged::Foreign)?;
        if format!("{hash:016x}") != plan {
            return Err(Damaged::Foreign);
        }
        Ok(Self { plan: hash, sealed })
    }

    /// The document.
    pub fn to_bytes(&self) -> Vec<u8> {
        let plan = format!("{:016x}", self.plan);
        bytes(&DoneDocument { kinetide: VERSION, plan, sealed: self.sealed.clone() })
    }
}

/// All replays of one object, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    done: u32,
    landed: LineSet,
    unfinished: Option<ReplayPlan>,
}

impl Chain {
    /// The number of the plan that is not done, or else of the next one.
    pub fn generation(&self) -> u32 {
        self.done + 1
    }

    /// Dead letters that are rows, as far as plans are done.
    pub fn landed(&self) -> &LineSet {
        &self.landed
    }

    /// The plan that is not done: its replay is under way, or was interrupted.
    pub fn unfinished(&self) -> Option<&ReplayPlan> {
        self.unfinished.as_ref()
    }

    /// Takes the plan of [`Chain::generation`].
    ///
    /// # Errors
    /// When a dead letter of it is a row already, or the plan before it is not done.
    pub fn planned(&mut self, plan: ReplayPlan) -> Result<(), Damaged> {
        if self.unfinished.is_some() || !self.landed.clone().join(&plan.lines()) {
            return Err(Damaged::Contradiction);
        }
        self.unfinished = Some(plan);
        Ok(())
    }

    /// Takes what became of that plan.
    ///
    /// # Errors
    /// When it is about another plan, or that plan has no such key.
    pub fn done(&mut self, done: &Done) -> Result<(), Damaged> {
        let plan = self.unfinished.as_ref().ok_or(Damaged::Contradiction)?;
        if done.plan != Done::of(plan).plan
            || !done.sealed.iter().all(|key| plan.outputs.iter().any(|output| output.key == *key))
        {
            return Err(Damaged::Contradiction);
        }
        for output in plan.outputs.iter().filter(|output| !done.sealed.contains(&output.key)) {
            self.landed.join(&output.lines);
        }
        self.unfinished = None;
        self.done += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(lines: &BTreeSet<u64>) -> LineSet {
        let mut set = LineSet::default();
        lines.iter().for_each(|line| set.push(*line));
        set
    }

    fn plan(outputs: &[(&str, &[u64])]) -> ReplayPlan {
        let output = |(key, lines): &(&str, &[u64])| Output {
            key: (*key).to_owned(),
            lines: set(&lines.iter().copied().collect()),
        };
        ReplayPlan {
            transform: "json/1/00000000".parse().unwrap(),
            outputs: outputs.iter().map(output).collect(),
        }
    }

    #[test]
    fn documents_are_short_and_survive() {
        let plan = plan(&[("l/a", &[1, 2, 3, 7]), ("l/b", &[4])]);
        let text = concat!(
            r#"{"kinetide":1,"transform":"json/1/00000000","outputs":["#,
            r#"{"key":"l/a","lines":[[1,3],[7,7]]},{"key":"l/b","lines":[[4,4]]}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(plan.to_bytes()).unwrap(), text);
        assert_eq!(ReplayPlan::parse(text.as_bytes()), Ok(plan));
        let done = Done { plan: 7, sealed: vec!["l/b".to_owned()] };
        let done_text = "{\"kinetide\":1,\"plan\":\"0000000000000007\",\"sealed\":[\"l/b\"]}\n";
        assert_eq!(String::from_utf8(done.to_bytes()).unwrap(), done_text);
        assert_eq!(Done::parse(&done.to_bytes()), Ok(done));
        for (from, to, error) in [
            (r#""kinetide":1"#, r#""kinetide":2"#, Damaged::Newer),
            (r#""kinetide":1"#, r#""kinetide":0"#, Damaged::Foreign),
            ("[4,4]", "[3,4]", Damaged::Foreign),
            ("[4,4]", "[5,4]", Damaged::Foreign),
            ("[[4,4]]", "[]", Damaged::Foreign),
            ("[1,3],[7,7]", "[7,7],[1,3]", Damaged::Foreign),
            ("[1,3]", "[0,3]", Damaged::Foreign),
            ("l/b", "l/a", Damaged::Foreign),
            (r#""outputs""#, r#""more":1,"outputs""#, Damaged::Foreign),
        ] {
            let text = text.replacen(from, to, 1);
            assert_eq!(ReplayPlan::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn a_chain_knows_what_has_landed() {
        let (first, second) = (plan(&[("a", &[1, 2]), ("b", &[3])]), plan(&[("d", &[3])]));
        let sealed = |plan: &ReplayPlan, key: &str| Done { sealed: vec![key.to_owned()], ..Done::of(plan) };
        let mut chain = Chain::default();
        assert_eq!(chain.done(&Done::of(&first)), Err(Damaged::Contradiction), "no plan");
        chain.planned(first.clone()).unwrap();
        assert_eq!(chain.planned(plan(&[("c", &[9])])), Err(Damaged::Contradiction), "one at a time");
        assert!(chain.landed().is_empty() && chain.generation() == 1);
        assert_eq!(chain.done(&sealed(&first, "c")), Err(Damaged::Contradiction), "no such key");
        assert_eq!(chain.done(&sealed(&second, "b")), Err(Damaged::Contradiction), "of another plan");
        chain.done(&sealed(&first, "b")).unwrap();
        assert_eq!((chain.generation(), chain.landed().len()), (2, 2));
        assert_eq!(chain.planned(plan(&[("d", &[2, 3])])), Err(Damaged::Contradiction), "2 has landed");
        chain.planned(second.clone()).unwrap();
        chain.done(&Done::of(&second)).unwrap();
        assert_eq!(chain.landed(), &set(&[1, 2, 3].into()));
    }

    proptest! {
        #[test]
        fn sets_of_lines_are_sets(a: BTreeSet<u16>, b: BTreeSet<u16>) {
            let wide = |set: &BTreeSet<u16>| set.iter().map(|line| u64::from(*line) + 1).collect::<BTreeSet<u64>>();
            let (a, b) = (wide(&a), wide(&b));
            let mut joined = set(&a);
            prop_assert_eq!(joined.join(&set(&b)), a.is_disjoint(&b));
            let both: BTreeSet<u64> = a.union(&b).copied().collect();
            prop_assert_eq!(&joined, &set(&both));
            prop_assert_eq!(joined.len(), both.len() as u64);
            for line in both.iter().flat_map(|line| [line - 1, *line, line + 1]) {
                prop_assert_eq!(joined.contains(line), both.contains(&line));
            }
            let ranges = Vec::from(joined.clone());
            prop_assert_eq!(LineSet::try_from(ranges), Ok(joined));
        }
    }
}
