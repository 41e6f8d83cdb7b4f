//! The way of log lines to stderr: a bounded queue and a thread of its own, so that a log that cannot be written, or that
//! nobody reads, costs lines and never the service.
//!
//! Owns: the queue, the thread, the count of lines that were dropped.
//! Does not own: what a line looks like (`logs`), the metric's name (`metrics`).

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

/// What may wait.
const LINES_MAX: usize = 8_192;
const BYTES_MAX: usize = 8 << 20;

/// Between two attempts where the log takes nothing at the moment.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Between two looks whether all is written.
const LOOK: Duration = Duration::from_millis(5);

/// Takes lines and never waits. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct LogQueue {
    sender: SyncSender<Vec<u8>>,
    count: Arc<Count>,
}

#[derive(Debug)]
struct Count {
    /// Lines and bytes that wait, those that are being written included.
    lines: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
    on_drop: fn(u64),
}

impl Count {
    fn dropped(&self) {
        (self.on_drop)(self.dropped.fetch_add(1, Ordering::Relaxed) + 1);
    }

    fn leaves(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.lines.fetch_sub(1, Ordering::Release);
    }
}

impl LogQueue {
    /// Starts the thread that writes to `out`. `on_drop` gets the number of all lines dropped so far, at each one;
    /// `on_return` the number of those that were dropped since it was called last, when lines can be written again.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        on_drop: fn(u64),
        on_return: impl Fn(u64) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, lines) = sync_channel(LINES_MAX);
        let (waiting, bytes, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        let count = Arc::new(Count { lines: waiting, bytes, dropped, on_drop });
        let counted = Arc::clone(&count);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            write_all(&lines, out, &counted, on_return);
        })?;
        on_drop(0);
        Ok(Self { sender, count })
    }

    /// Puts a line at the end of the queue; without room it is dropped.
    pub(super) fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        self.count.lines.fetch_add(1, Ordering::Relaxed);
        let waiting = self.count.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > BYTES_MAX || self.sender.try_send(line).is_err() {
            self.count.leaves(bytes);
            self.count.dropped();
        }
    }

    /// Waits until everything is written, but no longer than this.
    pub(super) fn flush(&self, longest: Duration) {
        let started = Instant::now();
        while self.count.lines.load(Ordering::Acquire) > 0 && started.elapsed() < longest {
            std::thread::sleep(LOOK);
        }
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, mut out: impl Write, count: &Count, on_return: impl Fn(u64)) {
    let (mut told, mut torn) = (0, false);
    while let Ok(line) = lines.recv() {
        let written = write_line(&mut out, &line, &mut torn);
        count.leaves(line.len());
        if !written {
            count.dropped();
            continue;
        }
        let dropped = count.dropped.load(Ordering::Relaxed);
        // Not while the queue is full: what is said then would be dropped too.
        if dropped > told && count.lines.load(Ordering::Relaxed) < LINES_MAX / 2 {
            on_return(dropped - told);
            told = dropped;
        }
    }
}

/// False when the line could not be written. `torn`: a part of a line is written that has no end.
fn write_line(out: &mut impl Write, line: &[u8], torn: &mut bool) -> bool {
    let mut rest = line;
    let mut end_of_torn: &[u8] = if *torn { b"\n" } else { b"" };
    while !rest.is_empty() {
        let next = if end_of_torn.is_empty() { rest } else { end_of_torn };
        match out.write(next) {
            Ok(0) => return false,
            Ok(_) if !end_of_torn.is_empty() => {
                end_of_torn = b"";
                *torn = false;
            }
            Ok(written) => {
                rest = &rest[written..];
                *torn = !rest.is_empty();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the pipe with us has set it to answer at once.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(TRY_AGAIN),
            Err(_) => return false,
        }
    }
    out.flush().is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    /// A log that answers by a script, and then takes everything.
    #[derive(Clone, Default)]
    struct Scripted {
        answers: Arc<Mutex<VecDeque<Result<usize, ErrorKind>>>>,
        text: Arc<Mutex<String>>,
    }

    impl Scripted {
        fn new(answers: impl IntoIterator<Item = Result<usize, ErrorKind>>) -> Self {
            let scripted = Self::default();
            scripted.answers.lock().unwrap().extend(answers);
            scripted
        }

        fn text(&self) -> String {
            self.text.lock().unwrap().clone()
        }
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = self.answers.lock().unwrap().pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.text.lock().unwrap().push_str(str::from_utf8(&bytes[..taken]).unwrap());
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `on_return` was told.
    fn started(out: impl Write + Send + 'static) -> (LogQueue, Arc<Mutex<Vec<u64>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let queue = LogQueue::start(out, |_| {}, move |dropped| heard.lock().unwrap().push(dropped)).unwrap();
        (queue, told)
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_said_once() {
        let full = || Err(ErrorKind::StorageFull);
        let out = Scripted::new([Ok(99), full(), Err(ErrorKind::BrokenPipe), Ok(99), Ok(99), full(), Ok(99)]);
        let (queue, told) = started(out.clone());
        for number in 0..7 {
            queue.push(format!("line {number}\n").into_bytes());
        }
        queue.flush(LONGEST);
        assert_eq!(out.text(), "line 0\nline 3\nline 4\nline 6\n");
        assert_eq!(queue.count.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(*told.lock().unwrap(), [2, 1]);
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next_one() {
        let answers = [Ok(3), Err(ErrorKind::StorageFull), Err(ErrorKind::StorageFull), Ok(1), Ok(2)];
        let out = Scripted::new(
            answers.into_iter().chain([Err(ErrorKind::Interrupted), Err(ErrorKind::WouldBlock)]),
        );
        let (queue, _) = started(out.clone());
        for text in ["first\n", "second\n", "third\n"] {
            queue.push(text.into());
        }
        queue.flush(LONGEST);
        assert_eq!(out.text(), "fir\nthird\n");
    }

    #[test]
    fn a_log_that_nobody_reads_costs_lines_and_no_time() {
        let (mut blocked, free) = std::io::pipe().unwrap();
        let (queue, told) = started(free);
        let line = vec![b'x'; 1_000];
        for _ in 0..3 * LINES_MAX {
            queue.push(line.clone());
        }
        let dropped = queue.count.dropped.load(Ordering::Relaxed);
        assert!(dropped >= LINES_MAX as u64, "{dropped}");
        queue.flush(Duration::from_millis(20));
        assert!(queue.count.bytes.load(Ordering::Relaxed) <= BYTES_MAX);

        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut blocked, &mut all).unwrap();
            all.len()
        });
        queue.flush(LONGEST);
        assert_eq!(*told.lock().unwrap(), [dropped]);
        drop(queue);
        assert_eq!(reader.join().unwrap() as u64, (3 * LINES_MAX as u64 - dropped) * 1_000);
    }
}
