//! Whether this host's clock is right enough for AWS. Pure.

use super::report::Item;
use crate::aws::Heard;

const ABOUT: &str = "this host";
const ITEM: &str = "clock";
/// AWS refuses requests that are further off (S3 allows 15 minutes).
const REFUSED_US: i64 = 300_000_000;
/// Who keeps time by a service is never so far off.
const ODD_US: i64 = 10_000_000;

/// The clock, by those of the services.
pub(super) fn look(heard: &[Heard]) -> Item {
    let known = heard.iter().filter_map(|heard| Some((heard.ahead_us?, heard.url.as_deref()?)));
    let Some((ahead_us, url)) = known.max_by_key(|(ahead_us, _)| ahead_us.unsigned_abs()) else {
        return Item::not_looked_at(ABOUT, ITEM, "no service said the time");
    };
    let facts = serde_json::json!({ "ahead_seconds": ahead_us / 1_000_000, "of": url });
    let by = std::time::Duration::from_secs(ahead_us.unsigned_abs() / 1_000_000);
    let way = if ahead_us > 0 { "ahead of" } else { "behind" };
    let off = format!("{} {way} that of {url}", humantime::format_duration(by));
    const DO: &str = "set it, and keep it by NTP (chrony; on EC2 169.254.169.123)";
    let item = match ahead_us.abs() {
        REFUSED_US.. => Item::failed(
            ABOUT,
            ITEM,
            format!("{off}; AWS refuses requests that are more than 5 minutes off: {DO}"),
        ),
        ODD_US.. => Item::warning(ABOUT, ITEM, format!("{off}: {DO}")),
        _ => Item::ok(ABOUT, ITEM, "as the services' clocks"),
    };
    item.with(facts)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_worst_difference() {
        let heard = |ahead_s: Option<i64>| Heard {
            url: Some("https://kinesis".into()),
            answered: true,
            ahead_us: ahead_s.map(|s| s * 1_000_000),
        };
        for (ahead, verdict, words) in [
            (vec![Some(0), Some(3)], Verdict::Ok, "as the services' clocks"),
            (vec![Some(0), Some(-11)], Verdict::Warning, "11s behind that of https://kinesis"),
            (vec![Some(7200), Some(0)], Verdict::Failed, "2h ahead of that of https://kinesis; AWS refuses"),
            (vec![Some(-300), None], Verdict::Failed, "5m behind"),
            (vec![None], Verdict::NotLookedAt, "no service said"),
            (vec![], Verdict::NotLookedAt, "no service said"),
        ] {
            let item = look(&ahead.into_iter().map(heard).collect::<Vec<_>>());
            assert!(item.verdict == verdict && item.text.starts_with(words), "{item:?}");
        }
    }
}
