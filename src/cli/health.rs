//! `kinetide health`: the liveness probe of containers, whose image has neither a shell nor curl.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Exit;

/// A process that takes longer is as good as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Flags of `kinetide health`.
#[derive(Debug, Args)]
#[command(
    after_help = "Requests /healthz, which fails only when a restart would help: a loop of the process hangs. Whether the \
    worker does its part of the work is at /readyz; do not restart a worker for that.\n\n\
    Exit code: 0 when the worker is alive, 1 when it is not, or does not respond within 4 s, 2 for wrong settings."
)]
pub struct HealthArgs {
    /// Address of the worker's HTTP endpoints; 0.0.0.0 means this machine.
    #[arg(long, env = "KINETIDE_HTTP", value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
}

/// Runs the command.
///
/// # Errors
/// When the worker does not answer.
pub async fn run(args: HealthArgs) -> anyhow::Result<Exit> {
    let address = reachable(args.http);
    let asked = timeout(ANSWER_TIMEOUT, ask(address)).await.map_err(|_| {
        anyhow::anyhow!("the worker at {address} did not respond within {} s", ANSWER_TIMEOUT.as_secs())
    })?;
    let answer = asked.map_err(|error| {
        anyhow::anyhow!(
            "could not reach the worker at {address}: {error}; check --http, and that the worker runs"
        )
    })?;
    if is_good(&answer) {
        return Ok(Exit::Done);
    }
    let why = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
    anyhow::bail!("the worker at {address} is not healthy: {}", why.trim());
}

/// Whether a worker listens at this address, and is alive.
pub(super) async fn is_alive(address: SocketAddr) -> bool {
    let asked = timeout(ANSWER_TIMEOUT, ask(reachable(address))).await;
    matches!(asked, Ok(Ok(answer)) if is_good(&answer))
}

fn is_good(answer: &str) -> bool {
    answer.split(' ').nth(1) == Some("200")
}

/// A worker that listens on all addresses is asked on loopback.
fn reachable(listens: SocketAddr) -> SocketAddr {
    match listens.ip() {
        ip if !ip.is_unspecified() => listens,
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, listens.port()).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST, listens.port()).into(),
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_listens_everywhere_is_asked_here() {
        for (listens, asked) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:9000", "[::1]:9000"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
