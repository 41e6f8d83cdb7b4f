package kinetide.peer;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.UUID;

/** A folder of files by hour, each made whole before it can be seen. */
final class Lake {
    private static final DateTimeFormatter HOUR =
            DateTimeFormatter.ofPattern("'year='yyyy/'month='MM/'day='dd/'hour='HH").withZone(ZoneOffset.UTC);
    private static final DateTimeFormatter TIME =
            DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmssSSS").withZone(ZoneOffset.UTC);

    private final Path root;
    private final String worker;

    Lake(final Path root, final String worker) {
        this.root = root;
        this.worker = worker;
    }

    String worker() {
        return worker;
    }

    /** Writes a file under a hidden name, forces it to disk, and gives it its own name. */
    void put(final ByteArrayOutputStream gzip) {
        final Instant now = Instant.now();
        final Path folder = root.resolve(HOUR.format(now));
        final String name = TIME.format(now) + "-" + worker + "-" + UUID.randomUUID() + ".ndjson.gz";
        try {
            Files.createDirectories(folder);
            final Path hidden = folder.resolve("." + name + ".tmp");
            try (FileChannel file =
                    FileChannel.open(hidden, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW)) {
                final ByteBuffer bytes = ByteBuffer.wrap(gzip.toByteArray());
                while (bytes.hasRemaining()) {
                    file.write(bytes);
                }
                file.force(true);
            }
            Files.move(hidden, folder.resolve(name), StandardCopyOption.ATOMIC_MOVE);
            try (FileChannel entries = FileChannel.open(folder, StandardOpenOption.READ)) {
                entries.force(true);
            }
        } catch (final IOException e) {
            // The library would go on with the next records after an exception.
            System.err.println("could not write " + name + ": " + e);
            Runtime.getRuntime().halt(1);
        }
    }
}
