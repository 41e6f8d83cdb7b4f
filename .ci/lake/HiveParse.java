import java.nio.file.Files;
import java.nio.file.Path;

import org.apache.hadoop.hive.ql.parse.ParseDriver;

/** Hive's own parser. Usage: java -cp JARS HiveParse.java FILE...; says which files it refuses, and how many it takes. */
public final class HiveParse {
    private HiveParse() {}

    public static void main(String[] files) throws Exception {
        int taken = 0;
        for (String file : files) {
            String statement = Files.readString(Path.of(file)).strip().replaceAll("(?m)^--.*\n", "").replaceAll(";$", "");
            try {
                new ParseDriver().parse(statement);
                taken++;
            } catch (Exception e) {
                System.out.println(file + ": " + e.getMessage());
            }
        }
        System.out.println("taken: " + taken);
        System.exit(taken == files.length ? 0 : 1);
    }
}
