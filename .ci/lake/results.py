"""Runs every view and query of athena/ on the lake of make.py and on the Hudi table that the Glue job made of it, with Trino and
DuckDB: both must give the rows of expected.json.

Usage: results.py FOLDER_OF_MAKE TRINO [--write]

TRINO is what lake.sh installs. The tables of the job are in FOLDER_OF_MAKE/analytics. In the same Trino: cells are what objects
have, digit for digit; faults in the statements are found; and bad objects have the outcome that athena/README.md states.
--write makes expected.json from what Trino says: read the difference.
"""

import contextlib
import decimal
import gzip
import json
import re
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import bad
import ddl
import market
import pyarrow.parquet
import worked_out
from engines import Duck, Failed, Trino, hudi_rows, parquet_rows

EXPECTED = Path(__file__).with_name("expected.json")
MONTH = ("2026", "1")
# What differs from run to run.
VOLATILE = {"longest_delay_seconds": lambda seconds: "late" if float(seconds) > 900 else "in time"}
# Rows without an order, and columns that tell place and arrival: only this is looked at.
ABOUT = {
    "samples/first_rows": "SELECT count(*) AS found FROM ({})",
    "samples/medium_risk": "SELECT transaction_id, trade_value, risk_flag FROM ({}) ORDER BY 1",
}
# It asks where a row is in the lake, which DuckDB does not know of these tables; bad.py has its rows.
TRINO_ONLY = {"operators/unreadable_values"}
# Queries that are worked out in bad.py and anomalies.py.
ELSEWHERE = {"operators/unreadable_values", "operators/anomalies"}
OF_JOB = ("processed_crypto_txn", "hourly_trades")
# What README.md advises without the job.
STAND_IN = re.search(r"`(CREATE VIEW crypto.processed_crypto_txn AS [^`]+)`", bad.README.read_text())[1].replace("\n", " ")
# Athena reads no newer one, nor one that must be merged while it is read.
HUDI = {"hoodie.table.version": "6", "hoodie.table.type": "COPY_ON_WRITE"}


@contextlib.contextmanager
def lap(name):
    began = time.time()
    yield
    print(f"  [{name}: {time.time() - began:.0f} s]", flush=True)


class Wrong(list):
    """What is not as it should be."""

    def compare(self, engine, name, found, expected):
        if found != expected:
            fewer = [row for row in expected if row not in found][:3]
            more = [row for row in found if row not in expected][:3]
            counts = f"{len(found)} rows, expected {len(expected)}"
            self.append(f"{engine}, {name}: {counts}; not found {fewer}, not expected {more}")

    def attempt(self, engine, name, run):
        """What `run` gives, or None."""
        try:
            return run()
        except Failed as error:
            self.append(f"{engine}, {name}: {error}")


def month_of(hour):
    return hour[:4], str(int(hour[5:7]))


def cases(now_hour):
    """Name, statement. Queries with parameters run for the month of most rows, and operators' for that of the run."""
    now = month_of(now_hour)
    for path in ddl.files("queries"):
        name, text = ddl.name(path), path.read_text()
        bare = re.sub(r"(?m)^--.*\n", "", text).strip().removesuffix(";")
        about = ABOUT.get(name, "{}").format(bare)
        if "?" not in bare:
            yield name, about
            continue
        yield f"{name} 2026-01", ddl.filled(about, MONTH)
        if name.startswith("operators/"):
            yield f"{name} NOW", ddl.filled(about, now)


