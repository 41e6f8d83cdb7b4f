//! What a plan is made from: all that was asked of AWS. `docs/SCALING.md` documents the members; a file of it makes the
//! same plan again.

use serde::{Deserialize, Serialize};

/// A stream and its readers at one moment. What is not known is null or left out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The stream itself.
    pub stream: Stream,
    /// Its open shards as the lease table and the stream show them.
    #[serde(default)]
    pub shards: Vec<Shard>,
    /// The workers that can be given leases.
    #[serde(default)]
    pub workers: Vec<Worker>,
    /// What was written, as CloudWatch counted it.
    pub cloudwatch: Option<Written>,
    /// What could not be asked, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// As the user named it.
    pub name: String,
    /// Who decides how many shards there are.
    pub mode: Mode,
    /// Its open shards.
    pub open_shards: u32,
    /// Uses of `UpdateShardCount` in the last 24 hours.
    pub updates_in_24h: Option<u32>,
    /// How long it keeps records.
    pub retention_hours: Option<u32>,
}

/// Who decides how many shards there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The user.
    Provisioned,
    /// AWS.
    OnDemand,
}

/// An open shard.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its id.
    pub shard: String,
    /// What its worker reads, KB/s.
    pub throughput_kbps: Option<f64>,
    /// How far that worker's checkpoint is behind the tip, ms.
    pub millis_behind_latest: Option<u64>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Its id.
    pub worker: String,
    /// The share of its processors in use, percent, over its last reports.
    pub cpu_percent: Option<f64>,
}

/// What producers wrote into the stream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Hours from the first minute that was asked for to the last.
    pub hours: u32,
    /// Bytes a second in the busiest minute.
    pub peak_bytes_per_second: Option<f64>,
    /// Records a second in the busiest minute.
    pub peak_records_per_second: Option<f64>,
    /// Records that were refused because a shard was full.
    pub throttled_records: Option<f64>,
}

impl Observed {
    /// Reads a file of it: the object itself, or what `kinetide scale plan --json` printed, which holds it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let value = match value.get_mut("observed") {
            Some(observed) => observed.take(),
            None => value,
        };
        let observed: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if observed.stream.open_shards == 0 {
            return Err("stream.open_shards is 0; a stream has one shard at least".to_owned());
        }
        let written = observed.cloudwatch.iter().flat_map(|written| {
            [written.peak_bytes_per_second, written.peak_records_per_second, written.throttled_records]
        });
        let rates = observed.shards.iter().map(|shard| shard.throughput_kbps);
        let shares = observed.workers.iter().map(|worker| worker.cpu_percent);
        match written.chain(rates).chain(shares).flatten().find(|number| *number < 0.0) {
            Some(number) => Err(format!("{number} is below 0; what is not known is null")),
            None => Ok(observed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_is_read_again_and_nonsense_is_refused() {
        let least = r#"{"stream":{"name":"trades","mode":"provisioned","open_shards":4}}"#;
        let observed = Observed::parse(least).unwrap();
        assert_eq!((observed.stream.updates_in_24h, observed.cloudwatch.as_ref()), (None, None));
        let printed = serde_json::json!({"observed": observed, "plan": {}}).to_string();
        assert_eq!(Observed::parse(&printed), Ok(observed));
        for (text, problem) in [
            ("", "EOF"),
            ("{}", "missing field `stream`"),
            (r#"{"stream":{"name":"t","mode":"provisioned","open_shards":0}}"#, "one shard at least"),
            (r#"{"stream":{"name":"t","mode":"elastic","open_shards":1}}"#, "unknown variant `elastic`"),
            (r#"{"stream":{"name":"t","mode":"on_demand","open_shards":1},"lag":3}"#, "unknown field `lag`"),
            (
                r#"{"stream":{"name":"t","mode":"on_demand","open_shards":1},
                    "workers":[{"worker":"w","cpu_percent":-1}]}"#,
                "-1 is below 0",
            ),
        ] {
            let said = Observed::parse(text).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
    }
}
