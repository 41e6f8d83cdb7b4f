//! A provider over HTTP, as it misbehaves on the wire.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::answer::{Response, Trouble};
use super::request::{Account, Request};
use super::secret::Secret;
use super::source::{Failed, HttpSource, Source};
use crate::transform::Provider;

/// Answers one request with these bytes, and closes or, with nothing more to say, hangs; gives what it was asked.
async fn ask(
    provider: Provider,
    key: Option<&str>,
    answer: Vec<u8>,
    hangs: bool,
) -> (Result<Response, Failed>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let read = socket.read(&mut asked).await.unwrap();
        // The client may have had enough.
        let _ = socket.write_all(&answer).await;
        if hangs {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        String::from_utf8_lossy(&asked[..read]).into_owned()
    });
    let request = Request::new(provider, Account::Demo, Some(&url), 7).unwrap();
    let key = key.map(|key| Secret::new(key).unwrap());
    let source = HttpSource::new(request).unwrap();
    let response = source.fetch(key.as_ref(), Duration::from_secs(if hangs { 1 } else { 20 })).await;
    let asked = if hangs { String::new() } else { server.join_next().await.unwrap().unwrap() };
    (response, asked)
}

#[tokio::test]
async fn the_body_comes_byte_for_byte_and_the_key_in_its_header() {
    let body = b"[{\"id\":\"\xc3\xa9\"}]\r\n \x00".to_vec();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = [head.as_bytes(), &body].concat();
    let (response, asked) = ask(Provider::CoinGecko, Some("CG-key"), answer.clone(), false).await;
    let response = response.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &body[..]));
    let asked = asked.to_lowercase();
    assert!(
        asked.starts_with("get /api/v3/coins/markets?vs_currency=usd") && asked.contains("per_page=7&"),
        "{asked}"
    );
    assert!(
        asked.contains("x-cg-demo-api-key: cg-key\r\n") && asked.contains("user-agent: kinetide/"),
        "{asked}"
    );
    let (_, asked) = ask(Provider::CoinCap, Some("key"), answer.clone(), false).await;
    assert!(asked.to_lowercase().contains("authorization: bearer key\r\n"), "{asked}");
    let (_, asked) = ask(Provider::CoinGecko, None, answer, false).await;
    assert!(!asked.contains("api-key"), "{asked}");
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let status = |text: &str| text.replace('\n', "\r\n").into_bytes();
    for (answer, expected) in [
        (
            status("HTTP/1.1 429 Too Many Requests\nretry-after: 17\ncontent-length: 3\n\nno!"),
            (429, Some("17")),
        ),
        (status("HTTP/1.1 302 Found\nlocation: http://127.0.0.1:1/\ncontent-length: 0\n\n"), (302, None)),
        (status("HTTP/1.1 503 Service Unavailable\ncontent-length: 100\n\ncut"), (503, None)),
    ] {
        let response = ask(Provider::CoinCap, Some("key"), answer, false).await.0.unwrap();
        assert_eq!(
            (response.status, response.retry_after.as_deref(), response.body.len()),
            (expected.0, expected.1, 0)
        );
    }
    let large = [status("HTTP/1.1 200 OK\n\n"), vec![b' '; 33 << 20]].concat();
    for (answer, hangs, expected) in [
        (status("HTTP/1.1 200 OK\ncontent-length: 100\n\n[{\"id\":"), false, Trouble::CutOff),
        (status("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\n[{\"id\n"), false, Trouble::CutOff),
        (status("HTTP/1.1 200 OK\ncontent-le"), false, Trouble::CutOff),
        (Vec::new(), false, Trouble::CutOff),
        (Vec::new(), true, Trouble::TimedOut),
        (status("HTTP/1.1 200 OK\ncontent-length: 100\n\n[{\"id\":"), true, Trouble::TimedOut),
        (large, false, Trouble::TooLarge),
    ] {
        let failed = ask(Provider::CoinCap, Some("key"), answer, hangs).await.0.unwrap_err();
        assert_eq!(failed.trouble, expected, "{}", failed.detail);
        assert!(!failed.detail.contains("key"), "{}", failed.detail);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Url::parse(&format!("http://{closed}")).unwrap();
    let source =
        HttpSource::new(Request::new(Provider::CoinGecko, Account::Demo, Some(&url), 1).unwrap()).unwrap();
    let failed = source.fetch(None, Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(failed.trouble, Trouble::Unreachable, "{}", failed.detail);
}
