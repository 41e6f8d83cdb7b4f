"""The compaction job: small landing objects into large ones, elsewhere, line by line as they are.

A run may end at any point, and runs may overlap: a manifest is created or not, and whoever creates it decides. Landing is
only read. Spark spreads the hours over its workers and does not look at a row. Why: docs/adr/0032.
"""

import sys
import time

from awsglue.context import GlueContext
from awsglue.job import Job
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext

import checks
import compaction
import reports
from objects import opened, retention_hours

NEEDED = ["JOB_NAME", "landing", "compacted"]
OPTIONAL = {"stream": "", "settle_hours": "12", "metrics_namespace": ""}


def arguments(argv):
    given = [name for name in OPTIONAL if any(one.split("=")[0] == f"--{name}" for one in argv)]
    found = OPTIONAL | getResolvedOptions(argv, NEEDED + given)
    landing, compacted = (found[name].rstrip("/") for name in ("landing", "compacted"))
    found |= {"landing": landing, "compacted": compacted}
    if f"{landing}/".startswith(f"{compacted}/") or f"{compacted}/".startswith(f"{landing}/"):
        raise SystemExit(f"--compacted {compacted}: it must be outside of --landing {landing}, and not around it")
    if not found["settle_hours"].isdigit() or int(found["settle_hours"]) == 0:
        raise SystemExit(f"--settle_hours {found['settle_hours']}: it is a number above 0")
    if landing.startswith("s3://") and not found["stream"]:
        raise SystemExit("--stream is missing: its retention decides how long landing objects must stay")
    return found


class Hour:
    """The passes of one hour."""

    def __init__(self, landing, compacted, hour):
        self.landing_url, self.hour = landing, hour
        self.landing, self.compacted = opened(landing), opened(compacted)
        self.done = {"objects": 0, "rows": 0, "passes": 0}
        self.refused = {}

    def run(self, objects, now_ms, settle_ms):
        """Finishes what was begun and compacts what is due; gives the counts of the hour."""
        while True:
            rest, changed = compaction.unclaimed(objects, self.finished())
            self.refused |= dict.fromkeys(changed, "changed_object")
            rest = [one for one in rest if one.name not in self.refused]
            due = compaction.passes(compaction.settled(rest, now_ms, settle_ms))
            if not due:
                break
            # One at a time: if another run takes the number, it has taken objects too.
            self.compact([one.name for one in due[0]])
        reasons = list(self.refused.values())
        open_ones = {one.name for one in rest} | self.refused.keys()
        return self.done | {
            "waiting": len(rest),
            "oldest_waiting": min((one.modified for one in objects if one.name in open_ones), default=None),
            "refused": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }

    def finished(self):
        """The manifests, each with its object: a run that dies between the two is finished here."""
        # Before the manifests: another run adds to both.
        there = compaction.numbers(name for name, _, _ in self.compacted.listed(f"{self.hour}/"))
        manifests = {}
        listed = (name for name, _, _ in self.compacted.listed(f"{compaction.MANIFESTS}/{self.hour}/"))
        for number in compaction.numbers(listed):
            manifest = compaction.Manifest.decode(self.compacted.read(compaction.manifest_name(self.hour, number)))
            if manifest.landing != self.landing_url:
                raise RuntimeError(f"--compacted has what came from {manifest.landing}: take another folder")
            manifests[number] = manifest
        if list(manifests) != list(range(1, len(manifests) + 1)) or not manifests.keys() >= set(there):
            raise RuntimeError("a manifest is missing: restore what was deleted, or delete the hour to compact it anew")
        for number, manifest in manifests.items():
            if manifest.rows and number not in there:
                bodies = [self.landing.read(f"{self.hour}/{name}") for name in sorted(manifest.objects)]
                if None in bodies:
                    raise RuntimeError(f"pass {number} has no object, and landing objects of it were deleted: restore them")
                self.publish(number, manifest, compaction.packed(bodies))
        self.last = len(manifests)
        return manifests.values()

    def compact(self, names):
        """One pass: claims the objects, then publishes their lines."""
        taken, bodies = {}, []
        for name in sorted(names):
            path = f"{self.hour}/{name}"
            body = self.landing.read(path)
            rows, reason = checks.object_checked(path, body) if body is not None else (0, "deleted_object")
            if reason:
                self.refused[name] = reason
            else:
                taken[name] = [len(body), rows]
                bodies.append(body)
        if not taken:
            return
        body = compaction.packed(bodies)
        rows, sha256 = compaction.described(body)
        manifest = compaction.Manifest(self.landing_url, taken, sha256)
        if rows != manifest.rows:
            raise RuntimeError(f"{manifest.rows} rows in, {rows} rows out: nothing was published")
        number = self.last + 1
        name = compaction.manifest_name(self.hour, number)
        if self.compacted.create(name, manifest.encode()):
            if rows:
                self.publish(number, manifest, body)
            self.done["objects"] += len(taken)
            self.done["rows"] += rows
            self.done["passes"] += 1
        elif self.compacted.read(name) is None:
            raise RuntimeError(f"{name} is there and cannot be read")

    def publish(self, number, manifest, body):
        """Readers see all of a pass or nothing. An object that is there already is another run's, and must be the same."""
        name = compaction.data_name(self.hour, number)
        if compaction.described(body) != (manifest.rows, manifest.sha256):
            raise RuntimeError(f"landing objects of pass {number} are not as they were: nothing was published")
        if not self.compacted.create(name, body):
            if compaction.described(self.compacted.read(name)) != (manifest.rows, manifest.sha256):
                raise RuntimeError(f"{name} is not what its manifest says: move it away")


