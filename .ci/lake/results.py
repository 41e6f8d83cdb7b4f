"""Runs every view and query of athena/ on the lake of make.py, with Trino and DuckDB: both must give the rows of expected.json.

Usage: results.py FOLDER_OF_MAKE FOLDER_OF_TRINO_JARS [--write]

In the same Trino: cells are what objects have, digit for digit; faults in the statements are found; and bad objects have the
outcome that athena/README.md states. --write makes expected.json from what Trino says: read the difference.
"""

import decimal
import gzip
import json
import re
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import bad
import ddl
import pyarrow.parquet
from engines import Duck, Failed, Trino, arrow_schema

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
# In the place of the Hudi table, which only its job makes: for DuckDB what README.md advises without the job; for Trino the
# same as a table, which is faster.
STAND_IN = re.search(r"`(CREATE VIEW crypto.processed_crypto_txn AS [^`]+)`", bad.README.read_text())[1].replace("\n", " ")


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


def cases(now_hour):
    """Name, statement. Queries with parameters run for the month of most rows, and operators' for that of the run."""
    now = (now_hour[:4], str(int(now_hour[5:7])))
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
        return format(decimal.Decimal(value), "f").rstrip("0").rstrip(".") if "." in str(value) else str(value)
    if kind == "double":
        return f"{float(value):.8g}"
    if kind.startswith("timestamp"):
        value = (value if isinstance(value, datetime) else datetime.fromisoformat(value)).isoformat(" ")
    text = str(value)
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


def set_up(trino, tables, folder):
    views = view_texts()
    for name in ("landing_all", "landing_latest"):
        trino.run(views.pop(name))
    trino.run(STAND_IN.replace("CREATE VIEW", "CREATE TABLE").replace(" AS ", " WITH (format = 'PARQUET') AS "))
    for text in views.values():
        trino.run(text)
    # As the Glue job writes it: whole hours, folders by hour.
    columns, rows = trino.run("SELECT * FROM crypto.hourly_trades_computed")
    schema = arrow_schema(tables["hourly_trades"].columns)
    computed = [(name, {"varchar": "string"}.get(kind, kind)) for name, kind in columns.items()]
    if computed != tables["hourly_trades"].columns:
        raise SystemExit(f"hourly_trades has {tables['hourly_trades'].columns}, hourly_trades_computed {computed}")
    hours = {}
    for row in rows:
        hours.setdefault(row[0], []).append({n: typed(v, k.type) for n, v, k in zip(columns, row, schema)})
    for hour, of in hours.items():
        year, month, day, at = re.split("[- :]", hour)[:4]
        at_hour = folder / tables["hourly_trades"].folder / f"year={year}/month={month}/day={day}/hour={at}"
        at_hour.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(of, schema), at_hour / "part-0.parquet")


def typed(text, kind):
    if text is None or pyarrow.types.is_string(kind):
        return text
    if pyarrow.types.is_decimal(kind):
        return decimal.Decimal(text)
    return float(text) if pyarrow.types.is_floating(kind) else int(text)


def duck_of(tables, lake, views):
    views = dict(views)
    duck = Duck(lake, [tables[name] for name in ("landing_transactions", "landing_compacted", "dead_letters")])
    for name in ("landing_all", "landing_latest"):
        duck.run(views.pop(name))
    duck.run(STAND_IN)
    for text in views.values():
        duck.run(text)
    parts = "CAST(substr(hour_bucket, 1, 4) AS integer) AS year, CAST(substr(hour_bucket, 6, 2) AS integer) AS month"
    days = "CAST(substr(hour_bucket, 9, 2) AS integer) AS day, CAST(substr(hour_bucket, 12, 2) AS integer) AS hour"
    duck.connection.execute(f"CREATE TABLE crypto.hourly_trades AS SELECT *, {parts}, {days} FROM crypto.hourly_trades_computed")
    return duck


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
    """Each changes a row of a query."""
    for view, right, mistaken in MISTAKES:
        views = view_texts()
        assert right in views[view], right
        seen = Wrong()
        duck = duck_of(tables, lake, views | {view: views[view].replace(right, mistaken)})
        check_duck(seen, expected, duck, now_hour)
        if not seen:
            wrong.append(f"{mistaken!r} in the view {view} changes no row")
    return len(MISTAKES)


