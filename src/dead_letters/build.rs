//! Dead letters → rows, by a transform.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::letter::{Letter, UnreadableLetter};
use super::lines::each_letter;
use super::object::LetterObject;
use super::plan::{LineSet, Output};
use crate::batch::{BatchLimits, BrokenObject, LakeObject, Layout, RowObjects, high_risk_copy, hour_folder};
use crate::kpl::Reader;
use crate::transform::{BadRecord, ErrorCode, RecordContext, RowInfo, RowMaker, Transform};

/// What a replay goes by.
#[derive(Clone, Debug)]
pub struct Job {
    /// What makes the rows.
    pub transform: Arc<dyn Transform>,
    /// Where rows land and dead letters lie.
    pub layout: Layout,
    /// How much one generation brings; what does not fit is left to the next.
    pub limits: BatchLimits,
}

/// What the chosen dead letters of one object became.
#[derive(Debug, Default)]
pub struct Built {
    /// Objects of rows.
    pub outputs: Vec<Output>,
    /// Their bytes, in the same order.
    pub bodies: Vec<Bytes>,
    /// Letters that still fail, by the reason of now.
    pub failed: BTreeMap<ErrorCode, u64>,
    /// Lines that are no dead letters, by number.
    pub unreadable: Vec<(u64, UnreadableLetter)>,
    /// The limits were reached: there may be more.
    pub cut: bool,
}

/// What chosen dead letters would become.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rehearsal {
    /// Letters that would become rows.
    pub rows: u64,
    /// Letters that still fail, by the reason of now.
    pub failed: BTreeMap<ErrorCode, u64>,
    /// Lines that are no dead letters, by number.
    pub unreadable: Vec<(u64, UnreadableLetter)>,
}

/// A transform with its buffers.
struct Maker {
    maker: RowMaker,
    raw: Vec<u8>,
    rows: Vec<u8>,
    aggregate: Reader,
}

impl Maker {
    fn new(transform: &Arc<dyn Transform>) -> Self {
        Self {
            maker: RowMaker::new(Arc::clone(transform)),
            raw: Vec::new(),
            rows: Vec::new(),
            aggregate: Reader::default(),
        }
    }

    /// Makes the rows of a letter, in `self.rows`.
    fn make(&mut self, letter: &Letter<'_>) -> Result<RowInfo, BadRecord> {
        // Its bytes are the payload as it came, which no transform has seen.
        if letter.error_code == ErrorCode::NotBase64.as_str() {
            return Err(ErrorCode::NotBase64.into());
        }
        letter.decode_into(&mut self.raw);
        self.rows.clear();
        if letter.is_packed() && matches!(self.aggregate.read(&self.raw), Some(Ok(()))) {
            return self.unpack(letter);
        }
        self.maker.make_caught(&letter.context(), &self.raw, &mut self.rows)
    }

    /// Makes the rows of all that a letter packs, as a reader that unpacks would have; of all of it or of nothing, since a
    /// letter is replayed or is not. The rows of a letter lie in one object, so that records of several hours stay one.
    fn unpack(&mut self, letter: &Letter<'_>) -> Result<RowInfo, BadRecord> {
        let mut all = RowInfo { time_us: 0, rows: 0 };
        for (index, part) in (0..).zip(self.aggregate.parts()) {
            let key = Some(&self.raw[self.aggregate.key(part)]).filter(|key| !key.is_empty());
            let context = RecordContext { sub_sequence: Some(index), key, ..letter.context() };
            let info = self.maker.make_caught(&context, &self.raw[part.data()], &mut self.rows)?;
            if info.rows == 0 {
                continue;
            }
            if all.rows == 0 {
                all.time_us = info.time_us;
            } else if hour_folder(all.time_us) != hour_folder(info.time_us) {
                return Err(ErrorCode::KplAggregate.into());
            }
            all.rows += info.rows;
        }
        Ok(all)
    }
}

/// Makes the rows of all `wanted` letters of an object, in its order; those of one letter are in one object. The same letters
/// give the same bytes.
///
/// # Errors
/// When the object is broken: then nothing is to be made of any part of it.
pub fn build(
    job: &Job,
    object: &LetterObject,
    bytes: &[u8],
    generation: u32,
    mut wanted: impl FnMut(u64, &Letter<'_>) -> bool,
) -> Result<Built, BrokenObject> {
    let mut maker = Maker::new(&job.transform);
    let mut rows = RowObjects::new(job.limits);
    let mut lines: Vec<LineSet> = Vec::new();
    let mut built = Built::default();
    each_letter(bytes, |number, letter| {
        let letter = match letter {
            Ok(letter) => letter,
            Err(problem) => {
                built.unreadable.push((number, problem));
                return ControlFlow::Continue(());
            }
        };
        // What does not fit is read to the end all the same, for the object may be broken there.
        if built.cut || !wanted(number, &letter) {
            return ControlFlow::Continue(());
        }
        match maker.make(&letter) {
            // It stays what it is: nothing would show that it was replayed.
            Ok(RowInfo { rows: 0, .. }) => {}
            Ok(info) => match rows.push(info, &maker.rows) {
                Some(place) => {
                    lines.resize_with(lines.len().max(place + 1), LineSet::default);
                    lines[place].push(number);
                }
                None => built.cut = true,
            },
            Err(bad) => *built.failed.entry(bad.code).or_default() += 1,
        }
        ControlFlow::Continue(())
    })?;
    for (object, lines) in rows.finish(&job.layout, &object.rows_name(generation)).into_iter().zip(lines) {
        built.outputs.push(Output { key: object.key, lines });
        built.bodies.push(object.body);
    }
    Ok(built)
}

/// Copies of those rows of an object that alerts are for, where they are on.
pub(super) fn alerts(job: &Job, key: &str, object: &[u8]) -> Option<LakeObject> {
    if !job.layout.alerts {
        return None;
    }
    // What cannot be read holds no rows of ours.
    high_risk_copy(key, object, job.limits.gzip).ok().flatten()
}

/// As [`build`], but keeps no rows and knows no limits.
///
/// # Errors
/// When the object is broken.
pub fn rehearse(
    transform: &Arc<dyn Transform>,
    bytes: &[u8],
    mut wanted: impl FnMut(u64, &Letter<'_>) -> bool,
) -> Result<Rehearsal, BrokenObject> {
    let mut maker = Maker::new(transform);
    let mut rehearsal = Rehearsal::default();
    each_letter(bytes, |number, letter| {
        match letter {
            Err(problem) => rehearsal.unreadable.push((number, problem)),
            Ok(letter) if !wanted(number, &letter) => {}
            Ok(letter) => match maker.make(&letter) {
                Ok(RowInfo { rows, .. }) => rehearsal.rows += u64::from(rows > 0),
                Err(bad) => *rehearsal.failed.entry(bad.code).or_default() += 1,
            },
        }
        ControlFlow::Continue(())
    })?;
    Ok(rehearsal)
}