def compact_hour(options, now_ms, hour, objects):
    """The counts of one hour, or its problem: other hours go on."""
    try:
        settle_ms = int(options["settle_hours"]) * compaction.HOUR_MS
        return Hour(options["landing"], options["compacted"], hour).run(objects, now_ms, settle_ms)
    except Exception as error:
        problem = f"{hour}: {error}" if isinstance(error, RuntimeError) else f"{hour}: {type(error).__name__}: {error}"
        return {"problem": problem, "oldest_waiting": min(one.modified for one in objects)}


def run(options, each, now_ms):
    """One run over all hours of landing; gives what it counted and what is wrong. `each` is a map over the hours."""
    hours, astray = compaction.by_hour(opened(options["landing"]).listed())
    if not hours and not any(opened(options["compacted"]).listed(f"{compaction.MANIFESTS}/")):
        raise SystemExit(f"no object is below {options['landing']}: check --landing, and that the service has delivered")
    found = list(each(lambda item: compact_hour(options, now_ms, *item), sorted(hours.items())))
    counts = {name: sum(one.get(name, 0) for one in found) for name in ("objects", "rows", "passes", "waiting")}
    counts |= {"hours": len(hours), "refused": {"foreign_object": len(astray)} if astray else {}}
    for reason, number in (pair for one in found for pair in one.get("refused", {}).items()):
        counts["refused"][reason] = counts["refused"].get(reason, 0) + number
    oldest = min((one["oldest_waiting"] for one in found if one["oldest_waiting"]), default=None)
    counts["oldest_waiting_seconds"] = 0 if oldest is None else max(0, (now_ms - oldest) // 1000)
    return counts, [one["problem"] for one in found if "problem" in one] + stays(options)


def stays(options):
    """What deletes landing objects before it may. A rule that cannot be read is no good rule."""
    if not options["landing"].startswith("s3://"):
        return []
    try:
        days = compaction.days_needed(retention_hours(options["stream"]), int(options["settle_hours"]))
        landing = opened(options["landing"])
        return compaction.too_early(landing.lifecycle(), landing.prefix, days)
    except Exception as error:
        return [f"how long landing objects stay is unknown: {type(error).__name__}: {error}"]


def metric_data(counts, problems, folder, seconds):
    """For CloudWatch."""
    values = {
        "Objects": counts["objects"],
        "Rows": counts["rows"],
        "ObjectsWaiting": counts["waiting"],
        "ObjectsRefused": sum(counts["refused"].values()),
        "Problems": len(problems),
    }
    found = [(name, value, "Count") for name, value in values.items()]
    found += [("OldestWaiting", counts["oldest_waiting_seconds"], "Seconds"), ("RunTime", seconds, "Seconds")]
    dimensions = [{"Name": "Compacted", "Value": folder}]
    return [{"MetricName": name, "Dimensions": dimensions, "Value": value, "Unit": unit} for name, value, unit in found]


def report(counts, problems, options, seconds, cloudwatch=None):
    """In the log and in CloudWatch."""
    folder = options["compacted"]
    line = {"job": options["JOB_NAME"], "compacted": folder, "seconds": round(seconds, 1)} | counts | {"problems": problems}
    reports.send(line, lambda: metric_data(counts, problems, folder, seconds), options["metrics_namespace"], cloudwatch)


def main(argv):
    options = arguments(argv)
    glue = GlueContext(SparkContext.getOrCreate())
    job = Job(glue)
    job.init(options["JOB_NAME"], options)
    began = time.time()

    def each(function, items):
        context = glue.spark_session.sparkContext
        return context.parallelize(items, len(items)).map(function).collect() if items else []

    counts, problems = run(options, each, int(began * 1000))
    report(counts, problems, options, time.time() - began)
    if problems:
        raise SystemExit("; ".join(problems))
    job.commit()


if __name__ == "__main__":
    main(sys.argv)
