//! The one integration-test binary.

mod lease_table_conformance;
