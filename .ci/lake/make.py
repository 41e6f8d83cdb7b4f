"""Makes a small lake with every odd case that tables, jobs and queries must stand, by the service itself.

Usage: make.py KINETIDE FOLDER

`kinetide local` holds the stream, `kinetide run` lands what is put there: change records with creation times of our
choice, which decide the folders. Needs only Python. In FOLDER afterwards:

  lake/landing/transactions/year=…/…   rows of the transform crypto-transactions, several objects
  lake/errors/REASON/year=…/…          dead letters; one of them is replayed, so its row is in landing too
  made.json                            what is in them, worked out from the records here and not by the service:
    records, rows, dead_letters        counts, rows with that of the replay; dead letters by reason
    now_hour                           the hour of the few rows that are not late, like 2026-01-05T03
    state                              by transaction_id the newest image, numbers as text, with `cdc_ts_us` and
                                       `is_deleted`; a row without transaction_id is not among them

Every run has the same rows, but for the columns that tell place and arrival (`shard_id`, `sequence_number`,
`ordering_key` behind the time, `ingestion_time`) and for the rows of `now_hour`, whose time is that of the run.
What is odd stands beside each record below.
"""

import base64
import collections
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "operations"))
from processes import Processes, until  # noqa: E402

NAMESPACE = uuid.UUID("6b1c7f4e-2a55-4c7e-9f6f-0c5f3f6f8a01")
BASE = {
    "timestamp": "2026-01-05T03:10:00.250000",
    "exchange": "Binance",
    "trading_pair": "BTC/USD",
    "order_type": "BUY",
    "price": 50000,
    "quantity": "1",
    "trade_fee": "0.5",
    "trade_status": "SUCCESS",
    "user_id": "user-1",
    "wallet_address": "GB00TEST00000000000001",
    "order_source": "Web",
}
# The test vectors of the enrichment: exchange, price, quantity, fee.
VECTORS = [
    ("Binance", "50000", "10", "0.5"),
    ("Binance", "50000.01", "10", "0.5"),
    ("Coinbase", "100.75", "1", "0.0105"),
    ("Kraken", "33333.33", "1.5", "0.2"),
    ("OKX", "50000", "2", "0.1234"),
    ("FTX", "50000", "1", "0.1111"),
    ("Bitfinex", "49999.99", "1", "0.1111"),
    ("Gemini", "250.5", "0.01", "0.02"),
    ("Binance", "10.005", "1.0000005", "0.00005"),
    ("Binance", "50000", "2.000001", "1"),
]
NUMBERS = ("price", "quantity", "trade_fee", "expires_at")


def micros(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1_000_000)


def image(key, **changes):
    """An item. An attribute that is None is left out."""
    item = {"transaction_id": key} | BASE | changes
    return {name: str(value) for name, value in item.items() if value is not None}


def attributes(item):
    return {name: {"N" if name in NUMBERS else "S": value} for name, value in item.items()}


class Changes:
    """The records in the order in which they reach the stream, and what they come to."""

    def __init__(self):
        self.records, self.rows, self.dead, self.state = [], 0, collections.Counter(), {}

    def put(self, at, kind, key, new=None, old=None, ttl=False, key_name="transaction_id"):
        """A change of an item, at a time like `2026-01-05T03:00:00` or in µs."""
        at = at if isinstance(at, int) else micros(at)
        record = {
            "awsRegion": "us-east-1",
            "eventID": str(uuid.uuid5(NAMESPACE, f"{key} {kind} {at}")),
            "eventName": kind,
            "userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"} if ttl else None,
            "recordFormat": "application/json",
            "tableName": "CryptoTransactions",
            "dynamodb": {
                "ApproximateCreationDateTime": at,
                "ApproximateCreationDateTimePrecision": "MICROSECOND",
                "Keys": {key_name: {"S": key}},
                "SizeBytes": 341,
            },
            "eventSource": "aws:dynamodb",
        }
        if new:
            record["dynamodb"]["NewImage"] = attributes(new)
        if old:
            record["dynamodb"]["OldImage"] = attributes(old)
        self.records.append((key, json.dumps(record, separators=(",", ":")).encode()))
        self.rows += 1
        shown = new or old or {"transaction_id": key}
        before = self.state.get(shown.get("transaction_id"))
        if "transaction_id" in shown and (before is None or before["cdc_ts_us"] <= at):
            self.state[key] = shown | {"cdc_ts_us": at, "is_deleted": kind == "REMOVE"}
        return shown

    def again(self):
        """The last record once more: DynamoDB may send a change twice."""
        self.records.append(self.records[-1])
        self.rows += 1

    def broken(self, reason, data):
        self.records.append((reason, data if isinstance(data, bytes) else json.dumps(data).encode()))
        self.dead[reason] += 1


