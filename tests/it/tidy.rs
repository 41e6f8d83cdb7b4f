//! The habits of the house, read from the sources so that nobody has to remember them: who imports whom, what stays
//! pure, and that documents and deployment speak of settings and metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::pure::PURE;

/// Whom each module may import. The stages come first, in the data's order: a stage knows stages before it, never
/// one after. `cli` and `service` know everything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // At MSK a worker is who it is at AWS.
    ("kafka", &["aws"]),
    ("kpl", &[]),
    ("shard", &["kafka"]),
    // The leader tells how many workers are wanted.
    ("lease", &["scale", "shard", "telemetry"]),
    ("fetch", &["kafka", "kpl", "shard", "telemetry"]),
    ("decode", &["kpl"]),
    ("transform", &["decode", "shard"]),
    ("batch", &["fetch", "shard", "transform"]),
    // What is delivered to is AWS's, by one environment for all its clients.
    ("deliver", &["aws", "batch", "shard", "telemetry"]),
    ("checkpoint", &["batch", "lease", "shard"]),
    // What drives the stages.
    (
        "consumer",
        &[
            "batch",
            "checkpoint",
            "clock",
            "decode",
            "deliver",
            "fetch",
            "lease",
            "shard",
            "shutdown",
            "telemetry",
            "transform",
        ],
    ),
    // What may stand in the place of a batch.
    ("processor", &["checkpoint", "consumer", "fetch", "lease", "shard", "shutdown", "telemetry"]),
    ("worker", &["consumer", "lease", "shutdown", "telemetry"]),
    ("dead_letters", &["batch", "deliver", "kpl", "shard", "transform"]),
    ("insights", &["batch", "clock", "decode", "deliver", "drawing", "figures", "terminal", "transform"]),
    // The edge of the process.
    ("aws", &[]),
    ("cause", &[]),
    ("clock", &[]),
    ("drawing", &[]),
    ("figures", &[]),
    ("nearest", &[]),
    ("shutdown", &["terminal"]),
    ("telemetry", &["clock", "nearest", "terminal"]),
    ("terminal", &[]),
    (
        "config",
        &[
            "aws",
            "batch",
            "checkpoint",
            "clock",
            "deliver",
            "fetch",
            "kafka",
            "lease",
            "nearest",
            "processor",
            "shard",
            "telemetry",
            "transform",
        ],
    ),
    // The fleet as the lease table has it, for who asks a worker and for the command.
    ("report", &["batch", "checkpoint", "clock", "lease", "shard", "telemetry"]),
    ("scale", &[]),
    ("preflight", &["aws", "batch", "config", "deliver", "kafka", "lease", "shard"]),
    // Servers and generator share no logic with the pipeline, so that they cannot share its mistakes; nor does the judge.
    ("local", &["clock", "generate", "shard"]),
    ("generate", &[]),
    // Snapshots of market prices.
    ("market", &["aws", "batch", "clock", "deliver", "kafka", "produce", "telemetry", "transform"]),
    ("produce", &["aws", "clock", "generate", "kafka", "shard", "shutdown"]),
    (
        "trial",
        &[
            "aws", "clock", "figures", "generate", "insights", "kafka", "lease", "local", "produce", "shard",
            "shutdown", "terminal",
        ],
    ),
    (
        "loadtest",
        &[
            "clock", "deliver", "drawing", "figures", "generate", "kafka", "lease", "local", "produce",
            "shard", "shutdown", "terminal", "trial",
        ],
    ),
    // The checks for people who write a source or a sink.
    ("testing", &["clock", "deliver", "fetch", "shard", "telemetry"]),
    (
        "demo",
        &[
            "clock", "figures", "generate", "insights", "kafka", "lease", "local", "produce", "shard",
            "shutdown", "terminal", "trial",
        ],
    ),
];
const KNOW_EVERYTHING: [&str; 2] = ["cli", "service"];
/// Errors are shown in one way by all.
const KNOWN_BY_ALL: &str = "cause";

/// Imports beyond the table: who, what, why.
const IMPORT_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("fetch", "clock::wall_clock_us", "Kafka does not say its time, so the age of a record is told by ours"),
    ("fetch", "aws::explain", "what Kinesis said, in one line for people"),
    ("fetch", "aws::OfStream", "a call to Kinesis names its stream in one way"),
    ("fetch", "aws::StreamAddress", "a stream is named by its name or its ARN"),
    ("lease", "aws::explain", "what DynamoDB said, in one line for people"),
    ("shard", "aws::explain", "what Kinesis said, in one line for people"),
    ("shard", "aws::OfStream", "a call to Kinesis names its stream in one way"),
    ("shard", "aws::TableAddress", "a table is named by its name or its ARN"),
    ("shard", "aws::TableArn", "a stream of a table is named by its ARN"),
    ("shard", "aws::StreamAddress", "a stream is named by its name or its ARN"),
    ("aws", "clock::wall_clock_us", "credentials say by the wall clock when they run out"),
    ("lease", "clock::wall_clock_s", "what KCL's workers wrote is looked at by the clock they wrote it by"),
    ("lease", "clock::wall_clock_us", "the row that declares a fleet says when; nothing is decided by it"),
];

