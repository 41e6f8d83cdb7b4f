//! Aggregates beside those of `aws_kinesis_agg` for Python, in both directions: what it packs is unpacked here, and what is
//! packed here it unpacks. `KINETIDE_TEST_AWS_KINESIS_AGG` names a Python that has it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kinetide::internals::fetch::{OutOfRange, PageBuilder, unpack};
use kinetide::internals::produce::aggregate::Aggregate;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const ROUNDS: usize = 300;

/// The other implementation, as a process that answers line by line.
struct Python {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    #[expect(clippy::print_stdout, reason = "a skipped suite says so")]
    #[expect(
        clippy::disallowed_methods,
        reason = "where the other implementation is, is no setting of the service"
    )]
    fn start() -> Option<Self> {
        let Ok(python) = std::env::var("KINETIDE_TEST_AWS_KINESIS_AGG") else {
            println!(
                "skipped: aws_kinesis_agg because KINETIDE_TEST_AWS_KINESIS_AGG names no Python with it"
            );
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/aggregates.py");
        let mut command = Command::new(python);
        let mut process = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (ask, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Some(Self { process, ask, answers })
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.ask, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} answers {request}"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Keys and payloads of the records that a payload packs, in order.
fn unpacked(payload: &[u8]) -> Vec<(String, String)> {
    let mut builder = PageBuilder::default();
    builder.push("1", "a", 0, payload);
    let (page, found) = unpack(builder.finish(), None, OutOfRange::Deliver);
    assert_eq!((found.unpacked, found.broken), (1, 0));
    let record = |(index, record): (usize, kinetide::Record<'_>)| {
        assert_eq!(record.sub_sequence, Some(index as u64));
        (record.partition_key().to_owned(), String::from_utf8(record.data().into_owned()).unwrap())
    };
    page.records().enumerate().map(record).collect()
}

#[test]
fn another_implementation_packs_and_unpacks_the_same() {
    let Some(mut python) = Python::start() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(20_260_115);
    for _ in 0..ROUNDS {
        let texts = ["", "{}", "k1", "ключ", "{\"a\":[1,2,{\"b\":null}]}", "\u{0}", "\u{1F600}"];
        let text = |rng: &mut ChaCha8Rng| {
            let times = [1, 1, 1, 2, 60][rng.random_range(0..5)];
            texts[rng.random_range(0..texts.len())].repeat(times)
        };
        let records: Vec<(String, Option<String>, String)> = (0..rng.random_range(1..60))
            .map(|_| {
                let hash_key = rng.random_bool(0.3).then(|| rng.random::<u128>().to_string());
                (format!("{}k", text(&mut rng)), hash_key, text(&mut rng))
            })
            .collect();
        let expected: Vec<_> = records.iter().map(|(key, _, data)| (key.clone(), data.clone())).collect();
        let packed = python.ask(&json!({ "pack": records }))["packed"].as_str().map(unhex).unwrap();
        assert_eq!(unpacked(&packed), expected);

        let mut aggregate = Aggregate::default();
        expected.iter().for_each(|(key, data)| aggregate.push(key, data.as_bytes()));
        let ours = aggregate.finish();
        assert_eq!(unpacked(&ours), expected);
        let theirs = python.ask(&json!({ "unpack": hex(&ours) }));
        let theirs: Vec<(String, Value, String, u64)> =
            serde_json::from_value(theirs["records"].clone()).unwrap();
        let theirs = theirs
            .into_iter()
            .map(|(key, _, data, index)| (key, String::from_utf8(unhex(&data)).unwrap(), index));
        let ours = expected.into_iter().zip(0..).map(|((key, data), index)| (key, data, index));
        assert!(theirs.eq(ours));
    }
}
