package kinetide.interop;

import java.util.ArrayList;
import java.util.List;
import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/**
 * One shard: writes each batch down, then checkpoints it.
 *
 * <p>Or stops <em>amid</em> aggregates: of each batch it writes down and checkpoints what goes up to the middle of the last
 * aggregate, and the rest together with the next batch, if there is one.
 */
final class Processor implements ShardRecordProcessor {
    private final Journal journal;
    /** What shards of several streams are told apart by. */
    private final String stream;
    private final boolean amid;
    /** Given, and not written down yet. */
    private final List<KinesisClientRecord> rest = new ArrayList<>();
    /** Unknown before {@link #initialize}, which a lease lost early never sees. */
    private String shard = "-";

    Processor(final Journal journal, final String stream, final boolean amid) {
        this.journal = journal;
        this.stream = stream;
        this.amid = amid;
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
        if (amid) {
            rest.addAll(input.records());
            upToTheMiddle(input.checkpointer());
        } else if (!input.records().isEmpty()) {
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
        journal.records(shard, rest);
        checkpoint(input.checkpointer());
    }

    @Override
    public void shutdownRequested(final ShutdownRequestedInput input) {
        journal.call("shutdownRequested", shard, "");
        if (!amid) {
            checkpoint(input.checkpointer());
        }
    }

    private void upToTheMiddle(final RecordProcessorCheckpointer checkpointer) {
        int end = rest.size();
        while (end > 1 && !sequence(end - 1).equals(sequence(end - 2))) {
            end--;
        }
        int start = end - 1;
        while (start > 0 && sequence(start - 1).equals(sequence(end - 1))) {
            start--;
        }
        if (end - start < 2) {
            return;
        }
        final List<KinesisClientRecord> done = rest.subList(0, (start + end) / 2);
        final KinesisClientRecord last = done.get(done.size() - 1);
        journal.records(shard, done);
        done.clear();
        checkpoint(checkpointer, last);
    }

    private String sequence(final int at) {
        return rest.get(at).sequenceNumber();
    }

    private void checkpoint(final RecordProcessorCheckpointer checkpointer) {
        checkpoint(checkpointer, null);
    }

    /** Up to this record, or all that was given. */
    private void checkpoint(final RecordProcessorCheckpointer checkpointer, final KinesisClientRecord last) {
        try {
            if (last == null) {
                checkpointer.checkpoint();
            } else {
                checkpointer.checkpoint(last.sequenceNumber(), last.subSequenceNumber());
            }
        } catch (final ShutdownException e) {
            // The lease went to another worker, which reads these records again.
            journal.call("checkpointRefused", shard, e.getMessage());
        } catch (final InvalidStateException e) {
            throw new IllegalStateException(e);
        }
    }
}
