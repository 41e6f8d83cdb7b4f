//! (being built)

pub mod kinesis;
