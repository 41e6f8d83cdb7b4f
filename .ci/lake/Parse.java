import io.trino.sql.parser.ParsingOptions;
import io.trino.sql.parser.SqlParser;

import java.nio.file.Files;
import java.nio.file.Path;

import org.apache.hadoop.hive.ql.parse.ParseDriver;

/**
 * Hive's parser, which Athena has for its tables, and Trino's, which it has for the rest.
 *
 * Usage: java -cp JARS Parse.java FOLDER; files in FOLDER/hive are for Hive, those in FOLDER/trino for Trino. Says which files
 * are refused, and how many are taken.
 */
public final class Parse {
    private interface Parser {
        void parse(String statement) throws Exception;
    }

    private Parse() {}

    public static void main(String[] args) throws Exception {
        SqlParser trino = new SqlParser();
        ParsingOptions options = new ParsingOptions(ParsingOptions.DecimalLiteralTreatment.AS_DECIMAL);
        int taken = all(Path.of(args[0], "hive"), statement -> new ParseDriver().parse(statement));
        taken += all(Path.of(args[0], "trino"), statement -> trino.createStatement(statement, options));
        System.out.println("taken: " + taken);
    }

    private static int all(Path folder, Parser parser) throws Exception {
        int taken = 0;
        try (var files = Files.newDirectoryStream(folder)) {
            for (Path file : files) {
                String statement = Files.readString(file).strip().replaceAll("(?m)^--.*\n", "").replaceAll(";$", "");
                try {
                    parser.parse(statement);
                    taken++;
                } catch (Exception e) {
                    System.out.println(folder.getFileName() + "/" + file.getFileName() + ": " + e.getMessage().replace("\n", " "));
                }
            }
        }
        return taken;
    }
}
