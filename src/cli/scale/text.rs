//! Plans and steps as text for people.

use super::super::leases::wrapped;
use crate::scale::{Mode, Observed, Part, ScalePlan, USES_A_DAY};

/// The whole plan.
pub(super) fn plan(observed: &Observed, plan: &ScalePlan) -> String {
    let stream = &observed.stream;
    let mode = match stream.mode {
        Mode::Provisioned => "provisioned",
        Mode::OnDemand => "on-demand",
    };
    let mut out = format!("{}: {mode}, {} open shards\n\n", stream.name, stream.open_shards);
    out.push_str("        NOW      WANTED   $ A MONTH\n");
    let cost = &plan.cost;
    out.push_str(&row("shards", &plan.shards, Some(cost.stream_now), cost.stream_wanted));
    out.push_str(&row("tasks", &plan.tasks, cost.tasks_now, cost.tasks_wanted));
    for (title, part) in [("Shards", &plan.shards), ("Tasks", &plan.tasks)] {
        out.push_str(&format!("\n{title}\n"));
        part.because.iter().for_each(|why| out.push_str(&wrapped(why, "  - ", "    ")));
    }
    out.push('\n');
    if let Some(used) = stream.updates_in_24h.filter(|_| stream.mode == Mode::Provisioned) {
        out.push_str(&format!("UpdateShardCount in the last 24 hours: {used} of {USES_A_DAY}\n"));
    }
    out.push_str(&format!("Prices: {}, data apart; task: {}\n", cost.prices, cost.task));
    observed.notes.iter().for_each(|note| out.push_str(&wrapped(note, "Not known: ", "  ")));
    if let (Some(wanted), false) = (plan.shards.wanted, plan.steps.is_empty()) {
        out.push_str(&format!("\n→ kinetide scale apply --stream {} --shards {wanted}\n", stream.name));
    }
    out
}

fn row(name: &str, part: &Part, now: Option<f64>, wanted: Option<f64>) -> String {
    let count = |count: Option<u32>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    let money =
        |money: Option<f64>| money.map_or_else(|| "unknown".to_owned(), |money| format!("{money:.0}"));
    let money = match (money(now), money(wanted)) {
        (now, wanted) if now == wanted => now,
        (now, wanted) => format!("{now} → {wanted}"),
    };
    format!("{name:<8}{:<9}{:<9}{money}\n", count(part.now), count(part.wanted))
}

/// The steps of a change, before it is made.
pub(super) fn steps(stream: &str, now: u32, steps: &[u32], used: Option<u32>, settled: bool) -> String {
    let way: Vec<String> = std::iter::once(&now).chain(steps).map(ToString::to_string).collect();
    let used = used.map_or_else(|| "unknown".to_owned(), |used| used.to_string());
    let mut out = format!(
        "{stream}: {} shards, {} step{}\n",
        way.join(" → "),
        steps.len(),
        if steps.len() == 1 { "" } else { "s" }
    );
    out.push_str(&format!("UpdateShardCount in the last 24 hours: {used} of {USES_A_DAY}\n"));
    if !settled {
        out.push_str(
            "The stream is changing now: the steps are those from the number that it has in this moment\n",
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_table_with_its_reasons() {
        let observed = Observed::parse(
            r#"{"stream":{"name":"trades","mode":"provisioned","open_shards":4,"updates_in_24h":1,"retention_hours":24},
                "workers":[{"worker":"w-1","cpu_percent":90},{"worker":"w-2","cpu_percent":80}],
                "shards":[{"shard":"s","throughput_kbps":10,"millis_behind_latest":0}],
                "cloudwatch":{"hours":24,"peak_bytes_per_second":4718592,"peak_records_per_second":900,"throttled_records":7},
                "notes":["lease table t: does not exist"]}"#,
        );
        let observed = observed.unwrap();
        assert_eq!(
            plan(&observed, &crate::scale::plan(&observed)),
            "\
trades: provisioned, 4 open shards

        NOW      WANTED   $ A MONTH
shards  4        7        44 → 77
tasks   2        3        29 → 43

Shards
  - 4.5 MiB/s are written in the busiest minute of the last 24 hours (CloudWatch): 7 shards at 70 %
    of their limit
  - 900 records/s are written in the busiest minute of the last 24 hours (CloudWatch): 2 shards at
    70 % of their limit
  - 7 records were refused in that time because a shard was full: keys are uneven, or seconds are
    busier than minutes show

Tasks
  - workers use 85 % of their CPU on average, 60 % is the aim

UpdateShardCount in the last 24 hours: 1 of 10
Prices: list prices of us-east-1, November 2026, data apart; task: Fargate ARM64, 0.5 vCPU, 1 GB
Not known: lease table t: does not exist

→ kinetide scale apply --stream trades --shards 7
"
        );
    }

    #[test]
    fn what_is_not_known_is_called_unknown() {
        let least = r#"{"stream":{"name":"t","mode":"provisioned","open_shards":4}}"#;
        let observed = Observed::parse(least).unwrap();
        let text = plan(&observed, &crate::scale::plan(&observed));
        assert!(text.contains("shards  4        unknown  44 → unknown\n"), "{text}");
        assert!(text.contains("tasks   unknown  unknown  unknown\n"), "{text}");
        assert!(!text.contains("scale apply"), "{text}");
        assert_eq!(
            steps("t", 4, &[8, 16], None, true),
            "t: 4 → 8 → 16 shards, 2 steps\nUpdateShardCount in the last 24 hours: unknown of 10\n"
        );
    }
}
