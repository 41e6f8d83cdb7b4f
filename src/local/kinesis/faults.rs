//! Faults on purpose: what a call suffers is drawn from a seeded generator.

use std::str::FromStr;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `ProvisionedThroughputExceededException`; nothing is done.
    Throttle,
    /// `InternalFailure`, HTTP 500; nothing is done.
    ServerError,
    /// The call waits this long, then runs.
    Delay(Duration),
    /// The connection is closed; nothing is done.
    Cut,
    /// The work is done, then the connection is closed.
    LostAnswer,
    /// `GetRecords` brings no records this time, although there are some; other calls know nothing of it.
    Empty,
}

/// A rule: calls of one operation suffer a fault with some probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Name of the operation (`GetRecords`), or `*` for each.
    pub operation: String,
    /// What happens.
    pub kind: FaultKind,
    /// How often, 0 to 1.
    pub rate: f64,
}

impl FromStr for Fault {
    type Err = String;

    /// Reads `OPERATION:KIND:RATE`, where KIND is `throttle`, `5xx`, `delay=200ms`, `cut`, `lost-answer` or
    /// `empty`.
    fn from_str(text: &str) -> Result<Self, String> {
        let help = "write it as OPERATION:KIND:RATE, like GetRecords:throttle:0.1";
        let [operation, kind, rate] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(format!("a fault has three parts: {help}"));
        };
        if operation != "*" && !super::api::OPERATIONS.contains(&operation) {
            return Err(format!(
                "unknown operation {operation:?}: use * or one of {}",
                super::api::OPERATIONS.join(", ")
            ));
        }
        let kind = match kind.split_once('=') {
            None if kind == "throttle" => FaultKind::Throttle,
            None if kind == "5xx" => FaultKind::ServerError,
            None if kind == "cut" => FaultKind::Cut,
            None if kind == "lost-answer" => FaultKind::LostAnswer,
            None if kind == "empty" => FaultKind::Empty,
            Some(("delay", time)) => FaultKind::Delay(
                humantime::parse_duration(time)
                    .map_err(|_| format!("{time:?} is not a time: write it like delay=200ms"))?,
            ),
            _ => {
                return Err(format!(
                    "unknown fault {kind:?}: use throttle, 5xx, delay=TIME, cut, lost-answer or empty"
                ));
            }
        };
        let rate: f64 = rate.parse().map_err(|_| format!("{rate:?} is not a rate: {help}"))?;
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("the rate {rate} must be between 0 and 1"));
        }
        Ok(Self { operation: operation.to_owned(), kind, rate })
    }
}

/// The rules in force, with their generator.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Vec<Fault>,
    rng: ChaCha8Rng,
}

/// What one call suffers: a delay, and perhaps one other fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) delay: Duration,
    pub(crate) fault: Option<FaultKind>,
}

impl Faults {
    pub(crate) fn new(rules: Vec<Fault>, seed: u64) -> Self {
        Self { rules, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Draws for one call: delays add up, of the other faults the first one drawn counts.
    pub(crate) fn strike(&mut self, operation: &str) -> Struck {
        let mut struck = Struck::default();
        for rule in self.rules.iter().filter(|rule| rule.operation == "*" || rule.operation == operation) {
            if !self.rng.random_bool(rule.rate) {
                continue;
            }
            match rule.kind {
                FaultKind::Delay(time) => struck.delay += time,
                kind => struck.fault = struck.fault.or(Some(kind)),
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_nonsense_is_refused_with_advice() {
        let fault: Fault = "GetRecords:delay=200ms:0.5".parse().unwrap();
        assert_eq!(fault.kind, FaultKind::Delay(Duration::from_millis(200)));
        assert_eq!("*:5xx:1".parse::<Fault>().unwrap().kind, FaultKind::ServerError);
        for text in [
            "",
            "GetRecords",
            "GetRecords:throttle:2",
            "GetRecord:cut:1",
            "*:delay:1",
            "*:burn:0.1",
            "*:cut:x",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_the_rate_holds() {
        let rules = vec!["PutRecords:cut:0.25".parse().unwrap(), "*:delay=1ms:1".parse().unwrap()];
        let draw = |seed| -> Vec<Struck> {
            let mut faults = Faults::new(rules.clone(), seed);
            (0..4_000).map(|_| faults.strike("PutRecords")).collect()
        };
        assert_eq!(draw(7), draw(7));
        let cuts = draw(7).iter().filter(|s| s.fault == Some(FaultKind::Cut)).count();
        assert!((800..1_200).contains(&cuts), "{cuts}");
        let other = Faults::new(rules.clone(), 7).strike("GetRecords");
        assert_eq!(other, Struck { delay: Duration::from_millis(1), fault: None });
    }
}
