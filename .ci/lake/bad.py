"""Objects that should not be in a lake, and what a query then does: the table of athena/README.md."""

import gzip
import json
import re
from pathlib import Path

import ddl
from engines import Failed

HOUR = "landing/transactions/year=2026/month=01/day=05/hour=03"
LANDING = ("landing_transactions", "landing_transactions_raw")
README = Path(__file__).resolve().parents[2] / "athena" / "README.md"


def line(**changes):
    """A row that is right but for the changes."""
    row = {"shard_id": "s", "sequence_number": "1", "cdc_ts_us": 1, "transaction_id": "bad", "price": 1, "is_valid": True}
    return json.dumps(row | changes)


def zipped(*lines):
    return gzip.compress("".join(each + "\n" for each in lines).encode(), mtime=0)


def damaged(body):
    """The checksum is in the eighth byte from the end, and before."""
    return body[:-5] + bytes([body[-5] ^ 1]) + body[-4:]


GOOD = zipped(line(transaction_id="good"))
# Rows of as many members.
MANY = 3000
MEMBERS = b"".join(zipped(line(sequence_number=str(number))) for number in range(MANY))
# By the words of the README: path, body, what the typed table and the all-strings table give. A number is that of rows, beside
# the good one; FAILS is a query that fails; FEWER is one that gives some rows, not all, without an error.
FAILS, FEWER = "fails", "rows are missing"
CASES = {
    "truncated gzip": (f"{HOUR}/x.ndjson.gz", zipped(line())[:-6], FAILS, FAILS),
    "wrong checksum": (f"{HOUR}/x.ndjson.gz", damaged(zipped(line())), FAILS, FAILS),
    "object of zero bytes": (f"{HOUR}/x.ndjson.gz", b"", 0, 0),
    "gzip of nothing": (f"{HOUR}/x.ndjson.gz", gzip.compress(b""), 0, 0),
    "many gzip members": (f"{HOUR}/x.ndjson.gz", MEMBERS, FEWER, FEWER),
    "foreign file, not JSON": (f"{HOUR}/notes.txt", b"to be done\n", FAILS, FAILS),
    "foreign file, other JSON": (f"{HOUR}/x.json", b'{"colour":"red"}\n', 1, 1),
    "foreign file, copy": (f"{HOUR}/copy.ndjson.gz", zipped(line()), 1, 1),
    "foreign file, hidden": (f"{HOUR}/_SUCCESS", b"", 0, 0),
    "not compressed, named .gz": (f"{HOUR}/x.ndjson.gz", (line() + "\n").encode(), FAILS, FAILS),
    "blank line": (f"{HOUR}/x.ndjson.gz", zipped(line(), "", line()), FAILS, FAILS),
    "half a line": (f"{HOUR}/x.ndjson.gz", zipped(line()[:40]), FAILS, FAILS),
    "text in a decimal": (f"{HOUR}/x.ndjson.gz", zipped(line(price="abc")), 1, 1),
    "text in a bigint": (f"{HOUR}/x.ndjson.gz", zipped(line(cdc_ts_us="abc")), FAILS, 1),
    "text in a boolean": (f"{HOUR}/x.ndjson.gz", zipped(line(is_valid="yes")), 1, 1),
    "number in a text": (f"{HOUR}/x.ndjson.gz", zipped(line(user_id=7)), 1, 1),
    "number in quotes": (f"{HOUR}/x.ndjson.gz", zipped(line(cdc_ts_us="12")), FAILS, 1),
    "number too large": (f"{HOUR}/x.ndjson.gz", zipped(line(price=10**30)), FAILS, 1),
    "too many decimals": (f"{HOUR}/x.ndjson.gz", zipped(line().replace('"price": 1,', '"price": 0.1234567890123456786,')), 1, 1),
    "map in a text": (f"{HOUR}/x.ndjson.gz", zipped(line(user_id={"a": 1})), FAILS, FAILS),
    "folder outside the projection": (f"{HOUR.replace('2026', '2040')}/x.ndjson.gz", zipped(line()), 0, 0),
    "folder without zeros": (f"{HOUR.replace('01', '1')}/x.ndjson.gz", zipped(line()), 0, 0),
}


def schema_of(case):
    return "bad_" + re.sub(r"\W+", "_", case.lower())


