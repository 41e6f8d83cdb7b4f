//! How long a shard stands still when its worker goes, in a fleet of Java workers and in one of ours, with the
//! settings of production. Slow, so only with `KINETIDE_INTEROP_FIGURES=1`; best on an idle machine, in a release build:
//!
//! ```sh
//! KINETIDE_INTEROP_FIGURES=1 cargo test --release --test it interop::figures -- --test-threads 1 --nocapture
//! ```

use std::time::Duration;

use super::fleet::Fleet;
use super::worker::{Kind, Worker};
use super::{Layout, Setup};

/// The Java leader's lock alone takes two minutes.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn of_java() {
    figures(Kind::Java).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ours() {
    figures(Kind::Ours).await;
}

async fn figures(kind: Kind) {
    #[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
    if std::env::var("KINETIDE_INTEROP_FIGURES").is_err() {
        return;
    }
    let Some(setup) = Setup::find(Layout::One) else { return };
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
        Kind::Ours => fleet.ours_with(
            id,
            &[
                ("failover-time", "10s"),
                ("lease-scan-interval", "1s"),
                ("shard-sync-interval", "60s"),
                ("poll-idle-max", "1s"),
            ],
        ),
    }
}
