package kinetide.interop;

import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;

/** One shard: writes each batch down, then checkpoints it. */
final class Processor implements ShardRecordProcessor {
    private final Journal journal;
    /** What shards of several streams are told apart by. */
    private final String stream;
    /** Unknown before {@link #initialize}, which a lease lost early never sees. */
    private String shard = "-";

    Processor(final Journal journal, final String stream) {
        this.journal = journal;
        this.stream = stream;
    }

    @Override
    public void initialize(final InitializationInput input) {
        shard = stream + input.shardId();
        journal.call(
                "initialize",
                shard,
                "at " + input.extendedSequenceNumber() + " pending " + input.pendingCheckpointSequenceNumber());
    }

    @Override
    public void processRecords(final ProcessRecordsInput input) {
        if (!input.records().isEmpty()) {
            journal.records(shard, input.records());
            checkpoint(input.checkpointer());
        }
    }

    @Override
    public void leaseLost(final LeaseLostInput input) {
        journal.call("leaseLost", shard, "");
    }

    @Override
    public void shardEnded(final ShardEndedInput input) {
        journal.call("shardEnded", shard, "");
        checkpoint(input.checkpointer());
    }

    @Override
    public void shutdownRequested(final ShutdownRequestedInput input) {
        journal.call("shutdownRequested", shard, "");
        checkpoint(input.checkpointer());
    }

    private void checkpoint(final RecordProcessorCheckpointer checkpointer) {
        try {
            checkpointer.checkpoint();
        } catch (final ShutdownException e) {
            // The lease went to another worker, which reads these records again.
            journal.call("checkpointRefused", shard, e.getMessage());
        } catch (final InvalidStateException e) {
            throw new IllegalStateException(e);
        }
    }
}
