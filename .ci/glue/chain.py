"""The Glue job on what the service wrote, with Spark and Hudi of Glue 5.0: state after state it must be the source table.

spark.py plays the steps.
"""

import collections
import contextlib
import decimal
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import session
from compacting import compaction_job
from compare import same_as_table, told
from registered import catalog
from scene import Scene, until
from session import ROOT

import checks
import job
import table
import transform
from hudi import HudiTableBuilder
from lake import Lake

NAME = "processed_crypto_txn"


class Chain:
    def __init__(self, kinetide, jar, folder):
        self.kinetide, self.jar, self.folder = kinetide, jar, folder
        self.scene = Scene(kinetide, folder)
        self.root = folder / "analytics-bucket"
        self.landing, self.errors = (self.scene.lake / name for name in ("landing/transactions", "errors"))
        self.hudi = self.root / "lake" / NAME
        self.spark = None

    def arguments(self, **more):
        found = {"JOB_NAME": "etl", "landing": self.landing, "errors": self.errors, "lake": self.root} | more
        return [part for name, value in found.items() for part in (f"--{name}", str(value))]

    def run(self, **more):
        counts = session.run(self.arguments(**more))
        if counts["objects"]:
            # Every record is a row, a dead letter, or set aside with a reason.
            assert counts["records"] == counts["rows"] + counts["dead_letters"] + counts["quarantined"], counts
        return counts

    def lake(self, **more):
        return Lake(self.spark, str(self.root), NAME, **({"partition": "exchange"} | more))

    def rows(self):
        """The state by key, as Spark reads it."""
        rows = [row.asDict() for row in self.lake().rows().collect()]
        found = {row["transaction_id"]: row for row in rows}
        assert len(found) == len(rows), "a key has two rows"
        return found

    def commits(self):
        return sorted(path.name for path in (self.hudi / ".hoodie").glob("*.commit"))

    def set_aside(self):
        """(object, reason, detail, line) of the quarantine."""
        lines = (line for path in self.root.glob("quarantine/**/*.gz") for line in gzip.open(path, "rt"))
        rows = map(json.loads, lines)
        found = [(Path(row["object"]).name, row["reason"], row.get("detail"), row.get("line")) for row in rows]
        return sorted(found, key=repr)

    def write(self, name, body, hour="2026/01/05/03"):
        year, month, day, hour = hour.split("/")
        path = self.landing / f"year={year}" / f"month={month}" / f"day={day}" / f"hour={hour}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path


def first_run_killed(chain):
    """A run of its own process, killed while it writes: the table is not there, and the next run does all."""
    command = [sys.executable, session.__file__, "run", chain.jar, *chain.arguments()]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=(chain.folder / "killed.log").open("wb")
    )
    try:
        # From here to the end of the commit it takes longer than to see it.
        while not any(chain.hudi.glob(".hoodie/*.inflight")) and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "the run failed by itself: " + (chain.folder / "killed.log").read_text()[-2000:]
    finally:
        # Its Java machine too.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not chain.commits(), "the run had ended before it was killed"


def first_state(chain):
    counts = chain.run()
    assert counts["rows"] > 1000 and counts["quarantined"] == 0, counts
    properties = (chain.hudi / ".hoodie/hoodie.properties").read_text()
    assert "hoodie.table.version=6\n" in properties, properties
    rows = chain.rows()
    reasons = collections.Counter(row["delete_reason"] for row in rows.values())
    assert reasons["ttl"] > 5 and reasons["user"] > 50, reasons
    values = same_as_table(rows, chain.scene.items())
    print(f"first state: {len(rows)} keys, {reasons['user']} deleted, {reasons['ttl']} expired, {values} values as in the table")


# What happens to some items, and what they must become. Odd keys are keys like others.
ODD_KEYS = [" ", "a,b:c/d", "ключ-🧊", '"quoted"\\', "__null__", "x" * 1000]


def changes(chain):
    put, delete = chain.scene.put, chain.scene.delete
    for key in ["moves", "slashed", "no-exchange", "empty-exchange", "gone", "back", "late", "late-deleted", "tells-more"]:
        put(key)
    for key in ODD_KEYS:
        put(key)
    put("moves", exchange="Kraken")
    put("slashed", exchange="A/B\\..%2F=")
    put("no-exchange", exchange=None)
    put("empty-exchange", exchange="")
    put("tells-more", note="a note", score=Decimal("0.000000000000000001"), vip=True, nothing=None,
        tags={"b", "a"}, more={"list": [Decimal("12345678901234567890.123456789"), None, {"x": "\u2028"}]})  # fmt: skip
    put("late", price=Decimal(2), exchange="Coinbase")
    delete("gone")
    delete("late-deleted")
    delete("back")
    put("back", price=Decimal(3))
    chain.scene.landed()


