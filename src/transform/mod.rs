//! Change event → output row, one JSON line. Deterministic: the same record gives the same bytes, so that a batch
//! can be built again by another worker. No wall clock, no random ids.
//!
//! Owns: the built-in transforms, the rows they write, the dead letter row.
//! Does not own: which object a row goes to (`batch`).
