//! Dead letters in the lake: finding them, reading them, and making rows of them exactly once.
//!
//! ```text
//! dead letter object ─► plan N ─► objects of rows, or seals ─► done N ─► plan N + 1 …
//! ```
//!
//! Owns: where dead letter objects lie, what a line of one says, the records of replays beside them, the replay.
//! Does not own: the row of a dead letter (`transform`), the names and bytes of objects (`batch`), what is printed (`cli`).
//!
//! There is no lease here. Create-only objects are the only coordinator: `docs/adr/0010-replaying-dead-letters.md`.

mod build;
mod letter;
mod lines;
mod object;
mod plan;
mod replay;
mod shape;
mod walk;

pub use build::{Built, Job, Rehearsal, build, rehearse};
pub use letter::{Letter, UnreadableLetter};
pub use lines::each_letter;
pub use object::LetterObject;
pub use plan::{Chain, Damaged, Done, LineSet, Output, ReplayPlan};
pub use replay::{ReplayError, Replayed, landed, read_chain, replay};
pub use shape::Shape;
pub use walk::{Hour, Odd, Range, Walk};

#[cfg(test)]
mod tests;
