//! The report for people, in 80 columns.

use super::report::{Item, Report, Verdict};
use super::settings::{From, Setting};
use crate::terminal::wrapped;

const WIDTH: usize = 80;

/// All of it.
pub(super) fn rendered(report: &Report) -> String {
    let mut out = format!("kinetide check, application {}\n\nSETTINGS\n", report.application);
    settings(&report.settings, &mut out);
    out.push_str("\nCHECKS\n");
    let width = report.items.iter().map(|item| item.item.chars().count()).max().unwrap_or(0).min(16);
    let mut about = "";
    for item in &report.items {
        if item.about != about {
            about = &item.about;
            out.push_str(&format!("  {about}\n"));
        }
        out.push_str(&line(item, width));
    }
    out.push('\n');
    out.push_str(&verdict(report));
    out
}

/// Those that somebody has set, one a line; then the defaults.
fn settings(settings: &[Setting], out: &mut String) {
    let is_default = |setting: &&Setting| setting.from == From::Default && setting.stream.is_none();
    let set: Vec<&Setting> = settings.iter().filter(|setting| !is_default(setting)).collect();
    let width = set.iter().map(|setting| setting.setting.len()).max().unwrap_or(0);
    for stream in streams(&set) {
        if let Some(stream) = stream {
            out.push_str(&format!("  of stream {stream}\n"));
        }
        for setting in set.iter().filter(|setting| setting.stream.as_deref() == stream) {
            let from = match (setting.from, setting.source.as_deref()) {
                (From::Flag, _) => "flag",
                (From::Variable | From::File, source) => source.unwrap_or("-"),
                (From::Aws, _) => "as the AWS clients found it",
                (From::Default, _) => "default",
            };
            let value = setting.value.as_deref().unwrap_or("-");
            let first = format!("  --{:width$}  ", setting.setting);
            out.push_str(&wrapped(WIDTH, &format!("{value}  ({from})"), &first, &" ".repeat(width + 6)));
        }
    }
    let defaults = settings.iter().filter(is_default).filter_map(|setting| {
        Some(format!("--{} {}", setting.setting, setting.value.as_ref()?.replace(' ', "\u{a0}")))
    });
    let defaults = defaults.map(|text| text.replacen(' ', "\u{a0}", 1)).collect::<Vec<_>>().join(", ");
    // What belongs together stays on one line.
    out.push_str(&wrapped(WIDTH, &format!("{defaults}."), "  Defaults: ", "    ").replace('\u{a0}', " "));
    let unset = settings.iter().filter(is_default).filter(|setting| setting.value.is_none());
    let unset = unset.map(|setting| format!("--{}", setting.setting)).collect::<Vec<_>>().join(", ");
    out.push_str(&wrapped(WIDTH, &format!("{unset}."), "  Not set: ", "    "));
}

/// No stream, then each one, in their order.
fn streams<'a>(settings: &[&'a Setting]) -> Vec<Option<&'a str>> {
    let mut all = vec![None];
    for setting in settings {
        let stream = setting.stream.as_deref();
        if !all.contains(&stream) {
            all.push(stream);
        }
    }
    all
}

fn line(item: &Item, width: usize) -> String {
    let (mark, before) = match item.verdict {
        Verdict::Ok => ("ok", ""),
        Verdict::Warning => ("warning", ""),
        Verdict::Failed => ("FAILED", ""),
        Verdict::NotLookedAt => ("?", "not looked at: "),
    };
    let first = format!("    {mark:7}  {:width$}  ", item.item);
    wrapped(WIDTH, &format!("{before}{}", item.text), &first, &" ".repeat(width + 15))
}

fn verdict(report: &Report) -> String {
    let Report { ok, warnings, failed, not_looked_at, .. } = report;
    let mut counts = vec![format!("{ok} ok")];
    if *warnings > 0 {
        counts.push(format!("{warnings} with a warning"));
    }
    if *failed > 0 {
        counts.push(format!("{failed} FAILED"));
    }
    if *not_looked_at > 0 {
        counts.push(format!("{not_looked_at} not looked at"));
    }
    let end = if *failed > 0 {
        "A worker with these settings would not do its work: correct what failed, then check again."
    } else if *not_looked_at > 0 {
        "Nothing failed. What was not looked at shows when a worker runs."
    } else {
        "A worker with these settings finds all that it needs."
    };
    wrapped(WIDTH, &format!("{}. {end}", counts.join(", ")), "", "")
}
