//! What lies below `errors/` was written by this service, unless somebody else could write to the lake.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use kinetide::internals::batch::{BatchLimits, Layout, read_records};
use kinetide::internals::dead_letters::{
    Chain, Done, Job, LetterObject, ReplayPlan, Shape, build, each_letter, rehearse,
};
use kinetide::internals::transform::{Builtin, TransformSettings};

use super::fuzz;

#[test]
fn a_line_is_a_dead_letter_or_is_counted_and_its_neighbours_are_replayed() {
    let object = LetterObject {
        reason: "not_json".to_owned(),
        hour_us: 1_768_467_600_000_000,
        name: "trades-shardId-000000000000-1-9.ndjson.gz".to_owned(),
    };
    let layout = Layout { landing: "landing/trades".to_owned(), errors: "errors".to_owned(), alerts: false };
    let jobs = Builtin::NAMES.map(|name| Job {
        transform: Arc::new(Builtin::named(name, &TransformSettings::default()).unwrap()),
        layout: layout.clone(),
        limits: BatchLimits { objects_max: 3, rows_bytes_max: 20_000, ..BatchLimits::default() },
    });
    let mut raw = Vec::new();
    fuzz("dead-letters", 1500, Vec::new(), |text| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        let gzip = encoder.finish().unwrap();
        let (mut lines, mut readable) = (0, 0);
        let mut kinds = Vec::new();
        let outcome = each_letter(&gzip, |number, letter| {
            lines += 1;
            assert_eq!(number, lines);
            match letter {
                Err(problem) => kinds.push(problem.to_string()),
                Ok(letter) => {
                    readable += 1;
                    letter.decode_into(&mut raw);
                    assert_eq!(raw.len(), letter.raw_bytes());
                    match Shape::of(&raw) {
                        Ok(shape) => assert!(serde_json::to_string(&shape).is_ok()),
                        Err(problem) => assert!(problem.len() < 80, "{problem}"),
                    }
                    kinds.push("letter".to_owned());
                }
            }
            ControlFlow::Continue(())
        });
        assert_eq!(lines, text.iter().filter(|byte| **byte == b'\n').count() as u64);
        let whole = text.is_empty() || text.ends_with(b"\n");
        assert_eq!(outcome.is_ok(), whole);
        for job in &jobs {
            let would = rehearse(&job.transform, &gzip, |_, _| true);
            let built = build(job, &object, &gzip, 1, |_, _| true);
            assert_eq!((would.is_ok(), built.is_ok()), (whole, whole));
            let (Ok(would), Ok(built)) = (would, built) else { continue };
            let failed: u64 = would.failed.values().sum();
            assert_eq!(would.rows + failed, readable);
            assert_eq!((would.rows + failed + would.unreadable.len() as u64), lines);
            let mut rows = 0;
            for (output, body) in built.outputs.iter().zip(&built.bodies) {
                assert_eq!(read_records(body).unwrap().len() as u64, output.lines.len());
                rows += output.lines.len();
            }
            assert!(rows == would.rows || built.cut && rows < would.rows);
            if !built.outputs.is_empty() {
                let plan = ReplayPlan { transform: job.transform.id().clone(), outputs: built.outputs };
                assert_eq!(ReplayPlan::parse(&plan.to_bytes()), Ok(plan.clone()));
                assert_eq!(plan.lines().len(), rows);
            }
            kinds.push(format!("{:?}", would.failed.keys().collect::<Vec<_>>()));
        }
        kinds.join(" ")
    });
}

#[test]
fn a_record_of_a_replay_is_believed_or_refused() {
    fuzz("replays", 3000, Vec::new(), |text| {
        let (plan, done) = (ReplayPlan::parse(text), Done::parse(text));
        assert!(plan.is_err() || done.is_err());
        if let Ok(plan) = &plan {
            assert_eq!(ReplayPlan::parse(&plan.to_bytes()).as_ref(), Ok(plan));
            let mut chain = Chain::default();
            chain.planned(plan.clone()).unwrap();
            let mut all = Done::of(plan);
            all.sealed = plan.outputs.iter().map(|output| output.key.clone()).collect();
            let mut sealed = chain.clone();
            sealed.done(&all).unwrap();
            assert!(sealed.landed().is_empty());
            chain.done(&Done::of(plan)).unwrap();
            assert_eq!(chain.landed(), &plan.lines());
            assert!(chain.planned(plan.clone()).is_err(), "a letter is in the rows of one plan");
        }
        if let Ok(done) = &done {
            assert_eq!(Done::parse(&done.to_bytes()).as_ref(), Ok(done));
        }
        format!("{:?} {:?}", plan.map(|plan| plan.outputs.len()), done.map(|done| done.sealed.len()))
    });
}
