//! Data → calls to `PutMetricData`, within the limits of CloudWatch.

use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_smithy_types::DateTime;

use super::series::Datum;

/// Metrics in a call.
const DATA_MAX: usize = 1000;
/// Distinct values of a metric in a call; more of them become another metric of the same name, which adds up.
const VALUES_MAX: usize = 150;
/// Bytes of a call.
const BYTES_MAX: usize = 1_000_000;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) metrics: Vec<MetricDatum>,
    /// As it is sent; it may be a little less.
    pub(super) bytes: usize,
}

/// How finely CloudWatch keeps a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// By the minute, as it does unless told otherwise.
    Minute,
    /// By the second, for three hours ("high resolution").
    Second,
}

/// The calls for data of the time `stamp`, seconds since the epoch. Values that CloudWatch does not take (they are no
/// numbers) are left out.
pub(super) fn calls(namespace: &str, stamp: i64, data: &[Datum], resolution: Resolution) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for metric in data.iter().flat_map(|datum| metrics(datum, stamp, resolution)) {
        let bytes = bytes(&metric);
        match calls.last_mut() {
            Some(call) if call.metrics.len() < DATA_MAX && call.bytes + bytes <= BYTES_MAX => {
                call.metrics.push(metric);
                call.bytes += bytes;
            }
            _ => calls.push(Call { metrics: vec![metric], bytes: MEMBERS + text(namespace) + bytes }),
        }
    }
    calls
}

/// The names of all members of a metric in a body, or of the call, and what stands around them.
const MEMBERS: usize = 80;
const NUMBER: usize = 9;

/// A metric in a body, which is CBOR.
fn bytes(metric: &MetricDatum) -> usize {
    let dimension = |dimension: &Dimension| {
        let parts = [Some("Name"), dimension.name(), Some("Value"), dimension.value()];
        2 + parts.into_iter().flatten().map(text).sum::<usize>()
    };
    let dimensions: usize = metric.dimensions().iter().map(dimension).sum();
    let texts = [metric.metric_name(), metric.unit().map(StandardUnit::as_str)];
    let texts: usize = texts.into_iter().flatten().map(text).sum();
    let value = usize::from(metric.value().is_some());
    let timestamp = 1;
    MEMBERS
        + texts
        + dimensions
        + NUMBER * (timestamp + value + metric.values().len() + metric.counts().len())
}

/// A text shorter than 64 KiB, with its length before it.
fn text(text: &str) -> usize {
    3 + text.len()
}

fn metrics(datum: &Datum, stamp: i64, resolution: Resolution) -> Vec<MetricDatum> {
    let dimension = |(name, value): &(&str, String)| Dimension::builder().name(*name).value(value).build();
    let dimensions: Vec<Dimension> = datum.dimensions.iter().map(dimension).collect();
    let metric = || {
        MetricDatum::builder()
            .metric_name(datum.name)
            .set_dimensions((!dimensions.is_empty()).then(|| dimensions.clone()))
            .timestamp(DateTime::from_secs(stamp))
            .set_storage_resolution((resolution == Resolution::Second).then_some(1))
            .unit(StandardUnit::from(datum.unit))
    };
    let counted = counted(&datum.values);
    match counted[..] {
        [(value, 1.0)] => vec![metric().value(value).build()],
        _ => counted
            .chunks(VALUES_MAX)
            .map(|part| {
                let (values, counts) = part.iter().copied().unzip();
                metric().set_values(Some(values)).set_counts(Some(counts)).build()
            })
            .collect(),
    }
}

/// Each value once, in order, with how often it is there.
fn counted(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let mut counted: Vec<(f64, f64)> = Vec::new();
    for value in sorted {
        match counted.last_mut() {
            Some((last, count)) if last.total_cmp(&value).is_eq() => *count += 1.0,
            _ => counted.push((value, 1.0)),
        }
    }
    counted
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
