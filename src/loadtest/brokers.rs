//! A broker of Kafka goes down and comes back, by a command of whoever owns the brokers: how they run is not known here.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::LoadPlan;
use crate::trial::TrialError;

/// The flag, for messages.
const FLAG: &str = "--broker-command";
/// The command finds the broker's address here.
const BROKER: &str = "KINETIDE_BROKER";
/// A command that takes longer does not end by itself.
const LONGEST: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a broker is taken down.
#[derive(Debug)]
pub(super) struct Brokers {
    command: String,
    addresses: Vec<String>,
    logs: PathBuf,
    outages: usize,
}

/// A command at work.
#[derive(Debug)]
pub(super) struct Outage {
    broker: String,
    child: Child,
    log: PathBuf,
    since: Instant,
}

impl Brokers {
    /// Those of the plan, where it has a command for them.
    pub(super) fn of(plan: &LoadPlan) -> Option<Self> {
        let (command, kafka) = (plan.broker_command.clone()?, plan.kafka.as_ref()?);
        let addresses = kafka.bootstrap.to_string().split(',').map(str::to_owned).collect();
        Some(Self { command, addresses, logs: plan.dir.join("logs"), outages: 0 })
    }

    /// Starts the command for one of the brokers.
    pub(super) fn take_one_down(&mut self, rng: &mut ChaCha8Rng) -> Result<Outage, TrialError> {
        let broker = self.addresses.choose(rng).expect("there is always a broker to ask").clone();
        self.outages += 1;
        let log = self.logs.join(format!("broker-command-{}.log", self.outages));
        let failed = |error: std::io::Error| TrialError::server(FLAG, error);
        let file = std::fs::File::create(&log).map_err(failed)?;
        let child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .env(BROKER, &broker)
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .kill_on_drop(true)
            // Ctrl-C on a terminal reaches the whole group: a broker that is down is to come back all the same.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Outage { broker, child, log, since: Instant::now() })
    }
}

impl Outage {
    /// Whose it is.
    pub(super) fn broker(&self) -> &str {
        &self.broker
    }

    /// Whether the command has ended well.
    ///
    /// # Errors
    /// When it has failed, or takes too long: then nobody knows what was played.
    pub(super) fn is_over(&mut self) -> Result<bool, TrialError> {
        let Self { broker, log, .. } = self;
        let failed = |how: String| {
            let log = log.display();
            Err(TrialError::server(FLAG, format!("for {broker} {how}; what it printed is in {log}")))
        };
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Ok(true),
            Ok(Some(status)) => failed(format!("failed ({status})")),
            Ok(None) if self.since.elapsed() > LONGEST => {
                failed(format!("did not end within {} s", LONGEST.as_secs()))
            }
            Ok(None) => Ok(false),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Waits for its end.
    pub(super) async fn over(mut self) -> Result<(), TrialError> {
        while !self.is_over()? {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn brokers(command: &str, logs: &std::path::Path) -> Brokers {
        Brokers {
            command: command.to_owned(),
            addresses: vec!["b-1:9092".to_owned(), "b-2:9092".to_owned()],
            logs: logs.to_owned(),
            outages: 0,
        }
    }

    #[tokio::test]
    async fn a_command_knows_its_broker_and_a_failure_ends_the_run() {
        let (folder, mut rng) = (tempfile::tempdir().unwrap(), ChaCha8Rng::seed_from_u64(1));
        let mut brokers =
            brokers("echo down: $KINETIDE_BROKER; [ $KINETIDE_BROKER = b-1:9092 ]", folder.path());
        let mut seen = std::collections::BTreeMap::new();
        for number in 1..=20 {
            let outage = brokers.take_one_down(&mut rng).unwrap();
            let broker = outage.broker().to_owned();
            let ended = outage.over().await.map_err(|error| error.to_string());
            let log = folder.path().join(format!("broker-command-{number}.log"));
            assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("down: {broker}\n"));
            seen.insert(broker, ended.map_err(|error| error.replace(&log.display().to_string(), "LOG")));
        }
        let failed = "--broker-command: for b-2:9092 failed (exit status: 1); what it printed is in LOG";
        let expected = [("b-1:9092", Ok(())), ("b-2:9092", Err(failed.to_owned()))];
        assert_eq!(seen, expected.map(|(broker, ended)| (broker.to_owned(), ended)).into());
    }
}