/// Files and folders with these names, and these places, may use an AWS SDK.
const AWS_SERVICES: [&str; 6] = ["cloudwatch", "dynamodb", "dynamodbstreams", "firehose", "kinesis", "s3"];
const SDK_PLACES: [&str; 7] = [
    "src/aws/",
    "src/preflight.rs",
    "src/service/",
    "src/cli/",
    "src/local/",
    "src/produce/",
    "src/trial/scene/",
];
const SDK_CRATES: [&str; 4] = ["aws_config", "aws_credential_types", "aws_sdk_", "aws_smithy_"];

const IMPURE: [&str; 6] = ["async ", ".await", "::now()", "wall_clock", "std::fs", "std::net"];

const LINES_MAX: usize = 600;

/// The repository's table of contents.
const ROOT: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "athena",
    "benches",
    "dashboards",
    "docs",
    "ecs",
    "examples",
    "glue",
    "gzip",
    "image",
    "loadtest",
    "proptest-regressions",
    "quicksight",
    "src",
    "target",
    "tests",
];

/// A Rust file of ours.
struct Source {
    /// From the root, with slashes.
    path: String,
    text: String,
    /// The text without comment lines and without tests; empty when all of it is tests.
    code: String,
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in library() {
        let module = module_of(&source.path);
        if module.is_empty() || KNOW_EVERYTHING.contains(&module) {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("say in MAY_IMPORT whom the module {module} may import"));
        for import in imports(&source) {
            let target = import.split("::").next().unwrap();
            let excepted = IMPORT_EXCEPTIONS.iter().any(|(who, what, _)| (*who, *what) == (module, &import));
            if target != module && target != KNOWN_BY_ALL && !allowed.contains(&target) && !excepted {
                wrong.push(format!("{}: {import}", source.path));
            }
        }
    }
    assert_none(&wrong, "a module imports what MAY_IMPORT does not allow");
}

#[test]
fn the_judge_shares_no_logic_with_the_pipeline() {
    let known = |import: &String| ["shutdown::joined", "figures::grouped"].contains(&import.as_str());
    let mut judge = library();
    judge.retain(|source| source.path.starts_with("src/trial/judge/"));
    let wrong: Vec<String> = judge.iter().flat_map(imports).filter(|import| !known(import)).collect();
    assert!(judge.len() > 5, "the judge is found");
    assert_none(&wrong, "the judge imports what is not its own");
}

#[test]
fn the_table_of_imports_is_what_is_there() {
    let sources = library();
    let modules: BTreeSet<&str> = sources.iter().map(|source| module_of(&source.path)).collect();
    for (module, _) in MAY_IMPORT {
        assert!(modules.contains(module), "MAY_IMPORT names {module}, which is gone");
    }
    for (who, what, _) in IMPORT_EXCEPTIONS {
        let used = sources.iter().any(|s| module_of(&s.path) == *who && imports(s).contains(*what));
        assert!(used, "the exception of {who} for {what} is not used any more: remove it");
    }
}

#[test]
fn sdks_stay_in_files_named_after_their_service() {
    let mut wrong = Vec::new();
    for source in library() {
        let named = source
            .path
            .split('/')
            .any(|part| AWS_SERVICES.contains(&part.strip_suffix(".rs").unwrap_or(part)));
        if named || SDK_PLACES.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        let outside_strings: String =
            source.code.lines().flat_map(|line| line.split('"').step_by(2)).collect();
        let used = words(&outside_strings, "aws_")
            .find(|word| SDK_CRATES.iter().any(|sdk| word.starts_with(sdk)))
            .map(|word| format!("{}: {word}", source.path));
        wrong.extend(used);
    }
    assert_none(&wrong, "an AWS SDK outside a file named after its service");
}

#[test]
fn decisions_are_pure() {
    let mut wrong = Vec::new();
    let sources = library();
    for place in PURE {
        assert!(
            sources.iter().any(|source| source.path.starts_with(place)),
            "PURE names {place}, which is gone"
        );
    }
    for source in sources.iter().filter(|s| PURE.iter().any(|place| s.path.starts_with(place))) {
        let used = IMPURE.iter().filter(|needle| source.code.contains(*needle));
        wrong.extend(used.map(|needle| format!("{}: {needle}", source.path)));
    }
    assert_none(&wrong, "a pure file has tasks, files or a clock");
}

