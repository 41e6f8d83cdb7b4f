package kinetide.interop;

import java.io.FileWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/** What a worker was given and told, in files that outlive a killed process. */
final class Journal {
    private final Writer records;
    private final Writer calls;

    Journal(final Path folder, final String worker) throws IOException {
        records = append(folder.resolve(worker + ".records"));
        calls = append(folder.resolve(worker + ".calls"));
    }

    synchronized void records(final String shard, final List<KinesisClientRecord> batch) {
        final long now = System.currentTimeMillis();
        final StringBuilder lines = new StringBuilder();
        for (final KinesisClientRecord record : batch) {
            lines.append(shard).append(' ').append(record.sequenceNumber());
            lines.append(' ').append(record.subSequenceNumber()).append(' ').append(now).append('\n');
        }
        write(records, lines.toString());
    }

    synchronized void call(final String name, final String shard, final String details) {
        write(calls, System.currentTimeMillis() + " " + name + " " + shard + " " + details + "\n");
    }

    private static Writer append(final Path file) throws IOException {
        return new FileWriter(file.toFile(), StandardCharsets.UTF_8, true);
    }

    private static void write(final Writer to, final String text) {
        try {
            to.write(text);
            to.flush();
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
