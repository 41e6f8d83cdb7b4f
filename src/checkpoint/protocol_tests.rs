//! Decisions of the protocol one by one; all of them together are in the model.

use super::*;

fn at(n: u128) -> Position {
    Position::new(n.into())
}

/// What a build makes of the batch: other folders than the other build, in so many objects.
fn objects(build: &str, many: usize, generation: u32) -> Vec<PlannedObject> {
    let object = |hour: usize| PlannedObject {
        key: format!(
            "landing/{build}/year=2026/month=01/day={:02}/hour={:02}/{}-{generation}.ndjson.gz",
            hour / 24,
            hour % 24,
            "n".repeat(150)
        ),
        content: Content { rows: 1, hash: u64::MAX - hour as u64 },
    };
    (0..many).map(object).collect()
}

fn rebuilt(objects: &[PlannedObject], streamed: bool) -> Event {
    Event::Rebuilt { objects: objects.to_vec(), streamed, last: at(9), unpacking: Unpacking::Whole }
}

/// Two builds that would make different objects take a batch from each other, as late as it hurts most, until it
/// cannot be described any more. The answer: how often it was repaired.
fn ping_pong(format: PendingFormat, many: usize) -> u32 {
    let mut pending = None;
    for turn in 0.. {
        let build = if turn % 2 == 0 { "a" } else { "b" };
        let mut protocol = Protocol::new(build, "lake");
        protocol.write_format(format);
        let mut step = protocol.on(Event::Taken {
            checkpoint: Checkpoint::TrimHorizon,
            done: None,
            pending: pending.clone(),
            last_prepared: None,
        });
        loop {
            let event = match step {
                Step::Read(_) => {
                    let (first, last) = (at(1), at(9));
                    let plan = BatchPlan {
                        first,
                        last,
                        objects: objects(build, many, 0),
                        streamed: false,
                        unpacking: Unpacking::Whole,
                    };
                    Event::Closed { plan, shard_end: false }
                }
                Step::Write(LeaseWrite::Prepare { pending: next, .. }) => {
                    assert!(next.state.as_ref().unwrap().len() <= STATE_BYTES_MAX);
                    pending = Some(next);
                    Event::Written
                }
                Step::Rebuild { generation, .. } => rebuilt(&objects(build, many, generation), false),
                Step::Seal(_) => Event::Sealed,
                Step::Deliver(_) => break,
                Step::Halt(halt) => {
                    assert!(halt.to_string().contains("set-checkpoint"), "{halt}");
                    let batch = PendingBatch::from_pending(pending.as_ref().unwrap()).unwrap().unwrap();
                    return batch.generation;
                }
                other => panic!("{other:?}"),
            };
            step = protocol.on(event);
        }
    }
    unreachable!("it halts")
}

#[test]
fn a_batch_that_is_repaired_for_ever_halts_before_its_row_is_full() {
    // As many objects as a batch has by default.
    assert_eq!(ping_pong(PendingFormat::Two, 64), GENERATIONS_MAX);
    assert_eq!(ping_pong(PendingFormat::One, 4), GENERATIONS_MAX);
    assert!((5..GENERATIONS_MAX).contains(&ping_pong(PendingFormat::One, 64)));
    assert!((1..GENERATIONS_MAX).contains(&ping_pong(PendingFormat::Two, 2000)));
}

#[test]
fn a_batch_that_no_row_can_describe_is_not_prepared() {
    let mut protocol = Protocol::new("a", "lake");
    protocol.on(Event::Taken {
        checkpoint: Checkpoint::TrimHorizon,
        done: None,
        pending: None,
        last_prepared: None,
    });
    let plan = BatchPlan {
        first: at(1),
        last: at(9),
        objects: objects("a", 2000, 0),
        streamed: false,
        unpacking: Unpacking::Whole,
    };
    let step = protocol.on(Event::Closed { plan, shard_end: false });
    assert!(matches!(step, Step::Halt(Halt::TooManyObjects { generations: 1, .. })), "{step:?}");
}

fn prepared(maker: &str, streamed: bool, format: PendingFormat) -> Event {
    let mut protocol = Protocol::new(maker, "lake");
    protocol.write_format(format);
    protocol.on(Event::Taken {
        checkpoint: Checkpoint::TrimHorizon,
        done: None,
        pending: None,
        last_prepared: None,
    });
    let plan = BatchPlan {
        first: at(1),
        last: at(9),
        objects: objects("x", 2, 0),
        streamed,
        unpacking: Unpacking::Whole,
    };
    let Step::Write(LeaseWrite::Prepare { pending, .. }) =
        protocol.on(Event::Closed { plan, shard_end: false })
    else {
        panic!("a batch is prepared first")
    };
    Event::Taken {
        checkpoint: Checkpoint::TrimHorizon,
        done: None,
        pending: Some(pending),
        last_prepared: None,
    }
}

fn taken_over(maker: &str, streamed: bool, format: PendingFormat) -> Protocol {
    let mut protocol = Protocol::new("me", "lake");
    protocol.on(prepared(maker, streamed, format));
    protocol
}

