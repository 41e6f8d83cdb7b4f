"""The tables of athena/ are what `kinetide schema` says: a new column is noticed here, and written with --write.

Views name their columns, so they are only compared.

Usage: tables.py KINETIDE [--write]
"""

import difflib
import re
import subprocess
import sys

import ddl

TRANSFORM = ["--transform", "crypto-transactions"]
# What Hudi adds to each row.
HOODIE = ["commit_time", "commit_seqno", "record_key", "partition_path", "file_name"]
# A live trade has the same value in each of these; the other column is worked out.
NOT_LIVE, LIVE_TOO = {"is_deleted", "delete_reason", "is_valid", "invalid_reason"}, ["trade_time"]
COLUMN = re.compile(r"^  `(\w+)` (\w+(?:\([\d,]+\))?)", re.MULTILINE)


def schema(kinetide, table, folder, *more, bucket="BUCKET"):
    command = [kinetide, "schema", "--format", "athena", "--table", f"crypto.{table}", "--location", f"s3://{bucket}/{folder}"]
    return subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout


def columns(ddl):
    """Names and types, without those of partitions."""
    return COLUMN.findall(ddl)


def expected(kinetide):
    """By file what must be in it; for the Hudi table only the columns."""
    rows = schema(kinetide, "landing_transactions", "landing/transactions", *TRANSFORM)
    texts = COLUMN.sub(lambda column: f"  `{column[1]}` string", rows)
    hudi = [(f"_hoodie_{name}", "string") for name in HOODIE] + columns(rows)
    return {
        "landing_transactions": rows,
        "landing_compacted": schema(kinetide, "landing_compacted", "compacted/transactions", *TRANSFORM, bucket="ANALYTICS"),
        "landing_transactions_raw": texts.replace("crypto.landing_transactions ", "crypto.landing_transactions_raw "),
        "dead_letters": schema(kinetide, "dead_letters", "errors", "--dead-letters"),
    }, hudi


# What the service adds to rows of a stream, and a poller does not.
PLACE = {"ordering_key", "shard_id", "sequence_number", "ingestion_time"}


def of_prices(kinetide):
    """The two tables of prices as the poller of CoinGecko lands them."""
    more = ["--transform", "market-snapshot", "--provider", "coingecko"]
    rows = schema(kinetide, "processed_prices", "market/coingecko/processed", *more).replace("crypto.", "crypto_data.")
    rows = with_columns(rows, [(name, kind) for name, kind in columns(rows) if name not in PLACE])
    texts = COLUMN.sub(lambda column: f"  `{column[1]}` string", rows)
    return {"processed_prices": rows, "processed_prices_raw": texts.replace(".processed_prices ", ".processed_prices_raw ")}


def with_columns(ddl, wanted):
    """The statement with these columns instead of its own."""
    start, end = ddl.index("(\n") + 2, ddl.index("\n)\n")
    return ddl[:start] + ",\n".join(f"  `{name}` {kind}" for name, kind in wanted) + ddl[end:]


def selected(view):
    """The columns that a view names."""
    tree = ddl.statement((ddl.ATHENA / "views" / f"{view}.sql").read_text())
    return [column.alias_or_name for column in tree.expression.expressions]


def check(kinetide, write):
    statements, hudi = expected(kinetide)
    path = ddl.ATHENA / "tables" / "processed_crypto_txn.sql"
    statements["processed_crypto_txn"] = with_columns(path.read_text(), hudi)
    wrong, files = [], {ddl.ATHENA / "tables" / f"{name}.sql": wanted for name, wanted in statements.items()}
    files |= {ddl.MARKET / "tables" / f"{name}.sql": wanted for name, wanted in of_prices(kinetide).items()}
    for path, wanted in files.items():
        found = path.read_text() if path.exists() else ""
        # Our comments stand above the statement.
        comments = re.match(r"(?:--.*\n)*", found)[0]
        if not wanted.startswith("--"):
            wanted = comments + wanted
        if found == wanted:
            continue
        if write:
            path.write_text(wanted)
            print(f"written: {path.relative_to(ddl.ATHENA.parent)}")
        else:
            wrong += difflib.unified_diff(found.splitlines(), wanted.splitlines(), str(path), "kinetide schema", "", "", 1, "")
    names = [name for name, _ in hudi[len(HOODIE) :]]
    live = [name for name in names if name not in NOT_LIVE] + LIVE_TOO
    for view, wanted in {"landing_latest": names, "live_trades": live}.items():
        if (found := selected(view)) != wanted:
            wrong.append(f"views/{view}.sql: columns that differ, or their order: {set(found) ^ set(wanted)}")
    if wrong:
        raise SystemExit("\n".join([*wrong, "not what `kinetide schema` says: run .ci/lake/tables.py KINETIDE --write"]))
    print(f"{len(files)} tables and 2 views have the columns of `kinetide schema`, {len(hudi) - len(HOODIE)} of trades")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [kinetide]:
            check(kinetide, write=False)
        case [kinetide, "--write"]:
            check(kinetide, write=True)
        case _:
            sys.exit(__doc__)
