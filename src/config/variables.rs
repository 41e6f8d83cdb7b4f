//! `KINETIDE_*` variables: empty ones are unset, unknown ones are named with what was probably meant, and a message about
//! a value names the variable that it came from.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::OnceLock;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::WITHOUT_FLAG;
use crate::nearest::nearest;

const OURS: &str = "KINETIDE_";

/// Read by our test suites, told to other consumers under test, or set by Kubernetes for a service that is called kinetide.
const OTHERS: [&str; 6] = [
    "KINETIDE_TEST_",
    "KINETIDE_FUZZ_",
    "KINETIDE_OVERLOAD_",
    "KINETIDE_PEER_",
    "KINETIDE_SERVICE_",
    "KINETIDE_PORT_",
];

/// The settings of this process's command.
static GIVEN: OnceLock<Vec<Given>> = OnceLock::new();

/// Where a setting has its value from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody typed it.
    Flag,
    /// This variable says it.
    Variable(String),
    /// Nobody says it.
    Default,
}

/// A setting of the command, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its flag, without hyphens.
    pub flag: String,
    /// As people write it; none where it has no value.
    pub value: Option<String>,
    /// Where from.
    pub origin: Origin,
}

/// A variable that no command knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// The one that was probably meant.
    pub meant: Option<String>,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown environment variable {}", self.name)?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean {meant}?"),
            None => write!(f, ": it has no effect"),
        }
    }
}

/// The command with the meaning of its variables: an empty one is none, and a switch is `1` or `0`, `yes` or `no`, `on` or
/// `off`, `true` or `false`. `value`: the environment.
pub fn prepared(command: Command, value: &impl Fn(&str) -> Option<OsString>) -> Command {
    let argument = |arg: Arg| {
        let Some(name) = arg.get_env().map(ToOwned::to_owned) else { return arg };
        if name.to_str().and_then(value).is_some_and(|value| value.is_empty()) {
            return arg.env(None::<&'static str>);
        }
        match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        }
    };
    command.mut_args(argument).mut_subcommands(|command| prepared(command, value))
}

/// Those of the environment's names that no command knows.
pub fn unknown(command: &Command, names: impl Iterator<Item = OsString>) -> Vec<Unknown> {
    let mut known = BTreeSet::from(WITHOUT_FLAG.map(str::to_owned));
    collect(command, &mut known);
    let names = names.filter_map(|name| name.into_string().ok());
    let ours = names.filter(|name| {
        let upper = name.to_ascii_uppercase();
        upper.starts_with(OURS)
            && upper != "KINETIDE_PORT"
            && !OTHERS.iter().any(|prefix| upper.starts_with(prefix))
            && !known.contains(name)
    });
    let meant = |name: &str| nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
    let mut unknown: Vec<Unknown> = ours.map(|name| Unknown { meant: meant(&name), name }).collect();
    unknown.sort_by(|a, b| a.name.cmp(&b.name));
    unknown
}

fn collect(command: &Command, names: &mut BTreeSet<String>) {
    names.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())));
    command.get_subcommands().for_each(|command| collect(command, names));
}

/// The error with the variable's name, where the value came from one.
pub fn explained(mut error: clap::Error, command: &Command, typed: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return error };
    let shown = shown.clone();
    let flag = shown.split([' ', '=']).next().unwrap_or_default().to_owned();
    let is_typed = |typed: &OsString| {
        typed.to_str().is_some_and(|typed| typed == flag || typed.starts_with(&format!("{flag}=")))
    };
    if !flag.starts_with("--") || typed.iter().any(is_typed) {
        return error;
    }
    let chosen = typed.iter().find_map(|word| command.find_subcommand(word)).unwrap_or(command);
    if let Some(variable) = variable_of(chosen, flag.trim_start_matches('-'))
        && error.get(ContextKind::InvalidValue).is_some()
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(format!("{variable} ({shown})")));
    }
    error
}

