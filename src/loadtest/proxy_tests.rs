use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::loadtest::faults::{Spell, Weather};

struct Stage {
    network: Arc<Network>,
    /// Requests that reached the server.
    reached: Arc<AtomicU32>,
    url: String,
    client: reqwest::Client,
    _tasks: JoinSet<()>,
}

async fn stage() -> Stage {
    let (reached, network) = (Arc::new(AtomicU32::new(0)), Arc::new(Network::default()));
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::clone(&reached);
    let app = axum::Router::new().fallback(move |body: Bytes| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { body }
    });
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let stop = CancellationToken::new();
    let url =
        open(Arc::clone(&network), (Service::DynamoDb, &server), "w", 7, stop, &mut tasks).await.unwrap();
    Stage { network, reached, url, client: reqwest::Client::new(), _tasks: tasks }
}

impl Stage {
    fn weather(&self, weather: Weather, rate: f64, length: Duration) {
        let until = Instant::now() + length;
        self.network.sky().add(Spell { weather, worker: Some("w".into()), rate, until });
    }

    /// Status and body; `None` when there was no answer.
    async fn ask(&self) -> Option<(u16, String)> {
        let request =
            self.client.post(&self.url).header("x-amz-target", "DynamoDB_20120810.Scan").body("hello");
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }
}

#[tokio::test]
async fn requests_pass_unchanged_and_are_counted() {
    let stage = stage().await;
    for _ in 0..3 {
        assert_eq!(stage.ask().await, Some((200, "hello".into())));
    }
    let counts = stage.network.counts();
    assert_eq!(counts[&(Service::DynamoDb, "Scan".into())], Counts { requests: 3, struck: 0 });
}

#[tokio::test]
async fn errors_come_before_or_after_the_effect() {
    let stage = stage().await;
    stage.weather(Weather::Throttle, 1.0, Duration::from_secs(60));
    let (status, body) = stage.ask().await.unwrap();
    assert!(status == 400 && body.contains("ProvisionedThroughputExceededException"), "{status} {body}");
    assert_eq!(stage.reached.load(Ordering::Relaxed), 0);
    stage.network.sky().clear();
    stage.weather(Weather::Broken, 1.0, Duration::from_secs(60));
    for _ in 0..40 {
        assert!(stage.ask().await.unwrap().0 >= 500);
    }
    assert!((5..36).contains(&stage.reached.load(Ordering::Relaxed)));
}

#[tokio::test]
async fn cut_connections_give_no_answer_with_or_without_the_effect() {
    let stage = stage().await;
    stage.weather(Weather::Cut, 1.0, Duration::from_secs(60));
    for _ in 0..40 {
        assert_eq!(stage.ask().await, None);
    }
    assert!((5..36).contains(&stage.reached.load(Ordering::Relaxed)));
    stage.network.sky().clear();
    assert_eq!(stage.ask().await, Some((200, "hello".into())));
}

#[tokio::test]
async fn a_partition_swallows_requests_until_it_is_over() {
    let stage = stage().await;
    stage.weather(Weather::Partition, 1.0, Duration::from_millis(300));
    let asked = Instant::now();
    assert_eq!(stage.ask().await, None);
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(stage.reached.load(Ordering::Relaxed), 0);
    assert_eq!(stage.ask().await, Some((200, "hello".into())));
}
