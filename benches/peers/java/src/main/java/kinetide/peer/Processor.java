package kinetide.peer;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.zip.GZIPOutputStream;
import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.KinesisClientLibDependencyException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.exceptions.ThrottlingException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/** One shard: gathers records for a while, writes them as a file, then checkpoints the last of them. */
final class Processor implements ShardRecordProcessor {
    private static final int BYTES_MAX = 64 << 20;
    private static final int TRIES = 10;
    private static final long PAUSE_MS = 100;
    private static final long PAUSE_MS_MAX = 2_000;

    private final Lake lake;
    private final Duration batchAge;
    private final Rows rows;
    private final int gzipLevel;
    /** The line of a record, empty between records. */
    private final ByteArrayOutputStream line = new ByteArrayOutputStream();
    private String shard;
    private ByteArrayOutputStream bytes;
    private GZIPOutputStream gzip;
    private long plainBytes;
    private long openedNanos;
    /** The last record of the batch; none while the batch is empty. */
    private KinesisClientRecord last;

    Processor(final Lake lake, final Duration batchAge, final Rows rows, final int gzipLevel) {
        this.lake = lake;
        this.batchAge = batchAge;
        this.rows = rows;
        this.gzipLevel = gzipLevel;
    }

    @Override
    public void initialize(final InitializationInput input) {
        shard = input.shardId();
    }

    @Override
    public void processRecords(final ProcessRecordsInput input) {
        for (final KinesisClientRecord record : input.records()) {
            add(record);
        }
        final boolean old = last != null && System.nanoTime() - openedNanos >= batchAge.toNanos();
        if (old || plainBytes >= BYTES_MAX) {
            flush(input.checkpointer());
        }
    }

    /** Another worker reads the records of this batch again. */
    @Override
    public void leaseLost(final LeaseLostInput input) {
        last = null;
    }

    @Override
    public void shardEnded(final ShardEndedInput input) {
        flush(input.checkpointer());
        retried(() -> input.checkpointer().checkpoint());
    }

    @Override
    public void shutdownRequested(final ShutdownRequestedInput input) {
        flush(input.checkpointer());
    }

    private void add(final KinesisClientRecord record) {
        final ByteBuffer data = record.data();
        final byte[] payload = new byte[data.remaining()];
        data.duplicate().get(payload);
        try {
            if (last == null) {
                bytes = new ByteArrayOutputStream();
                gzip = new Gzip(bytes, gzipLevel);
                plainBytes = 0;
                openedNanos = System.nanoTime();
            }
            rows.write(new Rows.Position(shard, record.sequenceNumber(), lake.worker()), payload, line);
            line.writeTo(gzip);
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
        plainBytes += line.size();
        line.reset();
        last = record;
    }

    private void flush(final RecordProcessorCheckpointer checkpointer) {
        if (last == null) {
            return;
        }
        try {
            gzip.close();
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
        lake.put(bytes);
        final KinesisClientRecord upTo = last;
        last = null;
        retried(() -> checkpointer.checkpoint(upTo.sequenceNumber(), upTo.subSequenceNumber()));
    }

    /** Tries again what may work later, as the library's documentation asks for. */
    private void retried(final Checkpoint checkpoint) {
        long pause = PAUSE_MS;
        for (int tries = 1; ; tries++) {
            try {
                checkpoint.run();
                return;
            } catch (final ShutdownException e) {
                // The lease went to another worker, which reads these records again.
                System.err.println("no checkpoint, the lease of " + shard + " is lost");
                return;
            } catch (final InvalidStateException e) {
                throw new IllegalStateException(e);
            } catch (final ThrottlingException | KinesisClientLibDependencyException e) {
                if (tries == TRIES) {
                    // The next checkpoint covers these records too.
                    System.err.println("no checkpoint of " + shard + " after " + tries + " tries: " + e);
                    return;
                }
            }
            try {
                Thread.sleep(pause);
            } catch (final InterruptedException e) {
                Thread.currentThread().interrupt();
                return;
            }
            pause = Math.min(2 * pause, PAUSE_MS_MAX);
        }
    }

    /** gzip of a level, which the library's class does not ask for. */
    private static final class Gzip extends GZIPOutputStream {
        Gzip(final ByteArrayOutputStream bytes, final int level) throws IOException {
            super(bytes);
            def.setLevel(level);
        }
    }

    private interface Checkpoint {
        void run()
                throws InvalidStateException, ShutdownException, ThrottlingException, KinesisClientLibDependencyException;
    }
}