def lakes(folder, tables):
    """A lake of each case, with both landing tables, which project few hours."""
    few = {"year": "2026,2026", "month": "1,1", "day": "4,6", "hour": "2,4"}
    ranges = {f"projection.{column}.range": values for column, values in few.items()}
    both = [ddl.changed(tables[name], **ranges) for name in LANDING]
    schemas = {}
    for case, (path, body, _, _) in CASES.items():
        lake = folder / schema_of(case)
        (lake / HOUR).mkdir(parents=True)
        (lake / HOUR / "good.ndjson.gz").write_bytes(GOOD)
        (lake / path).parent.mkdir(parents=True, exist_ok=True)
        (lake / path).write_bytes(body)
        schemas[schema_of(case)] = [(lake, table) for table in both]
    return schemas


def outcome(trino, schema, table, path):
    """Rows beside the good one, or that it fails. Every column is read."""
    try:
        rows = trino.run(f"SELECT * FROM {schema}.{table}")[1]
    except Failed as error:
        # It must fail for this, and say so.
        return FAILS if Path(path).name in str(error) else str(error)
    if sum("good" in row for row in rows) != 1:
        return f"the good row is there {sum('good' in row for row in rows)} times"
    return FEWER if 1 < len(rows) - 1 < MANY else len(rows) - 1


def stated():
    """The table of the README: by case the first words for each table."""
    words = {"no rows": 0, "1 row": 1, FAILS: FAILS, FEWER: FEWER}
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", README.read_text(), re.MULTILINE)
    return {case: [words[cell] for cell in cells] for case, *cells in rows if case in CASES}


# What the operators' queries find in these lakes. In text, a number in quotes looks like a number.
FINDINGS = {
    ("unreadable_values", "text in a decimal"): [["bad", "1", "abc", None, None, None]],
    ("unreadable_values", "number too large"): [["bad", "1", str(10**30), None, None, None]],
    ("unreadable_values", "number in quotes"): [],
    ("duplicates", "foreign file, copy"): [["s", "1", "2"]],
}


def appearing(trino, folder):
    """An object that appears while a query runs: it is in the result as a whole or not at all."""
    schema, times, rows = schema_of("gzip of nothing"), 3_000_000, 50
    query = f"SELECT count(*) FROM {schema}.landing_transactions CROSS JOIN UNNEST(sequence(1, 10000)) CROSS JOIN UNNEST(sequence(1, 300))"
    trino.ask(query)
    object_ = folder / schema / HOUR / "late.ndjson.gz"
    hidden = object_.with_name("_late")
    hidden.write_bytes(zipped(*[line()] * rows))
    hidden.rename(object_)
    found = int(trino.answer(query)[1][0][0])
    if found not in (times, times * (1 + rows)):
        yield f"an object that appears while a query runs: {found} rows, not {times} or {times * (1 + rows)}"
    found = trino.run(f"SELECT count(*) FROM {schema}.landing_transactions")[1]
    if found != [[str(1 + rows)]]:
        yield f"an object that appeared: {found} rows"


def check(trino, folder):
    """What is otherwise."""
    if stated() != {case: list(expected) for case, (_, _, *expected) in CASES.items()}:
        yield f"{README.name} does not state what is expected here: {stated()}"
    for case, (path, _, *expected) in CASES.items():
        found = [outcome(trino, schema_of(case), table, path) for table in LANDING]
        # The fault is of Java 17.
        if trino.has_hudi and FEWER in expected:
            expected = [MANY, MANY]
        if found != expected:
            yield f"{case}: {found}, not {expected}"
    rounded = trino.run(f"SELECT price FROM {schema_of('too many decimals')}.landing_transactions WHERE transaction_id = 'bad'")[1]
    if rounded != [["0.123456789012345679"]]:
        yield f"too many decimals: {rounded}"
    for (query, case), expected in FINDINGS.items():
        text = (ddl.ATHENA / f"queries/operators/{query}.sql").read_text().replace("crypto.", f"{schema_of(case)}.")
        rows = trino.run(ddl.filled(text, ("2026", "1")))[1]
        found = [row[1:] if query == "unreadable_values" else row for row in rows]
        if found != expected:
            yield f"{query}, {case}: {found}, not {expected}"
    yield from appearing(trino, folder)
