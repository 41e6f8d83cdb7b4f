//! Bodies of `SubscribeToShard`: frames that are damaged, lie about their length, or hold something else.

use flate2::Crc;
use kinetide::internals::fetch::fanout::kinesis::Frames;
use kinetide::internals::fetch::parse_body;

use super::fuzz;

/// What is taken for a message is no longer than this.
const MAX: usize = 1 << 16;

#[test]
fn an_event_stream_is_messages_or_an_error() {
    fuzz("events", 1500, Vec::new(), |body| {
        let damaged = read(body);
        // Checksums hide from a mutation what is behind them.
        let repaired = read(&repaired(body));
        format!("{damaged} {repaired}")
    });
}

/// Reads a body in pieces; answers what came.
fn read(body: &[u8]) -> String {
    let mut frames = Frames::default();
    let (mut messages, mut pages) = (0, 0);
    for piece in body.chunks(37) {
        frames.push(piece);
        loop {
            match frames.take(MAX) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    assert!(message.payload().len() <= body.len());
                    messages += 1;
                    pages += usize::from(parse_body(message.payload().clone().into()).is_ok());
                }
                Err(error) => {
                    let text = error.to_string();
                    return format!(
                        "{messages} {pages} {}",
                        text.trim_matches(|c: char| !c.is_alphabetic()).len()
                    );
                }
            }
        }
    }
    format!("{messages} {pages} {}", frames.is_empty())
}

/// The same with right checksums, as far as the lengths are possible.
fn repaired(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let mut at = 0;
    while let Some(head) = body.get(at..at + 12) {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let end = at.saturating_add(length);
        if !(16..=MAX).contains(&length) || end > body.len() {
            break;
        }
        let prelude = checksum(&body[at..at + 8]);
        body[at + 8..at + 12].copy_from_slice(&prelude);
        let message = checksum(&body[at..end - 4]);
        body[end - 4..end].copy_from_slice(&message);
        at = end;
    }
    body
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}