def early():
    """What comes first."""
    changes = Changes()
    put = changes.put
    for number, (exchange, price, quantity, fee) in enumerate(VECTORS):
        pair = ("BTC/USD", "ETH/USDT")[number % 2]
        new = image(
            f"vector-{number}", exchange=exchange, price=price, quantity=quantity, trade_fee=fee, trading_pair=pair,
            order_type=("BUY", "SELL")[number % 3 == 0], user_id=f"user-{number % 4}",
            timestamp=f"2026-01-05T03:{5 * number:02}:00.250000",
        )
        put(f"2026-01-05T03:{5 * number:02}:00.5", "INSERT", f"vector-{number}", new)
    # Days and hours below ten are where a missing zero shows; these are the first moments of one hour and the last of another.
    put("2026-01-05T03:00:00", "INSERT", "first-of-hour", image("first-of-hour", timestamp="2026-01-05T03:00:00"))
    put("2026-01-05T04:59:59.999999", "INSERT", "last-of-hour", image("last-of-hour", timestamp="2026-01-05T04:59:59.999999Z"))
    put("2026-01-15T09:30:00.123456", "INSERT", "offset", image("offset", timestamp="2026-01-15T10:30:00+01:00", trading_pair="SOL/USD"))
    # The exchange is missing, empty, or has a character that makes a folder.
    put("2026-01-05T03:20:00", "INSERT", "no-exchange", image("no-exchange", exchange=None))
    put("2026-01-05T03:20:01", "INSERT", "empty-exchange", image("empty-exchange", exchange=""))
    put("2026-01-05T03:20:02", "INSERT", "slash-exchange", image("slash-exchange", exchange="A/B"))
    # The item has no transaction_id: it is one of a table with another key.
    no_id = {"id": "no-key"} | {name: str(value) for name, value in BASE.items()}
    put("2026-01-05T03:21:00", "INSERT", "no-key", no_id, key_name="id")
    # Not valid, for each reason; a status that is not yet one.
    put("2026-01-05T03:22:00", "INSERT", "failed", image("failed", trade_status="FAILED"))
    put("2026-01-05T03:22:01", "INSERT", "zero", image("zero", price="0"))
    put("2026-01-05T03:22:02", "INSERT", "bad-time", image("bad-time", timestamp="yesterday"))
    put("2026-01-05T03:22:03", "INSERT", "no-price", image("no-price", price=None))
    put("2026-01-05T03:22:04", "INSERT", "pending", image("pending", trade_status="PENDING"))
    # The widest and the smallest number that fit: every digit must come back.
    put("2026-01-05T03:23:00", "INSERT", "widest", image("widest", price="12345678901234567890.123456789012345678"))
    put("2026-01-05T03:23:01", "INSERT", "smallest", image("smallest", price="0.000000080520000001", quantity="1E-18"))
    # A number that many readers would take for another type, names beyond ASCII, an attribute that no table knows.
    put("2026-01-05T03:24:00", "INSERT", "odd-text", image("odd-text", user_id="007", wallet_address="Größe 🧊 \"\n\\", note="new"))
    # A change that comes twice.
    put("2026-01-05T03:25:00", "INSERT", "twice", image("twice"))
    changes.again()
    # A status and a quantity that change; the exchange changes, and with it the partition.
    old = put("2026-01-05T03:26:00", "INSERT", "changed", image("changed", trade_status="PENDING"))
    put("2026-01-05T03:26:01", "MODIFY", "changed", image("changed", quantity="3"), old)
    old = put("2026-01-05T03:27:00", "INSERT", "moved", image("moved", exchange="Kraken"))
    put("2026-01-05T04:27:00", "MODIFY", "moved", image("moved", exchange="OKX"), old)
    # Deleted by a user, by time to live, and by a stream that only has the key.
    old = put("2026-01-05T03:28:00", "INSERT", "deleted", image("deleted"))
    put("2026-01-05T04:28:00", "REMOVE", "deleted", old=old)
    old = put("2026-01-05T03:29:00", "INSERT", "expired", image("expired", expires_at="1767582000"))
    put("2026-01-05T04:29:00", "REMOVE", "expired", old=old, ttl=True)
    put("2026-01-05T03:30:00", "INSERT", "keys-only", image("keys-only"))
    put("2026-01-05T04:30:00", "REMOVE", "keys-only")
    # For the late ones below.
    put("2026-01-05T03:31:00", "INSERT", "late-change", image("late-change", quantity="1"))
    put("2026-01-05T04:31:02", "MODIFY", "late-change", image("late-change", quantity="3"))
    old = put("2026-01-05T03:32:00", "INSERT", "late-after-delete", image("late-after-delete", quantity="1"))
    put("2026-01-05T04:32:02", "REMOVE", "late-after-delete", old=old)
    # What cannot be decoded.
    changes.broken("not_json", b'{"awsRegion":')
    changes.broken("not_json", b"hello")
    changes.broken("no_dynamodb", {"eventName": "INSERT"})
    wrong = {"ApproximateCreationDateTime": micros("2026-01-05T03:00:00"), "Keys": {"transaction_id": {"S": "x"}}}
    changes.broken("bad_number", {"eventName": "INSERT", "dynamodb": wrong | {"NewImage": {"price": {"N": "12,5"}}}})
    changes.broken("wrong_type", {"eventName": "INSERT", "dynamodb": wrong | {"NewImage": {"price": {"S": "12"}}}})
    return changes


