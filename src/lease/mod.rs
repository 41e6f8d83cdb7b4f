//! Who reads a shard: leases in a table shared by all workers, wire-compatible with the Kinesis Client Library.
//!
//! Owns: the lease row and every write to it, who should take which lease, renewing, releasing, clean-up.
//! Does not own: what a batch is or when it is safe (`checkpoint` decides, and writes through [`HeldLease`]).

mod caught_up;
pub mod coordinator;
mod delivered;
pub mod dynamodb;
mod epochs;
pub mod explain;
pub mod fleet;
mod held;
mod key;
pub mod leader;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod observe;
pub mod plan;
mod row;
mod seat;
mod stream_set;
mod streams;
mod sync;
mod table;
pub mod view;
mod watched;
pub mod whose;
mod write;

pub use caught_up::{CaughtUp, Gap, RETENTION_HOURS_MIN, gap};
pub use delivered::Delivered;
pub use fleet::{LeaderRow, OddRow, TableSnapshot, WorkerRow};
pub use held::{HeldLease, LeaseWriteError};
pub use key::LeaseKey;
pub use observe::Observer;
pub use row::{LastPrepared, Lease, Pending, WorkerId};
pub use stream_set::{StreamLeases, StreamSet};
pub use streams::prove;
pub use sync::SyncError;
pub use table::{LeaseTable, TableError, WriteError};
pub use view::FleetView;
pub use whose::NotOurs;
pub use write::{LeaseWrite, apply, holds};