fn variable_of(command: &Command, long: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long)).and_then(Arg::get_env);
    own.and_then(|name| name.to_str().map(str::to_owned))
        .or_else(|| command.get_subcommands().find_map(|command| variable_of(command, long)))
}

/// Remembers the settings of this process, for its messages. The first call counts.
pub fn remember(command: &Command, matches: &ArgMatches) {
    let mut all = Vec::new();
    let (mut command, mut matches) = (command, matches);
    loop {
        all.extend(command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| {
            let (id, flag) = (arg.get_id().as_str(), arg.get_long()?.to_owned());
            let raw = matches.try_get_raw(id).ok().flatten();
            let value = raw
                .map(|raw| raw.map(|text| text.to_string_lossy().into_owned()).collect::<Vec<_>>().join(","));
            let origin = match (value.as_ref().and(matches.value_source(id)), arg.get_env()) {
                (Some(ValueSource::EnvVariable), Some(name)) => {
                    Origin::Variable(name.to_string_lossy().into_owned())
                }
                (Some(ValueSource::CommandLine), _) => Origin::Flag,
                _ => Origin::Default,
            };
            Some(Given { flag, value, origin })
        }));
        let below =
            matches.subcommand().and_then(|(name, found)| Some((command.find_subcommand(name)?, found)));
        match below {
            Some(below) => (command, matches) = below,
            None => break,
        }
    }
    let _ = GIVEN.set(all);
}

/// The settings of this process's command; hidden ones are not among them.
pub fn given() -> &'static [Given] {
    GIVEN.get().map_or(&[], Vec::as_slice)
}

/// How people set this setting: by its flag or by its variable.
pub(super) fn shown(setting: &str) -> String {
    let variable =
        given().iter().filter(|given| given.flag == setting).find_map(|given| match &given.origin {
            Origin::Variable(name) => Some(name),
            Origin::Flag | Origin::Default => None,
        });
    match variable {
        Some(name) => format!("{name} (--{setting})"),
        None => format!("--{setting}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let flag = |name: &'static str, variable| Arg::new(name).long(name).env(variable);
        Command::new("kinetide").subcommand(
            Command::new("run")
                .arg(flag("stream", "KINETIDE_STREAM"))
                .arg(flag("batch-age", "KINETIDE_BATCH_AGE"))
                .arg(flag("bucket-key", "KINETIDE_S3_BUCKET_KEY").action(ArgAction::SetTrue)),
        )
    }

    #[test]
    fn unknown_variables_are_named_with_what_was_meant() {
        let names = [
            "KINETIDE_STREAM",
            "KINETIDE_HTTP_TOKEN_FILE",
            "KINETIDE_BATCHAGE",
            "kinetide_stream",
            "KINETIDE_COLOUR",
            "KINETIDE_TEST_S3",
            "KINETIDE_SERVICE_HOST",
            "KINETIDE_PORT",
            "KINETIDE_PORT_80_TCP",
            "PATH",
            "KINETIDES_X",
        ];
        let unknown = unknown(&command(), names.iter().map(OsString::from));
        let found: Vec<_> = unknown.iter().map(|each| (each.name.as_str(), each.meant.as_deref())).collect();
        let expected = [
            ("KINETIDE_BATCHAGE", Some("KINETIDE_BATCH_AGE")),
            ("KINETIDE_COLOUR", None),
            ("kinetide_stream", Some("KINETIDE_STREAM")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_empty_variable_is_none() {
        let prepared = prepared(command(), &|name| (name == "KINETIDE_STREAM").then(OsString::new));
        let run = prepared.find_subcommand("run").unwrap();
        let variable = |name: &str| run.get_arguments().find(|arg| arg.get_id() == name).unwrap().get_env();
        assert_eq!((variable("stream"), variable("batch-age")), (None, Some("KINETIDE_BATCH_AGE".as_ref())));
    }
}
