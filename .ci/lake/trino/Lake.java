import io.trino.Session;
import io.trino.plugin.hive.HiveConnectorFactory;
import io.trino.spi.Plugin;
import io.trino.spi.connector.ConnectorFactory;
import io.trino.spi.type.TimeZoneKey;
import io.trino.testing.DistributedQueryRunner;
import io.trino.testing.MaterializedResult;
import io.trino.testing.MaterializedRow;
import io.trino.testing.TestingSession;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Trino over a folder of table descriptions, as Athena runs over the Glue catalog.
 *
 * Usage: java -cp 'FOLDER_OF_JARS/*' Lake.java CATALOG_FOLDER < STATEMENTS
 *
 * Each line of the input is one statement, written as a JSON string without the quotes: \n and \\ stand for the two
 * characters. Each line of the output is the answer: {"columns": {name: type}, "rows": [[text or null]]} or {"error": text}.
 */
public final class Lake {
    private Lake() {}

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err);
        Session session = TestingSession.testSessionBuilder()
                .setCatalog("hive")
                .setSchema("crypto")
                .setTimeZoneKey(TimeZoneKey.UTC_KEY)
                .build();
        try (DistributedQueryRunner runner = DistributedQueryRunner.builder(session).setNodeCount(1).build()) {
            runner.installPlugin(new Hive());
            runner.createCatalog("hive", "hive", Map.of(
                    "hive.metastore", "file",
                    "hive.metastore.catalog.dir", "file://" + args[0],
                    "hive.security", "allow-all",
                    "hive.partition-projection-enabled", "true",
                    "hive.non-managed-table-writes-enabled", "true",
                    "hive.table-statistics-enabled", "false",
                    "hive.ignore-absent-partitions", "true"));
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                out.write((answer(runner, line.translateEscapes()) + "\n").getBytes(StandardCharsets.UTF_8));
                out.flush();
            }
        }
        // Threads of the engine would keep the process.
        System.exit(0);
    }

    private static final class Hive implements Plugin {
        @Override
        public Iterable<ConnectorFactory> getConnectorFactories() {
            return List.of(new HiveConnectorFactory());
        }
    }

    private static String answer(DistributedQueryRunner runner, String statement) {
        MaterializedResult result;
        try {
            result = runner.execute(statement);
        } catch (RuntimeException e) {
            return "{\"error\":" + quoted(String.valueOf(e.getMessage())) + "}";
        }
        List<String> columns = new ArrayList<>();
        for (int i = 0; i < result.getTypes().size(); i++) {
            columns.add(quoted(result.getColumnNames().get(i)) + ":" + quoted(result.getTypes().get(i).getDisplayName()));
        }
        List<String> rows = new ArrayList<>();
        for (MaterializedRow row : result.getMaterializedRows()) {
            List<String> cells = new ArrayList<>();
            for (Object cell : row.getFields()) {
                cells.add(cell == null ? "null" : quoted(text(cell)));
            }
            rows.add("[" + String.join(",", cells) + "]");
        }
        return "{\"columns\":{" + String.join(",", columns) + "},\"rows\":[" + String.join(",", rows) + "]}";
    }

    private static String text(Object cell) {
        return cell instanceof BigDecimal number ? number.toPlainString() : cell.toString();
    }

    private static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < ' ') {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }
}
