//! The replay of one dead letter object: plan, rows or seals, done. It may be killed anywhere and run by several at once.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;

use super::build::{Built, Job, alerts, build};
use super::letter::{Letter, UnreadableLetter};
use super::object::LetterObject;
use super::plan::{Chain, Damaged, Done, LineSet, Output, ReplayPlan};
use crate::batch::{BrokenObject, read_records, seal_object};
use crate::deliver::{Created, Sink, SinkError};
use crate::transform::ErrorCode;

/// Tries after the first; a person waits.
const TRIES_MORE: usize = 4;

/// What a replay of one object came to.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Rows of the objects that this replay created, by the folder below which they lie. Of several replays that run at
    /// once only one creates an object, so their figures add up; a row whose creation was never answered is nobody's.
    pub landed: BTreeMap<String, u64>,
    /// Rows of plans that this replay has seen to their end, and that were there before.
    pub already_there: u64,
    /// Letters that still fail, by the reason of now.
    pub failed: BTreeMap<ErrorCode, u64>,
    /// Lines that are no dead letters.
    pub unreadable: Vec<(u64, UnreadableLetter)>,
    /// Objects of ours that another replay has sealed before they were there.
    pub sealed_by_others: u64,
}

/// Why a replay of an object did not come to its end. Another one may go on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The dead letters cannot all be read, so none is touched.
    #[error(transparent)]
    Broken(#[from] BrokenObject),
    /// A record of an earlier replay cannot be believed.
    #[error("{key}: {damaged}")]
    Damaged {
        /// Where it lies.
        key: String,
        /// What is wrong.
        damaged: Damaged,
    },
    /// Another object lies where rows of a plan should.
    #[error(
        "{key}: it does not hold the rows that the replay's plan names; it was not written by this replay"
    )]
    Foreign {
        /// Where it lies.
        key: String,
    },
    /// The lake did not do what was asked.
    #[error(transparent)]
    Lake(#[from] SinkError),
}

/// Asks a few times over some seconds.
pub(super) async fn again<T, E, F: Future<Output = Result<T, E>>>(call: impl FnMut() -> F) -> Result<T, E> {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(TRIES_MORE);
    call.retry(pauses).await
}

async fn read(lake: &dyn Sink, key: &str) -> Result<Option<Bytes>, SinkError> {
    again(|| lake.read(key)).await
}

async fn create(lake: &dyn Sink, key: &str, body: &Bytes) -> Result<Created, SinkError> {
    again(|| lake.create(key, body.clone())).await
}

/// Reads the records of all replays of an object.
///
/// # Errors
/// When one cannot be read or believed.
pub async fn read_chain(lake: &dyn Sink, errors: &str, object: &LetterObject) -> Result<Chain, ReplayError> {
    let mut chain = Chain::default();
    go_on(lake, errors, object, &mut chain).await?;
    Ok(chain)
}

/// Reads what has come to a chain since it was read.
async fn go_on(
    lake: &dyn Sink,
    errors: &str,
    object: &LetterObject,
    chain: &mut Chain,
) -> Result<(), ReplayError> {
    loop {
        let generation = chain.generation();
        if chain.unfinished().is_none() {
            let key = object.plan_key(errors, generation);
            let Some(text) = read(lake, &key).await? else { return Ok(()) };
            let planned = ReplayPlan::parse(&text).and_then(|plan| chain.planned(plan));
            planned.map_err(|damaged| ReplayError::Damaged { key, damaged })?;
        }
        let key = object.done_key(errors, generation);
        let Some(text) = read(lake, &key).await? else { return Ok(()) };
        let done = Done::parse(&text).and_then(|done| chain.done(&done));
        done.map_err(|damaged| ReplayError::Damaged { key, damaged })?;
    }
}

/// Dead letters whose rows are in the lake now, those of a plan that is not done included.
///
/// # Errors
/// When the lake cannot be read, or holds something else than the plan says.
pub async fn landed(lake: &dyn Sink, chain: &Chain) -> Result<LineSet, ReplayError> {
    let mut landed = chain.landed().clone();
    for output in chain.unfinished().iter().flat_map(|plan| &plan.outputs) {
        if let Some(body) = read(lake, &output.key).await?
            && holds_rows(output, &body)?
        {
            landed.join(&output.lines);
        }
    }
    Ok(landed)
}

