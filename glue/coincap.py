"""The Glue job for CoinCap: messages as the stream had them into one row for each asset and snapshot, Parquet by day.

A run may end at any point: the next one does the rest. A row is there once, however often its message comes or a run is
repeated: what a run writes holds the rows that it replaces. docs/adr/0042
"""

import datetime
import json
import sys
import time

from awsglue.context import GlueContext
from awsglue.job import Job
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

import assets
import reports
import table
from lake import Lake

NEEDED = ["JOB_NAME", "landing", "lake"]
OPTIONAL = {"partition_by": "day", "objects_max": "2000", "metrics_namespace": ""}
TABLE = "coincap_assets"
PARTS = {"day": ["year", "month", "day"], "hour": ["year", "month", "day", "hour"]}

TEXTS = assets.TEXTS
NUMBERS = [name for name in assets.MEMBERS if name not in [*TEXTS, "rank"]]
MEASURED = ["rank", *NUMBERS]
PROBLEMS = ["no_object", "bad_time", "no_id"]
COLUMNS = ["event_time", *assets.MEMBERS]
SCHEMA = T.StructType(
    [T.StructField("event_time", T.TimestampType())]
    + [
        T.StructField(name, T.StringType() if name in TEXTS else T.IntegerType() if name == "rank" else T.DoubleType())
        for name in assets.MEMBERS
    ]
)
ENTRY = T.StructType(
    [T.StructField(name, T.StringType()) for name in [*assets.MEMBERS, "problem"]]
    + [T.StructField(name, T.LongType()) for name in ("event_ms", "lost")]
)
FOUND = T.StructType([T.StructField("reason", T.StringType()), T.StructField("assets", T.ArrayType(ENTRY))])
# The grammar of JSON. Java takes more for a number, such as 1d and NaN.
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


def arguments(argv):
    given = [name for name in OPTIONAL if any(one.split("=")[0] == f"--{name}" for one in argv)]
    found = OPTIONAL | getResolvedOptions(argv, NEEDED + given)
    found |= {name: found[name].rstrip("/") for name in ("landing", "lake")}
    if found["partition_by"] not in PARTS:
        raise SystemExit(f"--partition_by {found['partition_by']}: it is one of {', '.join(PARTS)}")
    if not found["objects_max"].isdigit() or int(found["objects_max"]) == 0:
        raise SystemExit(f"--objects_max {found['objects_max']}: it is a number above 0")
    return found


# ---- DataFrame in, DataFrame out


def number(name):
    """A text as a double; null for what is none, or too large for one."""
    value = F.when(F.col(name).rlike(NUMBER), F.col(name).cast("double"))
    return F.when(F.abs(value) < float("inf"), value)


def parsed(lines):
    """(object, line) with what is wrong with it, and its assets as texts."""
    snapshot = F.udf(assets.snapshot, FOUND)
    return lines.withColumn("found", snapshot("line")).select("object", "line", "found.*")


def exploded(messages):
    """One row for each asset, still as texts, and one for each message without any. `place` is that of the asset in its message."""
    return messages.select("reason", F.posexplode_outer("assets").alias("place", "asset")).select("reason", "place", "asset.*")


def typed(entries):
    """Rows of the table, and beside each value whether it could not be read."""
    rank = number("rank")
    columns = {"event_time": F.timestamp_millis("event_ms"), "rank": F.when((rank == F.floor(rank)) & (F.abs(rank) < 2**31), rank.cast("int"))}
    columns |= {name: number(name) for name in NUMBERS} | {name: F.col(name) for name in TEXTS}
    good = F.col("place").isNotNull() & F.col("problem").isNull()
    bad = [(good & F.col(name).isNotNull() & columns[name].isNull()).alias(f"bad_{name}") for name in MEASURED]
    return entries.select("reason", "place", "problem", "lost", good.alias("good"), *(columns[name].alias(name) for name in COLUMNS), *bad)