/// Neither the objects nor their hashes say whether there are rows elsewhere, or in which lake they are.
#[test]
fn rows_for_a_delivery_stream_and_the_lake_are_compared() {
    for format in [PendingFormat::One, PendingFormat::Two] {
        for streamed in [true, false] {
            let mut protocol = taken_over("me", streamed, format);
            let objects = objects("x", 2, 0);
            let step = protocol.on(rebuilt(&objects, !streamed));
            assert!(matches!(step, Step::Write(LeaseWrite::Prepare { .. })), "{format:?}: {step:?}");
        }
        let step = Protocol::new("me", "elsewhere").on(prepared("me", false, format));
        match format {
            PendingFormat::One => assert!(matches!(step, Step::Rebuild { .. }), "{step:?}"),
            PendingFormat::Two => assert!(matches!(step, Step::Halt(Halt::OtherLake { .. })), "{step:?}"),
        }
    }
}

/// Who may finish a batch, by transform, keys and contents.
#[test]
fn the_proof_decides_who_finishes_a_batch() {
    let same = objects("x", 2, 0);
    let mut other_rows = same.clone();
    other_rows[1].content.rows += 1;
    let mut other_hash = same.clone();
    other_hash[1].content.hash += 1;
    let fewer = same[..1].to_vec();
    let answer = |maker, format, streamed, objects: &[PlannedObject]| {
        let mut protocol = taken_over(maker, streamed, format);
        match protocol.on(rebuilt(objects, streamed)) {
            Step::Deliver(_) => "deliver",
            Step::Compare(_) => "compare",
            Step::Write(_) => "repair",
            other => panic!("{other:?}"),
        }
    };
    use PendingFormat::{One, Two};
    for (maker, format, streamed, objects, expected) in [
        ("me", Two, false, &same, "deliver"),
        ("me", Two, true, &same, "deliver"),
        ("another", Two, false, &same, "deliver"),
        ("another", Two, true, &same, "repair"),
        ("me", Two, false, &other_rows, "repair"),
        ("me", Two, false, &other_hash, "repair"),
        ("me", Two, false, &fewer, "repair"),
        ("me", One, false, &same, "compare"),
        ("me", One, false, &other_hash, "compare"),
        ("me", One, false, &fewer, "repair"),
        ("another", One, false, &same, "repair"),
        ("another", One, true, &same, "repair"),
    ] {
        assert_eq!(answer(maker, format, streamed, objects), expected, "{maker} {format:?} {streamed}");
    }
}

/// What the row remembers of a batch counts as long as the checkpoint is amid it. Behind it nothing is left to do, and from
/// before it everything is read: to go on at its end would leave out what is in between.
#[test]
fn a_remembered_batch_is_repaired_only_amid_it() {
    let mut protocol = Protocol::new("me", "lake");
    let after = Checkpoint::At(at(10));
    protocol.on(Event::Taken { checkpoint: after.clone(), done: None, pending: None, last_prepared: None });
    let plan = BatchPlan {
        first: at(11),
        last: at(19),
        objects: objects("x", 2, 0),
        streamed: false,
        unpacking: Unpacking::Whole,
    };
    let Step::Write(LeaseWrite::Prepare { pending, .. }) =
        protocol.on(Event::Closed { plan, shard_end: false })
    else {
        panic!("a batch is prepared first")
    };
    let last_prepared = Some(LastPrepared { after, pending });
    let taken = |checkpoint: Checkpoint| {
        let mut protocol = Protocol::new("me", "lake");
        let last_prepared = last_prepared.clone();
        let done = checkpoint.position().map(|at| RecordId { sequence: at.sequence.clone(), sub: None });
        let step = protocol.on(Event::Taken { checkpoint, done, pending: None, last_prepared });
        (protocol, step)
    };
    for amid in [10, 11, 18] {
        let (mut protocol, step) = taken(Checkpoint::At(at(amid)));
        assert!(matches!(step, Step::Write(LeaseWrite::Prepare { .. })), "{amid}: {step:?}");
        assert!(matches!(protocol.on(Event::Written), Step::Seal(keys) if keys.len() == 2));
        let step = protocol.on(Event::Sealed);
        let Step::Rebuild { first, last, done, .. } = step else { panic!("{step:?}") };
        let whole = |n: u128| RecordId { sequence: n.into(), sub: None };
        assert_eq!((first, last, done), (at(11), whole(19), Some(whole(amid))));
    }
    for elsewhere in
        [1, 9, 19, 20].map(|n| Checkpoint::At(at(n))).into_iter().chain([Checkpoint::TrimHorizon])
    {
        assert_eq!(taken(elsewhere.clone()).1, Step::Read(elsewhere));
    }
    assert_eq!(taken(Checkpoint::Latest).1, Step::FindStart(Checkpoint::Latest));
    assert_eq!(taken(Checkpoint::ShardEnd).1, Step::Finished);
}