def second_state(chain):
    before = len(chain.commits())
    counts = chain.run()
    assert counts["quarantined"] == counts["quarantined_objects"] == 0 and len(chain.commits()) == before + 1, counts
    rows = chain.rows()
    values = same_as_table(rows, chain.scene.items())
    parts = {key: rows[key]["exchange_part"] for key in ("moves", "slashed", "no-exchange", "empty-exchange")}
    assert parts == {"moves": "Kraken", "slashed": "A_B____2F_", "no-exchange": "unknown", "empty-exchange": "unknown"}, parts
    folders = {path.name for path in chain.hudi.iterdir() if path.is_dir()} - {".hoodie"}
    assert all(re.fullmatch("exchange_part=[A-Za-z0-9_-]+", name) for name in folders), folders
    # Rows of before the attributes came have nulls.
    assert rows["moves"]["note"] is None and rows["tells-more"]["note"] == "a note"
    assert rows["tells-more"]["more"].count("12345678901234567890.123456789") == 1, rows["tells-more"]["more"]
    print(f"second state: {len(rows)} keys, {len(rows['moves'])} columns, {values} values as in the table")


def nothing_new(chain):
    before = chain.commits()
    counts = chain.run()
    assert counts["objects"] == 0 and chain.commits() == before, counts


def older(chain, key, **more):
    """A change of a key before all others, as an object of its own."""
    row = next(row for line in chain.scene.lines() if (row := json.loads(line))["transaction_id"] == key)
    row |= {"ordering_key": "0" * 20 + "-" + "0" * 60, "is_deleted": False, "price": 1, "exchange": "OKX"} | more
    return json.dumps(row)


