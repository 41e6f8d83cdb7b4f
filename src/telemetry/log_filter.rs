//! What is logged, as people type it: checked, because in the grammar of the library every word is valid, and a typo would
//! switch the log off.

use tracing_subscriber::EnvFilter;

use crate::nearest::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The modules of this library: the targets below `kinetide`.
const MODULES: &[&str] = &[
    "aws",
    "batch",
    "cause",
    "checkpoint",
    "cli",
    "clock",
    "config",
    "consumer",
    "dead_letters",
    "decode",
    "deliver",
    "demo",
    "drawing",
    "fetch",
    "figures",
    "generate",
    "insights",
    "kafka",
    "kpl",
    "lease",
    "loadtest",
    "local",
    "market",
    "nearest",
    "preflight",
    "processor",
    "produce",
    "report",
    "scale",
    "service",
    "shard",
    "shutdown",
    "telemetry",
    "terminal",
    "testing",
    "transform",
    "trial",
    "worker",
];

/// How to write one.
const ADVICE: &str = "write it like \"info,kinetide=debug\"";

/// Reads a filter: levels, and targets with their levels, with commas between them. Errors are logged unless it says `off`.
pub(super) fn parse(text: &str) -> Result<EnvFilter, String> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if directives.is_empty() {
        return Err(format!("it is empty; {ADVICE}"));
    }
    // Without a level of its own, what no target matches would not be logged at all.
    let mut checked = Vec::new();
    if !directives.iter().any(|directive| is_level(directive)) {
        checked.push("error");
    }
    for directive in directives {
        check(directive)?;
        checked.push(directive);
    }
    EnvFilter::builder().parse(checked.join(",")).map_err(|error| format!("{error}; {ADVICE}"))
}

fn check(directive: &str) -> Result<(), String> {
    // What is in brackets is a span and its fields; the library checks that.
    let (target, level) = match directive.rsplit_once('=') {
        Some((target, level)) if !level.contains([']', '}']) => (target, Some(level)),
        _ => (directive, None),
    };
    let target = target.split('[').next().unwrap_or_default().trim();
    if let Some(level) = level
        && !is_level(level.trim())
    {
        return Err(refused("level", level, nearest_level(level)));
    }
    if target.is_empty() && directive.starts_with('[') {
        return Ok(());
    }
    if level.is_some() && is_level(target) {
        return Err(format!("{target:?} is a level and not a target; {ADVICE}"));
    }
    if level.is_none() && is_level(target) || is_ours(target) {
        return Ok(());
    }
    let meant = nearest_target(target);
    match (level, &meant) {
        // Targets of the libraries below us are their own business.
        (Some(_), None) if target.split("::").next() != Some("kinetide") => Ok(()),
        (Some(_), _) => Err(refused("target", target, meant.as_deref())),
        (None, _) => Err(refused("level or target", target, nearest_level(target).or(meant.as_deref()))),
    }
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
}

fn is_ours(target: &str) -> bool {
    let mut parts = target.split("::");
    parts.next() == Some("kinetide") && parts.next().is_none_or(|module| MODULES.contains(&module))
}

/// The level that was probably meant: `warning` is one in other programs.
fn nearest_level(word: &str) -> Option<&'static str> {
    let starts = |level: &&str| word.to_ascii_lowercase().starts_with(level);
    nearest(word, LEVELS).or_else(|| LEVELS.into_iter().find(starts))
}

/// The target of ours that was probably meant.
fn nearest_target(target: &str) -> Option<String> {
    let (first, rest) = target.split_once("::").map_or((target, None), |(first, rest)| (first, Some(rest)));
    nearest(first, ["kinetide"])?;
    match rest.map(|rest| rest.split("::").next().unwrap_or_default()) {
        None => Some("kinetide".to_owned()),
        Some(module) => Some(match nearest(module, MODULES.iter().copied()) {
            Some(module) => format!("kinetide::{module}"),
            None => "kinetide".to_owned(),
        }),
    }
}

fn refused(kind: &str, word: &str, meant: Option<&str>) -> String {
    match meant {
        Some(meant) => format!("{word:?} is not a {kind}; did you mean {meant:?}?"),
        None => format!("{word:?} is not a {kind}; {ADVICE}, with the levels {}", LEVELS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_are_those_of_the_library() {
        let library = include_str!("../lib.rs");
        let declared = library.lines().map(|line| line.strip_prefix("pub ").unwrap_or(line));
        let declared = declared.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        let mut declared: Vec<&str> = declared.collect();
        declared.sort_unstable();
        assert_eq!(declared, MODULES);
    }

    #[test]
    fn a_typo_is_refused_with_what_was_meant() {
        for (text, meant) in [
            ("debgu", "\"debug\""),
            ("INF", "\"info\""),
            ("warning", "\"warn\""),
            ("kinetid", "\"kinetide\""),
            ("kinetdie=debug", "\"kinetide\""),
            ("info,kinetide::fetc=debug", "\"kinetide::fetch\""),
            ("kinetide::nonsense=debug", "\"kinetide\""),
            ("kinetide=debgu", "\"debug\""),
            ("kinetide=loud", "info,kinetide=debug"),
            ("info,aws=lout", "info,kinetide=debug"),
            ("info=debug", "is a level"),
            ("verbose", "trace"),
            ("info,hyper", "trace"),
            ("kinetide:debug", "info,kinetide=debug"),
            ("", "it is empty"),
            (" , ", "it is empty"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(meant), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_meant_is_taken_and_errors_stay() {
        for (text, filter) in [
            ("info", "info"),
            ("WARN", "warn"),
            ("off", "off"),
            ("kinetide=debug", "kinetide=debug,error"),
            ("kinetide", "kinetide=trace,error"),
            ("hyper=trace, info", "hyper=trace,info"),
            ("warn,kinetide::fetch=debug", "kinetide::fetch=debug,warn"),
            ("[consumer{shard_id=7}]=debug", "[consumer{shard_id=7}]=debug,error"),
            (super::super::logs::DEFAULT_FILTER, "aws_config::imds=error"),
        ] {
            let parsed = parse(text).expect(text).to_string();
            for part in filter.split(',') {
                assert!(parsed.split(',').any(|have| have == part), "{text}: {parsed}");
            }
        }
    }
}
