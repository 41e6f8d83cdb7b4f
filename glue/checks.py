"""What an object and a line must be to go into the table. Plain Python: no Spark, no files.

What is refused is set aside with a reason, never dropped and never guessed at.
"""

import json
import re
import zlib
from decimal import Decimal

AMOUNT = "DECIMAL(38,18)"

# The columns of `crypto-transactions`, as `kinetide schema --transform crypto-transactions --format spark` prints them.
COLUMNS = {
    "event_id": "STRING",
    "event_name": "STRING",
    "event_timestamp": "STRING",
    "cdc_ts_us": "BIGINT",
    "ordering_key": "STRING",
    "source": "STRING",
    "table_name": "STRING",
    "shard_id": "STRING",
    "sequence_number": "STRING",
    "is_deleted": "BOOLEAN",
    "delete_reason": "STRING",
    "transaction_id": "STRING",
    "timestamp": "STRING",
    "exchange": "STRING",
    "trading_pair": "STRING",
    "order_type": "STRING",
    "price": AMOUNT,
    "quantity": AMOUNT,
    "trade_fee": AMOUNT,
    "trade_status": "STRING",
    "user_id": "STRING",
    "wallet_address": "STRING",
    "order_source": "STRING",
    "trade_value": "DECIMAL(21,8)",
    "risk_flag": "STRING",
    "normalized_price": "DECIMAL(10,2)",
    "adjusted_trade_fee": "DECIMAL(12,6)",
    "user_category": "STRING",
    "hour_bucket": "STRING",
    "ingestion_time": "STRING",
    "is_valid": "BOOLEAN",
    "invalid_reason": "STRING",
}

# An attribute that is no column above gets one of its own, by the kind of its first value.
KINDS = {"string": "STRING", "number": AMOUNT, "boolean": "BOOLEAN", "json": "STRING"}

# What a column can be called: readers fold case, and Avro, in which Hudi keeps its schema, allows no digit in front.
COLUMN = re.compile(r"(?!_hoodie_|_corrupt_record$|(exchange|trading_pair|trade_date)_part$)[a-z_][a-z0-9_]*")
# The name of a folder of the aggregate is made of it.
HOUR = re.compile(r"\d{4}-\d\d-\d\d \d\d:00:00")
# The service writes no other names, and Hadoop takes some characters for patterns.
OBJECT = re.compile(r"[A-Za-z0-9._=/+-]+\.ndjson\.gz")

PIECE = 64 << 10


def expanded(body):
    """The pieces of a gzip object, of one member or many."""
    stream = zlib.decompressobj(wbits=31)
    for start in range(0, len(body), PIECE):
        rest = body[start : start + PIECE]
        while rest:
            if stream.eof:
                stream = zlib.decompressobj(wbits=31)
            yield stream.decompress(rest)
            rest = stream.unused_data
    if not stream.eof:
        raise EOFError


def object_checked(name, body):
    """(lines, reason): how many lines are in an object, or why none of them is taken."""
    if not OBJECT.fullmatch(name):
        return 0, "foreign_object"
    if body[:2] != b"\x1f\x8b":
        return 0, "not_gzip"
    lines, last = 0, b"\n"
    try:
        for piece in expanded(body):
            lines += piece.count(b"\n")
            last = piece[-1:] or last
    except EOFError:
        return 0, "truncated_object"
    except zlib.error:
        return 0, "corrupt_object"
    return lines + (last != b"\n"), None


class Number(str):
    """A number as its digits: a float would lose some."""


def once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def no_constant(text):
    raise ValueError(f"{text} is no JSON")


DECODER = json.JSONDecoder(
    object_pairs_hook=once, parse_int=Number, parse_float=Number, parse_constant=no_constant
)


def compact(value):
    """JSON without spaces, numbers with the digits that they came with."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{compact(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def fits(number, precision, scale):
    """Whether DECIMAL(precision,scale) holds a number without rounding. Spark's parser refuses endless digits."""
    if len(number) > 100:
        return False
    try:
        _, digits, exponent = Decimal(number).as_tuple()
    except ArithmeticError:
        return False
    while digits and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    return not digits or (-exponent <= scale and len(digits) + exponent <= precision - scale)


def kind_of(value):
    if isinstance(value, Number):
        return "number"
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "json"


def has_type(value, column_type):
    if value is None:
        return True
    if column_type == "STRING":
        return kind_of(value) == "string"
    if column_type == "BOOLEAN":
        return kind_of(value) == "boolean"
    if kind_of(value) != "number":
        return False
    if column_type == "BIGINT":
        return re.fullmatch(r"-?\d{1,19}", value) is not None and -(1 << 63) <= int(value) < 1 << 63
    precision, scale = map(int, re.findall(r"\d+", column_type))
    return fits(value, precision, scale)


def refused(reason, *columns):
    """Names of columns may be shown, values never: they can be personal data."""
    return reason, ", ".join(sorted(columns)) or None, None, {}, {}


def line_checked(line):
    """(reason, detail, ordering key, kinds, nested). Without a reason the line is a row: `kinds` are those of attributes
    that are no known column, `nested` the text of such maps and lists."""
    try:
        row = DECODER.decode(line)
        if "\\u" in line:
            # Half a surrogate pair is no text.
            compact(row).encode("utf-8")
    except (ValueError, RecursionError):
        return refused("not_json")
    if not isinstance(row, dict):
        return refused("not_json")
    others = {name: value for name, value in row.items() if name not in COLUMNS}
    if odd := [name for name in others if not COLUMN.fullmatch(name)]:
        return refused("column_name", *odd)
    if wrong := [name for name, column_type in COLUMNS.items() if not has_type(row.get(name), column_type)]:
        return refused("wrong_type", *wrong)
    kinds = {name: kind_of(value) for name, value in others.items() if value is not None}
    if wide := [name for name, kind in kinds.items() if kind == "number" and not has_type(others[name], AMOUNT)]:
        return refused("out_of_range", *wide)
    for name, reason in (("transaction_id", "missing_key"), ("ordering_key", "missing_ordering_key")):
        if not row.get(name):
            return refused(reason, name)
    # A row that does not say whether it is a delete must not bring one back.
    if row.get("is_deleted") is None:
        return refused("wrong_type", "is_deleted")
    if row.get("hour_bucket") is not None and not HOUR.fullmatch(row["hour_bucket"]):
        return refused("wrong_type", "hour_bucket")
    nested = {name: compact(others[name]) for name, kind in kinds.items() if kind == "json"}
    return None, None, row["ordering_key"], kinds, nested
