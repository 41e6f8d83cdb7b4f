//! What producers write into a stream, as CloudWatch counted it in the last 24 hours.

use std::time::Duration;

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricDataResult, MetricStat};
use aws_smithy_types::DateTime;
use tokio::time::timeout;

use crate::aws::explain;
use crate::clock::wall_clock_s;
use crate::scale::Written;

const HOURS: u32 = 24;
const MINUTE: u32 = 60;
/// The newest minutes are not complete.
const DELAY: u64 = 120;
const TIMEOUT: Duration = Duration::from_secs(20);
/// Pages of an answer; two are enough for what is asked.
const PAGES_MAX: usize = 20;

const BYTES: &str = "IncomingBytes";
const RECORDS: &str = "IncomingRecords";
const THROTTLED: &str = "WriteProvisionedThroughputExceeded";

/// Asks for the sums of each minute.
///
/// # Errors
/// Why it is not known, on one line.
pub(super) async fn written(cloudwatch: &Client, stream: &str) -> Result<Written, String> {
    let asked = timeout(TIMEOUT, pages(cloudwatch, stream)).await;
    asked.map_err(|_| format!("no response within {} s", TIMEOUT.as_secs()))?
}

async fn pages(cloudwatch: &Client, stream: &str) -> Result<Written, String> {
    let (start, end) = day_before(wall_clock_s());
    let asked = cloudwatch.get_metric_data().start_time(start).end_time(end);
    let mut pages = asked.set_metric_data_queries(Some(queries(stream))).into_paginator().send();
    let mut all = Vec::new();
    for _ in 0..PAGES_MAX {
        match pages.try_next().await.map_err(|error| explain(&error))? {
            Some(page) => all.extend(page.metric_data_results.unwrap_or_default()),
            None => return Ok(sums(&all)),
        }
    }
    Err(format!("its response has more than {PAGES_MAX} pages"))
}

/// The last day of whole minutes.
fn day_before(now_s: u64) -> (DateTime, DateTime) {
    let end = (now_s.saturating_sub(DELAY)) / u64::from(MINUTE) * u64::from(MINUTE);
    let start = end.saturating_sub(u64::from(HOURS) * 3600);
    let time = |second: u64| DateTime::from_secs(second.cast_signed());
    (time(start), time(end))
}

fn queries(stream: &str) -> Vec<MetricDataQuery> {
    let of = |(id, name): (&str, &str)| {
        let of_stream = Dimension::builder().name("StreamName").value(stream).build();
        let metric =
            Metric::builder().namespace("AWS/Kinesis").metric_name(name).dimensions(of_stream).build();
        let sum = MetricStat::builder().metric(metric).period(MINUTE.cast_signed()).stat("Sum").build();
        MetricDataQuery::builder().id(id).metric_stat(sum).return_data(true).build()
    };
    [("bytes", BYTES), ("records", RECORDS), ("throttled", THROTTLED)].into_iter().map(of).collect()
}

/// A stream that nobody writes to has no values, and neither has one of another name: that is not known, and not 0.
fn sums(series: &[MetricDataResult]) -> Written {
    let values = |id: &str| {
        let of = series.iter().filter(|series| series.id() == Some(id)).flat_map(MetricDataResult::values);
        of.copied().filter(|value| value.is_finite() && *value >= 0.0).collect::<Vec<_>>()
    };
    let peak = |id: &str| values(id).into_iter().reduce(f64::max).map(|sum| sum / f64::from(MINUTE));
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
        let series = |id: &str, values: &[f64]| {
            MetricDataResult::builder().id(id).set_values(Some(values.to_vec())).build()
        };
        let written = sums(&[
            series("bytes", &[600.0, 6_291_456.0]),
            series("records", &[]),
            series("bytes", &[120.0]),
        ]);
        assert_eq!(written.peak_bytes_per_second, Some(104_857.6));
        assert_eq!((written.peak_records_per_second, written.throttled_records), (None, None));
    }

    #[test]
    fn a_day_of_whole_minutes_is_asked_for() {
        let (start, end) = day_before(1_768_469_459);
        assert_eq!((end.secs(), end.secs() - start.secs()), (1_768_469_280, 86_400));
        assert_eq!(day_before(7).0.secs(), 0);
        let queries = queries("trades");
        let first = queries[0].metric_stat().unwrap().metric().unwrap();
        assert_eq!((first.metric_name(), first.dimensions()[0].value()), (Some(BYTES), Some("trades")));
    }
}
