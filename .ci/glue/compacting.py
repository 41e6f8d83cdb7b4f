"""The compaction job without Spark: killed at every step, two runs at once, late and bad objects, a bucket in S3.

compacting.py steps MINISTACK   all of that
compacting.py lake LAKE         compacts a lake of landing/transactions into compacted/transactions
"""

import collections
import contextlib
import datetime
import gzip
import http.client
import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "glue"), str(ROOT / ".ci/operations")]

import boto3
import checks
import compact
import compaction
import objects
from botocore.stub import ANY, Stubber
from processes import Processes, free_ports, until

HOURS = [f"year=2026/month=01/day=05/hour={hour:02}" for hour in (3, 4)]
NOW = 1_770_000_000_000
OLD = NOW - 48 * compaction.HOUR_MS
# Objects of which no line can be taken, and why.
BAD = {
    "cut.ndjson.gz": (gzip.compress(b'{"a":1}\n')[:-9], "truncated_object"),
    "sum.ndjson.gz": (gzip.compress(b'{"a":1}\n')[:-6] + b"\x00" * 6, "corrupt_object"),
    "text.ndjson.gz": (b'{"a":1}\n', "not_gzip"),
    "README.txt": (b"hello", "foreign_object"),
}


class Lake:
    """A landing folder with what a service, and others, may leave there; and what was compacted of it."""

    def __init__(self, root):
        self.landing, self.compacted = root / "landing", root / "compacted"
        self.options = {
            "JOB_NAME": "compaction", "landing": str(self.landing), "compacted": str(self.compacted), "stream": "",
            "settle_hours": "12", "metrics_namespace": "",
        }  # fmt: skip

    def fill(self):
        for at, hour in enumerate(HOURS):
            for number in range(3):
                self.put(hour, f"trades-shardId-{number}", f'{{"hour":{at},"n":{number}}}\n{{"spaces" : 1.50, "é":"\\u00e9"}}\n')
        self.put(HOURS[0], "no-newline", '{"last":"line"}')
        # Lines that a table refuses are lines.
        self.put(HOURS[0], "odd", '\n{"half\n{"cr":1}\r\n')
        self.put(HOURS[0], "seal", "")
        # Rows of an hour whose every object is a seal.
        self.put("year=2026/month=01/day=05/hour=09", "seal", "")
        members = gzip.compress(b'{"member":1}\n') + gzip.compress(b'{"member":2}\n')
        self.put(HOURS[1], "members", members)
        return self

    def put(self, hour, name, lines, modified=OLD):
        path = self.landing / hour / (name if "." in name else f"{name}.ndjson.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines if isinstance(lines, bytes) else gzip.compress(lines.encode()))
        os.utime(path, (modified / 1000, modified / 1000))

    def run(self, now_ms=NOW):
        return compact.run(self.options, map, now_ms)

    def lines(self, folder):
        """How often each line is in the objects of each hour that can be read."""
        found = collections.Counter()
        for path in folder.rglob("*.ndjson.gz"):
            name, body = path.relative_to(folder).as_posix(), path.read_bytes()
            # `_manifests`, and what is staged.
            hidden = any(part[0] in "._" for part in name.split("/"))
            if not hidden and checks.object_checked(name, body)[1] is None and (text := gzip.decompress(body)):
                found.update((path.parent.name, line) for line in text.removesuffix(b"\n").split(b"\n"))
        return found

    def same(self):
        """Every line of landing is compacted, once, in its hour."""
        return self.lines(self.landing) == self.lines(self.compacted)

    def landing_bytes(self):
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in self.landing.rglob("*") if path.is_file()}


class Stepping(objects.Folder):
    """A folder that does something before and after each of its steps."""

    step = staticmethod(lambda: None)

    def listed(self, prefix=""):
        found = list(super().listed(prefix))
        Stepping.step()
        return found

    def read(self, name):
        found = super().read(name)
        Stepping.step()
        return found

    def create(self, name, body):
        Stepping.step()
        found = super().create(name, body)
        Stepping.step()
        return found


def at_step(number, *actions):
    """Makes the actions happen at that step and the following ones; answers whether the first has."""
    seen = [0]

    def step():
        seen[0] += 1
        assert seen[0] < 1000, "a run has no end"
        if 0 <= seen[0] - number < len(actions):
            actions[seen[0] - number]()

    Stepping.step = staticmethod(step)
    return lambda: seen[0] >= number


