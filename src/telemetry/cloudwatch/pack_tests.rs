//! Every value is in one call, and every call within the limits, also as it is sent.

use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use proptest::prelude::*;

use super::*;
use crate::aws::CloudWatch;

const STAMP: i64 = 1_800_000_000;

/// What CloudWatch would make of the calls: name, dimensions and each single value.
fn received(calls: &[Call]) -> Vec<(String, String, u64)> {
    let mut all = Vec::new();
    for call in calls {
        assert!(call.bytes <= BYTES_MAX, "{} bytes", call.bytes);
        assert!((1..=DATA_MAX).contains(&call.metrics.len()));
        for metric in &call.metrics {
            assert_eq!(metric.timestamp(), Some(&DateTime::from_secs(STAMP)));
            assert_eq!(metric.unit(), Some(&StandardUnit::Count));
            let values: Vec<(f64, f64)> = match metric.value() {
                Some(value) => {
                    assert!(metric.values.is_none() && metric.counts.is_none());
                    vec![(value, 1.0)]
                }
                None => {
                    let (values, counts) = (metric.values(), metric.counts());
                    assert!(values.len() == counts.len() && (1..=VALUES_MAX).contains(&values.len()));
                    values.iter().copied().zip(counts.iter().copied()).collect()
                }
            };
            for (value, mut count) in values {
                while count > 0.0 {
                    let name = metric.metric_name().unwrap().to_owned();
                    all.push((name, shown(metric.dimensions()), value.to_bits()));
                    count -= 1.0;
                }
            }
        }
    }
    all.sort();
    all
}

fn shown(dimensions: &[Dimension]) -> String {
    let each = dimensions.iter().map(|each| format!("{}={}", each.name().unwrap(), each.value().unwrap()));
    each.collect::<Vec<_>>().join(",")
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
                let dimensions = format!("{name}={value}");
                datum.values.iter().map(move |value| (datum.name.to_owned(), dimensions.clone(), value.to_bits()))
            })
            .collect();
        put.sort();
        prop_assert_eq!(received(&calls("name space", STAMP, &data, Resolution::Minute)), put);
    }
}

fn datum(long: usize, values: Vec<f64>) -> Datum {
    Datum { name: "LeasesHeld", dimensions: vec![("Stream", "s".repeat(long))], unit: "Count", values }
}

#[test]
fn calls_are_full_before_there_is_another() {
    let sizes = |data: &[Datum]| -> Vec<usize> {
        calls("name space", STAMP, data, Resolution::Minute).iter().map(|call| call.metrics.len()).collect()
    };
    assert_eq!(sizes(&vec![datum(9, vec![1.0]); 2001]), [1000, 1000, 1]);
    assert_eq!(sizes(&vec![datum(1024, vec![1.0]); 1000]).len(), 2, "more than 1 MB");
    assert_eq!(sizes(&[]), [0; 0]);
    assert_eq!(sizes(&[datum(9, vec![f64::NAN, f64::INFINITY])]), [0; 0], "they are no numbers");
}

/// A request: how large its body is, and how it is encoded.
#[derive(Debug)]
struct Sent {
    bytes: usize,
    encoding: Option<String>,
}

/// Takes every request.
#[derive(Clone, Debug, Default)]
struct Taking(Arc<Mutex<Vec<Sent>>>);

impl HttpConnector for Taking {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let encoding = request.headers().get("content-encoding").map(str::to_owned);
        let bytes = request.body().bytes().expect("it is in memory").len();
        self.0.lock().unwrap().push(Sent { bytes, encoding });
        HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::empty())))
    }
}

#[tokio::test]
async fn a_body_is_as_large_as_was_reckoned_and_is_sent_as_it_is() {
    let taking = Taking::default();
    let connector = SharedHttpConnector::new(taking.clone());
    let credentials = Credentials::from_keys("key", "secret", None);
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-north-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .build();
    let client = CloudWatch::new(&sdk);
    let many = || (0..200).map(f64::from).collect::<Vec<_>>();
    let shard = Datum {
        dimensions: vec![("Operation", "ProcessTask".to_owned()), ("ShardId", "shardId-1".to_owned())],
        unit: "Count/Second",
        ..datum(0, vec![3.5])
    };
    for data in [
        vec![datum(1, vec![1.0])],
        vec![datum(1024, vec![1.0]); 999],
        vec![datum(300, many()); 999],
        vec![Datum { dimensions: Vec::new(), ..datum(0, vec![0.0]) }; 1000],
        vec![shard; 1000],
    ] {
        for call in calls("Trades/Prod", STAMP, &data, Resolution::Minute) {
            client.put("Trades/Prod", call.metrics).await.unwrap();
            let sent = taking.0.lock().unwrap().pop().unwrap();
            assert!(sent.bytes <= call.bytes, "{} bytes of at most {}", sent.bytes, call.bytes);
            assert!(call.bytes < 2 * sent.bytes, "{} bytes, and not {}", sent.bytes, call.bytes);
            assert_eq!(sent.encoding, None, "nothing is compressed");
        }
    }
}
