//! Data → bodies of calls to `PutMetricData`, within the limits of CloudWatch.

use bytes::Bytes;
use serde::Serialize;

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
    /// JSON.
    pub(super) body: Bytes,
    /// Metrics in it.
    pub(super) data: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    metric_name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dimensions: Vec<Dimension<'a>>,
    timestamp: i64,
    unit: &'a str,
    #[serde(flatten)]
    values: Values,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Dimension<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "PascalCase")]
enum Values {
    One { value: f64 },
    Many { values: Vec<f64>, counts: Vec<f64> },
}

/// The calls for data of the time `stamp`, seconds since the epoch. Values that CloudWatch does not take (they are no
/// numbers) are left out.
pub(super) fn calls(namespace: &str, stamp: i64, data: &[Datum]) -> Vec<Call> {
    let head = format!("{{\"Namespace\":{},\"MetricData\":[", json(namespace));
    let tail = "]}";
    let mut calls = Vec::new();
    let (mut body, mut inside) = (head.clone(), 0);
    for entry in data.iter().flat_map(|datum| entries(datum, stamp)) {
        let text = json(&entry);
        if inside == DATA_MAX || inside > 0 && body.len() + 1 + text.len() + tail.len() > BYTES_MAX {
            calls.push(Call {
                body: (std::mem::replace(&mut body, head.clone()) + tail).into(),
                data: inside,
            });
            inside = 0;
        }
        if inside > 0 {
            body.push(',');
        }
        body.push_str(&text);
        inside += 1;
    }
    if inside > 0 {
        calls.push(Call { body: (body + tail).into(), data: inside });
    }
    calls
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings and finite numbers are JSON")
}

fn entries(datum: &Datum, stamp: i64) -> Vec<Entry<'_>> {
    let entry = |values| Entry {
        metric_name: datum.name,
        dimensions: datum.dimensions.iter().map(|(name, value)| Dimension { name, value }).collect(),
        timestamp: stamp,
        unit: datum.unit,
        values,
    };
    let counted = counted(&datum.values);
    match counted[..] {
        [(value, 1.0)] => vec![entry(Values::One { value })],
        _ => counted
            .chunks(VALUES_MAX)
            .map(|part| {
                let (values, counts) = part.iter().copied().unzip();
                entry(Values::Many { values, counts })
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
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    /// What CloudWatch would make of the calls: name, dimensions and each single value.
    fn received(calls: &[Call]) -> Vec<(String, String, u64)> {
        let mut all = Vec::new();
        for call in calls {
            assert!(call.body.len() <= BYTES_MAX, "{} bytes", call.body.len());
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            assert_eq!(body["Namespace"], "name \"space\"");
            let data = body["MetricData"].as_array().unwrap();
            assert!((1..=DATA_MAX).contains(&data.len()) && data.len() == call.data);
            for datum in data {
                assert_eq!((&datum["Timestamp"], &datum["Unit"]), (&1_800_000_000.into(), &"Count".into()));
                let values = match datum.get("Value") {
                    Some(value) => vec![(number(value), 1.0)],
                    None => {
                        let list = |of: &str| -> Vec<f64> {
                            datum[of].as_array().unwrap().iter().map(number).collect()
                        };
                        let (values, counts) = (list("Values"), list("Counts"));
                        assert!(values.len() == counts.len() && (1..=VALUES_MAX).contains(&values.len()));
                        values.into_iter().zip(counts).collect()
                    }
                };
                for (value, count) in values {
                    let mut count = count;
                    while count > 0.0 {
                        let name = datum["MetricName"].as_str().unwrap().to_owned();
                        all.push((name, datum["Dimensions"].to_string(), value.to_bits()));
                        count -= 1.0;
                    }
                }
            }
        }
        all.sort();
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_value_is_in_one_call_and_every_call_within_the_limits(
            sizes in proptest::collection::vec((0_usize..400, 1_usize..900), 0..40),
            few in any::<bool>(),
        ) {
            let data: Vec<Datum> = sizes
                .iter()
                .map(|(values, long)| Datum {
                    name: "LeasesHeld",
                    dimensions: vec![("Stream", "\"".repeat(*long))],
                    unit: "Count",
                    values: (0..*values).map(|n| f64::from(u16::try_from(n).unwrap() % if few { 3 } else { 1000 })).collect(),
                })
                .collect();
            let mut put: Vec<_> = data
                .iter()
                .flat_map(|datum| {
                    let (name, value) = &datum.dimensions[0];
                    let dimensions = serde_json::json!([{ "Name": name, "Value": value }]).to_string();
                    datum.values.iter().map(move |value| (datum.name.to_owned(), dimensions.clone(), value.to_bits()))
                })
                .collect();
            put.sort();
            prop_assert_eq!(received(&calls("name \"space\"", 1_800_000_000, &data)), put);
        }
    }

    #[test]
    fn calls_are_full_before_there_is_another() {
        let datum = |long: usize, values: Vec<f64>| Datum {
            name: "LeasesHeld",
            dimensions: vec![("Stream", "s".repeat(long))],
            unit: "Count",
            values,
        };
        let sizes = |data: &[Datum]| -> Vec<usize> {
            calls("name \"space\"", 1_800_000_000, data).iter().map(|call| call.data).collect()
        };
        assert_eq!(sizes(&vec![datum(9, vec![1.0]); 2001]), [1000, 1000, 1]);
        assert_eq!(sizes(&vec![datum(1900, vec![1.0]); 1000]).len(), 3, "2 MB");
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[datum(9, vec![f64::NAN, f64::INFINITY])]), [0; 0], "they are no numbers");
    }
}
