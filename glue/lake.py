"""Where the job reads and writes: landing zone, Hudi table, quarantine, hourly aggregate."""

import json
import re

from pyspark.sql import functions as F

import checks
import table

LINES = "object STRING, line STRING"
OBJECTS = "object STRING, reason STRING"


def plain(path):
    """Spark writes paths of local files in several ways."""
    return re.sub("^file:/+", "/", path)


class Lake:
    def __init__(self, spark, root, name, partition, database=None):
        self.spark, self.name, self.partition, self.database = spark, name, partition, database
        self.path = f"{root}/lake/{name}"
        self.quarantine_path = f"{root}/quarantine/transactions"
        self.hourly_path = f"{root}/analytics/hourly_trades"
        self.timeline = self.read_timeline()

    # Landing zone

    def listed(self, folder):
        """(path, modified in ms) of all objects below a folder. Names that begin with `_` or `.` are not seen."""
        if not self.exists(folder):
            return []
        found = self.spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(folder)
        return [(plain(path), at) for path, at in found.select("path", F.unix_millis("modificationTime")).collect()]

    def objects_checked(self, folder, paths):
        """path to (lines, reason), as checks.object_checked."""
        names = {path: path[len(folder) + 1 :] for path in paths}
        # The others are not even opened: Hadoop takes some characters for patterns.
        opened = [path for path, name in names.items() if checks.OBJECT.fullmatch(name)]
        found = {path: (0, "foreign_object") for path in paths}
        if opened:
            context = self.spark.sparkContext
            bodies = context.binaryFiles(",".join(opened), context.defaultParallelism * 2)
            check = lambda one: (plain(one[0]), checks.object_checked(names[plain(one[0])], bytes(one[1])))
            found |= dict(bodies.map(check).collect())
        return found

    def lines(self, paths):
        if not paths:
            return self.spark.createDataFrame([], LINES)
        text = self.spark.read.option("lineSep", "\n").text(paths)
        return text.select(F.regexp_replace("_metadata.file_path", "^file:/+", "/").alias("object"), F.col("value").alias("line"))

    # Hudi table

    def read_timeline(self):
        """instant to state of the completed commits that are not archived yet, oldest first; None without a table."""
        if not self.exists(f"{self.path}/.hoodie/hoodie.properties"):
            return None
        jvm = self.spark._jvm.org.apache.hudi
        conf = jvm.hadoop.fs.HadoopFSUtils.getStorageConf(self.spark._jsc.hadoopConfiguration())
        client = jvm.common.table.HoodieTableMetaClient.builder().setConf(conf).setBasePath(self.path).build()
        fields = client.getTableConfig().getPartitionFields()
        found = list(fields.get()) if fields.isPresent() else []
        if found != [f"{self.partition}_part"]:
            raise SystemExit(
                f"the table {self.path} is partitioned by {', '.join(found)}, not by {self.partition}_part: set "
                "--partition_by as it was, or write to another table"
            )
        commits = client.getActiveTimeline().getCommitsTimeline().filterCompletedInstants()
        timeline = {}
        for instant in commits.getInstants():
            more = json.loads(bytes(commits.getInstantDetails(instant).get())).get("extraMetadata", {})
            # Clustering and the like have no state of ours.
            if table.STATE in more:
                timeline[instant.getTimestamp()] = table.State.decode(more[table.STATE])
        return timeline

    def state(self):
        return list(self.timeline.values())[-1] if self.timeline else table.State()

    def rows(self):
        return self.spark.read.format("hudi").load(self.path)

    def upsert(self, rows, state):
        """One commit has the rows and the state: both or none."""
        options = table.write_options(self.name, self.partition)
        if self.database:
            options |= table.sync_options(self.database, self.name, self.partition)
        writer = rows.write.format("hudi").options(**options).option(table.STATE, state.encode())
        writer.mode("append").save(self.path)
        self.timeline = self.read_timeline()

    # Quarantine

    def objects(self, reasons):
        return self.spark.createDataFrame(list(reasons.items()), OBJECTS)

    def quarantine(self, found):
        """A folder for each object: what is set aside once more replaces itself."""
        writer = found.repartition("object_part").write.mode("overwrite").option("partitionOverwriteMode", "dynamic")
        writer.option("compression", "gzip").partitionBy("object_part").json(self.quarantine_path)

    # Hourly aggregate

    def marker(self):
        return f"{self.hourly_path}/_aggregated"

    def hours_due(self):
        """Hours that commits have changed since the last aggregate; None for all."""
        last = self.read_text(self.marker())
        if last is None or last not in self.timeline:
            return None
        return {hour for instant, state in self.timeline.items() if instant > last for hour in state.hours}

    def write_hours(self, figures, hours):
        """Overwrites whole hours, all of them when `hours` is None, and removes those that have no trade any more."""
        figures = figures.repartition("year", "month", "day", "hour").cache()
        writer = figures.write.mode("overwrite")
        if hours is not None:
            writer = writer.option("partitionOverwriteMode", "dynamic")
        writer.partitionBy("year", "month", "day", "hour").parquet(self.hourly_path)
        there = {row.hour_bucket for row in figures.select("hour_bucket").distinct().collect()}
        for hour in sorted((hours or set()) - there):
            folder = f"year={hour[:4]}/month={hour[5:7]}/day={hour[8:10]}/hour={hour[11:13]}"
            system, path = self.opened(f"{self.hourly_path}/{folder}")
            system.delete(path, True)
        figures.unpersist()
        self.write_text(self.marker(), list(self.timeline)[-1])

    # Small files

    def opened(self, path):
        path = self.spark._jvm.org.apache.hadoop.fs.Path(path)
        return path.getFileSystem(self.spark._jsc.hadoopConfiguration()), path

    def exists(self, path):
        system, path = self.opened(path)
        return system.exists(path)

    def read_text(self, path):
        if not self.exists(path):
            return None
        system, path = self.opened(path)
        stream = system.open(path)
        try:
            return bytes(stream.readAllBytes()).decode()
        finally:
            stream.close()

    def write_text(self, path, text):
        system, path = self.opened(path)
        stream = system.create(path, True)
        stream.write(text.encode())
        stream.close()
