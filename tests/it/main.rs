//! The one integration-test binary.

mod kinesis_conformance;
