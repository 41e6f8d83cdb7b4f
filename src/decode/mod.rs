//! Bytes of a record → change event.
//!
//! Owns: base64, UTF-8, the CDC envelope, DynamoDB JSON, what makes a record malformed.
//! Does not own: which columns a row has (`transform`).