def counted(rows, parts):
    """By reason, or none: messages, assets and their problems, values that could not be read, and the partitions of the rows."""
    problems = [F.count_if(F.col("problem") == name).alias(name) for name in PROBLEMS]
    bad = [F.count_if(f"bad_{name}").alias(f"bad_{name}") for name in MEASURED] + [F.sum("lost").alias("bad_texts")]
    folders = F.collect_set(F.when(F.col("good"), F.struct(*parts))).alias("folders")
    messages = F.count_if(F.col("place").isNull() | (F.col("place") == 0)).alias("messages")
    return with_parts(rows, parts).groupBy("reason").agg(messages, F.count_if("good").alias("assets"), *problems, *bad, folders)


def with_parts(rows, parts):
    return rows.withColumns({name: getattr(F, "dayofmonth" if name == "day" else name)("event_time") for name in parts})


def once(before, new):
    """Rows of both, each asset of a snapshot once. What was there before stays; of new ones the same is taken in any run."""
    both = before.select(*COLUMNS, F.lit(False).alias("is_new")).union(new.select(*COLUMNS, F.lit(True).alias("is_new")))
    order = Window.partitionBy("id", "event_time").orderBy("is_new", *COLUMNS[2:])
    return both.withColumn("place", F.row_number().over(order)).where("place = 1").drop("place")


# ---- What is there


class Assets(Lake):
    def __init__(self, spark, root, partition_by):
        super().__init__(spark, root, TABLE, partition_by)
        self.path = f"{root}/analytics/{TABLE}"
        self.quarantine_path = f"{root}/quarantine/{TABLE}"
        self.parts = PARTS[partition_by]
        spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MILLIS")

    def read_timeline(self):
        """It is no Hudi table."""

    def state(self):
        text = self.read_text(f"{self.path}/_state.json")
        if text is None:
            return table.State()
        found = json.loads(text)
        if found["partition_by"] != self.partition:
            raise SystemExit(f"{self.path} is partitioned by {found['partition_by']}: set --partition_by as it was, or write to another lake")
        return table.State.decode(found["state"])

    def keep(self, state):
        """An object is replaced as a whole."""
        self.write_text(f"{self.path}/_state.json", json.dumps({"partition_by": self.partition, "state": state.encode()}))

    def files(self, folders):
        """What is in these partitions now."""
        found = []
        for values in folders:
            parts = "/".join(f"{name}={value}" for name, value in zip(self.parts, values))
            system, path = self.opened(f"{self.path}/{parts}")
            if system.exists(path):
                found += [one.getPath().toString() for one in system.listStatus(path) if not one.getPath().getName().startswith(("_", "."))]
        return sorted(found)

    def rows(self, files):
        return self.spark.read.schema(SCHEMA).parquet(*files) if files else self.spark.createDataFrame([], SCHEMA)

    def add(self, rows):
        """One file for each partition, beside those that are there."""
        rows = with_parts(rows, self.parts).repartition(*self.parts)
        rows.write.mode("append").option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false").partitionBy(*self.parts).parquet(self.path)

    def remove(self, files):
        for file in files:
            system, path = self.opened(file)
            system.delete(path, False)

    def set_aside(self, messages, refused, noticed_at):
        of_lines = messages.where("reason IS NOT NULL").select("object", "reason", "line")
        of_objects = self.objects(refused).select("object", "reason", F.lit(None).cast("string").alias("line"))
        parts = {"noticed_at": F.lit(noticed_at), "object_part": F.sha1("object").substr(1, 16)}
        self.quarantine(of_lines.union(of_objects).withColumns(parts))


# ---- A run


def run(spark, options, now_ms):
    """One run; gives what it counted."""
    lake = Assets(spark, options["lake"], options["partition_by"])
    listed = lake.listed(options["landing"])
    state = lake.state()
    if not listed and state == table.State():
        raise SystemExit(f"no object is below {options['landing']}: check --landing, and that the service has delivered")
    unread = state.unread(listed, len(listed))
    taken = unread[: int(options["objects_max"])]
    counts = {"objects": len(taken), "objects_waiting": len(unread) - len(taken)}
    if taken:
        counts |= take(lake, options["landing"], [path for path, _ in taken], now_ms)
        lake.keep(state.after(taken, counts["objects_waiting"] == 0, now_ms, {}, []))
    return counts


