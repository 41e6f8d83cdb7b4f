//! The one integration-test binary.

#[cfg(test)]
mod kinesis_conformance;