def late(changes):
    """What comes when the rest has landed: older changes of items, and rows that are not late at all."""
    changes.put("2026-01-05T04:31:01", "MODIFY", "late-change", image("late-change", quantity="2"))
    changes.put("2026-01-05T04:32:01", "MODIFY", "late-after-delete", image("late-after-delete", quantity="2"))
    now = int(time.time() * 1_000_000)
    text = datetime.fromtimestamp(now / 1e6, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    for number in range(3):
        changes.put(now + number, "INSERT", f"now-{number}", image(f"now-{number}", timestamp=text))
    # Two names that give one column: a dead letter until one of them is renamed.
    replayed = image("replayed", timestamp=text)
    changes.put(now, "INSERT", "replayed", replayed | {"url": "a", "URL": "b"})
    changes.state["replayed"] = replayed | {"cdc_ts_us": now, "is_deleted": False, "url": "a", "address": "b"}
    changes.dead["ambiguous_names"] += 1
    return text[:13]


RENAMED = """[columns.rename]
URL = "address"
"""


def replay(kinetide, folder):
    """Lands the dead letter that can be a row now."""
    settings = folder / "replay.toml"
    settings.write_text(RENAMED)
    flags = ["--lake", str(folder / "lake"), "--transform", "crypto-transactions", "--settings", str(settings)]
    # Others still fail, and it says so with its exit code.
    run = subprocess.run([kinetide, "dead-letters", "replay", *flags, "--yes", "--json"], capture_output=True, text=True)
    if json.loads(run.stdout)["landed"] != 1:
        raise SystemExit(f"the replay did not land one row: {run.stdout} {run.stderr}")


def call(endpoint, operation, body):
    request = urllib.request.Request(
        endpoint,
        json.dumps(body).encode(),
        {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"Kinesis_20131202.{operation}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def put_records(endpoint, records):
    """One by one: several at once may end up in another order."""
    for key, data in records:
        call(endpoint, "PutRecord", {"StreamName": "trades", "PartitionKey": key, "Data": base64.b64encode(data).decode()})


def lines(folder):
    """Lines in whole objects; the service writes an object under another name first."""
    objects = (path for path in folder.rglob("*.ndjson.gz") if path.is_file())
    return sum(len(gzip.decompress(path.read_bytes()).splitlines()) for path in objects)


def make(kinetide, folder):
    # All of it arrives in one hour.
    left = 3600 - time.time() % 3600
    if left < 60:
        time.sleep(left)
    lake, logs = folder / "lake", folder / "logs"
    logs.mkdir(parents=True)
    with Processes(logs) as processes:
        endpoints = processes.local(kinetide, "--stream", "trades:2")
        os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1")
        worker = processes.start(
            "worker", kinetide, "run", "--stream", "trades", "--lake", str(lake), "--transform", "crypto-transactions",
            "--batch-age", "500ms", "--http", "127.0.0.1:0",
            "--kinesis-endpoint", endpoints["kinesis"], "--dynamodb-endpoint", endpoints["dynamodb"],
        )  # fmt: skip
        changes = early()
        put_records(endpoints["kinesis"], changes.records)
        first = len(changes.records)
        until("the first records have landed", lambda: lines(lake) == first)
        now_hour = late(changes)
        put_records(endpoints["kinesis"], changes.records[first:])
        until("the late records have landed", lambda: lines(lake) == len(changes.records))
        worker.send_signal(signal.SIGTERM)
        if worker.wait(timeout=60) != 0:
            raise SystemExit("the worker did not end well")
        replay(kinetide, folder)
    made = {
        "records": len(changes.records),
        "rows": changes.rows,
        "dead_letters": dict(changes.dead),
        "now_hour": now_hour,
        "state": changes.state,
    }
    found = (lines(lake / "landing"), lines(lake / "errors"))
    if found != (changes.rows, sum(changes.dead.values())):
        raise SystemExit(f"the service landed {found} rows and dead letters, not {made['rows']} and {made['dead_letters']}")
    (folder / "made.json").write_text(json.dumps(made, indent=1, ensure_ascii=False))
    print(f"a lake of {made['rows']} rows and {found[1]} dead letters")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(sys.argv[1], Path(sys.argv[2]))
