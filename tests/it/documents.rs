//! That the documents tell the truth where a test can see it: links lead somewhere, flags, commands and metrics exist, and
//! what exists is documented where people look for it.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Command, CommandFactory};
use kinetide::internals::cli::Cli;
use kinetide::internals::transform::ErrorCode;

use super::tidy::{assert_none, read, root, texts, words};

/// Where Markdown is.
const PLACES: [&str; 11] = [
    "README.md",
    "CHANGELOG.md",
    "docs",
    "athena",
    "benches",
    "dashboards",
    "ecs",
    "examples",
    "glue",
    "quicksight",
    ".ci",
];

/// Flags of other programs that documents mention.
const FOREIGN_FLAGS: [&str; 20] = [
    "--bench",
    "--calm",     // benches/peers/run
    "--catch-up", // benches/peers/run
    "--drain",    // benches/peers/run
    "--features",
    "--format", // aws configure export-credentials
    "--lib",
    "--metrics_namespace", // jobs of Glue
    "--no-default-features",
    "--nocapture",
    "--only", // benches/peers/run
    "--profile-time",
    "--release",
    "--stream-specification", // aws dynamodb update-table
    "--table-name",           // aws dynamodb update-table
    "--test",
    "--test-threads",
    "--toggle-collect", // valgrind
    "--tool",           // valgrind
    "--uploads",        // benches/peers/run
];

/// Columns of a line of prose.
const WIDTH: usize = 110;

fn markdown() -> Vec<(String, String)> {
    let found: Vec<_> = texts(&PLACES).into_iter().filter(|(path, _)| path.ends_with(".md")).collect();
    assert!(found.len() > 20, "documents are found");
    found
}

/// Lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Lines of code blocks, those that end with a backslash joined with the next.
fn code(text: &str) -> Vec<String> {
    let (mut code, mut lines, mut open) = (false, Vec::new(), String::new());
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if let Some(start) = line.strip_suffix('\\').filter(|_| code) {
            open.push_str(start);
        } else if code {
            lines.push(std::mem::take(&mut open) + line);
        }
    }
    lines
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter_map(|(_, line)| line.strip_prefix('#'));
    let letter = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    let anchor = |heading: &str| -> String {
        heading.trim_start_matches('#').trim().to_lowercase().chars().filter(letter).collect()
    };
    headings.map(|heading| anchor(heading).replace(' ', "-")).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (path, text) in markdown() {
        let folder = Path::new(&path).parent().unwrap();
        let text: String = prose(&text).flat_map(|(_, line)| [line, "\n"]).collect();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let place = if file.is_empty() { root().join(&path) } else { root().join(folder).join(file) };
            let there = place.exists()
                && (anchor.is_empty()
                    || std::fs::read_to_string(&place).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !there {
                wrong.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(seen > 80, "links are found");
    assert_none(&wrong, "a link to a file or heading that is not there");
}

#[test]
fn prose_is_wrapped() {
    let mut wrong = Vec::new();
    for (path, text) in texts(&["README.md", "docs"]).iter().filter(|(path, _)| path.ends_with(".md")) {
        for (number, line) in prose(text) {
            let free = ["|", "#"].iter().any(|start| line.starts_with(start)) || !line.trim().contains(' ');
            if !free && line.chars().count() > WIDTH {
                wrong.push(format!("{path}, line {}", number + 1));
            }
        }
    }
    assert_none(&wrong, "a line of prose is longer than 110 columns");
}

fn flags(command: &Command, found: &mut BTreeSet<String>) {
    found.extend(command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))));
    command.get_subcommands().for_each(|command| flags(command, found));
}