def take(lake, landing, paths, now_ms):
    checked = lake.objects_checked(landing, paths)
    refused = {path: reason for path, (_, reason) in checked.items() if reason}
    messages = parsed(lake.lines([path for path in checked if path not in refused])).cache()
    new = typed(exploded(messages)).cache()
    found = {row.reason: row for row in counted(new, lake.parts).collect()}
    reasons = {reason: row.messages for reason, row in found.items()}
    expected = sum(count for count, _ in checked.values())
    if sum(reasons.values()) != expected:
        raise RuntimeError(f"Spark reads {sum(reasons.values())} of {expected} lines: nothing was written")
    snapshots = reasons.pop(None, 0)
    if reasons or refused:
        noticed_at = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).isoformat(timespec="seconds")
        lake.set_aside(messages, refused, noticed_at)
    good = found[None] if None in found else None
    counts = {
        "records": expected,
        "snapshots": snapshots,
        "assets": good.assets if good else 0,
        "rows": put(lake, new, [tuple(one) for one in good.folders]) if good else 0,
        "without_snapshot": sum(reasons.values()),
        "quarantined_objects": len(refused),
    }
    problems = {name: good[name] for name in PROBLEMS if good and good[name]}
    unreadable = {name: good[f"bad_{name}"] for name in [*MEASURED, "texts"] if good and good[f"bad_{name}"]}
    counts |= {"assets_set_aside": sum(problems.values()), "values_unreadable": sum(unreadable.values()), "unreadable": unreadable}
    counts["reasons"] = reasons | problems | {reason: list(refused.values()).count(reason) for reason in set(refused.values())}
    messages.unpersist()
    new.unpersist()
    return counts


def put(lake, new, folders):
    """Puts rows to those of their partitions; gives how many are new."""
    old = lake.files(folders)
    rows = once(lake.rows(old), new.where("good")).cache()
    count = rows.where("is_new").count()
    if count or len(old) > len(folders):
        lake.add(rows.drop("is_new"))
        # Until here both are there. The next run makes one of them, if this one ends now.
        lake.remove(old)
    rows.unpersist()
    return count


METRICS = {
    "objects": "Objects",
    "objects_waiting": "ObjectsWaiting",
    "records": "Records",
    "snapshots": "Snapshots",
    "assets": "Assets",
    "rows": "Rows",
    "without_snapshot": "RecordsWithoutSnapshot",
    "assets_set_aside": "AssetsSetAside",
    "values_unreadable": "ValuesUnreadable",
    "quarantined_objects": "QuarantinedObjects",
}


def metric_data(counts, seconds):
    """For CloudWatch. What a run did not count is left out."""
    values = [(metric, counts[name], "Count") for name, metric in METRICS.items() if name in counts] + [("RunTime", seconds, "Seconds")]
    dimensions = [{"Name": "Table", "Value": TABLE}]
    return [{"MetricName": name, "Dimensions": dimensions, "Value": value, "Unit": unit} for name, value, unit in values]


def report(counts, options, seconds, cloudwatch=None):
    """In the log and in CloudWatch."""
    line = {"job": options["JOB_NAME"], "table": TABLE, "seconds": round(seconds, 1)} | counts
    reports.send(line, lambda: metric_data(counts, seconds), options["metrics_namespace"], cloudwatch)


def main(argv):
    options = arguments(argv)
    glue = GlueContext(SparkContext.getOrCreate())
    job = Job(glue)
    job.init(options["JOB_NAME"], options)
    began = time.time()
    counts = run(glue.spark_session, options, int(began * 1000))
    report(counts, options, time.time() - began)
    job.commit()


if __name__ == "__main__":
    main(sys.argv)
