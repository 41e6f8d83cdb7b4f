//! A fleet of Java workers beside one of ours, with the settings of production: how long a shard stands still when its
//! worker goes, and what leases cost at rest. Slow, so only with `KINETIDE_INTEROP_FIGURES=1` beside the variables of
//! the suite; best on an idle machine, in a release build:
//!
//! ```sh
//! KINETIDE_INTEROP_FIGURES=1 cargo test --release --test it interop::figures -- --test-threads 1 --nocapture
//! ```

use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::meter::{Count, Counts, Meter};
use super::worker::{Kind, Worker};
use super::{Layout, Setup};

/// The Java leader's lock alone takes two minutes.
const LIMIT: Duration = Duration::from_secs(400);

/// Our defaults, where tests have others.
const OURS: [(&str, &str); 4] = [
    ("failover-time", "10s"),
    ("lease-scan-interval", "1s"),
    ("shard-sync-interval", "60s"),
    ("poll-idle-max", "1s"),
];
/// On demand in us-east-1, $ for a million units.
const READ_UNITS_PRICE: f64 = 0.125;
const WRITE_UNITS_PRICE: f64 = 0.625;
/// After the last worker has found leases: everything that happens once is over.
const SETTLES: Duration = Duration::from_secs(150);
/// How long requests are counted: our default for the age of a batch, so one batch of each shard.
const COUNTED: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn stalls_of_java() {
    stalls(Kind::Java).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_of_ours() {
    stalls(Kind::Ours).await;
}

fn wanted() -> Option<Setup> {
    #[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
    let wanted = std::env::var("KINETIDE_INTEROP_FIGURES").is_ok();
    wanted.then(|| Setup::find(Layout::One)).flatten()
}

async fn stalls(kind: Kind) {
    let Some(setup) = wanted() else { return };
    for leader_goes in [false, true] {
        for killed in [false, true] {
            stall(setup.clone(), kind, leader_goes, killed).await;
        }
    }
}

async fn stall(setup: Setup, kind: Kind, leader_goes: bool, killed: bool) {
    let mut fleet = Fleet::new("figures", setup, 4).await;
    let first = start(&mut fleet, kind, "w-1");
    fleet.until_led_by("w-1", LIMIT).await;
    let second = start(&mut fleet, kind, "w-2");
    fleet.until_shared_by(&["w-1", "w-2"], LIMIT).await;
    let (goes, stays) = if leader_goes { (first, second) } else { (second, first) };
    let survivors = [stays.id.as_str()];
    let (stall, ()) = tokio::join!(fleet.longest_stall(&survivors, LIMIT), async {
        if killed { goes.kill().await } else { goes.stop().await }
    });
    let who = if leader_goes { "leader" } else { "follower" };
    let how = if killed { "SIGKILL" } else { "SIGTERM" };
    fleet.say(&format!("{kind:?}, {how} to the {who}: {:.1} s without progress", stall.as_secs_f32()));
    fleet.rest().await;
    stays.stop().await;
    fleet.verdict();
}

fn start(fleet: &mut Fleet, kind: Kind, id: &str) -> Worker {
    match kind {
        // Its default but for the pause of a minute after the first look at the shards.
        Kind::Java => fleet.java_with(id, &[("failover-ms", "10000"), ("poll-idle-ms", "1000")]),
        Kind::Ours => fleet.ours_with(id, &OURS),
    }
}

/// A fleet whose requests are counted.
#[derive(Clone, Copy)]
struct Counted {
    kind: Kind,
    shards: u32,
    workers: usize,
    batch_age: &'static str,
}

/// All at once: counts do not suffer from a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn costs() {
    let Some(setup) = wanted() else { return };
    let java = |shards| Counted { kind: Kind::Java, shards, workers: 2, batch_age: "" };
    let ours = |shards, workers, batch_age| Counted { kind: Kind::Ours, shards, workers, batch_age };
    let fleets = [
        java(4),
        java(40),
        ours(4, 2, "300s"),
        ours(40, 2, "300s"),
        ours(4, 2, "10s"),
        ours(40, 2, "10s"),
        ours(4, 2, "2s"),
        ours(200, 1, "300s"),
    ];
    for report in join_all(fleets.map(|fleet| cost(setup.clone(), fleet))).await {
        report.lines().for_each(|line| println!("{line}"));
    }
}