def plain(value, column, kind, now_hour):
    """A cell as text that is the same in every engine and every run."""
    if value is None:
        return None
    if column in VOLATILE:
        return VOLATILE[column](value)
    if kind.startswith("decimal"):
        text = format(decimal.Decimal(value), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if kind == "double":
        return f"{float(value):.8g}"
    if kind.startswith("timestamp"):
        value = (value if isinstance(value, datetime) else datetime.fromisoformat(value)).isoformat(" ")
    text = str(value).lower() if kind == "boolean" else str(value)
    if text.replace("T", " ").startswith(now_hour.replace("T", " ")):
        return "NOW"
    return re.sub(r"\d{50,}", "N", text)


def shown(columns, rows, kinds, now_hour):
    return [[plain(cell, *pair, now_hour) for cell, pair in zip(row, zip(columns, kinds))] for row in rows]


def trino_shown(trino, statement, now_hour):
    columns, rows = trino.run(statement)
    return {"columns": columns, "rows": shown(columns, rows, columns.values(), now_hour)}


def view_texts():
    """Views in an order in which each has what it reads; those of the processed table last."""
    order = ["landing_all", "landing_latest", "live_trades", "trends_15_minutes", "hourly_trades_computed"]
    order += ["user_hours", "user_hour_scores"]
    texts = {path.stem: path.read_text() for path in ddl.files("views")}
    assert set(order) == set(texts), "a view that is not looked at"
    return {name: texts[name] for name in order}


def set_up(trino, tables):
    for text in view_texts().values():
        trino.run(text)
    columns, _ = trino.run("SELECT * FROM crypto.hourly_trades_computed LIMIT 0")
    computed = [(name, {"varchar": "string"}.get(kind, kind)) for name, kind in columns.items()]
    if computed != tables["hourly_trades"].columns:
        raise SystemExit(f"hourly_trades has {tables['hourly_trades'].columns}, hourly_trades_computed {computed}")


def landed(tables, lake):
    return Duck(lake, [tables[name] for name in ("landing_transactions", "landing_compacted", "dead_letters")])


def duck_with_job(tables, lake, analytics):
    """The tables that the job wrote, and all views."""
    duck = landed(tables, lake)
    duck.add("processed_crypto_txn", hudi_rows(analytics, tables["processed_crypto_txn"]))
    duck.add("hourly_trades", parquet_rows(analytics, tables["hourly_trades"]))
    for text in view_texts().values():
        duck.run(text)
    return duck


def duck_of(tables, lake, views):
    """Views alone: two of them stand for the tables of the job."""
    duck = landed(tables, lake)
    replace_views(duck, views)
    return duck


def replace_views(duck, views):
    views = dict(views)
    for name in ("landing_all", "landing_latest"):
        duck.run(views.pop(name))
    duck.run(STAND_IN)
    for text in views.values():
        duck.run(text)
    parts = "CAST(substr(hour_bucket, 1, 4) AS integer) AS year, CAST(substr(hour_bucket, 6, 2) AS integer) AS month"
    days = "CAST(substr(hour_bucket, 9, 2) AS integer) AS day, CAST(substr(hour_bucket, 12, 2) AS integer) AS hour"
    as_written = f"SELECT *, {parts}, {days} FROM crypto.hourly_trades_computed"
    duck.connection.execute(f"CREATE OR REPLACE VIEW crypto.hourly_trades AS {as_written}")


def objects(lake, folder):
    """Rows with each number as it is written."""
    for key in ddl.keys_of(lake, folder):
        with gzip.open(lake / key, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line, parse_int=str, parse_float=str) for line in lines)


def check_cells(wrong, trino, tables, lake, now_hour):
    """Every cell of the two landing tables and of dead letters."""
    counted, months = 0, f"year IN (2026, {int(now_hour[:4])}) AND month IN (1, {int(now_hour[5:7])})"
    for name in ("landing_transactions", "landing_transactions_raw", "dead_letters"):
        table = tables[name]
        columns = [column for column, _ in table.columns]
        wanted = []
        for row in objects(lake, table.folder):
            row = {key.lower(): value for key, value in row.items()}
            wanted.append([cell_text(row.get(column), kind) for column, kind in table.columns])
        listed = ", ".join(f'"{column}"' for column in columns)
        found = trino.run(f"SELECT {listed} FROM crypto.{name} WHERE {months}")[1]
        found = [[cell_text(cell, kind) for cell, (_, kind) in zip(row, table.columns)] for row in found]
        wrong.compare("Trino", f"cells of {name}", sorted(found, key=str), sorted(wanted, key=str))
        counted += len(wanted) * len(columns)
    return counted


def cell_text(value, kind):
    if value is None:
        return None
    if kind.startswith("decimal"):
        return format(decimal.Decimal(value).normalize(decimal.Context(prec=76)), "f")
    return str(value).lower() if isinstance(value, bool) else value


