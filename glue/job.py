"""The Glue job: new objects of the landing zone into the Hudi table, then the hours that they change.

A run may end at any point: the next one does the rest. What is done in which order, and why: docs/adr/0028.
"""

import datetime
import sys
import time

from awsglue.context import GlueContext
from awsglue.job import Job
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext

import reports
import transform
from lake import Lake

NEEDED = ["JOB_NAME", "landing", "lake"]
OPTIONAL = {
    "errors": "",
    "table": "processed_crypto_txn",
    "database": "",
    "partition_by": "exchange",
    "objects_max": "2000",
    "metrics_namespace": "",
}
# Aggregated again at each run, whatever changed.
HOURS_KEPT_FRESH = 48


def arguments(argv):
    given = [name for name in OPTIONAL if any(one.split("=")[0] == f"--{name}" for one in argv)]
    found = OPTIONAL | getResolvedOptions(argv, NEEDED + given)
    for name in ("landing", "errors", "lake"):
        found[name] = found[name].rstrip("/")
    if found["partition_by"] not in transform.PARTITIONS:
        raise SystemExit(f"--partition_by {found['partition_by']}: it is one of {', '.join(transform.PARTITIONS)}")
    if not found["objects_max"].isdigit() or int(found["objects_max"]) == 0:
        raise SystemExit(f"--objects_max {found['objects_max']}: it is a number above 0")
    return found


def run(spark, options, now_ms):
    """One run; gives what it counted."""
    lake = Lake(spark, options["lake"], options["table"], options["partition_by"], options["database"])
    landing, errors = options["landing"], options["errors"]
    state = lake.state()
    listed = lake.listed(landing)
    if not listed and lake.timeline is None:
        raise SystemExit(f"no object is below {landing}: check --landing, and that the service has delivered")
    listed += lake.listed(errors) if errors else []
    unread = state.unread(listed, len(listed))
    taken = unread[: int(options["objects_max"])]
    counts = {"objects": len(taken), "objects_waiting": len(unread) - len(taken)}
    if taken:
        counts |= take(lake, landing, errors, state, taken, counts["objects_waiting"] == 0, now_ms)
    if lake.timeline:
        counts["hours"] = aggregate(lake, now_ms)
    return counts


def take(lake, landing, errors, state, taken, complete, now_ms):
    """Sets aside what no reader would take, and puts the rest into the table."""
    paths = [path for path, _ in taken]
    rows_in = lake.objects_checked(landing, [path for path in paths if path.startswith(landing + "/")])
    letters = lake.objects_checked(errors, [path for path in paths if path not in rows_in])
    refused = {path: reason for path, (_, reason) in (rows_in | letters).items() if reason}

    checked = transform.checked(lake.lines([path for path in rows_in if path not in refused])).cache()
    kinds = {row.name: row.kind for row in transform.kinds_seen(checked).collect()} | state.kinds
    lines = transform.parsed(transform.with_changed_types(checked, kinds), kinds).cache()
    found = {row.reason: row for row in transform.counted(lines).collect()}
    reasons = {reason: row.lines for reason, row in found.items()}
    expected = sum(count for count, _ in rows_in.values())
    if sum(reasons.values()) != expected:
        raise RuntimeError(f"Spark reads {sum(reasons.values())} of {expected} lines: nothing was written")
    rows = transform.rows(lines, kinds, lake.partition)
    accepted = reasons.pop(None, 0)

    if reasons or refused:
        noticed_at = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).isoformat(timespec="seconds")
        lake.quarantine(transform.quarantined(lines, lake.objects(refused), noticed_at))
    before = lake.rows() if lake.timeline else rows
    hours = sorted(row.hour_bucket for row in transform.hours_touched(rows, before).collect())
    lake.upsert(rows, state.after(taken, complete, now_ms, kinds, hours))
    lines.unpersist()
    checked.unpersist()
    return {
        "records": expected + sum(count for count, _ in letters.values()),
        "rows": accepted,
        "dead_letters": sum(count for count, _ in letters.values()),
        "quarantined": sum(reasons.values()),
        "quarantined_objects": len(refused),
        "reasons": reasons | {reason: list(refused.values()).count(reason) for reason in set(refused.values())},
        "oldest_ingestion_time": found[None].oldest if None in found else None,
    }


def aggregate(lake, now_ms):
    """Recomputes the hours that commits changed since the last time, and the last ones; gives how many."""
    hours = lake.hours_due()
    if hours is None:
        due = lake.rows().select("hour_bucket").where("hour_bucket IS NOT NULL").distinct()
        lake.write_hours(transform.hourly(lake.rows(), due), None)
        return due.count()
    hour = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).replace(minute=0)
    fresh = (hour - datetime.timedelta(hours=back) for back in range(HOURS_KEPT_FRESH))
    hours |= {one.strftime("%Y-%m-%d %H:00:00") for one in fresh}
    due = lake.spark.createDataFrame([(hour,) for hour in sorted(hours)], "hour_bucket STRING")
    lake.write_hours(transform.hourly(lake.rows(), due), hours)
    return len(hours)


def metric_data(counts, table, seconds):
    """For CloudWatch. What a run did not count is left out: unknown is not 0."""
    names = {
        "objects": "Objects",
        "objects_waiting": "ObjectsWaiting",
        "records": "Records",
        "rows": "Rows",
        "dead_letters": "DeadLetters",
        "quarantined": "QuarantinedLines",
        "quarantined_objects": "QuarantinedObjects",
    }
    values = [(metric, counts[name], "Count") for name, metric in names.items() if name in counts]
    values.append(("RunTime", seconds, "Seconds"))
    if counts.get("oldest_ingestion_time"):
        oldest = datetime.datetime.fromisoformat(counts["oldest_ingestion_time"])
        values.append(("Latency", time.time() - oldest.timestamp(), "Seconds"))
    dimensions = [{"Name": "Table", "Value": table}]
    return [{"MetricName": name, "Dimensions": dimensions, "Value": value, "Unit": unit} for name, value, unit in values]


def report(counts, options, seconds, cloudwatch=None):
    """In the log and in CloudWatch."""
    line = {"job": options["JOB_NAME"], "table": options["table"], "seconds": round(seconds, 1)} | counts
    reports.send(line, lambda: metric_data(counts, options["table"], seconds), options["metrics_namespace"], cloudwatch)


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
