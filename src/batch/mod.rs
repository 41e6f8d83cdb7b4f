//! Rows of one shard → gzip NDJSON objects.
//!
//! Owns: when a batch is full, the encoder, the partition and the key of an object.
//! Does not own: how objects get to the store (`deliver`), when the batch is safe (`checkpoint`).
