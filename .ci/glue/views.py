"""The shipped SQL over real trades gives what golden.py works out from their files: on the Hudi table that the Glue job made of
them, in DuckDB and in the Trino of results.py, which runs the rest of its checks beside.

Usage: views.py FILES LAKE TABLES FOLDER_OF_MAKE TRINO   the folder of the files, their lake, where the job wrote; see results.py
"""

import math
import re
import sys
from datetime import datetime
from pathlib import Path

import golden
import pyarrow.dataset
from trades import same_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lake"))
import ddl  # noqa: E402
import engines  # noqa: E402
import projection  # noqa: E402
import results  # noqa: E402


def typed(value, like):
    """A cell of any engine as golden.py has it."""
    if value is None or like is None:
        return value
    if isinstance(like, datetime):
        return datetime.fromisoformat(str(value))
    return type(like)(value)


def alike(found, wanted):
    """Sums are exact; means and deviations go through doubles in each engine."""
    if isinstance(wanted, float) and found is not None:
        return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-6)
    return found == wanted


def compare(what, rows, expected):
    """Rows in any order: texts and times come first, and tell them apart."""
    likes = [next((cell for cell in column if cell is not None), None) for column in zip(*expected)]
    keys = [at for at, like in enumerate(likes) if isinstance(like, (str, datetime))]
    by_key = lambda rows: {tuple(row[at] for at in keys): row for row in rows}
    found, wanted = by_key([list(map(typed, row, likes)) for row in rows]), by_key(expected)
    assert len(rows) == len(found) == len(wanted) == len(expected) > 0, f"{what}: {len(rows)} rows, not {len(expected)}"
    assert found.keys() == wanted.keys(), f"{what}: rows {sorted(found.keys() ^ wanted.keys())[:4]}"
    for key, row in wanted.items():
        assert all(map(alike, found[key], row)), f"{what}: {found[key]}, not {row}"
    return len(expected)


def statements():
    """By name the queries that golden.py answers."""
    texts = {ddl.name(path): path.read_text() for path in ddl.files("queries")}
    shipped = {name for name in texts if name.startswith("dashboard/")} - {"dashboard/hourly_trades"}
    asked = shipped | {"samples/row_count"}
    return {name: texts[name] for name in asked} | {"hourly_trades_computed": "SELECT * FROM crypto.hourly_trades_computed"}


def of_state():
    """The views over the newest state of each trade."""
    return {name: text for name, text in results.view_texts().items() if not name.startswith("landing_")}


def in_duckdb(state, hourly, views):
    duck = engines.Duck(None, [])
    duck.add("processed_crypto_txn", state)
    duck.add("hourly_trades", hourly)
    for text in views.values():
        duck.run(text)
    return duck


def check_duckdb(tables, expected, answers):
    state = engines.hudi_rows(tables, ddl.tables()["processed_crypto_txn"])
    same_rows(state.to_pylist(), expected, "PyPI hudi")
    hourly = pyarrow.dataset.dataset(tables / "analytics/hourly_trades", partitioning="hive").to_table()
    views = of_state()
    duck = in_duckdb(state, hourly, views)
    rows = sum(compare(f"DuckDB, {name}", duck.run(text)[1], answers[name]) for name, text in statements().items())
    columns = ", ".join(f'"{name}"' for name, _ in ddl.tables()["hourly_trades"].columns)
    rows += compare("the job's aggregate", duck.run(f"SELECT {columns} FROM crypto.hourly_trades")[1], answers["hourly_trades_computed"])
    # Many real trades are not valid: a view that counts them is found.
    mistaken = views["live_trades"].replace("is_valid AND NOT is_deleted", "NOT is_deleted")
    assert mistaken != views["live_trades"]
    duck = in_duckdb(state, hourly, views | {"live_trades": mistaken})
    for name in ("dashboard/exchange_comparison", "dashboard/trends"):
        try:
            compare(name, duck.run(statements()[name])[1], answers[name])
        except AssertionError:
            continue
        raise SystemExit(f"a view that counts invalid trades changes nothing in {name}")
    print(f"trades: {len(expected)} rows for PyPI hudi, {rows} rows of {len(answers)} queries and the aggregate on DuckDB, as in the files")


def check_folders(lake, tables):
    """What is landed is projected. Trades have times of their own: their hours may be before the projected years."""
    shipped = ddl.tables()
    seen = projection.check(shipped, lake)
    hourly = shipped["hourly_trades"]
    keys = ddl.keys_of(tables, hourly.folder)
    hidden = set(ddl.outside(hourly, keys))
    assert hidden == {key for key in keys if int(re.search(r"year=(\d+)", key)[1]) < 2024}, sorted(hidden)[:3]
    wider = ddl.changed(hourly, **{"projection.year.range": "2018,2035"})
    assert 0 < len(hidden) < len(keys) and not list(ddl.outside(wider, keys)), f"{len(hidden)} of {len(keys)}"
    print(f"trades: {seen} landed objects are projected; {len(hidden)} of {len(keys)} hours only with a wider range of years")


def month(rows, year, number):
    return [row for row in rows if row[0].startswith(f"{year}-{number:02}")]


class Trades:
    """What results.py checks beside its own lake."""

    def __init__(self, files, lake, tables):
        self.lake, self.tables = lake, tables
        self.expected = golden.rows(sorted(files.glob("*.csv.gz")))
        self.answers = golden.answers(self.expected)

    def schemas(self):
        shipped = ddl.tables()
        landing, hourly = shipped["landing_transactions"], shipped["hourly_trades"]
        landing = ddl.narrowed(landing, ddl.keys_of(self.lake, landing.folder))
        wider = ddl.changed(hourly, **{"projection.year.range": "2018,2035"})
        of_job = [(self.tables, hourly), (self.tables, shipped["processed_crypto_txn"])]
        return {"trades": [(self.lake, landing), *of_job], "wider": [(self.tables, wider)]}

    def check_without_trino(self):
        check_folders(self.lake, self.tables)
        check_duckdb(self.tables, self.expected, self.answers)

    def check(self, trino):
        at_trades = lambda text: text.replace("crypto.", "trades.")
        for text in [results.view_texts()["landing_latest"], *of_state().values()]:
            trino.run(at_trades(text))
        rows = 0
        for name, text in statements().items():
            rows += compare(f"Trino, {name}", trino.run(at_trades(text))[1], self.answers[name])
        newest = trino.run("SELECT count(*), min(is_deleted) FROM trades.landing_latest")[1]
        assert newest == [[str(len(self.expected)), "false"]], newest
        text = (ddl.ATHENA / "queries/dashboard/hourly_trades.sql").read_text()
        # Hours before the projected years are there, and are not seen.
        for schema, year, number, seen in (("trades", 2024, 8, True), ("trades", 2019, 10, False), ("wider", 2019, 10, True)):
            query = ddl.filled(text.replace("crypto.", f"{schema}."), (str(year), str(number)))
            found, wanted = trino.run(query)[1], month(self.answers["hourly_trades_computed"], year, number)
            if seen:
                rows += compare(f"Trino, hourly_trades of {year}", [row[: len(wanted[0])] for row in found], wanted)
            else:
                assert wanted and not found, f"hours outside the projection: {len(found)} of {len(wanted)}"
        print(f"trades: {rows} rows of {len(self.answers)} queries on Trino as in the files")


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    files, lake, tables, made, trino = map(Path, sys.argv[1:])
    results.main(made, trino, others=[Trades(files, lake, tables)])
