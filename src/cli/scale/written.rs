//! What producers write into a stream, as CloudWatch counted it in the last 24 hours.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::aws::CloudWatch;
use crate::clock::wall_clock_s;
use crate::scale::Written;

const HOURS: u32 = 24;
const MINUTE: u64 = 60;
/// The newest minutes are not complete.
const DELAY: u64 = 2 * MINUTE;
const TIMEOUT: Duration = Duration::from_secs(20);
/// Pages of an answer; two are enough for what is asked.
const PAGES_MAX: usize = 20;

const BYTES: &str = "IncomingBytes";
const RECORDS: &str = "IncomingRecords";
const THROTTLED: &str = "WriteProvisionedThroughputExceeded";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    metric_data_results: Vec<Series>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Series {
    id: String,
    #[serde(default)]
    values: Vec<f64>,
}

/// Asks for the sums of each minute.
///
/// # Errors
/// Why it is not known, on one line.
pub(super) async fn written(cloudwatch: &CloudWatch, stream: &str) -> Result<Written, String> {
    let asked = timeout(TIMEOUT, pages(cloudwatch, stream)).await;
    asked.map_err(|_| format!("no response within {} s", TIMEOUT.as_secs()))?
}

async fn pages(cloudwatch: &CloudWatch, stream: &str) -> Result<Written, String> {
    let end = (wall_clock_s().saturating_sub(DELAY)) / MINUTE * MINUTE;
    let mut query = query(stream, end);
    let mut all = Vec::new();
    for _ in 0..PAGES_MAX {
        let body = cloudwatch.get(Bytes::from(query.to_string())).await?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|error| format!("its response is not understood: {error}"))?;
        all.extend(answer.metric_data_results);
        match answer.next_token {
            Some(token) => query["NextToken"] = token.into(),
            None => return Ok(sums(&all)),
        }
    }
    Err(format!("its response has more than {PAGES_MAX} pages"))
}

fn query(stream: &str, end: u64) -> Value {
    let of = |(id, metric): (&str, &str)| {
        json!({
            "Id": id,
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/Kinesis",
                    "MetricName": metric,
                    "Dimensions": [{"Name": "StreamName", "Value": stream}],
                },
                "Period": MINUTE,
                "Stat": "Sum",
            },
            "ReturnData": true,
        })
    };
    let queries: Vec<Value> =
        [("bytes", BYTES), ("records", RECORDS), ("throttled", THROTTLED)].into_iter().map(of).collect();
    let start = end.saturating_sub(u64::from(HOURS) * 3600);
    json!({"StartTime": start, "EndTime": end, "MetricDataQueries": queries})
}

/// A stream that nobody writes to has no values, and neither has one of another name: that is not known, and not 0.
fn sums(series: &[Series]) -> Written {
    let values = |id: &str| {
        let of: Vec<f64> =
            series.iter().filter(|series| series.id == id).flat_map(|series| series.values.clone()).collect();
        of.into_iter().filter(|value| value.is_finite() && *value >= 0.0).collect::<Vec<_>>()
    };
    let peak = |id: &str| values(id).into_iter().reduce(f64::max).map(|sum| sum / 60.0);
    let throttled = values("throttled");
    Written {
        hours: HOURS,
        peak_bytes_per_second: peak("bytes"),
        peak_records_per_second: peak("records"),
        throttled_records: (!throttled.is_empty()).then(|| throttled.iter().sum()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_minute_counts_and_no_value_is_not_0() {
        let answer = r#"{"MetricDataResults":[
            {"Id":"bytes","Label":"IncomingBytes","Timestamps":[1.76E9,1.76E9],"Values":[600,6291456],"StatusCode":"PartialData"},
            {"Id":"records","Values":[],"StatusCode":"Complete"},
            {"Id":"bytes","Values":[120.0],"StatusCode":"Complete"}],"Messages":[]}"#;
        let answer: Answer = serde_json::from_str(answer).unwrap();
        let written = sums(&answer.metric_data_results);
        assert_eq!(written.peak_bytes_per_second, Some(104_857.6));
        assert_eq!((written.peak_records_per_second, written.throttled_records), (None, None));
    }

    #[test]
    fn a_day_is_asked_for() {
        let query = query("trades", 1_768_469_400);
        assert_eq!(query["EndTime"].as_u64().unwrap() - query["StartTime"].as_u64().unwrap(), 86_400);
        let first = &query["MetricDataQueries"][0]["MetricStat"]["Metric"];
        assert_eq!(
            (&first["MetricName"], &first["Dimensions"][0]["Value"]),
            (&json!(BYTES), &json!("trades"))
        );
    }
}
