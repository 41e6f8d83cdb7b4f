"""Rows of the Hudi table against items of the source table, value by value."""

import base64
import json
from decimal import Decimal

from boto3.dynamodb.types import Binary
from scene import column


def plain(value, nested=False):
    """A value of boto3 as a row has it."""
    if isinstance(value, Decimal):
        return value if nested else value.normalize()
    if isinstance(value, (dict, list, set)):
        return json.dumps(nested_of(value), sort_keys=True)
    return nested_of(value)


def nested_of(value):
    if isinstance(value, Decimal):
        return str(value.normalize())
    if isinstance(value, Binary):
        return base64.b64encode(value.value).decode()
    if isinstance(value, dict):
        return {name: nested_of(one) for name, one in value.items()}
    if isinstance(value, (list, set)):
        found = [nested_of(one) for one in value]
        return sorted(found, key=str) if isinstance(value, set) else found
    return value


def of_row(value, like):
    if isinstance(value, Decimal):
        return value.normalize()
    if isinstance(like, (dict, list, set)) and isinstance(value, str):
        found = json.loads(value, parse_int=Decimal, parse_float=Decimal)
        return plain(set(found) if isinstance(like, set) else found)
    return value


def same_as_table(rows, items, but=()):
    """Key by key and value by value: what is in the table, and nothing else."""
    live = {key: row for key, row in rows.items() if not row["is_deleted"] and key not in but}
    items = {key: item for key, item in items.items() if key not in but}
    assert live.keys() == items.keys(), f"keys: {sorted(live.keys() ^ items.keys())[:5]}"
    own = {"event_id", "event_name", "event_timestamp", "cdc_ts_us", "ordering_key", "source", "table_name", "shard_id",
           "sequence_number", "is_deleted", "delete_reason", "trade_value", "risk_flag", "normalized_price",
           "adjusted_trade_fee", "user_category", "hour_bucket", "ingestion_time", "is_valid", "invalid_reason",
           "exchange_part"}  # fmt: skip
    values = 0
    for key, item in items.items():
        item = {column(name): value for name, value in item.items()}
        row = {name: value for name, value in live[key].items() if name not in own and not name.startswith("_hoodie")}
        for name in row.keys() | item.keys():
            expected, found = plain(item.get(name)), of_row(row.get(name), item.get(name))
            assert found == expected, f"{key}: {name} is {found!r}, the table has {expected!r}"
            values += 1
    return values


def told(row):
    """A row without what Hudi says about its file."""
    return row and {name: value for name, value in row.items() if not name.startswith("_hoodie")}
