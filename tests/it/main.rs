//! The one integration-test binary.

mod kinesis_conformance;
mod lease_table_conformance;
mod sim_lease;
mod sim_worker;
mod sink_conformance;