/// The text without the lines of commands of other programs, which have flags of their own.
fn without_other_programs(text: &str) -> String {
    let mut more = false;
    let ours = text.lines().filter(|line| {
        // The last are arguments of a Glue job.
        let starts = ["aws ", "bin/kafka-", "docker ", "python3 ", "  \"--"];
        let other = more || starts.iter().any(|start| line.starts_with(start));
        more = other && line.ends_with('\\');
        !other
    });
    ours.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn flags_exist() {
    let mut known: BTreeSet<String> = ["--help", "--version"].map(str::to_owned).into();
    flags(&Cli::command(), &mut known);
    let mut wrong = Vec::new();
    // Decisions and the changelog may name what is not there, or not any more.
    let now = |path: &str| !path.starts_with("docs/adr/") && path != "CHANGELOG.md";
    for (path, text) in markdown().into_iter().filter(|(path, _)| now(path)) {
        let text = without_other_programs(&text);
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        for (at, _) in text.match_indices("--").filter(|(at, _)| !text[..*at].ends_with(inner)) {
            let flag = text[at..].split(|c| !inner(c)).next().unwrap();
            let named = flag.len() > 3 && !flag.starts_with("---");
            if named && !known.contains(flag) && !FOREIGN_FLAGS.contains(&flag) {
                wrong.push(format!("{path}: {flag}"));
            }
        }
    }
    assert_none(&wrong, "a flag that no command has");
}

/// The commands of this program in lines of shell, as words.
fn commands(lines: impl Iterator<Item = String>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in lines {
        for part in line.replace("cargo run --release -- ", "kinetide ").split(" | ") {
            let Some(rest) = part.trim_start().strip_prefix("kinetide ") else { continue };
            // What follows is the shell's.
            let ours = rest.split_whitespace().take_while(|word| !word.starts_with(['>', '&', '#', '|']));
            found.push(ours.map(|word| word.trim_matches(['\'', '"']).to_owned()).collect());
        }
    }
    found
}

fn examples(command: &Command, found: &mut Vec<String>) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    found.extend(help.replace("\\\n", "").lines().map(str::to_owned));
    command.get_subcommands().for_each(|command| examples(command, found));
}

#[test]
fn commands_can_be_typed() {
    let mut lines = Vec::new();
    examples(&Cli::command(), &mut lines);
    for (_, text) in markdown() {
        lines.extend(code(&text));
    }
    let commands = commands(lines.into_iter());
    assert!(commands.len() > 50, "commands are found");
    let wrong: Vec<String> = commands
        .into_iter()
        .filter_map(|words| {
            let typed = std::iter::once("kinetide").chain(words.iter().map(String::as_str));
            let error = Cli::command().try_get_matches_from(typed).err().filter(clap::Error::use_stderr)?;
            Some(format!("kinetide {}: {}", words.join(" "), error.to_string().lines().next()?))
        })
        .collect();
    assert_none(&wrong, "a command of a document or a help page that is refused");
}

#[test]
fn what_there_is_is_documented() {
    let (readme, operating, letters) =
        (read("README.md"), read("docs/OPERATING.md"), read("docs/DEAD-LETTERS.md"));
    let mut missing = Vec::new();
    for command in
        Cli::command().get_subcommands().map(|command| format!("`kinetide {}`", command.get_name()))
    {
        if !readme.contains(&command) {
            missing.push(format!("{command} in README.md"));
        }
    }
    let homes = read("src/telemetry/metric_table.rs") + &read("src/telemetry/scrape.rs");
    let metrics: BTreeSet<&str> = homes
        .split('"')
        .filter(|text| ["kinetide_", "process_"].iter().any(|start| text.starts_with(start)))
        .filter(|text| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .collect();
    assert!(metrics.len() > 40, "metrics are found");
    for name in metrics {
        if !words(&operating, name).any(|found| found == name) {
            missing.push(format!("{name} in docs/OPERATING.md"));
        }
    }
    for reason in ErrorCode::ALL.map(ErrorCode::as_str) {
        if !letters.contains(&format!("`{reason}`")) {
            missing.push(format!("{reason} in docs/DEAD-LETTERS.md"));
        }
    }
    assert_none(&missing, "something is not documented");
}

#[test]
fn the_glossary_is_in_order() {
    let text = read("docs/GLOSSARY.md");
    let entry = |line: &str| Some(line.strip_prefix("- **")?.split("**").next()?.to_lowercase());
    let terms: Vec<String> = text.lines().filter_map(entry).collect();
    assert!(terms.len() > 40 && terms.is_sorted(), "{terms:#?}");
}