#[test]
fn files_are_short_and_introduce_themselves() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines, split it", source.path));
        }
        if !source.code.is_empty() && !source.text.starts_with("//!") {
            wrong.push(format!("{}: starts without //!", source.path));
        }
    }
    assert_none(&wrong, "a file is too long or does not say what it is");
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, so that this file does not find itself.
    let needles = [concat!("#[ig", "nore"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let mut wrong = Vec::new();
    for source in sources() {
        let found = needles.iter().filter(|needle| source.text.contains(*needle));
        wrong.extend(found.map(|needle| format!("{}: {needle}", source.path)));
    }
    assert_none(&wrong, "unfinished code, or a test that does not run");
}

#[test]
fn every_variable_spoken_of_is_a_setting() {
    let mut settings = BTreeSet::new();
    collect_variables(&kinetide::internals::cli::Cli::command(), &mut settings);
    assert!(settings.contains("KINETIDE_STREAM"), "settings are found");
    settings.extend(kinetide::internals::config::WITHOUT_FLAG.map(str::to_owned));
    let of_tests = variables_of_tests();
    // What the load test tells other consumers.
    let told = read("src/trial/peer.rs");
    settings.extend(words(&told, "KINETIDE_PEER_").map(str::to_owned));
    // And what it tells the command that takes a broker down.
    let told = read("src/loadtest/brokers.rs");
    settings.extend(words(&told, "KINETIDE_").map(str::to_owned));
    // They make a suite longer, and need no server.
    settings.extend(
        ["KINETIDE_FUZZ_ITERATIONS", "KINETIDE_OVERLOAD_SECONDS", "KINETIDE_PERMISSIONS"].map(str::to_owned),
    );
    let mut wrong = Vec::new();
    for (path, text) in texts(&["README.md", "Dockerfile", "docs", "ecs"]) {
        for variable in words(&text, "KINETIDE_").filter(|word| !word.ends_with('_')) {
            if !settings.contains(variable) && !of_tests.contains(variable) {
                wrong.push(format!("{path}: {variable}"));
            }
        }
    }
    assert_none(&wrong, "a variable that no command knows");
}

#[test]
fn every_suite_that_needs_a_server_gets_it_in_ci() {
    let ci: String = texts(&[".ci"]).into_iter().map(|(_, text)| text).collect();
    let given: BTreeSet<&str> = words(&ci, "KINETIDE_TEST_").collect();
    let forgotten: Vec<String> =
        variables_of_tests().into_iter().filter(|variable| !given.contains(variable.as_str())).collect();
    assert_none(&forgotten, ".ci/run does not set a variable that tests wait for");
}

#[test]
fn metrics_have_one_home_and_dashboards_know_it() {
    let sources = library();
    // What happens is counted in the one, what is so at the moment of a scrape is written by the other.
    let homes = ["src/telemetry/metric_table.rs", "src/telemetry/metrics.rs", "src/telemetry/scrape.rs"];
    let (home, elsewhere): (Vec<_>, Vec<_>) =
        sources.iter().partition(|source| homes.contains(&source.path.as_str()));
    let known: BTreeSet<&str> = home.iter().flat_map(|home| words(&home.code, "kinetide_")).collect();
    assert!(known.contains("kinetide_leases_held"), "metrics are found");
    let mut wrong = Vec::new();
    for source in elsewhere {
        wrong.extend(words(&source.code, "kinetide_").map(|name| format!("{}: {name}", source.path)));
    }
    for (path, text) in texts(&["README.md", "docs", "dashboards", "ecs"]) {
        for name in words(&text, "kinetide_").filter(|name| !name.ends_with('_')) {
            let series = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
            if !known.contains(name) && !series.is_some_and(|series| known.contains(series)) {
                wrong.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(&wrong, "a metric that src/telemetry does not have");
}

#[test]
fn every_metric_is_described() {
    let homes = ["src/telemetry/metric_table.rs", "src/telemetry/metrics.rs"];
    let home: String = homes.map(read).concat().split_whitespace().collect();
    let mut wrong = Vec::new();
    for (recording, kind) in [("counter!", "Counter"), ("gauge!", "Gauge"), ("histogram!", "Histogram")] {
        let opening = format!("{recording}(\"");
        let names = home.split(&opening).skip(1).map(|rest| rest.split('"').next().unwrap());
        wrong.extend(names.filter(|name| !home.contains(&format!("(\"{name}\",{kind}"))).map(str::to_owned));
    }
    assert_none(&wrong, "a metric without unit and help at the scrape: add it to metric_table.rs");
}

#[test]
fn the_root_is_a_table_of_contents() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && !ROOT.contains(&name.as_str()) {
            wrong.push(name);
        }
    }
    assert_none(&wrong, "an unexpected entry of the root: settings of tools go to dot-files or .ci/");
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
pub(super) fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

/// All files below a place of the root, from the root with slashes; nothing when it is not there.
fn files(place: &str) -> Vec<String> {
    let path = root().join(place);
    if path.is_file() {
        return vec![place.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.iter().flat_map(|name| files(&format!("{place}/{name}"))).collect()
}

/// Texts at these places, with their paths; other files are passed over.
pub(super) fn texts(places: &[&str]) -> Vec<(String, String)> {
    let paths = places.iter().flat_map(|place| files(place));
    paths.filter_map(|path| fs::read_to_string(root().join(&path)).ok().map(|text| (path, text))).collect()
}

/// Rust files of library, its encoder, binary, tests, benches and examples.
fn sources() -> Vec<Source> {
    let mut sources: Vec<Source> = texts(&["src", "gzip", "tests", "benches", "examples"])
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source { path, text, code: String::new() })
        .collect();
    let mut tests = BTreeSet::new();
    for source in &mut sources {
        let (code, modules) = without_tests(source);
        source.code = code;
        tests.extend(modules);
    }
    for source in &mut sources {
        let whole = |test: &PathBuf| {
            test.with_extension("rs") == Path::new(&source.path) || Path::new(&source.path).starts_with(test)
        };
        if tests.iter().any(whole) {
            source.code.clear();
        }
    }
    assert!(sources.len() > 50, "sources are found");
    sources
}

fn library() -> Vec<Source> {
    sources().into_iter().filter(|source| source.path.starts_with("src/")).collect()
}

/// Code without comment lines and inline test modules; and the test modules that have files of their own, as paths
/// without extension.
fn without_tests(source: &Source) -> (String, Vec<PathBuf>) {
    let file = Path::new(&source.path);
    let folder = match file.file_name().unwrap().to_str().unwrap() {
        "mod.rs" | "lib.rs" | "main.rs" => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    };
    let (mut code, mut modules) = (String::new(), Vec::new());
    let mut lines = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let mut path = None;
        for line in lines.by_ref() {
            if let Some(named) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
                path = Some(file.with_file_name(named).with_extension(""));
            }
            if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                modules.push(path.take().unwrap_or_else(|| folder.join(name)));
            }
            // An item of several lines ends with a brace in the first column.
            if line == "}" || line.ends_with(';') && !line.starts_with(' ') {
                break;
            }
        }
    }
    (code, modules)
}

/// `src/fetch/page.rs` and `src/fetch.rs` → `fetch`; nothing for the roots of library and binary.
fn module_of(path: &str) -> &str {
    let rest = path.strip_prefix("src/").unwrap_or(path);
    match rest.split('/').next().unwrap() {
        "lib.rs" | "main.rs" => "",
        first => first.strip_suffix(".rs").unwrap_or(first),
    }
}

/// What a file takes from other modules of the library, as `module` or `module::Item`.
fn imports(source: &Source) -> BTreeSet<String> {
    let mut roots = vec!["crate::"];
    // Here `super` is the root of the library.
    if source.path.split('/').count() == 2
        || source.path.split('/').count() == 3 && source.path.ends_with("/mod.rs")
    {
        roots.push("super::");
    }
    let mut found = BTreeSet::new();
    for root in roots {
        for (at, _) in source.code.match_indices(root) {
            let rest = &source.code[at + root.len()..];
            let (names, group) = match rest.split_once('{') {
                Some((path, group)) if path.ends_with("::") && !path.contains(|c: char| !is_path(c)) => {
                    let end = group.find('}').unwrap();
                    let items = group[..end].split(',').map(|item| format!("{path}{}", item.trim()));
                    (items.collect(), false)
                }
                _ => (vec![rest.split(|c| !is_path(c)).next().unwrap().to_owned()], rest.starts_with('{')),
            };
            assert!(!group, "{}: one `use crate::…` for each module, please", source.path);
            let short = |name: &String| name.split("::").take(2).collect::<Vec<_>>().join("::");
            found.extend(names.iter().filter(|name| !name.ends_with("::")).map(short));
        }
    }
    found
}

fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Words of letters, digits and underscores that start with a prefix.
pub(super) fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(prefix)
        .filter(move |(at, _)| !text[..*at].ends_with(inner))
        .map(move |(at, _)| text[at..].split(|c| !inner(c)).next().unwrap())
}

fn variables_of_tests() -> BTreeSet<String> {
    let tests = sources().into_iter().filter(|source| source.path.starts_with("tests/"));
    tests
        .flat_map(|source| words(&source.text, "KINETIDE_TEST_").map(str::to_owned).collect::<Vec<_>>())
        .filter(|variable| !variable.ends_with('_'))
        .collect()
}

fn collect_variables(command: &clap::Command, found: &mut BTreeSet<String>) {
    let named = command.get_arguments().filter_map(|argument| argument.get_env());
    found.extend(named.map(|name| name.to_str().unwrap().to_owned()));
    command.get_subcommands().for_each(|command| collect_variables(command, found));
}
