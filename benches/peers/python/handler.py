"""A transform as people write it for AWS Lambda: an event of Kinesis records in, an object of gzip NDJSON out.

Standard library only: base64, json, decimal, gzip. No boto3, so its types are converted here.
"""

import base64
import gzip
import json
from decimal import Decimal

TEXTS = ("transaction_id", "timestamp", "exchange", "trading_pair", "order_type", "trade_status", "user_id",
         "wallet_address", "order_source")  # fmt: skip
NUMBERS = ("price", "quantity", "trade_fee")


def convert(value):
    """A value of DynamoDB as one of Python."""
    ((kind, content),) = value.items()
    if kind == "S":
        return content
    if kind == "N":
        return Decimal(content)
    if kind == "BOOL":
        return content
    if kind == "NULL":
        return None
    if kind == "M":
        return {name: convert(each) for name, each in content.items()}
    if kind == "L":
        return [convert(each) for each in content]
    return content


def row(change, shard_id, sequence_number):
    """The row of a change of the table CryptoTransactions."""
    dynamodb = change["dynamodb"]
    deleted = change["eventName"] == "REMOVE"
    image = dynamodb["OldImage" if deleted else "NewImage"]
    created = dynamodb["ApproximateCreationDateTime"]
    micros = dynamodb.get("ApproximateCreationDateTimePrecision") == "MICROSECOND"
    found = {
        "event_id": change["eventID"],
        "event_name": change["eventName"],
        "cdc_ts_us": created if micros else 1000 * created,
        "table_name": change["tableName"],
        "shard_id": shard_id,
        "sequence_number": sequence_number,
        "is_deleted": deleted,
    }
    for column in TEXTS + NUMBERS:
        value = image.get(column)
        found[column] = None if value is None else convert(value)
    return found


def handler(event, put, gzip_level):
    """Called with each event; `put` stores an object."""
    lines = []
    for record in event["Records"]:
        kinesis = record["kinesis"]
        change = json.loads(base64.b64decode(kinesis["data"]))
        shard_id = record["eventID"].partition(":")[0]
        lines.append(json.dumps(row(change, shard_id, kinesis["sequenceNumber"]), default=float))
    put(gzip.compress(("\n".join(lines) + "\n").encode(), gzip_level))