async fn cost(setup: Setup, counted: Counted) -> String {
    let Counted { kind, shards, workers, batch_age } = counted;
    let mut fleet = Fleet::new("costs", setup.clone(), shards).await;
    let (mut meters, mut processes) = (Vec::new(), Vec::new());
    let ids: Vec<String> =
        (1..=workers).map(|number| format!("{kind:?}-{shards}-{batch_age}-{number}")).collect();
    for id in &ids {
        // Java workers that start together on no table fail now and then for good.
        if let Some(first) = ids.first().filter(|first| *first != id) {
            fleet.until_led_by(first, LIMIT).await;
        }
        let meter = Meter::start(&setup.dynamodb).await;
        processes.push(match kind {
            Kind::Java => fleet.java_with(
                id,
                &[
                    ("failover-ms", "10000"),
                    ("shard-sync-ms", "60000"),
                    ("poll-idle-ms", "1500"),
                    ("dynamodb", meter.url()),
                ],
            ),
            Kind::Ours => {
                let more = [("batch-age", batch_age), ("dynamodb-endpoint", meter.url())];
                fleet.ours_with(id, &[&OURS[..], &more].concat())
            }
        });
        meters.push(meter);
    }
    let expected: Vec<&str> = ids.iter().map(String::as_str).collect();
    let shared = async |fleet: &Fleet| fleet.shares().await.into_keys().eq(expected.iter().copied());
    fleet.until(&format!("{} have leases", expected.join(" and ")), LIMIT, shared).await;
    sleep(SETTLES).await;
    meters.iter().for_each(|meter| drop(meter.take()));
    sleep(COUNTED).await;
    let counts: Vec<Counts> = meters.iter().map(Meter::take).collect();
    let leader = fleet.leader().await.unwrap();
    let mut report = format!("\n{kind:?}, {shards} shards, {workers} workers, batch age {batch_age}\n");
    let mut all = Counts::new();
    for (id, counts) in ids.iter().zip(&counts) {
        report += &table(if *id == leader { "the leader" } else { "a follower" }, counts, 1.0);
        for (what, count) in counts {
            all.entry(what).or_default().add(count);
        }
    }
    report += &table("the fleet, for a lease", &all, f64::from(shards));
    let largest = meters.iter().map(Meter::largest_row).max().unwrap();
    report += &format!("largest row at the end {largest} B, shares {:?}\n", fleet.shares().await);
    for process in processes {
        process.stop().await;
    }
    report
}

/// Requests an hour, and what they cost.
fn table(whose: &str, counts: &Counts, leases: f64) -> String {
    let hours = COUNTED.as_secs_f64() / 3600.0 * leases;
    let mut all = Count::default();
    counts.values().for_each(|count| all.add(count));
    let line = |what: &str, count: &Count| {
        let [requests, refused, reads, writes] =
            [count.requests.into(), count.refused.into(), count.read_units, count.write_units]
                .map(|sum| sum / hours);
        let price = (reads * READ_UNITS_PRICE + writes * WRITE_UNITS_PRICE) / 1e6;
        format!(
            "  {what:<24}{requests:>9.1} requests{refused:>7.1} refused{reads:>9.1} read{writes:>9.1} write{:>9.6} ${:>11} B\n",
            price, count.bytes
        )
    };
    let lines: String = counts.iter().map(|(what, count)| line(what, count)).collect();
    format!(" {whose}, in an hour:\n{lines}{}", line("all", &all))
}
