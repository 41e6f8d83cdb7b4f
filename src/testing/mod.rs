//! For people who write a source, a sink or a processor: twins in memory of what a worker talks to, and the checks that each
//! implementation must pass.
//!
//! Owns: the checks.
//! Does not own: the twins, which stand beside their adapters.

mod reader;
mod sink;
mod stream;

pub use crate::deliver::memory::MemorySink;
pub use crate::fetch::memory::MemoryStream;
pub use reader::reader_conforms;
pub use sink::{Store, sink_conforms};
pub use stream::{StreamScene, an_expired_iterator_says_so, stream_conforms};
