//! Prints the records of a Kinesis stream, each at least once: `record_processor APPLICATION STREAM`.
//!
//! Start it several times, on one machine or on many: the processes share the shards. Kill one: the others go on from its
//! last checkpoint. Where AWS is, and who you are, comes from the usual AWS variables.
#![allow(clippy::print_stdout, reason = "this is what it does")]

use std::time::Duration;

use kinetide::{Checkpointer, Processor, ProcessorError, Records, ShardId, ShardStart, Worker, async_trait};

/// One for each shard that this process has.
struct Printer {
    shard: ShardId,
}

#[async_trait]
impl Processor for Printer {
    async fn initialize(&mut self, start: &ShardStart) -> Result<(), ProcessorError> {
        println!("begin {} {}", self.shard, start.checkpoint.as_str());
        Ok(())
    }

    async fn records(
        &mut self,
        records: &Records,
        checkpointer: &Checkpointer,
    ) -> Result<(), ProcessorError> {
        for record in records.iter() {
            let text = String::from_utf8_lossy(&record.data()).into_owned();
            println!("record {} {} {text}", self.shard, record.sequence_number);
        }
        // Done is what is checkpointed: should this process die before that, these records come again.
        Ok(checkpointer.checkpoint().await?)
    }

    async fn shard_end(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
        println!("end {}", self.shard);
        // From here on the children of the shard are read.
        Ok(checkpointer.checkpoint().await?)
    }

    async fn lease_lost(&mut self) {
        println!("lost {}", self.shard);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [application, stream] = &arguments[..] else {
        return Err("usage: record_processor APPLICATION STREAM".into());
    };
    let worker = Worker::builder(application, stream)
        .failover_time(Duration::from_secs(5))
        .processor(|shard: &ShardId| Printer { shard: shard.clone() })?;
    worker.run().await?;
    Ok(())
}
