//! A lake as the target: what is there counts, what is missing is found.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::delivery::{Delivered, Target};
use super::lake::LakeTarget;
use super::plan::{Gap, Interval, Zone};
use crate::deliver::{ObjectSink, Sink, open};
use crate::transform::Provider;

const EVERY: Duration = Duration::from_secs(300);
/// The first interval of a day: a look back from the next ones crosses midnight.
const FIRST_US: i64 = 1_768_435_200_000_000;
const PROVIDER: Provider = Provider::CoinGecko;

struct Stage {
    sink: Arc<ObjectSink>,
    target: LakeTarget,
    _folder: tempfile::TempDir,
}

async fn stage() -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap().parse().unwrap();
    let sink = Arc::new(open(&url, None, None).await.unwrap());
    Stage { target: LakeTarget::new(Arc::clone(&sink), PROVIDER), sink, _folder: folder }
}

/// The interval so many after the first.
fn interval(number: i64) -> Interval {
    let first = Interval::at(FIRST_US, EVERY);
    (0..number.abs()).fold(first, |at, _| if number < 0 { at.earlier(300) } else { at.next() })
}

fn body(price: i64) -> Bytes {
    Bytes::from(format!("[ {{\"id\":\"a\", \"current_price\":{price}.50}}\n]\n"))
}

impl Stage {
    async fn read(&self, interval: Interval, zone: Zone) -> Option<Bytes> {
        self.sink.read(&interval.key(PROVIDER, zone)).await.unwrap()
    }

    async fn rows(&self, interval: Interval) -> Option<String> {
        let object = self.read(interval, Zone::Processed).await?;
        let mut text = String::new();
        MultiGzDecoder::new(&object[..]).read_to_string(&mut text).unwrap();
        Some(text)
    }

    async fn put(&self, number: i64) {
        self.target.snapshot(interval(number), None, &body(number)).await.unwrap();
    }

    /// First interval and number of each gap that a start finds, from the first interval on.
    async fn found(&self, before: i64) -> Vec<(i64, i64)> {
        let gaps = self.target.look_back(interval(before)).await.unwrap();
        assert!(gaps.iter().all(|gap| (&*gap.reason, gap.attempts) == ("not_polled", 0)));
        let first = interval(-10_000);
        gaps.iter().map(|gap| (gap.first.intervals_since(first) - 10_000, gap.intervals)).collect()
    }
}

#[tokio::test]
async fn the_body_that_is_there_counts_and_its_rows_are_made_once() {
    let stage = stage().await;
    let at = interval(3);
    assert!(!stage.target.has(at).await.unwrap());
    assert_eq!(stage.target.snapshot(at, None, &body(1)).await.unwrap(), Delivered::New);
    assert_eq!(stage.target.snapshot(at, None, &body(2)).await.unwrap(), Delivered::Existed);
    assert!(stage.target.has(at).await.unwrap());
    assert_eq!(stage.read(at, Zone::Raw).await.unwrap(), body(1), "byte for byte");
    let row = stage.rows(at).await.unwrap();
    // The time of the row is that of the key: whoever makes it makes the same.
    let end = format!(r#""timestamp":{},"year":"2026","month":"01","day":"15","hour":"00"}}"#, at.start_s);
    assert!(row.contains(r#""current_price":1.50"#) && row.trim_end().ends_with(&end), "{row}");
}

#[tokio::test]
async fn a_start_completes_what_was_left_half_done() {
    let stage = stage().await;
    for number in [-1, 0, 1] {
        stage.sink.create(&interval(number).key(PROVIDER, Zone::Raw), body(number)).await.unwrap();
    }
    stage.put(1).await;
    // One that no poller has written does not stop the others.
    stage.sink.create(&interval(2).key(PROVIDER, Zone::Raw), Bytes::from_static(b"<html>")).await.unwrap();
    assert_eq!(stage.found(3).await, []);
    for number in [-1, 0, 1] {
        assert!(stage.rows(interval(number)).await.unwrap().contains(&format!(":{number}.50")));
    }
    assert!(stage.rows(interval(2)).await.is_none());
    let refused = stage.target.snapshot(interval(2), None, &body(2)).await.unwrap_err();
    assert!(refused.for_good && refused.reason.contains("raw/year=2026/month=01/day=15"), "{refused}");
}

#[tokio::test]
async fn whoever_comes_next_completes_it_too() {
    let stage = stage().await;
    stage.sink.create(&interval(0).key(PROVIDER, Zone::Raw), body(0)).await.unwrap();
    assert!(stage.target.has(interval(0)).await.unwrap());
    assert!(stage.rows(interval(0)).await.unwrap().contains(":0.50"));
    stage.sink.create(&interval(1).key(PROVIDER, Zone::Raw), Bytes::from_static(b"[]")).await.unwrap();
    assert!(stage.target.has(interval(1)).await.unwrap_err().for_good);
}

#[tokio::test]
async fn a_start_finds_the_intervals_without_a_snapshot_once() {
    let stage = stage().await;
    assert_eq!(stage.found(10).await, [], "nothing was ever polled here");
    for number in [-4, -3, 1, 4] {
        stage.put(number).await;
    }
    stage.target.gap(&Gap::new(PROVIDER, interval(2), 1, "http_503", 9)).await.unwrap();
    let text = stage.read(interval(2), Zone::Gaps).await.unwrap();
    assert!(text.ends_with(b"\"intervals\":1,\"reason\":\"http_503\",\"attempts\":9}\n"));
    assert_eq!(stage.found(7).await, [(-2, 3), (3, 1), (5, 2)]);
    for gap in stage.target.look_back(interval(7)).await.unwrap() {
        stage.target.gap(&gap).await.unwrap();
    }
    assert_eq!(stage.found(7).await, []);
    assert_eq!(stage.found(9).await, [(7, 2)]);
    // More than a day later only the last day is looked at.
    assert_eq!(stage.found(7 + 288).await, [(7, 288)]);
    assert_eq!(stage.found(1000).await, []);
    // Intervals of another length are not comparable.
    let hourly = Interval::at(FIRST_US + 7_200_000_000, Duration::from_secs(3600));
    assert_eq!(stage.target.look_back(hourly).await.unwrap(), []);
}

#[tokio::test]
async fn two_pollers_write_each_snapshot_once() {
    let stage = Arc::new(stage().await);
    for number in 0..20 {
        let deliver = |price: i64| {
            let stage = Arc::clone(&stage);
            async move { stage.target.snapshot(interval(number), None, &body(price)).await.unwrap() }
        };
        let (one, other) = tokio::join!(deliver(100), deliver(200));
        let won = match (one, other) {
            (Delivered::New, Delivered::Existed) => 100,
            (Delivered::Existed, Delivered::New) => 200,
            both => panic!("{both:?}"),
        };
        assert_eq!(stage.read(interval(number), Zone::Raw).await.unwrap(), body(won));
        assert!(stage.rows(interval(number)).await.unwrap().contains(&format!(":{won}.50")));
    }
}
