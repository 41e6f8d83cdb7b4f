//! How many shards and workers there should be, decided from what was observed. `docs/adr/0027-scaling.md` has the rule
//! and its reasons.
//!
//! Owns: the decision, the legal steps to it, what it costs.
//! Does not own: who is asked, and who carries it out (`cli/scale`).

#[cfg(feature = "cli")]
mod observed;
#[cfg(feature = "cli")]
mod plan;
#[cfg(all(feature = "cli", test))]
mod plan_tests;
#[cfg(feature = "cli")]
pub mod prices;
#[cfg(feature = "cli")]
mod steps;
mod tasks;
#[cfg(feature = "cli")]
mod uses;

#[cfg(feature = "cli")]
pub use observed::{Mode, Observed, Shard, Stream, Worker, Written};
#[cfg(feature = "cli")]
pub use plan::{Cost, Part, ScalePlan, plan};
#[cfg(feature = "cli")]
pub use steps::{SHARDS_MAX, USES_A_DAY, next, steps};
pub use tasks::{FleetLoad, wanted};
#[cfg(feature = "cli")]
pub use uses::{Line, uses};
