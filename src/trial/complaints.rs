//! What keeps workers from going on, in their own words: their last errors, asked over HTTP while nothing moves.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::workers::Workers;

/// Workers are asked when nothing has moved for so long, and then as often.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// A worker that is stopped does not answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// A worker says where it listens at the beginning of its log.
const LOG_HEAD: u64 = 64 << 10;

/// The last answers.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Since when nothing has moved.
    still: Option<Instant>,
    asked: Option<Instant>,
    text: Option<String>,
}

impl Complaints {
    /// What the workers say while nothing has moved `since` then.
    pub(super) async fn while_still(&mut self, since: Instant, workers: &Workers) -> Option<&str> {
        let now = Instant::now();
        if self.still != Some(since) {
            *self = Self { still: Some(since), ..Self::default() };
        }
        if now.duration_since(since) >= ASK_EVERY
            && self.asked.is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY)
        {
            self.text = ask(workers).await;
            self.asked = Some(Instant::now());
        }
        self.text.as_deref()
    }

    /// The last answer, as the end of a message.
    pub(super) fn cause(&self) -> String {
        self.text.as_ref().map(|text| format!("; {text}")).unwrap_or_default()
    }
}

/// The first complaint of a worker that has one.
async fn ask(workers: &Workers) -> Option<String> {
    let all = workers.logs().map(|(id, log)| async move {
        let status = timeout(ANSWER_MAX, status(log)).await.ok()??;
        complaint(&status).map(|text| format!("{id}: {text}"))
    });
    join_all(all).await.into_iter().flatten().next()
}

/// What keeps the worker with this status from going on.
fn complaint(status: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let shards = status["shards"].as_array().into_iter().flatten();
    let open = shards.filter(|shard| shard["last_error_over"] == false);
    let of_shard =
        |shard: &Value| Some(format!("{}: {}", shard["shard"].as_str()?, shard["last_error"].as_str()?));
    open.filter_map(of_shard).next().or_else(|| text(&status["not_ready"][0])).or_else(|| {
        let trouble = &status["troubles"][0];
        Some(format!("{}: {}", trouble["call"].as_str()?, trouble["cause"].as_str()?))
    })
}

async fn status(log: &Path) -> Option<Value> {
    let mut head = String::new();
    std::fs::File::open(log).ok()?.take(LOG_HEAD).read_to_string(&mut head).ok()?;
    let started = head.lines().find(|line| line.contains(r#""message":"started""#))?;
    let http = serde_json::from_str::<Value>(started).ok()?["http"].as_str()?.to_owned();
    let mut connection = TcpStream::connect(&http).await.ok()?;
    let request = format!("GET /api/status HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_open_error_of_a_shard_comes_first() {
        let shard =
            |error: &str, over: bool| json!({"shard": "s-1", "last_error": error, "last_error_over": over});
        let troubles = json!([{"call": "Scan", "cause": "denied"}]);
        let of = |shards: Value| complaint(&json!({"shards": shards, "not_ready": [], "troubles": troubles}));
        assert_eq!(of(json!([shard("slow", true), shard("no room", false)])).unwrap(), "s-1: no room");
        assert_eq!(of(json!([shard("slow", true)])).unwrap(), "Scan: denied");
        assert_eq!(complaint(&json!({"shards": [], "not_ready": ["draining"]})).unwrap(), "draining");
        assert_eq!(complaint(&json!({"shards": [], "not_ready": [], "troubles": []})), None);
    }
}
