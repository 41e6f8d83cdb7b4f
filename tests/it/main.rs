//! The one integration-test binary.

mod lease_table_conformance;
mod sim_lease;
