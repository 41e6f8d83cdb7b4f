"""A table, its stream and a worker that lands it: what the job reads here is what the service wrote."""

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "operations"))
from processes import Processes, until  # noqa: E402

TABLE = "CryptoTransactions"
TRADE = {
    "timestamp": "2026-01-05T03:10:00.250000",
    "exchange": "Binance",
    "trading_pair": "BTC/USD",
    "order_type": "BUY",
    "price": Decimal("50000.01"),
    "quantity": Decimal("1.5"),
    "trade_fee": Decimal("0.5"),
    "trade_status": "SUCCESS",
    "user_id": "user-1",
    "wallet_address": "GB00TEST00000000000001",
    "order_source": "Web",
}


def newest(lines):
    """The newest row of each key."""
    found = {}
    for line in lines:
        row = json.loads(line, parse_float=Decimal, parse_int=Decimal)
        key = row["transaction_id"]
        if key not in found or row["ordering_key"] > found[key]["ordering_key"]:
            found[key] = row
    return found


def column(name):
    """How the service spells an attribute, for the names in use here."""
    return re.sub("[^a-z0-9_]", "_", name.lower())


class Scene:
    def __init__(self, kinetide, folder):
        self.kinetide, self.folder = kinetide, folder
        self.processes = Processes(folder)
        self.lake = folder / "lake"
        table = ("--table", f"{TABLE}:transaction_id", "--forward", f"{TABLE}:trades")
        endpoints = self.processes.local(kinetide, "--stream", "trades:2", *table)
        os.environ.update(
            KINETIDE_KINESIS_ENDPOINT=endpoints["kinesis"], KINETIDE_DYNAMODB_ENDPOINT=endpoints["dynamodb"],
            KINETIDE_REGION=endpoints["region"], AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test",
            AWS_EC2_METADATA_DISABLED="true",
        )  # fmt: skip
        self.table = boto3.resource("dynamodb", endpoint_url=endpoints["dynamodb"], region_name=endpoints["region"]).Table(TABLE)
        self.table.meta.client.update_time_to_live(
            TableName=TABLE, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
        )
        self.worker = self.run("worker", self.lake)

    def run(self, name, lake, *flags):
        """A worker of the stream."""
        return self.processes.start(
            name, self.kinetide, "run", "--stream", "trades", "--lake", f"file://{lake}", "--transform",
            "crypto-transactions", "--batch-age", "1s", "--http", "127.0.0.1:0", "--failover-time", "2s", *flags,
        )  # fmt: skip

    def generate(self, *flags):
        command = [self.kinetide, "generate", "--table", TABLE, "--json", *flags]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def put(self, key, **attributes):
        """An item; an attribute that is None is left out."""
        item = {name: value for name, value in (TRADE | attributes).items() if value is not None}
        self.table.put_item(Item={"transaction_id": key} | item)

    def delete(self, key):
        self.table.delete_item(Key={"transaction_id": key})

    def items(self):
        found, page = {}, {}
        while page is not None:
            answer = self.table.scan(ConsistentRead=True, **page)
            found |= {item["transaction_id"]: item for item in answer["Items"]}
            page = {"ExclusiveStartKey": answer["LastEvaluatedKey"]} if "LastEvaluatedKey" in answer else None
        return found

    def objects(self, folder="landing/transactions"):
        """What the service wrote, whatever else is there."""
        return sorted((self.lake / folder).rglob("trades-shardId-*.ndjson.gz"))

    def lines(self, folder="landing/transactions"):
        for path in self.objects(folder):
            yield from gzip.open(path, "rt", encoding="utf-8")

    def landed(self, lines=None):
        """Waits until the newest rows, of landing or of `lines()`, and dead letters are what the table has."""

        def same():
            rows = {key: row for key, row in newest((lines or self.lines)()).items() if not row["is_deleted"]}
            broken = self.broken()
            items = {key: item for key, item in self.items().items() if key not in broken}
            # What is to expire must have done so: nobody may change the table while it is compared.
            if any(item.get("expires_at", 1e12) < time.time() for item in items.values()):
                return False
            return rows.keys() - broken == items.keys() and all(
                rows[key]["exchange"] == item.get("exchange")
                and all(
                    rows[key].get(column(name)) == value
                    for name, value in item.items()
                    if isinstance(value, (str, Decimal, bool))
                )
                for key, item in items.items()
            )

        until("the lake has what the table has", same)

    def broken(self):
        """Keys of items that no row can have: their records are dead letters."""
        records = (json.loads(base64.b64decode(json.loads(line)["rawData"])) for line in self.lines("errors"))
        return {record["dynamodb"]["Keys"]["transaction_id"]["S"] for record in records}

    def stop(self):
        """Drains the worker and ends all."""
        if self.worker.poll() is None:
            self.worker.send_signal(signal.SIGTERM)
            self.worker.wait(30)
        self.processes.stop_all()