/// True for rows, false for a seal. A letter has one row or several, one behind the other; those of an aggregate are of
/// several records.
fn holds_rows(output: &Output, body: &[u8]) -> Result<bool, ReplayError> {
    let letters = output.lines.len();
    let (rows, records) = read_records(body).map_or((0, u64::MAX), |rows| {
        let records = rows.chunk_by(|one, next| one.sequence == next.sequence).count();
        (rows.len() as u64, records as u64)
    });
    match records {
        0 => Ok(false),
        _ if records <= letters && letters <= rows => Ok(true),
        _ => Err(ReplayError::Foreign { key: output.key.clone() }),
    }
}

/// Makes rows of the letters of one object that are `wanted`, are no rows yet, and can be.
///
/// # Errors
/// When it did not come to its end. What it had begun is finished, or undone, by the next one.
pub async fn replay(
    lake: &dyn Sink,
    job: &Job,
    object: &LetterObject,
    bytes: &[u8],
    wanted: &(dyn Fn(&Letter<'_>) -> bool + Sync),
) -> Result<Replayed, ReplayError> {
    let errors = &job.layout.errors;
    let mut replayed = Replayed::default();
    let mut chain = Chain::default();
    // What this replay has built for the plan that it is about to finish.
    let mut prepared: Option<(ReplayPlan, Vec<Bytes>)> = None;
    loop {
        go_on(lake, errors, object, &mut chain).await?;
        let generation = chain.generation();
        if let Some(plan) = chain.unfinished().cloned() {
            let bodies = match prepared.take() {
                Some((ours, bodies)) if ours == plan => Some(bodies),
                _ => rebuild(job, object, bytes, generation, &plan)?,
            };
            let done = decide(lake, job, &plan, bodies.as_deref(), &mut replayed).await?;
            let key = object.done_key(errors, generation);
            create(lake, &key, &done.to_bytes().into()).await?;
            // Whoever wrote it has seen the same objects, which do not change; `go_on` reads what is there.
            continue;
        }
        let landed = chain.landed();
        let Built { outputs, bodies, failed, unreadable, .. } =
            build(job, object, bytes, generation, |line, letter| !landed.contains(line) && wanted(letter))?;
        if outputs.is_empty() {
            (replayed.failed, replayed.unreadable) = (failed, unreadable);
            return Ok(replayed);
        }
        let plan = ReplayPlan { transform: job.transform.id().clone(), outputs };
        create(lake, &object.plan_key(errors, generation), &plan.to_bytes().into()).await?;
        // Ours, or that of another replay: `go_on` reads which.
        prepared = Some((plan, bodies));
    }
}

/// The objects of a plan that was made before, where we would make the very same; else nothing.
fn rebuild(
    job: &Job,
    object: &LetterObject,
    bytes: &[u8],
    generation: u32,
    plan: &ReplayPlan,
) -> Result<Option<Vec<Bytes>>, BrokenObject> {
    if plan.transform != *job.transform.id() {
        return Ok(None);
    }
    let lines = plan.lines();
    let built = build(job, object, bytes, generation, |line, _| lines.contains(line))?;
    Ok((built.outputs == plan.outputs).then_some(built.bodies))
}

/// The folder of a table, from the key of one of its objects.
fn folder(key: &str) -> &str {
    key.split_once("/year=").map_or(key, |(folder, _)| folder)
}

/// Sees to it that an object is under each key of the plan: its rows where we have them, else a seal, which keeps
/// out whoever may still want to put rows there. What was there first decides. Alerts follow from the rows that are there
/// then, before the plan counts as done.
async fn decide(
    lake: &dyn Sink,
    job: &Job,
    plan: &ReplayPlan,
    bodies: Option<&[Bytes]>,
    replayed: &mut Replayed,
) -> Result<Done, ReplayError> {
    let mut done = Done::of(plan);
    let seal = seal_object();
    for (place, output) in plan.outputs.iter().enumerate() {
        let body = bodies.map_or(&seal, |bodies| &bodies[place]);
        let (there, rows, ours) = match create(lake, &output.key, body).await? {
            Created::New => (body.clone(), bodies.is_some(), true),
            // It may be a seal, though we come with rows: only a look tells.
            Created::Existed => match read(lake, &output.key).await? {
                Some(there) => {
                    let rows = holds_rows(output, &there)?;
                    (there, rows, false)
                }
                None => return Err(ReplayError::Foreign { key: output.key.clone() }),
            },
        };
        if let Some(copy) = alerts(job, &output.key, &there) {
            create(lake, &copy.key, &copy.body).await?;
        }
        if rows && ours {
            *replayed.landed.entry(folder(&output.key).to_owned()).or_default() += output.lines.len();
        } else if rows {
            replayed.already_there += output.lines.len();
        } else {
            replayed.sealed_by_others += u64::from(bodies.is_some());
            done.sealed.push(output.key.clone());
        }
    }
    Ok(done)
}
