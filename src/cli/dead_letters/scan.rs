//! Looking at dead letters, object by object, the newest hour first.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::super::wait_line::WaitLine;
use super::text::Problems;
use crate::cause::chain;
use crate::dead_letters::{
    Chain, Hour, Letter, LetterObject, LineSet, Range, Walk, each_letter, landed, read_chain,
};
use crate::deliver::{LakeUrl, ObjectSink, Sink, said};
use crate::shard::SequenceNumber;

/// Objects that are fetched ahead.
const AHEAD: usize = 4;
/// Of what there is so many are named where a filter matches nothing.
const NAMED_MAX: usize = 8;

/// Where to look.
pub(super) struct Lake {
    pub(super) sink: ObjectSink,
    pub(super) url: LakeUrl,
    pub(super) errors: String,
}

impl std::fmt::Display for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.url, self.errors)
    }
}

/// What to look for.
#[derive(Clone, Debug)]
pub(super) struct Which {
    pub(super) stream: Option<String>,
    /// Empty: all.
    pub(super) reasons: Vec<String>,
    /// Empty: all.
    pub(super) shards: Vec<String>,
    pub(super) since_us: i64,
    pub(super) until_us: i64,
    pub(super) sequence: Option<SequenceNumber>,
}

impl Which {
    /// False when the object's name says that nothing of it is meant.
    pub(super) fn may_be_in(&self, object: &LetterObject) -> bool {
        self.stream.as_ref().is_none_or(|stream| object.is_of(stream, None))
            && self.sequence.as_ref().is_none_or(|sequence| object.may_hold(sequence))
    }

    pub(super) fn means(&self, object: &LetterObject, letter: &Letter<'_>) -> bool {
        (self.since_us..=self.until_us).contains(&letter.arrival_us)
            && (self.shards.is_empty() || self.shards.iter().any(|shard| *shard == letter.shard_id))
            && self.stream.as_ref().is_none_or(|stream| object.is_of(stream, Some(&letter.shard_id)))
            && self.sequence.as_ref().is_none_or(|sequence| {
                SequenceNumber::parse(&letter.sequence_number).is_some_and(|number| number == *sequence)
            })
    }
}

/// Objects in which something may be meant, hour by hour.
pub(super) struct Objects<'a> {
    walk: Walk,
    lake: &'a Lake,
    which: &'a Which,
    /// Streams and shards of the objects met, by their names.
    streams: Names,
    shards: Names,
}

/// What there is of one kind: all that can match, and a few to name.
#[derive(Default)]
struct Names {
    matched: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Names {
    /// Takes in a thing of this name, which is one of those `wanted` if it `is` it.
    fn see(&mut self, name: &str, wanted: &[String], is: impl Fn(&str) -> bool) {
        let matched: Vec<&String> = wanted.iter().filter(|wanted| is(wanted)).collect();
        if !matched.is_empty() {
            self.matched.extend(matched.into_iter().cloned());
        } else if self.others.len() <= NAMED_MAX {
            self.others.insert(name.to_owned());
        }
    }

    /// Tells of what was wanted and is not there, while others are.
    fn tell(&self, flag: &str, wanted: &[String], problems: &mut Problems) {
        if self.matched.is_empty() && self.others.is_empty() {
            return; // Nothing there contradicts it.
        }
        for wanted in wanted.iter().filter(|wanted| !self.matched.contains(*wanted)) {
            let mut there: Vec<&str> =
                self.matched.iter().chain(&self.others).map(String::as_str).take(NAMED_MAX).collect();
            if self.matched.len() + self.others.len() > NAMED_MAX {
                there.push("…");
            }
            problems.unmatched(format!("{flag} {wanted} matches nothing; there are {}", there.join(", ")));
        }
    }
}

impl<'a> Objects<'a> {
    pub(super) fn new(lake: &'a Lake, which: &'a Which) -> Self {
        let store = Arc::clone(lake.sink.store());
        let range = Range { since_us: which.since_us, until_us: which.until_us };
        let walk = Walk::new(store, lake.sink.prefix(), &lake.errors, which.reasons.clone(), range);
        Self { walk, lake, which, streams: Names::default(), shards: Names::default() }
    }

    /// Tells of filters that match nothing, once all hours are looked at.
    pub(super) fn tell_unmatched(&self, problems: &mut Problems) {
        let mut reasons = Names::default();
        for reason in self.walk.there() {
            reasons.see(reason, &self.which.reasons, |wanted| wanted == reason);
        }
        reasons.tell("--reason", &self.which.reasons, problems);
        self.streams.tell("--stream", self.which.stream.as_slice(), problems);
        self.shards.tell("--shard", &self.which.shards, problems);
    }

    fn see(&mut self, object: &LetterObject) {
        let Some((stream, shard)) = object.stream_and_shard() else { return };
        self.streams.see(stream, self.which.stream.as_slice(), |wanted| object.is_of(wanted, None));
        if self.which.stream.as_ref().is_none_or(|wanted| object.is_of(wanted, None)) {
            let within = |wanted: &str| object.name.contains(&format!("-{wanted}-"));
            self.shards.see(shard, &self.which.shards, within);
        }
    }