def each_step(root, begin):
    """Runs with something at each step in turn, until a run has fewer steps; answers how many there were."""
    for number in range(1, 10_000):
        folder = root / f"{begin.__name__}-{number}"
        lake = Lake(folder).fill()
        happened = begin(lake, number)
        at_step(0)
        counts, problems = lake.run()
        assert not problems and not counts["refused"] and counts["waiting"] == 0, (number, counts, problems)
        assert lake.same(), f"{begin.__name__} at step {number}: rows are missing or twice"
        assert lake.run()[0]["objects"] == 0, "a run after the last one has work"
        if not happened:
            return number - 1
    raise AssertionError("no end")


def meanwhile(lake, begin=lambda: None):
    """Another run, of which this one knows nothing."""

    def other():
        begin()
        step = Stepping.step
        at_step(0)
        _, problems = lake.run()
        assert not problems, problems
        Stepping.step = step

    return other


def forked(lake, number, *actions):
    """A run in a process of its own that ends with SIGKILL; whether it did."""
    child = os.fork()
    if child == 0:
        at_step(number, *actions, lambda: os.kill(os.getpid(), signal.SIGKILL))
        lake.run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def beside(lake, number, action):
    happened = at_step(number, action)
    _, problems = lake.run()
    assert not problems, problems
    return happened()


def appears(lake):
    lake.put(HOURS[1], "late", '{"late":1}\n')
    lake.put(HOURS[0], "seal-late", "")


def killed(lake, number):
    """SIGKILL."""
    return forked(lake, number)


def overtaken(lake, number):
    """Another run does everything in the middle of this one."""
    return beside(lake, number, meanwhile(lake))


def late(lake, number):
    """An object appears while the job runs, and another run that knows of it does everything."""
    return beside(lake, number, meanwhile(lake, lambda: appears(lake)))


def late_killed(lake, number):
    """The same, and SIGKILL one step later."""
    return forked(lake, number, meanwhile(lake, lambda: appears(lake)))


BEGINNINGS = (killed, overtaken, late, late_killed)


def overwriting(self, name, body):
    """A planted fault: a store that ignores the condition."""
    Stepping.step()
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    Stepping.step()
    return True


def controls(root):
    """Each fault is noticed at some step."""
    faults = {
        "objects are replaced": (Stepping, "create", overwriting),
        "what is claimed is taken again": (compaction, "unclaimed", lambda found, _: (found, [])),
        "nobody finishes what was begun": (compact.Hour, "finished", unfinished),
        "the last line is glued to the next": (compaction, "packed", lambda bodies: gzip.compress(b"".join(map(gzip.decompress, bodies)))),
        "an object is left out": (compaction, "packed", lambda bodies, whole=compaction.packed: whole(bodies[1:])),
    }  # fmt: skip
    for what, (owner, name, fault) in faults.items():
        whole = getattr(owner, name)
        setattr(owner, name, fault)
        try:
            for begin in BEGINNINGS:
                each_step(root / what.replace(" ", "-"), begin)
        except AssertionError:
            continue
        finally:
            setattr(owner, name, whole)
        raise SystemExit(f"not noticed: {what}")
    return len(faults)


def unfinished(self, whole=compact.Hour.finished):
    publish, self.publish = self.publish, lambda *_: None
    found = whole(self)
    self.publish = publish
    return found


def bad_objects(root):
    """What cannot be read is counted with a reason and left where it is; its neighbours are compacted; mended, it is too."""
    lake = Lake(root).fill()
    for name, (body, _) in BAD.items():
        lake.put(HOURS[0], name, body)
    lake.put("elsewhere", "astray", "{}\n")
    lake.put(HOURS[0], "_hidden", "{}\n")
    counts, problems = lake.run()
    reasons = collections.Counter(reason for _, reason in BAD.values()) + collections.Counter(foreign_object=1)
    assert counts["refused"] == dict(reasons) and not problems, (counts, problems)
    assert counts["oldest_waiting_seconds"] == 48 * 3600, counts
    lake.put(HOURS[0], "cut.ndjson.gz", '{"mended":1}\n')
    counts, _ = lake.run()
    assert counts["objects"] == counts["rows"] == 1 and "truncated_object" not in counts["refused"], counts
    # An object that was compacted and is replaced is nothing that the service does.
    lake.put(HOURS[0], "odd", "{}\n")
    assert lake.run()[0]["refused"]["changed_object"] == 1


