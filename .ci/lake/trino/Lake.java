import io.trino.Session;
import io.trino.spi.Plugin;
import io.trino.spi.connector.ConnectorFactory;
import io.trino.spi.type.TimeZoneKey;
import io.trino.testing.MaterializedResult;
import io.trino.testing.MaterializedRow;
import io.trino.testing.QueryRunner;
import io.trino.testing.StandaloneQueryRunner;
import io.trino.testing.TestingSession;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.Reader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;

/**
 * Trino over a folder of table descriptions, as Athena runs over the Glue catalog.
 *
 * Usage: java -cp 'FOLDER_OF_THIS_CLASS:FOLDER_OF_JARS/*' Lake FOLDER_OF_CATALOGS < STATEMENTS
 *
 * The folder has a file NAME.properties for each catalog, as etc/catalog of a Trino server has.
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
        try (QueryRunner runner = new StandaloneQueryRunner(session)) {
            try (DirectoryStream<Path> files = Files.newDirectoryStream(Path.of(args[0]), "*.properties")) {
                for (Path file : files) {
                    create(runner, file);
                }
            }
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                out.write((answer(runner, line.translateEscapes()) + "\n").getBytes(StandardCharsets.UTF_8));
                out.flush();
            }
        }
        // Threads of the engine would keep the process.
        System.exit(0);
    }

    private static void create(QueryRunner runner, Path file) throws Exception {
        Properties read = new Properties();
        try (Reader reader = Files.newBufferedReader(file)) {
            read.load(reader);
        }
        Map<String, String> properties = new HashMap<>();
        read.forEach((name, value) -> properties.put((String) name, (String) value));
        String connector = properties.remove("connector.name");
        // Not each version has each connector.
        String type = Character.toUpperCase(connector.charAt(0)) + connector.substring(1) + "ConnectorFactory";
        ConnectorFactory factory = (ConnectorFactory) Class.forName("io.trino.plugin." + connector + "." + type)
                .getDeclaredConstructor()
                .newInstance();
        runner.installPlugin(new Plugin() {
            @Override
            public Iterable<ConnectorFactory> getConnectorFactories() {
                return List.of(factory);
            }
        });
        runner.createCatalog(file.getFileName().toString().replace(".properties", ""), connector, properties);
    }

    private static String answer(QueryRunner runner, String statement) {
        MaterializedResult result;
        try {
            result = runner.execute(statement);
        } catch (RuntimeException e) {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            // The message of a cause often says what the other does not.
            String message = e.getMessage() + (cause == e ? "" : ": " + cause);
            return "{\"error\":" + quoted(message) + "}";
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
