"""Real trades: some of each file for a demo, and the Glue job over the lake that the demo made of them.

Usage: trades.py FOLDER FILE...   writes some thousand trades of each file to the folder
"""

import gzip
import math
import sys
from pathlib import Path

import golden

# Of each file about so many, in runs of so many: neighbours share milliseconds, prices and hours.
TRADES, RUN = 3000, 100


def sample(folder, paths):
    folder.mkdir(parents=True)
    total = 0
    for path in paths:
        header, *lines = gzip.open(path, "rt", encoding="utf-8").readlines()
        share = math.ceil(len(lines) / TRADES)
        lines = [line for number, line in enumerate(lines) if number // RUN % share == 0]
        with gzip.open(folder / path.name, "wt", encoding="utf-8") as file:
            file.writelines([header, *lines])
        total += len(lines)
    print(f"{total} trades of {len(paths)} files")


def same_rows(rows, expected, what):
    """Key by key and column by column."""
    count, rows = len(rows), {row["transaction_id"]: row for row in rows}
    assert count == len(rows), f"{what}: a key has two rows"
    assert rows.keys() == expected.keys(), f"{what}: keys {sorted(rows.keys() ^ expected.keys())[:5]}"
    for key, wanted in expected.items():
        found = {name: rows[key][name] for name in wanted}
        assert found == wanted, f"{what}: {key} is {found}, not {wanted}"
        assert not rows[key]["is_deleted"], key


def job(chain, folder, lake, tables):
    """The Glue job over the lake of the trades, in two runs."""
    expected = golden.rows(sorted(Path(folder).glob("*.csv.gz")))
    half = len(list(Path(lake, "landing").rglob("*.ndjson.gz"))) // 2
    folders = {"landing": Path(lake, "landing/transactions"), "errors": Path(lake, "errors"), "lake": tables}
    first, second = chain.run(**folders, objects_max=half), chain.run(**folders)
    assert first["rows"] > 1000 and second["rows"] > 1000 and second["objects_waiting"] == 0, (first, second)
    assert first["quarantined"] + second["quarantined"] + second["dead_letters"] == 0, (first, second)
    rows = chain.spark.read.format("hudi").load(f"{tables}/lake/processed_crypto_txn").collect()
    same_rows([row.asDict() for row in rows], expected, "Spark")
    print(f"trades: {first['rows']} and {second['rows']} rows in two runs, {len(rows)} trades as in their files")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sample(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