    /// The objects of the next hour that has any, towards the past.
    pub(super) async fn next_hour(
        &mut self,
        problems: &mut Problems,
    ) -> anyhow::Result<Option<(Hour, Vec<LetterObject>)>> {
        let hour = async {
            let Some(hour) = self.walk.next_hour().await? else { return Ok(None) };
            let objects = self.walk.objects(&hour).await?;
            Ok::<_, object_store::Error>(Some((hour, objects)))
        };
        let hour = hour.await.map_err(|error| anyhow!(said(&error)));
        let hour = hour.with_context(|| format!("could not list {}", self.lake))?;
        for odd in self.walk.take_odd() {
            problems.add(&odd.0, None, "not a place for dead letters; skipped");
        }
        Ok(hour.map(|(hour, objects)| {
            objects.iter().for_each(|object| self.see(object));
            (hour, objects.into_iter().filter(|object| self.which.may_be_in(object)).collect())
        }))
    }
}

/// An object with all that is known about it.
pub(super) struct Loaded {
    pub(super) object: LetterObject,
    pub(super) key: String,
    pub(super) bytes: Bytes,
    pub(super) chain: Chain,
    /// Dead letters that are rows.
    pub(super) landed: LineSet,
}

/// Reads an object and the records of its replays. The error is its key and what is wrong.
pub(super) async fn load(lake: &Lake, object: LetterObject) -> Result<Loaded, (String, String)> {
    let key = object.key(&lake.errors);
    let told = |problem: String| (key.clone(), problem);
    let chained = async {
        let chain = read_chain(&lake.sink, &lake.errors, &object).await?;
        let landed = landed(&lake.sink, &chain).await?;
        Ok::<_, crate::dead_letters::ReplayError>((chain, landed))
    };
    let (chain_read, landed) = chained.await.map_err(|error| told(chain(&error)))?;
    match lake.sink.read(&key).await {
        Ok(Some(bytes)) => Ok(Loaded { object, key, bytes, chain: chain_read, landed }),
        Ok(None) => Err(told("it was deleted meanwhile".to_owned())),
        Err(error) => Err(told(chain(&error))),
    }
}

/// A dead letter as it is met.
pub(super) struct Seen<'a> {
    /// Key of its object.
    pub(super) key: &'a str,
    pub(super) reason: &'a str,
    pub(super) line: u64,
    pub(super) letter: &'a Letter<'a>,
    pub(super) replayed: bool,
}

/// Whoever looks.
pub(super) trait Visitor {
    fn see(&mut self, seen: &Seen<'_>) -> io::Result<()>;

    /// An hour is over; breaks when older ones do not matter.
    fn hour_over(&mut self, _start_us: i64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) problems: Problems,
    /// Objects with a replay that has not come to its end.
    pub(super) interrupted: u64,
}

/// Shows every dead letter that is meant to `visitor`.
pub(super) async fn scan(lake: &Lake, which: &Which, visitor: &mut impl Visitor) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut progress = WaitLine::default();
    let mut objects = Objects::new(lake, which);
    let (mut looked, mut letters) = (0u64, 0u64);
    while let Some((hour, found_there)) = objects.next_hour(&mut found.problems).await? {
        let mut loading = stream::iter(found_there).map(|object| load(lake, object)).buffered(AHEAD);
        while let Some(loaded) = loading.next().await {
            looked += 1;
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err((key, problem)) => {
                    found.problems.add(&key, None, problem);
                    continue;
                }
            };
            found.interrupted += u64::from(loaded.chain.unfinished().is_some());
            letters += look(&loaded, which, visitor, &mut found.problems)?;
            progress.say(&format!("{letters} dead letters in {looked} objects …"));
        }
        if visitor.hour_over(hour.start_us).is_break() {
            progress.done();
            return Ok(found);
        }
    }
    progress.done();
    objects.tell_unmatched(&mut found.problems);
    Ok(found)
}

fn look(
    loaded: &Loaded,
    which: &Which,
    visitor: &mut impl Visitor,
    problems: &mut Problems,
) -> io::Result<u64> {
    let Loaded { object, key, bytes, landed, .. } = loaded;
    let (mut met, mut refused) = (0, Ok(()));
    let read = each_letter(bytes, |line, letter| {
        match letter {
            Err(problem) => problems.add(key, Some(line), problem),
            Ok(letter) if which.means(object, &letter) => {
                met += 1;
                let replayed = landed.contains(line);
                let seen = Seen { key, reason: &object.reason, line, letter: &letter, replayed };
                refused = visitor.see(&seen);
            }
            Ok(_) => {}
        }
        if refused.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(broken) = read {
        problems.add(key, None, chain(&broken));
    }
    refused.map(|()| met)
}