def deleted(root):
    """An object that was published and is gone is made again, while landing has what it held; then it is a problem."""
    lake = Lake(root).fill()
    lake.run()
    path = lake.compacted / compaction.data_name(HOURS[1], 1)
    path.unlink()
    counts, problems = lake.run()
    assert path.exists() and lake.same() and not problems and counts["objects"] == 0, problems
    cases = {
        "landing objects of it were deleted": [path, lake.landing / HOURS[1] / "members.ndjson.gz"],
        "a manifest is missing": [lake.compacted / compaction.manifest_name(HOURS[0], 1)],
    }
    for text, paths in cases.items():
        for one in paths:
            one.unlink()
        _, problems = lake.run()
        assert [text in problem for problem in problems].count(True) == 1, (text, problems)
    path.write_bytes(gzip.compress(b"{}\n"))
    lake.put(HOURS[1], "members", gzip.compress(b'{"member":1}\n') + gzip.compress(b'{"member":2}\n'))
    _, problems = lake.run()
    assert len(problems) == 1, problems
    try:
        Lake(root / "empty").run()
    except SystemExit as error:
        assert "check --landing" in str(error)
    else:
        raise AssertionError("an empty landing folder is taken for a quiet one")
    lake.options["landing"] += "/../landing"
    _, problems = lake.run()
    assert any("take another folder" in problem for problem in problems), problems


def settling(root):
    """Objects are taken when they are old enough, late ones in a pass of their own."""
    lake = Lake(root)
    lake.put(HOURS[0], "one", "{}\n", NOW - 12 * compaction.HOUR_MS)
    lake.put(HOURS[0], "two", "{}\n", NOW - 12 * compaction.HOUR_MS + 1)
    counts, _ = lake.run()
    assert (counts["objects"], counts["waiting"], counts["oldest_waiting_seconds"]) == (1, 1, 12 * 3600 - 1), counts
    counts, _ = lake.run(NOW + 1)
    assert (counts["objects"], counts["waiting"], counts["oldest_waiting_seconds"]) == (1, 0, 0), counts
    assert len(list((lake.compacted / HOURS[0]).iterdir())) == 2 and lake.same()
    sizes = [compaction.Found(str(number), size, 0) for number, size in enumerate((1, 2, 3, 9, 1, 1))]
    assert [[one.size for one in each] for each in compaction.passes(sizes, 4)] == [[1, 2], [3], [9], [1, 1]]


