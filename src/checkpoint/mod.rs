//! How far a shard is safely in the lake: the exactly-once protocol.
//!
//! Owns: what is written to the lease row around a batch, and what a new owner does with a batch it finds there.
//! Does not own: reading records, building objects, uploading them; the consumer does what [`Step`] says and
//! reports an [`Event`].
//!
//! ```text
//!            Closed                Written             Delivered            Written
//!   Idle ────────────► Preparing ──────────► Delivering ────────► Committing ─────► Idle
//!    │ Taken, batch pending                   ▲  │ Foreign           ▲
//!    ▼                    same objects        │  │                   │ nothing left to write
//!  Rebuilding ────────────────────────────────┘  │                   │
//!    │ other objects  ◄──────────────────────────┘                   │
//!    │                                Preparing ◄── RebuildingRest ──┘
//!    ▼               Written          Sealed          ▲
//!  DeclaringRepair ──────────► Sealing ───────────────┘
//! ```

mod keys;
mod pending;
mod protocol;

pub use pending::{PendingBatch, PendingError, PendingFormat, Proof, Stage, Unpacking};
pub use protocol::{BatchPlan, Event, Halt, PlannedObject, Protocol, STATE_BYTES_MAX, Sought, Step};

#[cfg(test)]
mod model;

#[cfg(test)]
mod start_model;