def repeats(chain):
    """Firehose stores some rows twice, in objects of its own names; and changes come late. Nothing may change."""
    before = chain.rows()
    objects = [path for path in chain.scene.objects() if len(gzip.open(path).read()) > 0]
    for number, path in enumerate(objects[:: max(1, len(objects) // 4)]):
        chain.write(f"trades-1-2026-01-05-03-10-{number:02}-0f7a3d1e-6f0b-4f4e-9a3e-1d2c3b4a5f01.ndjson.gz", path.read_bytes())
    lines = [older(chain, key) for key in ("late", "late-deleted", "moves")]
    # The same line twice in one object too.
    chain.write("late-1-2026-01-05-03-11-00-x.ndjson.gz", gzip.compress("".join(f"{line}\n" for line in [*lines, *lines]).encode()))
    counts = chain.run()
    assert counts["rows"] > 100 and counts["quarantined"] == 0, counts
    after = chain.rows()
    differ = [key for key in before.keys() | after.keys() if told(before.get(key)) != told(after.get(key))]
    assert not differ, f"repeated and late rows changed {differ[:5]}"
    same_as_table(after, chain.scene.items())
    print(f"{counts['rows']} repeated and late rows change nothing")


def bad_objects(chain):
    """Objects and lines that no reader would take: each has its reason, and the good neighbours are in the table."""
    good = json.loads(older(chain, "moves", transaction_id="neighbour", ordering_key="1"))
    text = lambda **more: json.dumps(good | more)
    whole = gzip.compress((text(transaction_id="healed") + "\n").encode())
    wrong_sum = bytearray(whole)
    wrong_sum[-6] ^= 1
    objects = {
        "cut.ndjson.gz": (whole[:-9], "truncated_object"),
        "sum.ndjson.gz": (bytes(wrong_sum), "corrupt_object"),
        "text.ndjson.gz": (text().encode(), "not_gzip"),
        "README.txt": (b"hello", "foreign_object"),
        "a,b{c}.ndjson.gz": (whole, "foreign_object"),
    }
    lines = {
        "{": ("not_json", None),
        "": ("not_json", None),
        "[1]": ("not_json", None),
        '{"a":1,"a":2}': ("not_json", None),
        '{"a":NaN}': ("not_json", None),
        '{"a":"\\ud83d"}': ("not_json", None),
        "[" * 5000: ("not_json", None),
        text(price="12"): ("wrong_type", "price"),
        text(price="12", exchange=7): ("wrong_type", "exchange, price"),
        text(cdc_ts_us=1.5): ("wrong_type", "cdc_ts_us"),
        text(is_deleted=None): ("wrong_type", "is_deleted"),
        text(is_valid="true"): ("wrong_type", "is_valid"),
        text(price=0).replace('"price": 0', '"price": 0.0000000000000000001'): ("wrong_type", "price"),
        text(transaction_id=None): ("missing_key", "transaction_id"),
        text(transaction_id=""): ("missing_key", "transaction_id"),
        text(ordering_key=None): ("missing_ordering_key", "ordering_key"),
        text(hour_bucket="2026-01-05 03/../"): ("wrong_type", "hour_bucket"),
        text(exchange_part="x"): ("column_name", "exchange_part"),
        text(_hoodie_commit_time="x"): ("column_name", "_hoodie_commit_time"),
        text(Note="x", **{"1st": 1}): ("column_name", "1st, Note"),
        text(note=5): ("changed_type", "note"),
        text(more="text where a map was", vip="yes"): ("changed_type", "more, vip"),
        text(score=0).replace('"score": 0', '"score": 9.9E125'): ("out_of_range", "score"),
    }
    for name, (body, _) in objects.items():
        chain.write(name, body)
    # Neither has a line: a sealed object is read as such, one of no bytes is not seen.
    chain.write("sealed.ndjson.gz", gzip.compress(b""))
    chain.write("zero.ndjson.gz", b"")
    body = "".join(f"{line}\n" for line in [text(), *lines, text(transaction_id="last")])
    # The last line has no end, and there are two members.
    chain.write("lines.ndjson.gz", gzip.compress(body[:2000].encode()) + gzip.compress(body[2000:-1].encode()))
    # Dead letters of the service are counted, not read; one is cut.
    chain.scene.put("broken", price="a text")
    until("the dead letter is delivered", lambda: "broken" in chain.scene.broken())
    counts = chain.run()
    assert (counts["quarantined"], counts["quarantined_objects"]) == (len(lines), len(objects)), counts
    assert counts["rows"] == 2 and counts["dead_letters"] == 1 and counts["objects"] == len(objects) + 3, counts
    expected = [("lines.ndjson.gz", *refused, line) for line, refused in lines.items()]
    expected += [(name, reason, None, None) for name, (_, reason) in objects.items()]
    found = chain.set_aside()
    assert collections.Counter(found) == collections.Counter(expected), [one for one in found if one not in expected][:3]
    rows = chain.rows()
    assert rows["neighbour"]["exchange"] == "OKX" and "healed" not in rows and "last" in rows
    same_as_table({k: r for k, r in rows.items() if k not in ("neighbour", "last")}, chain.scene.items(), but={"broken"})
    # Put again whole, an object is read; what was said of it stays.
    nothing_new(chain)
    chain.write("cut.ndjson.gz", whole)
    counts = chain.run()
    assert (counts["objects"], counts["rows"]) == (1, 1) and "healed" in chain.rows(), counts
    assert chain.set_aside() == found
    print(f"{len(lines)} bad lines and {len(objects)} bad objects are set aside with their reasons")


def through(chain, key, **attributes):
    """Puts an item, lands it and runs the job: what that counted. Says how long each part took."""
    at = [time.time()]
    chain.scene.put(key, **attributes)
    chain.scene.landed()
    at.append(time.time())
    counts = chain.run()
    at.append(time.time())
    state = HudiTableBuilder.from_base_uri(str(chain.hudi)).build().read()
    assert any(row["transaction_id"] == key for batch in state for row in to_rows(batch))
    at.append(time.time())
    parts = ("object", "table", "reader")
    print("from the put to the", ", to the ".join(f"{part} {end - at[0]:.1f} s" for part, end in zip(parts, at[1:])))
    return counts


def changed_type(chain):
    """An attribute that changes its type in the source: set aside, until it has its type again."""
    chain.scene.put("tells-more", note=Decimal(5))
    chain.scene.landed()
    # An object that appears while a run writes is for the next one.
    line = older(chain, "moves") + "\n"
    with before("upsert", lambda: chain.write("appears.ndjson.gz", gzip.compress(line.encode()))):
        counts = chain.run()
    assert counts["objects"] == 1 and counts["rows"] == 0, counts
    assert counts["reasons"] == {"changed_type": 1} and chain.rows()["tells-more"]["note"] == "a note", counts
    kept = [one for one in chain.set_aside() if one[1] == "changed_type"]
    assert any(json.loads(line).get("note") == 5 and "tells-more" in line for *_, line in kept), kept
    counts = through(chain, "tells-more", note="text again")
    assert counts["objects"] == counts["rows"] == 2, counts
    assert chain.rows()["tells-more"]["note"] == "text again"


@contextlib.contextmanager
def before(name, happens):
    """Something happens when the job comes to this step."""
    whole = getattr(Lake, name)

    def later(*arguments):
        happens()
        return whole(*arguments)

    setattr(Lake, name, later)
    try:
        yield
    finally:
        setattr(Lake, name, whole)


@contextlib.contextmanager
def broken(name):
    """The job dies when it comes to this step."""
    whole = getattr(Lake, name)

    def dies(*_):
        raise KeyboardInterrupt(name)

    setattr(Lake, name, dies)
    try:
        yield
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"the job did not come to {name}")
    finally:
        setattr(Lake, name, whole)


def died_between(chain):
    """A job that dies between its steps: the next one does the rest, once."""
    hour = chain.root / "analytics/hourly_trades/year=2026/month=01/day=09/hour=11"
    chain.scene.put("hour", timestamp="2026-01-09T11:59:59.999999")
    chain.scene.landed()
    chain.write("half.ndjson.gz", b"\x1f\x8b")
    before, set_aside = chain.commits(), chain.set_aside()
    with broken("upsert"):
        chain.run()
    assert chain.commits() == before and len(chain.set_aside()) == len(set_aside) + 1
    with broken("write_hours"):
        chain.run()
    assert len(chain.commits()) == len(before) + 1 and len(chain.set_aside()) == len(set_aside) + 1
    assert not hour.exists() and "hour" in chain.rows()
    counts = chain.run()
    assert counts["objects"] == 0 and any(hour.iterdir()), counts
    # A trade that moves to another hour leaves its hour, and takes the folder with it.
    through(chain, "hour", timestamp="2026-01-09T12:00:00+00:00")
    assert not hour.exists() and any((hour.parent / "hour=12").iterdir())
    print("a job that dies between quarantine, commit and aggregate is finished by the next")


def aggregate(chain):
    """hourly_trades against the same sums over the rows, with exact decimals."""
    groups = collections.defaultdict(list)
    for row in chain.rows().values():
        if not row["is_deleted"] and row["is_valid"]:
            groups[row["hour_bucket"], row["exchange"], row["trading_pair"]].append(row)
    figures = chain.spark.read.parquet(str(chain.root / "analytics/hourly_trades")).collect()
    found = {(row.hour_bucket, row.exchange, row.trading_pair): row for row in figures}
    assert len(found) == len(figures), "a group has two rows"
    assert found.keys() == groups.keys(), list(found.keys() ^ groups.keys())[:3]
    with decimal.localcontext(prec=60):
        for key, rows in groups.items():
            row = found[key]
            total = lambda name: sum((one[name] for one in rows if one[name] is not None), Decimal(0))
            count = lambda name, value: sum(one[name] == value for one in rows)
            mean = total("price") / len(rows)
            exact = {
                "trades": len(rows), "quantity": total("quantity"), "trade_value": total("trade_value"), "fees": total("trade_fee"),
                "adjusted_fees": total("adjusted_trade_fee"), "min_price": min(one["price"] for one in rows),
                "max_price": max(one["price"] for one in rows), "buys": count("order_type", "BUY"),
                "sells": count("order_type", "SELL"), "low_risk": count("risk_flag", "LOW_RISK"),
                "medium_risk": count("risk_flag", "MEDIUM_RISK"), "high_risk": count("risk_flag", "HIGH_RISK"),
                "success": count("trade_status", "SUCCESS"), "pending": count("trade_status", "PENDING"),
                "users": len({one["user_id"] for one in rows if one["user_id"] is not None}),
            }  # fmt: skip
            for name, value in exact.items():
                assert (row[name] or 0) == value, f"{key}: {name} is {row[name]}, not {value}"
            close = {"vwap": total("trade_value") / total("quantity")}
            if normalized := [one["normalized_price"] for one in rows if one["normalized_price"] is not None]:
                close["avg_normalized_price"] = sum(normalized) / len(normalized)
            if len(rows) > 1:
                close["stddev_price"] = (sum((one["price"] - mean) ** 2 for one in rows) / (len(rows) - 1)).sqrt()
            for name, value in close.items():
                assert abs(Decimal(row[name]) - value) <= Decimal("0.000001") * (1 + abs(value)), f"{key}: {name}"
    print(f"hourly_trades: {len(groups)} groups with exact sums")


def other_reader(chain):
    """A reader of Hudi tables that shares nothing with Spark."""
    expected, found = chain.rows(), {}
    for batch in HudiTableBuilder.from_base_uri(str(chain.hudi)).build().read():
        for row in to_rows(batch):
            assert row["transaction_id"] not in found, "a key has two rows"
            found[row["transaction_id"]] = row
    assert found.keys() == expected.keys()
    for key, row in found.items():
        for name, value in expected[key].items():
            # It does not give the column of the folders.
            if name != "exchange_part":
                # Files of before an attribute came do not have its column.
                assert row.get(name) == value, f"{key}: {name} is {row.get(name)!r}, Spark has {value!r}"
    print(f"PyPI hudi reads the same {len(found)} keys, {len(row)} columns")


def to_rows(batch):
    import pyarrow

    return pyarrow.record_batch(batch).to_pylist()


def limits(chain):
    """Wrong arguments, and a table that is partitioned otherwise, are refused in one line; objects can be taken in parts."""
    for more, told in (
        ({"partition_by": "trade_date"}, "is partitioned by exchange_part"),
        ({"partition_by": "wallet"}, "it is one of exchange, trading_pair, trade_date"),
        ({"objects_max": "0"}, "a number above 0"),
        ({"landing": chain.folder / "nowhere", "table": "new", "errors": ""}, "no object is below"),
    ):
        try:
            chain.run(**more)
        except SystemExit as refusal:
            assert told in str(refusal), refusal
        else:
            raise AssertionError(f"{more} is not refused")


def bookmark(_):
    """Every object is read once: in parts, late within the horizon, and again when it is put again."""
    hour = table.HORIZON_MS
    listed = {f"o-{number}": (number + 1) * hour // 7 for number in range(200)}
    state, read = table.State(), []
    for now in range(30 * hour, 40 * hour, hour // 2):
        unread = state.unread(listed.items(), 1000)
        taken = state.unread(listed.items(), 30)
        assert taken == unread[:30]
        if taken:
            read += taken
            state = table.State.decode(state.after(taken, len(taken) == len(unread), now, {}, []).encode())
        if now == 36 * hour:
            assert len(read) == len(set(read)) == len(listed), len(read)
            listed |= {"late": now - hour + 1, "o-3": now}
    assert read[-2:] == [("late", 35 * hour + 1), ("o-3", 36 * hour)] and len(read) == 202, read[-3:]
    assert not state.unread(listed.items(), 1) and len(state.recent) < 20, len(state.recent)


def readme(chain):
    """The settings of glue/job.yaml are those of this session, and the code of glue/README.md runs on this table."""
    commits = [name.split(".")[0] for name in chain.commits()]
    text = (ROOT / "glue/README.md").read_text()
    settings = dict(re.findall(r"(spark\.[A-Za-z_.]+)=([\w.]+)", (ROOT / "glue/job.yaml").read_text()))
    assert len(settings) == 5 and settings.items() <= session.SETTINGS.items(), settings
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks, "glue/README.md has no example"
    for block in blocks:
        scope = {"spark": chain.spark, "since": commits[-2]}
        exec(block.replace("s3://my-analytics", str(chain.root)), scope)
        assert 0 < scope["changes"].count() < len(chain.rows()), "the example finds all rows or none"


def controls(chain):
    """Without one of these options a table is wrong: the checks above would see it."""
    base = chain.folder / "control"
    good = json.loads(older(chain, "moves", transaction_id="k", ordering_key="2", exchange="Kraken", price=2))

    def write(root, options, **more):
        lines = chain.spark.createDataFrame([("o", json.dumps(good | more))], "object STRING, line STRING")
        rows = transform.rows(transform.parsed(transform.checked(lines), {}), {}, "exchange")
        rows.write.format("hudi").options(**options).mode("append").save(str(root))

    def state(root):
        return sorted((row.price, row.exchange) for row in chain.spark.read.format("hudi").load(str(root)).collect())

    whole = table.write_options("control", "exchange")
    write(base, whole)
    late = {"ordering_key": "1", "price": 1}
    moved = {"ordering_key": "3", "price": 3, "exchange": "OKX"}
    cases = {
        "hoodie.datasource.write.payload.class": (None, late, [(2, "Kraken")]),
        "hoodie.index.type": (None, moved, [(3, "OKX")]),
        "hoodie.simple.index.update.partition.path": ("false", moved, [(3, "OKX")]),
    }
    for option, (value, change, right) in cases.items():
        without = {name: one for name, one in whole.items() if name != option} | ({option: value} if value else {})
        root = chain.folder / f"control-{option}"
        shutil.copytree(base, root)
        write(root, without, **change)
        # The partition column of the moved row comes from its folder; `exchange` is a column of its own.
        found = [(int(price), exchange) for price, exchange in state(root)]
        parts = {path.parent.name for path in root.glob("exchange_part=*/*.parquet")}
        wrong = found != right or (option.endswith("path") and parts == {"exchange_part=Kraken"})
        assert wrong, f"without {option} nothing is wrong: {found}"
    print(f"{len(cases)} options are needed: without each the table is wrong")


def metrics(chain):
    """What CloudWatch gets passes the model of its API; where it fails, the run does not."""
    import boto3
    from botocore.stub import ANY, Stubber

    client = boto3.client("cloudwatch", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    options = job.OPTIONAL | {"JOB_NAME": "etl", "metrics_namespace": "kinetide-lake"}
    counts = {"objects": 2, "objects_waiting": 0, "records": 3, "rows": 1, "dead_letters": 1, "quarantined": 1,
              "quarantined_objects": 0, "oldest_ingestion_time": "2026-01-15T09:30:30.000000Z"}  # fmt: skip
    out = io_lines()
    with Stubber(client) as stub, out:
        stub.add_response("put_metric_data", {}, {"Namespace": "kinetide-lake", "MetricData": ANY})
        job.report(counts, options, 1.5, client)
        stub.assert_no_pending_responses()
        stub.add_client_error("put_metric_data", "Throttling")
        job.report(counts, options, 1.5, client)
    names = {one["MetricName"]: one["Value"] for one in job.metric_data(counts, "t", 1.5)}
    assert names["Records"] == names["Rows"] + names["DeadLetters"] + names["QuarantinedLines"], names
    # A run without new objects says nothing of rows: it has counted none.
    assert {one["MetricName"] for one in job.metric_data({"objects": 0, "objects_waiting": 0}, "t", 1)} == {
        "Objects", "ObjectsWaiting", "RunTime"}  # fmt: skip
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "glue/README.md").read_text(), re.MULTILINE))
    assert names.keys() <= documented, names.keys() - documented


@contextlib.contextmanager
def io_lines():
    with contextlib.redirect_stdout(open(os.devnull, "w")), contextlib.redirect_stderr(open(os.devnull, "w")):
        yield


def partitions(chain):
    """The folders of the other ways to partition, and the columns that `kinetide schema` prints."""
    command = [chain.kinetide, "schema", "--transform", "crypto-transactions", "--format", "spark"]
    ddl = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert dict(re.findall(r"`(\w+)` ([A-Z0-9(),]+?),?$", ddl, re.MULTILINE)) == checks.COLUMNS, ddl
    values = {
        "trading_pair": {"BTC/USD": "BTC_USD", None: "unknown", "__HIVE_DEFAULT_PARTITION__": "HIVE_DEFAULT_PARTITION__", "é" * 99: "unknown"},
        "trade_date": {"2026-01-05 03:00:00": "2026-01-05", None: "unknown"},
    }  # fmt: skip
    for partition, expected in values.items():
        column = {"trade_date": "hour_bucket"}.get(partition, partition)
        frame = chain.spark.createDataFrame([(one,) for one in expected], f"{column} STRING")
        folder = transform.cleaned(transform.PARTITIONS[partition](partition))
        assert [row[0] for row in frame.select(folder).collect()] == list(expected.values()), partition


# Other lakes of the same changes come between them: later ones do not fit their columns.
BEFORE_BAD_INPUT = (first_state, nothing_new, changes, second_state, repeats)
FROM_BAD_INPUT = (
    bad_objects, changed_type, died_between, aggregate, other_reader, limits, bookmark, catalog, readme, controls, metrics, partitions,
    compaction_job,
)  # fmt: skip