def main(folder, jars, write):
    made = json.loads((folder / "made.json").read_text())
    lake, now_hour = (folder / "lake").resolve(), made["now_hour"]
    tables = ddl.tables()
    of_jobs = ("hourly_trades", "processed_crypto_txn")
    keys = {name: ddl.keys_of(lake, table.folder) for name, table in tables.items() if name not in of_jobs}
    tables |= {name: ddl.narrowed(tables[name], of) for name, of in keys.items()}
    # Trades are in the same hours as their changes here.
    ranges = {key: tables["landing_transactions"].properties[key] for key in tables["landing_transactions"].properties if "range" in key}
    tables["hourly_trades"] = ddl.changed(tables["hourly_trades"], **ranges)
    wrong = Wrong()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        at_home = [(lake, tables[name]) for name in tables if name not in of_jobs]
        schemas = {"crypto": [*at_home, (work, tables["hourly_trades"])]}
        schemas |= {schema: [(lake, table)] for schema, (table, _) in faults(tables).items()}
        schemas |= bad.lakes(work / "bad", tables)
        trino = Trino(jars, work, schemas)
        try:
            # While Trino starts.
            duck = duck_of(tables, lake, view_texts())
            mistakes = 0 if write else check_mistakes(wrong, tables, lake, json.loads(EXPECTED.read_text()), now_hour)
            set_up(trino, tables, work)
            results = {}
            for name, statement in cases(now_hour):
                found = wrong.attempt("Trino", name, lambda: trino_shown(trino, statement, now_hour))
                results |= {name: found} if found else {}
            if write:
                EXPECTED.write_text(written(results))
            expected = json.loads(EXPECTED.read_text())
            of_duck = check_results(wrong, results, expected, duck, now_hour)
            cells = check_cells(wrong, trino, tables, lake, now_hour)
            check_state(wrong, trino, made["state"])
            check_scores(wrong, trino, duck)
            found = check_faults(wrong, trino, tables) + mistakes
            wrong += bad.check(trino, work / "bad")
        finally:
            trino.stop()
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(results)} queries have the expected rows on Trino, {of_duck} of them on DuckDB too; {cells} cells are exact;")
    print(f"{found} faults are noticed; {len(bad.CASES)} kinds of bad objects have the stated outcome")


def check_results(wrong, results, expected, duck, now_hour):
    if list(expected) != list(results):
        wrong.append(f"expected.json is of other queries: {set(expected) ^ set(results)}")
        return 0
    for name, result in results.items():
        wrong.compare("Trino", f"types of {name}", list(result["columns"].items()), list(expected[name]["columns"].items()))
        wrong.compare("Trino", name, result["rows"], expected[name]["rows"])
    return check_duck(wrong, expected, duck, now_hour)


def check_duck(wrong, expected, duck, now_hour):
    checked = 0
    for name, statement in cases(now_hour):
        if name.split()[0] not in TRINO_ONLY:
            found, kinds = wrong.attempt("DuckDB", name, lambda: duck.run(statement)), expected[name]["columns"]
            if found:
                rows = shown(kinds, found[1], kinds.values(), now_hour)
                wrong.compare("DuckDB", name, rows, expected[name]["rows"])
                checked += 1
    return checked


if __name__ == "__main__":
    match sys.argv[1:]:
        case [folder, jars, *more] if more in ([], ["--write"]):
            try:
                main(Path(folder), jars, bool(more))
            except Failed as error:
                sys.exit(str(error))
        case _:
            sys.exit(__doc__)