def check_worked_out(wrong, results, lake, now_hour):
    """Queries of operators, and trends, as worked out from the lines of the lake."""
    months = {"2026-01": worked_out.Lake(lake, MONTH), "NOW": worked_out.Lake(lake, month_of(now_hour))}
    answers = {f"operators/{of.__name__} {when}": of(lines) for when, lines in months.items() for of in worked_out.OPERATORS}
    answers["dashboard/trends"] = worked_out.trends(months.values())
    unasked = {name.split()[0] for name in results if name.startswith("operators/")} - {name.split()[0] for name in answers} - ELSEWHERE
    assert not unasked, f"{unasked} are not worked out"
    for name, answer in answers.items():
        kinds = results[name]["columns"]
        wrong.compare("Trino", f"{name}, worked out", results[name]["rows"], shown(kinds, answer, kinds.values(), now_hour))
    return len(answers)


def check_hudi(wrong, trino, duck, table, analytics, now_hour):
    """The table is one that Athena reads; both engines read the same of it, and what landing comes to."""
    text = (analytics / table.folder / ".hoodie/hoodie.properties").read_text()
    found = {name: value for name, value in re.findall(r"(?m)^([^#=]+)=(.*)$", text) if name in HUDI}
    wrong.compare("Hudi", "hoodie.properties", [found], [HUDI])
    stored = sum(pyarrow.parquet.read_metadata(path).num_rows for path in (analytics / table.folder).rglob("*.parquet"))
    names = [f'"{name}"' for name, _ in table.columns + table.partitions]
    statement = f"SELECT {', '.join(names)} FROM crypto.processed_crypto_txn ORDER BY transaction_id"
    columns, rows = trino.run(statement)
    kinds = list(columns.values())
    if stored <= len(rows):
        wrong.append(f"a reader that does not know Hudi finds {stored} rows, and nothing shows that Trino does")
    read = shown(columns, duck.run(statement)[1], kinds, now_hour)
    wrong.compare("PyPI hudi and Trino", "the Hudi table", read, shown(columns, rows, kinds, now_hour))
    names = ", ".join(name for name in names if not name.startswith('"_hoodie') and name != '"exchange_part"')
    for one, other in (("processed_crypto_txn", "landing_latest"), ("landing_latest", "processed_crypto_txn")):
        more = f"SELECT {names} FROM crypto.{one} EXCEPT SELECT {names} FROM crypto.{other}"
        wrong.compare("Trino", f"rows of {one} that are not in {other}", trino.run(more)[1], [])
        fewer = trino.run(f"SELECT transaction_id FROM ({more} WHERE transaction_id <> 'moved')")[1]
        wrong.compare("Trino", f"{one} has a row more than {other}", fewer, [["moved"]])
    for name, count in (("first_rows", 10), ("row_count", 1), ("medium_risk", 4)):
        columns, rows = trino.run((ddl.ATHENA / f"queries/samples/{name}.sql").read_text())
        wanted = ["_col0"] if name == "row_count" else [name for name, _ in table.columns + table.partitions]
        wrong.compare("Trino", f"samples/{name} as it is", [len(rows), list(columns)], [count, wanted])
    return len(read)


def check_state(wrong, trino, state):
    """The newest states are those that make.py worked out from its records."""
    names = ("transaction_id", "cdc_ts_us", "is_deleted", "exchange", "price", "quantity", "trade_status")
    rows = trino.run(f'SELECT {", ".join(names)} FROM crypto.processed_crypto_txn')[1]
    found = {row[0]: row[1:] for row in rows}
    if set(found) != set(state):
        wrong.append(f"the newest states have other keys: {set(found) ^ set(state)}")
        return
    for key, item in state.items():
        wanted = [str(item["cdc_ts_us"]), str(item["is_deleted"]).lower()] + [item.get(name) for name in names[3:]]
        for at in (3, 4):
            wanted[at] = cell_text(wanted[at], "decimal")
            found[key][at] = cell_text(found[key][at], "decimal")
        wrong.compare("Trino", f"state of {key}", [found[key]], [wanted])


def check_scores(wrong, trino, duck):
    """Nobody has enough hours in this lake: with fewer asked for, both engines give the same scores."""
    text = view_texts()["user_hour_scores"].replace("hours >= 24", "hours >= 2").replace("hours < 24", "hours < 2")
    query = "SELECT user_id, trading_pair, hour_bucket, measure, score FROM crypto.soon_scored ORDER BY 1, 2, 3, 4"
    found = []
    for engine in (trino, duck):
        engine.run(text.replace("user_hour_scores", "soon_scored"))
        found.append([[*row[:4], None if row[4] is None else f"{float(row[4]) + 0:.8g}"] for row in engine.run(query)[1]])
    wrong.compare("DuckDB", "scores of few hours", found[1], found[0])
    if not any(score and float(score) for *_, score in found[0]):
        wrong.append("no score to compare")


