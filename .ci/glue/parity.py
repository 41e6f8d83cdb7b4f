"""Each value in which rows differ from those of the usual pipeline (Lambda transformer, then Glue ETL), and why.

What is usual is modelled here from how such jobs are described, with floats as they have them. A difference that is not
in the list below fails, and so does one in the list that is none.

Usage: parity.py KINETIDE
"""

import json
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal

S, N = (lambda text: {"S": text}), (lambda text: {"N": text})
TRADE = {
    "transaction_id": S("t-1"), "timestamp": S("2026-01-15T09:29:59.987654"), "exchange": S("Coinbase"),
    "trading_pair": S("BTC/USD"), "order_type": S("BUY"), "price": N("100.75"), "quantity": N("1"), "trade_fee": N("0.0105"),
    "trade_status": S("SUCCESS"), "user_id": S("u-1"), "wallet_address": S("w-1"), "order_source": S("Web"),
}  # fmt: skip

# Ours in addition to what is usual: the place of the change, and what it means.
ADDED = {
    "event_timestamp", "cdc_ts_us", "ordering_key", "source", "table_name", "shard_id", "sequence_number", "is_deleted",
    "delete_reason", "is_valid", "invalid_reason", "trade_value",
}  # fmt: skip

# The wall clock there, the arrival in the stream here: a replay gives the same bytes.
CLOCK = "ingestion_time"

# Case: change (event, attributes), and (column, usual, ours, why). A column `row` is the row as a whole.
CASES = {
    "an ordinary trade": ("INSERT", {}, []),
    "rounding": ("INSERT", {"price": N("10.005"), "quantity": N("1.0000005"), "trade_fee": N("0.00005")}, [
        ("quantity", 1.000001, "1.0000005", "base columns keep what was received; only what is computed is rounded"),
        ("price", 10.01, "10.005", "the same"),
        ("trade_fee", 0.0001, "0.00005", "the same"),
    ]),
    "a discount": ("INSERT", {"exchange": S("FTX"), "price": N("50000"), "trade_fee": N("0.1234")}, [
        ("adjusted_trade_fee", 0.11722999999999999, "0.11723", "decimal × double is a double; ours is exact"),
    ]),
    "more digits than a double": ("INSERT", {"score": N("12345678901234567890.123456789")}, [
        ("score", 1.2345678901234567e19, "12345678901234567890.123456789", "N became a float"),
    ]),
    "an amount that overflows": ("INSERT", {"price": N("123456789.01")}, [
        ("row", "dropped", "is_valid false: out_of_range", "the cast made null of it, and the filter dropped the row"),
    ]),
    "a failed trade": ("INSERT", {"trade_status": S("FAILED")}, [
        ("row", "dropped", "is_valid false: failed_status", "rows are kept and marked; a later change needs them"),
    ]),
    "a delete": ("REMOVE", {}, [
        ("row", "no answer", "is_deleted true", "REMOVE has no new image and was left out, which Firehose counts as failed"),
    ]),
    "sets and binary": ("INSERT", {"ss": {"SS": ["b", "a"]}, "ns": {"NS": ["1", "2.50"]}, "bs": {"BS": ["AA=="]}, "b": {"B": "AA=="}}, [
        ("ss", {"SS": ["b", "a"]}, ["b", "a"], "sets stayed tagged"),
        ("ns", {"NS": ["1", "2.50"]}, [Decimal(1), Decimal("2.50")], "sets stayed tagged"),
        ("bs", {"BS": ["AA=="]}, ["AA=="], "sets stayed tagged"),
        ("b", {"B": "AA=="}, "AA==", "binary stayed tagged"),
    ]),
    "a list": ("INSERT", {"list": {"L": [N("1"), {"M": {"a": N("2")}}]}}, [
        ("list", [{"N": "1"}, {"M": {"a": {"N": "2"}}}], [Decimal(1), {"a": Decimal(2)}], "members were not converted"),
    ]),
    "a map": ("INSERT", {"map": {"M": {"a": N("0.5"), "b": S("x")}}}, []),
}  # fmt: skip


def usual_value(value):
    ((tag, inner),) = value.items()
    if tag == "N":
        return float(inner)
    if tag == "M":
        return {name: usual_value(one) for name, one in inner.items()}
    return inner if tag in ("S", "BOOL", "L") else value