def lifecycle_rules():
    """Which rules end landing objects too early; 4 days are needed."""
    date = datetime.datetime(2027, 1, 1)
    right = [
        {"Status": "Enabled", "Prefix": "raw/landing/", "Expiration": {"Days": 4}},
        {"Status": "Disabled", "Prefix": "", "Expiration": {"Days": 1}},
        {"Status": "Enabled", "Filter": {"Prefix": "other/"}, "Expiration": {"Days": 1}},
        {"Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
        {"Status": "Enabled", "Prefix": "", "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]},
        {"Status": "Enabled", "Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
    ]
    wrong = [
        {"Status": "Enabled", "Prefix": "raw/landing/", "Expiration": {"Days": 3}},
        {"Status": "Enabled", "Expiration": {"Days": 1}},
        {"Status": "Enabled", "Filter": {"Prefix": "raw/landing/transactions/year=2026/"}, "Expiration": {"Days": 3}},
        {"Status": "Enabled", "Filter": {"And": {"Prefix": "raw/", "Tags": []}}, "Expiration": {"Days": 3}},
        {"Status": "Enabled", "Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 3}},
        {"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Date": date}},
        {"Status": "Enabled", "Prefix": "", "Transitions": [{"Days": 3, "StorageClass": "GLACIER"}]},
    ]
    prefix = "raw/landing/transactions/"
    assert compaction.too_early(right, prefix, 4) == []
    assert all(len(compaction.too_early([rule], prefix, 4)) == 1 for rule in wrong)
    assert [compaction.days_needed(*hours) for hours in ((24, 12), (48, 1), (49, 12), (168, 12), (24, 48))] == [4, 4, 4, 8, 5]


def answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        connection.request("GET", "/")
        return connection.getresponse() is not None
    except OSError:
        return False


def in_s3(root, ministack):
    """The same in a bucket, from two runs at once; and how long its objects stay."""
    (port,) = free_ports(1)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0",
    }  # fmt: skip
    with Processes(root) as processes:
        processes.start("ministack", ministack, cwd=root)
        until("ministack answers", lambda: answers(port), 60)
        s3, kinesis = boto3.client("s3"), boto3.client("kinesis")
        s3.create_bucket(Bucket="lake")
        kinesis.create_stream(StreamName="trades", ShardCount=1)
        lake = Lake(root / "local").fill()
        for path in lake.landing.rglob("*.gz"):
            s3.put_object(Bucket="lake", Key=f"raw/{path.relative_to(lake.landing.parent)}", Body=path.read_bytes())
        before = {one["Key"]: one["ETag"] for one in s3.list_objects_v2(Bucket="lake")["Contents"]}
        options = lake.options | {"landing": "s3://lake/raw/landing", "compacted": "s3://lake/compacted", "stream": "trades"}
        # Objects have the time of this machine there.
        now = int(time.time() * 1000) + 13 * compaction.HOUR_MS
        children = [os.fork() for _ in range(2)]
        if 0 in children:
            problems = compact.run(options, map, now)[1]
            os._exit(len(problems))
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        counts, problems = compact.run(options, map, now)
        assert counts["objects"] == counts["waiting"] == 0 and not problems, (counts, problems)
        for key in (one["Key"] for one in s3.list_objects_v2(Bucket="lake")["Contents"]):
            if key.startswith("compacted/year="):
                path = lake.compacted / key.removeprefix("compacted/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(s3.get_object(Bucket="lake", Key=key)["Body"].read())
        assert lake.same(), "rows are missing or twice in S3"
        after = {one["Key"]: one["ETag"] for one in s3.list_objects_v2(Bucket="lake", Prefix="raw/")["Contents"]}
        assert before == after, "landing was changed"
        # The stream keeps records for a day: 4 days are enough, 3 are not.
        for days, wrong in ((4, 0), (3, 1)):
            rule = {"ID": "landing", "Status": "Enabled", "Filter": {"Prefix": "raw/"}, "Expiration": {"Days": days}}
            s3.put_bucket_lifecycle_configuration(Bucket="lake", LifecycleConfiguration={"Rules": [rule]})
            _, problems = compact.run(options, map, now)
            assert len(problems) == wrong, problems
        _, problems = compact.run(options | {"stream": "unknown"}, map, now)
        assert len(problems) == 1 and "unknown" in problems[0], problems
        objects.opened("s3://lake/compacted")
        processes.started[0].kill()


def settings():
    """Wrong settings are refused with what to do; right ones are taken."""
    def given(**more):
        found = {"JOB_NAME": "c", "landing": "s3://a/landing/", "compacted": "s3://b/compacted", "stream": "trades"} | more
        return compact.arguments(["compact.py", *(part for name, value in found.items() for part in (f"--{name}", value))])

    assert given()["landing"] == "s3://a/landing"
    cases = [{"compacted": "s3://a/landing/compacted"}, {"compacted": "s3://a"}, {"settle_hours": "0"}, {"settle_hours": "x"}, {"stream": ""}]
    for wrong in cases:
        try:
            given(**wrong)
        except SystemExit as error:
            assert "--" in str(error.code), error
        else:
            raise AssertionError(f"taken: {wrong}")


def compaction_job(chain):
    """The job as Glue starts it, on what the service wrote: chain.py has the session. Its landing objects get old in a copy."""
    lake = Lake(chain.folder / "compaction")
    shutil.copytree(chain.landing, lake.landing)
    for path in lake.landing.rglob("*.*"):
        os.utime(path, (OLD / 1000, OLD / 1000))
    given = [part for name in ("JOB_NAME", "landing", "compacted") for part in (f"--{name}", lake.options[name])]
    taken = 0
    for again in (False, True):
        out, argv, sys.argv = io.StringIO(), sys.argv, ["compact.py", *given]
        try:
            with contextlib.redirect_stdout(out):
                runpy.run_path(str(ROOT / "glue/compact.py"), run_name="__main__")
        finally:
            sys.argv = argv
        counts = json.loads(out.getvalue())
        assert lake.same() and counts["waiting"] == 0 and not counts["problems"], counts
        taken = taken or counts["objects"]
        assert counts["objects"] == (0 if again else taken) and taken > 0, counts
    left = len(list(lake.compacted.glob("year=*/**/*.gz")))
    print(f"{taken} landing objects are {left} compacted ones, line by line")


def guide():
    """What COMPACTION.md says of arguments and metrics is so."""
    text = (ROOT / "glue/COMPACTION.md").read_text()
    arguments = dict(re.findall(r"^\| `([a-z_]+)` \| (\S+) \|", text, re.MULTILINE))
    assert arguments == dict.fromkeys(compact.NEEDED[1:], "–") | {k: v or "none" for k, v in compact.OPTIONAL.items()}, arguments
    counts = {"objects": 0, "rows": 0, "waiting": 0, "refused": {}, "oldest_waiting_seconds": 0}
    names = {one["MetricName"] for one in compact.metric_data(counts, [], "f", 1)}
    assert names == set(re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE)), names
    given = json.loads(re.search(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1])
    options = compact.arguments(["compact.py", "--JOB_NAME", "c", *(part for pair in given.items() for part in pair)])
    assert options["stream"] == "trades" and options["metrics_namespace"], options
    files = {part.rpartition("/")[2] for part in given["--extra-py-files"].split(",")}
    needed = {"compact.py"} | files
    imports = {name for file in needed for name in re.findall(r"^(?:import|from) (\w+)", (ROOT / "glue" / file).read_text(), re.MULTILINE)}
    assert {f"{name}.py" for name in imports if (ROOT / "glue" / f"{name}.py").exists()} == files, imports


def metrics():
    """What CloudWatch gets passes the model of its API; where it fails, the run does not."""
    client = boto3.client("cloudwatch", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    counts = {"objects": 2, "rows": 3, "waiting": 1, "refused": {"not_gzip": 1}, "oldest_waiting_seconds": 5}
    options = {"JOB_NAME": "c", "compacted": "f", "metrics_namespace": "kinetide-lake"}
    with Stubber(client) as stub, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        stub.add_response("put_metric_data", {}, {"Namespace": "kinetide-lake", "MetricData": ANY})
        compact.report(counts, ["one"], options, 1.5, client)
        stub.assert_no_pending_responses()
        stub.add_client_error("put_metric_data", "Throttling")
        compact.report(counts, [], options, 1.5, client)
    assert "Throttling" in err.getvalue()
    values = {one["MetricName"]: one["Value"] for one in compact.metric_data(counts, ["one"], "f", 1.5)}
    assert values["ObjectsRefused"] == values["Problems"] == 1 and values["OldestWaiting"] == 5, values


def main(ministack):
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain, compact.opened = compact.opened, Stepping
        lake = Lake(root / "first").fill()
        before = lake.landing_bytes()
        counts, problems = lake.run()
        assert lake.same() and not problems and counts["passes"] == 3, (counts, problems)
        assert lake.landing_bytes() == before, "landing was changed"
        steps = [each_step(root, begin) for begin in BEGINNINGS]
        found = controls(root)
        for check in (bad_objects, deleted, settling):
            check(root / check.__name__)
        compact.opened = plain
        lifecycle_rules()
        settings()
        guide()
        metrics()
        in_s3(root, ministack)
    print(f"compaction: killed, overtaken by another run, late objects, at each of {sum(steps)} steps: every line once, landing as it")
    print(f"was, in S3 too; {found} planted faults are noticed; {time.time() - began:.0f} s")


def whole(root):
    """Everything that is in a lake."""
    lake = Lake(root)
    lake.options |= {"landing": f"{root}/landing/transactions", "compacted": f"{root}/compacted/transactions"}
    counts, problems = lake.run(int(time.time() * 1000) + 13 * compaction.HOUR_MS)
    assert counts["objects"] > 0 and counts["waiting"] == 0 and not problems, (counts, problems)
    print(f"compacted: {counts}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["steps", ministack]:
            main(ministack)
        case ["lake", lake]:
            whole(Path(lake).resolve())
        case _:
            sys.exit(__doc__)