def written(results):
    """One row on a line: differences are to be read."""
    parts = []
    for name, result in results.items():
        rows = ",".join("\n   " + json.dumps(row, ensure_ascii=False) for row in result["rows"])
        columns = json.dumps(result["columns"])
        parts.append(f' {json.dumps(name)}: {{\n  "columns": {columns},\n  "rows": [{rows}]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def retyped(table, column, kind):
    return [(name, kind if name == column else old) for name, old in table.columns]


def faults(tables):
    """Schema of a fault, the tables in it, a query that must not give what the right tables give."""
    landing, raw = tables["landing_transactions"], tables["landing_transactions_raw"]
    month = "year = 2026 AND month = 1"
    count = f"SELECT count(*) FROM {{}}.landing_transactions WHERE {month}"
    total = f"SELECT sum(quantity) FROM {{}}.landing_transactions WHERE {month} AND is_valid"
    openx = "org.openx.data.jsonserde.JsonSerDe"
    texts = f"SELECT price FROM {{}}.landing_transactions_raw WHERE {month} AND price IS NOT NULL ORDER BY 1"
    return {
        "fault_no_digits": (ddl.changed(landing, drop=["projection.day.digits"]), count),
        "fault_wrong_type": (ddl.changed(landing, retyped(landing, "quantity", "decimal(20,2)")), total),
        "fault_wrong_bigint": (ddl.changed(landing, retyped(landing, "quantity", "bigint")), total),
        "fault_mistyped_column": (ddl.changed(landing, retyped(landing, "quantity", "string")), total),
        "fault_openx_twin": (ddl.changed(raw, serde=openx), texts),
        "fault_range": (ddl.changed(landing, **{"projection.day.range": "6,31"}), count),
    }


def check_faults(wrong, trino, tables):
    for schema, (_, query) in faults(tables).items():
        right = trino.run(query.format("crypto"))[1]
        try:
            if trino.run(query.format(schema))[1] == right:
                wrong.append(f"not noticed: {schema}")
        except Failed as error:
            if "does not exist" in str(error):
                wrong.append(f"{schema}: {error}")
    view = view_texts()["live_trades"].replace("crypto.live_trades", "crypto.fault").replace("trade_fee,", "trade_fees,")
    for statement in (view, "SELECT sum(risk_flag) FROM crypto.live_trades", "SELECT a FROM crypto.live_trades WHERE 1 = '1'"):
        try:
            trino.run(statement)
        except Failed:
            continue
        wrong.append(f"Trino takes {statement[:80]!r}")
    return len(faults(tables)) + 3


# Mistakes in a view that only its rows can show.
MISTAKES = [
    ("landing_all", "UNION", "UNION ALL"),
    ("landing_latest", "ordering_key DESC", "ordering_key"),
    ("landing_latest", "ordering_key DESC", "sequence_number DESC"),
    ("landing_latest", "transaction_id <> ''", "true"),
    ("live_trades", "is_valid AND NOT is_deleted", "is_valid"),
    ("live_trades", "is_valid AND NOT is_deleted", "NOT is_deleted"),
    ("live_trades", "AT TIME ZONE 'UTC'", "AT TIME ZONE 'Asia/Kolkata'"),
    ("trends_15_minutes", "% 15", "% 30"),
    ("trends_15_minutes", "CAST(price", "CAST(normalized_price"),
    ("hourly_trades_computed", "'BUY'", "'SELL'"),
    ("hourly_trades_computed", "DISTINCT user_id", "user_id"),
    ("user_hours", "max(trade_value)", "min(trade_value)"),
    ("user_hour_scores", "2 * place_by_level BETWEEN", "2 * place_by_level + 1 BETWEEN"),
]


def check_mistakes(wrong, tables, lake, expected, now_hour):
    """Without the job the rows are the same, and each mistake changes one."""
    duck = duck_of(tables, lake, view_texts())
    check_duck(wrong, expected, duck, now_hour)
    for view, right, mistaken in MISTAKES:
        views = view_texts()
        assert right in views[view], right
        replace_views(duck, views | {view: views[view].replace(right, mistaken)})
        if not any(differs(expected, duck, now_hour)):
            wrong.append(f"{mistaken!r} in the view {view} changes no row")
    return len(MISTAKES)


def main(folder, home, write=False, others=()):
    """`others`: lakes that are checked in the same Trino, beside that of market prices."""
    made = json.loads((folder / "made.json").read_text())
    lake, analytics, now_hour = (folder / "lake").resolve(), (folder / "analytics").resolve(), made["now_hour"]
    if not analytics.exists():
        raise SystemExit(f"{analytics} is not there: the Glue job has to run on {lake} first")
    lakes = {name: analytics if name in OF_JOB else lake for name in ddl.tables()}
    tables = {
        name: ddl.narrowed(table, ddl.keys_of(lakes[name], table.folder)) if table.projected else table
        for name, table in ddl.tables().items()
    }
    wrong = Wrong()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        schemas = {"crypto": [(lakes[name], table) for name, table in tables.items()]}
        schemas |= {schema: [(lake, table)] for schema, (table, _) in faults(tables).items()}
        others = [*others, market.Prices(work, (folder / "assets").resolve())]
        for other in others:
            schemas |= other.schemas()
        schemas |= bad.lakes(work / "bad", ddl.tables())
        trino = Trino(home, work, schemas)
        try:
            with lap("DuckDB, while Trino starts"):
                duck = duck_with_job(tables, lake, analytics)
                mistakes = 0 if write else check_mistakes(wrong, tables, lake, json.loads(EXPECTED.read_text()), now_hour)
            with lap("other lakes on DuckDB"):
                for other in others:
                    other.check_without_trino()
            with lap("views"):
                set_up(trino, tables)
            results = {}
            with lap("queries"):
                for name, statement in cases(now_hour):
                    found = wrong.attempt("Trino", name, lambda: trino_shown(trino, statement, now_hour))
                    results |= {name: found} if found else {}
                if write:
                    EXPECTED.write_text(written(results))
                of_duck = check_results(wrong, results, json.loads(EXPECTED.read_text()), duck, now_hour)
                answers = check_worked_out(wrong, results, lake, now_hour)
            with lap("cells, states"):
                cells = check_cells(wrong, trino, tables, lake, now_hour)
                check_state(wrong, trino, made["state"])
                check_scores(wrong, trino, duck)
                keys = check_hudi(wrong, trino, duck, tables["processed_crypto_txn"], analytics, now_hour)
            with lap("faults"):
                found = check_faults(wrong, trino, tables) + mistakes
            with lap("bad objects"):
                wrong += bad.check(trino, work / "bad")
            with lap("other lakes"):
                for other in others:
                    other.check(trino)
        finally:
            trino.stop()
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(results)} queries have the expected rows on Trino {trino.version}, {of_duck} of them on DuckDB too, {answers} are worked out;")
    print(f"the Hudi table has {keys} keys, as landing and the records come to; {cells} cells are exact; {found} faults are noticed;")
    print(f"{len(bad.CASES)} kinds of bad objects have the stated outcome")
    if not trino.has_hudi:
        print("SKIPPED: Trino's own reader of Hudi, as there is no Java 25 (JAVA_HOME_25 or /usr/lib/jvm): Trino had the rows as Parquet")