def rounded(value, scale):
    """cast(value as decimal(10, scale)): null where it does not fit."""
    found = Decimal(repr(value)).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)
    return found if len(found.as_tuple().digits) <= 10 else None


def usual(record):
    """The row of the usual pipeline, or what becomes of it."""
    change = record["dynamodb"]
    if "NewImage" not in change:
        return "no answer"
    row = {name: usual_value(value) for name, value in change["NewImage"].items()}
    row |= {"event_id": record["eventID"], "event_name": record["eventName"]}
    price, quantity, fee = (rounded(row[name], scale) for name, scale in (("price", 2), ("quantity", 6), ("trade_fee", 4)))
    if row["trade_status"] == "FAILED" or None in (price, quantity) or price <= 0 or quantity <= 0:
        return "dropped"
    value = price * quantity
    factor = {"Coinbase": "1.02", "Kraken": "0.98", "OKX": "1.01", "FTX": "0.99", "Bitfinex": "1.03"}.get(row["exchange"], "1")
    discount = 0.9 if value >= 100000 else 0.95 if value >= 50000 else 1.0
    risk = "HIGH_RISK" if value > 500000 else "MEDIUM_RISK" if value > 100000 else "LOW_RISK"
    user = "VIP Trader" if quantity > 2 else "Active Trader" if quantity > 1 else "Casual Trader"
    return row | {
        "price": float(price), "quantity": float(quantity), "trade_fee": float(fee), "risk_flag": risk, "user_category": user,
        "normalized_price": float((price * Decimal(factor)).quantize(Decimal("0.01"), ROUND_HALF_UP)),
        "adjusted_trade_fee": float(fee) * discount, "hour_bucket": row["timestamp"][:13].replace("T", " ") + ":00:00",
    }  # fmt: skip


def alike(theirs, ours):
    """Equal to the last digit: a double that shows other digits is another value."""
    if isinstance(theirs, float):
        return isinstance(ours, Decimal) and Decimal(repr(theirs)) == ours
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and theirs.keys() == ours.keys() and all(alike(one, ours[name]) for name, one in theirs.items())
    return theirs == ours


def meaning(row):
    return "is_deleted true" if row["is_deleted"] else f"is_valid {str(row['is_valid']).lower()}: {row['invalid_reason']}"


def differences(theirs, ours):
    if isinstance(theirs, str):
        yield "row", theirs, meaning(ours)
        return
    assert not theirs.keys() - ours.keys(), theirs.keys() - ours.keys()
    assert ours.keys() - theirs.keys() == ADDED | {CLOCK}, ours.keys() - theirs.keys()
    for name in theirs:
        if not alike(theirs[name], ours[name]):
            found = ours[name]
            yield name, theirs[name], str(found) if isinstance(found, Decimal) else found


def main(kinetide):
    records = []
    for number, (event, attributes, _) in enumerate(CASES.values()):
        images = {"OldImage" if event == "REMOVE" else "NewImage": TRADE | attributes}
        change = {"ApproximateCreationDateTime": 1768469400123456 + number, "Keys": {"transaction_id": S("t-1")}, "SizeBytes": 1}
        records.append({"eventID": f"e-{number}", "eventName": event, "tableName": "CryptoTransactions", "dynamodb": change | images})
    text = "".join(json.dumps(record) + "\n" for record in records)
    command = [kinetide, "transform", "--transform", "crypto-transactions"]
    out = subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=60).stdout
    rows = [json.loads(line, parse_float=Decimal, parse_int=Decimal) for line in out.splitlines()]
    assert len(rows) == len(CASES), out
    count = 0
    for (case, (_, _, expected)), record, row in zip(CASES.items(), records, rows):
        found = list(differences(usual(record), row))
        named = [one[:3] for one in expected]
        assert sorted(map(repr, found)) == sorted(map(repr, named)), f"{case}: {found}, and the list says {named}"
        count += len(found)
        for column, theirs, ours, why in expected:
            print(f"{case}: {column} was {theirs!r}, is {ours!r}: {why}")
    print(f"{count} values of {len(CASES)} records differ from the usual pipeline, each for a reason")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
