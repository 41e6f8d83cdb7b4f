//! The lines of a dead letter object.

use std::ops::ControlFlow;

use super::letter::{Letter, UnreadableLetter};
use crate::batch::{BrokenObject, TooLong, each_line};

/// Gives `each` the dead letters of an object, by the number of their line, until it breaks.
///
/// # Errors
/// When the object is broken; the lines before that were given.
pub fn each_letter(
    object: &[u8],
    mut each: impl FnMut(u64, Result<Letter<'_>, UnreadableLetter>) -> ControlFlow<()>,
) -> Result<(), BrokenObject> {
    each_line(object, |number, line| {
        each(
            number,
            match line {
                Ok(line) => Letter::parse(line),
                Err(TooLong) => Err(UnreadableLetter::TooLong),
            },
        )
    })
}