def check_results(wrong, results, expected, duck, now_hour):
    if list(expected) != list(results):
        wrong.append(f"expected.json is of other queries: {set(expected) ^ set(results)}")
        return 0
    for name, result in results.items():
        wrong.compare("Trino", f"types of {name}", list(result["columns"].items()), list(expected[name]["columns"].items()))
        wrong.compare("Trino", name, result["rows"], expected[name]["rows"])
    return check_duck(wrong, expected, duck, now_hour)


def differs(expected, duck, now_hour):
    """What DuckDB has otherwise, query by query; None where nothing."""
    for name, statement in cases(now_hour):
        if name.split()[0] not in TRINO_ONLY:
            seen, kinds = Wrong(), expected[name]["columns"]
            found = seen.attempt("DuckDB", name, lambda: duck.run(statement))
            if found:
                seen.compare("DuckDB", name, shown(kinds, found[1], kinds.values(), now_hour), expected[name]["rows"])
            yield seen[0] if seen else None


def check_duck(wrong, expected, duck, now_hour):
    found = list(differs(expected, duck, now_hour))
    wrong += filter(None, found)
    return len(found)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [folder, home, *more] if more in ([], ["--write"]):
            try:
                main(Path(folder), home, bool(more))
            except Failed as error:
                sys.exit(str(error))
        case _:
            sys.exit(__doc__)
