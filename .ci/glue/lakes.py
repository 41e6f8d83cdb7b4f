"""The job on lakes of other origin: of a load test with every fault, and of a Firehose that stores some rows twice."""

import gzip
import json
import signal
from decimal import Decimal
from pathlib import Path

import checks
from compare import same_as_table
from firehose import MOODS, Firehose
from lake import Lake
from scene import newest, until

# Of how many objects of the load test one is taken: all of them take minutes.
SHARE = 16


class Other:
    """Another lake, and a table of its own, in the Spark session of the chain."""

    def __init__(self, chain, lake, name):
        self.chain, self.lake = chain, Path(lake)
        self.root = chain.folder / f"analytics-{name}"
        self.folders = {folder: self.lake / path for folder, path in (("landing", "landing/transactions"), ("errors", "errors"))}

    def run(self, **more):
        return self.chain.run(lake=self.root, **self.folders, **more)

    def rows(self):
        rows = [row.asDict() for row in Lake(self.chain.spark, str(self.root), "processed_crypto_txn", "exchange").rows().collect()]
        found = {row["transaction_id"]: row for row in rows}
        assert len(found) == len(rows), "a key has two rows"
        return found

    def lines(self, folder):
        return [line for path in sorted(self.folders[folder].rglob("*.gz")) for line in gzip.open(path, "rt", encoding="utf-8")]


def chaos(chain, lake):
    """Workers were killed, froze and were cut off when this was landed. The table has the newest of each key, whatever the
    order in which the objects come."""
    lake, copy = Path(lake), chain.folder / "chaos"
    # Copied in reverse: the job takes the newest changes first, in two runs.
    rows_in, letters_in = (sorted((lake / folder).rglob("*.ndjson.gz"))[::-SHARE] for folder in ("landing", "errors"))
    for path in rows_in + letters_in:
        target = copy / path.relative_to(lake)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    other = Other(chain, copy, "chaos")
    rows, letters = other.lines("landing"), other.lines("errors")
    assert len(rows) > 10_000 and letters, f"{len(rows)} rows, {len(letters)} dead letters: this shows nothing"
    first = other.run(objects_max=len(rows_in) // 2)
    second = other.run()
    assert first["rows"] > 1000 and second["rows"] > 1000 and second["objects_waiting"] == 0, (first, second)
    assert first["rows"] + second["rows"] == len(rows) and first["quarantined"] == second["quarantined"] == 0, (first, second)
    assert first["dead_letters"] + second["dead_letters"] == len(letters), (first, second)
    expected, found = newest(rows), other.rows()
    assert found.keys() == expected.keys(), f"keys: {sorted(found.keys() ^ expected.keys())[:5]}"
    numbers = {name for name, kind in checks.COLUMNS.items() if kind.startswith(("DECIMAL", "BIGINT"))}
    for key, row in expected.items():
        for name in checks.COLUMNS:
            wanted, is_ = row.get(name), found[key][name]
            if name in numbers and wanted is not None:
                wanted, is_ = Decimal(wanted), is_ if is_ is None else Decimal(is_)
            assert is_ == wanted, f"{key}: {name} is {is_!r}, the newest row has {wanted!r}"
    print(f"chaos: {len(rows)} rows of {len(found)} keys, newest first: the newest of each is in the table")


class Delivery:
    """A second application of the stream, whose rows go to a Firehose."""

    def __init__(self, scene):
        self.scene, self.lake = scene, scene.folder / "firehose"
        self.firehose = Firehose(self.lake)
        self.worker = self.start("lines")

    def start(self, name):
        flags = ("--application", "rows", "--firehose", name, "--firehose-endpoint", self.firehose.endpoint)
        compress = {"lines": "firehose", "members": "records"}[name]
        return self.scene.run(f"firehose-{name}", self.lake, *flags, "--firehose-gzip", compress)

    def killed(self):
        """The worker dies, and another goes on: what it had sent and not noted is sent again."""
        until("Firehose has records", lambda: all(self.firehose.played[mood] for mood in MOODS))
        self.worker.send_signal(signal.SIGKILL)
        self.worker.wait()
        self.worker = self.start("members")


def of_firehose(chain, delivery):
    """Repeats vanish, and what Firehose delivers late changes nothing: the table is the source table."""
    firehose, other = delivery.firehose, Other(chain, delivery.lake, "firehose")
    chain.scene.landed(firehose.stored)
    stored = [json.loads(line) for line in firehose.stored()]
    sent = {(row["shard_id"], row["sequence_number"]) for row in stored}
    assert len(stored) > len(sent), "Firehose stored nothing twice"
    assert all(firehose.buffers[name] for name in ("lines", "members")), "one kind of compression was not used"
    # Every second record is held back for a while, and some objects are delivered twice.
    firehose.deliver(lambda number: number % 2 == 1, twice=2)
    first = other.run()
    firehose.deliver(lambda _: True, twice=1)
    second = other.run()
    assert first["rows"] > 100 and second["rows"] > 100 and first["quarantined"] == second["quarantined"] == 0, (first, second)
    read = len(other.lines("landing"))
    assert first["rows"] + second["rows"] == read > len(stored), (first, second, read)
    values = same_as_table(other.rows(), chain.scene.items())
    delivery.worker.kill()
    firehose.stop()
    print(f"Firehose: {read} rows in {len(firehose.delivered)} objects, {len(sent)} of them different; {values} values as in the table")
