//! How far a shard is safely in the lake: the exactly-once protocol.
