//! Pollers of market data: one snapshot for each interval, its body kept byte for byte.
//!
//! Owns: intervals and where their objects lie, what a response means, when a request goes again, gaps.
//! Does not own: what rows a reply gives (`transform`), how objects are created (`deliver`).
//!
//! ```text
//! provider ─► source ─► answer (is it a snapshot?) ─► poller ─► delivery ─┬─► lake: raw, then processed made of it
//!                          ▲ no: again, or a gap                          └─► kinesis, kafka: a wrapped record
//! ```

mod answer;
mod delivery;
mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kinesis;
mod lake;
#[cfg(test)]
mod lake_tests;
mod plan;
mod poller;
mod request;
mod secret;
mod source;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;

pub use answer::{Response, Trouble};
pub use delivery::{Delivered, NotDelivered, RecordTarget, Target, gap_record, record};
pub use http::serve;
pub use lake::LakeTarget;
pub use plan::{EVERY_MAX, EVERY_MIN, Gap, Interval};
pub use poller::{Counts, Ended, Poller, Settings};
pub use request::{Account, Request};
pub use secret::{KeySource, Secret};
pub use source::{Failed, HttpSource, Source};
