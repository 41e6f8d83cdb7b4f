//! What a person sees who waits.

use std::io::{self, IsTerminal, Write};

/// One line on a terminal's stderr that says why it takes a moment.
#[derive(Default)]
pub(super) struct WaitLine {
    shown: bool,
}

impl WaitLine {
    pub(super) fn say(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        if err.is_terminal() {
            // Nothing is lost with it.
            drop(write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush()));
            self.shown = true;
        }
    }

    pub(super) fn done(&mut self) {
        if std::mem::take(&mut self.shown) {
            let mut err = io::stderr().lock();
            drop(write!(err, "\r\x1b[2K").and_then(|()| err.flush()));
        }
    }
}
