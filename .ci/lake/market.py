"""Runs the hourly load, every view and every query of athena/market on prices of eight days, with DuckDB and in the Trino of
results.py: both must give what market_golden.py works out.

Usage: market.py [FOLDER]   DuckDB alone. FOLDER/lake has the table of CoinCap's assets, as .ci/glue/coincap_job.py made it
"""

import collections
import dataclasses
import math
import re
import sys
import tempfile
from datetime import date, datetime
from pathlib import Path

import assets_made
import ddl
import market_made
import pyarrow
import pyarrow.parquet
from engines import Duck, Failed, arrow_schema, parquet_rows
from market_golden import Golden, moment

DATABASE = "crypto_data"
LOAD = (ddl.MARKET / "load/insert_last_hour.sql").read_text()
VIEWS = [
    "recent_prices", "v_latest_partition", "v_latest_snapshot", "v_market_cap", "v_top_100", "v_top_gainers", "v_total_market_cap",
    "v_trending", "v_trendline_core", "v_volume_24h", "v_bitcoin_24h",
]  # fmt: skip
# Trades stand for those of the other database.
TRADES = ddl.Table(
    "live_trades",
    [("trading_pair", "string"), ("quantity", "decimal(38,18)"), ("trade_value", "decimal(21,8)"), ("trade_time", "timestamp")],
    [], "s3://ANALYTICS/analytics/live_trades/", "", {},
)  # fmt: skip


def view_texts():
    texts = {path.stem: path.read_text() for path in ddl.files("views", ddl.MARKET)}
    assert set(VIEWS) == set(texts), "a view that is not looked at"
    return {name: texts[name] for name in VIEWS}


def cases(month):
    """Queries with their parameters in place: a month, and for CoinCap's assets that of theirs."""
    for path in ddl.files("queries", ddl.MARKET):
        name, text = ddl.name(path), path.read_text()
        text = re.sub(r"(?m)^--.*\n", "", text).strip().removesuffix(";").replace("crypto.live_trades", f"{DATABASE}.live_trades")
        of = assets_made.MONTH if name.startswith("coincap/") else month
        yield name, ddl.filled(text, tuple(map(str, of))) if "?" in text else text


def load_of(hour, text=LOAD):
    assert text.count("?") == 8, "the load has other parameters"
    for value in [*hour, *hour]:
        text = text.replace("?", str(value), 1)
    return text


def cell(value, like):
    """A cell of any engine as market_golden.py has it."""
    if value is None or like is None:
        return value
    if isinstance(like, datetime):
        return datetime.fromisoformat(str(value))
    return type(like)(value)


def same(found, wanted):
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return found == wanted


def difference(name, rows, wanted):
    """In one line, or None. The order counts."""
    likes = [next((one for one in column if one is not None), None) for column in zip(*wanted)]
    found = [list(map(cell, row, likes)) for row in rows] if likes else rows
    if len(found) != len(wanted):
        return f"{name}: {len(found)} rows, not {len(wanted)}"
    for number, (left, right) in enumerate(zip(found, wanted)):
        if len(left) != len(right) or not all(map(same, left, right)):
            return f"{name}: row {number} is {left}, not {right}"
    return None


def table_of(columns, rows):
    schema = arrow_schema(columns)
    return pyarrow.Table.from_pylist([dict(zip(schema.names, row)) for row in rows], schema=schema)


def raw(table, shots):
    """processed_prices_raw for DuckDB, which would read numbers through doubles."""
    rows = []
    for shot in shots:
        for row in shot.rows:
            rows.append([None if row.get(name) is None else str(row[name]) for name, _ in table.columns] + list(shot.hour))
    return table_of(table.columns + table.partitions, rows)


def trade_rows(golden):
    return table_of(TRADES.columns, [(one.pair, one.quantity, one.value, moment(one.at)) for one in golden.trades])


class Prices:
    """What results.py checks beside its own lake. `assets`: where the Glue job has made the table of CoinCap's."""

    def __init__(self, folder, assets=None):
        self.lake, self.assets, self.by_hour = folder / "market", assets and assets / "lake", assets and assets / "lake-hours"
        self.shots = market_made.snapshots()
        self.late = market_made.late(self.shots)
        self.golden = Golden([*self.shots, self.late])
        self.tables = ddl.tables(ddl.MARKET)
        # Trino loads these hours; the others are there already.
        odd = next(shot.hour for shot in self.shots if any(row["id"] == "odd-nulls" for row in shot.rows))
        self.loads = [self.golden.newest_hour, odd, self.late.hour]
        market_made.write(self.lake, self.shots)
        analytics = self.tables["analytics_prices"]
        for hour, rows in self.golden.hours.items():
            if hour not in self.loads:
                path = self.lake / analytics.folder / "year={}/month={}/day={}/hour={}".format(*hour) / "loaded.parquet"
                path.parent.mkdir(parents=True)
                pyarrow.parquet.write_table(table_of(analytics.columns, [list(row.values())[:-1] + [row["timestamp"]] for row in rows]), path)
        path = self.lake / TRADES.folder / "trades.parquet"
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(trade_rows(self.golden), path)

    def schemas(self):
        # As they are shipped, with all their years: the views must not list them.
        lakes = {"coincap_assets": self.assets or self.lake, "coincap_assets_by_hour": self.by_hour or self.lake}
        return {DATABASE: [(lakes.get(table.name, self.lake), table) for table in [*self.tables.values(), TRADES]]}

    def cases(self):
        for name, statement in cases(self.golden.month):
            if self.assets or not name.startswith("coincap/"):
                yield name, statement

    def answers(self):
        found = self.golden.answers() | (assets_made.Made().answers() if self.assets else {})
        names = {name for name, _ in self.cases()}
        assert names == set(found), f"queries that are not worked out: {names ^ set(found)}"
        return found

    # ---- DuckDB

    def duck(self, views, load=LOAD, hours=()):
        """With these hours loaded by the statement, or all, some of them twice."""
        duck = Duck(self.lake, [], DATABASE)
        for name in ("processed_prices_raw", "analytics_prices"):
            table = self.tables[name]
            duck.add(name, raw(table, self.shots) if name.endswith("raw") else table_of(table.columns + table.partitions, []))
        duck.add("live_trades", trade_rows(self.golden))
        if self.assets:
            duck.add("coincap_assets", parquet_rows(self.assets, self.tables["coincap_assets"]))
        for hour in [*(hours or self.golden.hours), *self.loads]:
            duck.run(load, [*hour, *hour])
        duck.connection.register("late", raw(self.tables["processed_prices_raw"], [self.late]))
        duck.connection.execute(f"INSERT INTO {DATABASE}.processed_prices_raw SELECT * FROM late")
        duck.run(load, [*self.late.hour, *self.late.hour])
        for text in views.values():
            duck.run(text)
        return duck

    def differences(self, duck, answers):
        for name, statement in self.cases():
            try:
                found = duck.run(statement)[1]
            except Failed as error:
                yield f"DuckDB, {name}: {error}"
                continue
            if said := difference(f"DuckDB, {name}", [list(row) for row in found], answers[name]):
                yield said

    def cells(self, engine, hours):
        """What the load made of these hours, value by value; None where it is right."""
        names = [name for name, _ in self.tables["analytics_prices"].columns]
        listed, found, wanted = ", ".join(f'"{name}"' for name in names), [], []
        for hour in hours:
            where = "year = {} AND month = {} AND day = {} AND hour = {}".format(*hour)
            found += engine.run(f'SELECT {listed} FROM {DATABASE}.analytics_prices WHERE {where} ORDER BY id, "timestamp"')[1]
            rows = sorted(self.golden.hours[hour], key=lambda row: (row["id"], row["timestamp"]))
            wanted += [[row[name] for name in names] for row in rows]
        return difference("cells of analytics_prices", [list(row) for row in found], wanted)

    def check_without_trino(self):
        answers, views = self.answers(), view_texts()
        duck = self.duck(views)
        wrong = [*self.differences(duck, answers), *filter(None, [self.cells(duck, self.golden.hours)])]
        wrong += [*self.blind(answers, views, duck), *self.unseen()]
        if wrong:
            raise SystemExit("\n".join(wrong))
        rows = sum(map(len, answers.values()))
        print(f"prices: {len(self.golden.rows)} rows of {len(self.golden.hours)} hours; {rows} rows of {len(answers)} queries on DuckDB are as worked out")
        print(f"prices: {len(MISTAKES) + len(LOAD_MISTAKES)} mistakes in views and the load are noticed")

    def blind(self, answers, views, duck):
        """Mistakes that change no row."""
        for view, right, mistaken in MISTAKES:
            assert right in views[view], f"{view}: {right}"
            duck.run(views[view].replace(right, mistaken))
            if not any(self.differences(duck, answers)):
                yield f"{mistaken!r} in the view {view} changes no row"
            duck.run(views[view])
        for right, mistaken in LOAD_MISTAKES:
            assert right in LOAD, right
            if not self.cells(self.duck({}, LOAD.replace(right, mistaken), self.loads), self.loads):
                yield f"{mistaken!r} in the load changes no row"
        yield from self.january(duck, views["recent_prices"])

    def january(self, duck, text):
        """In January days of last year are none of the last eight."""
        table = self.tables["analytics_prices"]
        days = [date(2020, 1, 3), date(2019, 12, 28), date(2019, 1, 3), date(2019, 12, 24)]
        at = [int((day - date(1970, 1, 1)).total_seconds()) for day in days]
        rows = [["x", *[None] * 9, one, day.year, day.month, day.day, 0] for one, day in zip(at, days)]
        duck.connection.register("january", table_of(table.columns + table.partitions, rows))
        duck.connection.execute(f"INSERT INTO {DATABASE}.analytics_prices SELECT * FROM january")
        text = text.replace("recent_prices", "january_prices").replace("current_date", "DATE '2020-01-03'")
        for condition in ('"timestamp" >= to_unixtime', '"timestamp" >= 0 * to_unixtime'):
            duck.run(text.replace('"timestamp" >= to_unixtime', condition))
            found = {row[0] for row in duck.run(f'SELECT "timestamp" FROM {DATABASE}.january_prices')[1]} & {*at}
            if (found == {*at[:2]}) != (condition == '"timestamp" >= to_unixtime'):
                yield f"in January {len(found)} of {len(at)} days are recent"

    # ---- Trino

    def check(self, trino):
        wrong = []
        for hour in [*self.loads, *self.loads]:
            trino.run(load_of(hour))
        market_made.write(self.lake, [self.late])
        before = self.golden.month
        missing = trino.run(dict(self.cases())["operators/hours_not_loaded"])[1]
        if missing != [[*map(str, self.late.hour), str(2 * len(self.late.rows)), str(len(self.late.rows))]] and self.late.hour[:2] == before:
            wrong.append(f"Trino, hours_not_loaded before the late prices are loaded: {missing}")
        trino.run(load_of(self.late.hour))
        for text in view_texts().values():
            trino.run(text)
        answers = self.answers()
        wrong += filter(None, [self.cells(trino, self.loads)])
        for name, statement in self.cases():
            said = difference(f"Trino, {name}", trino.run(statement)[1], answers[name])
            wrong += [said] if said else []
        wrong += [*self.typed(trino), *self.unseen(), *self.hours_of_assets(trino)]
        if wrong:
            raise SystemExit("\n".join(wrong))
        print(f"prices: {len(self.loads)} hours loaded on Trino, twice and with late prices; {len(answers)} queries are as worked out")

    def unseen(self):
        """Objects that lie in no folder of their projected table."""
        lakes = {"coincap_assets": self.assets, "coincap_assets_by_hour": self.by_hour}
        for table in self.tables.values():
            lake = lakes.get(table.name, self.lake)
            keys = ddl.keys_of(lake, table.folder) if lake else []
            hidden = list(ddl.outside(table, keys))
            if hidden or lake and not keys:
                yield f"{table.name}: {len(hidden)} of {len(keys)} objects are in no folder of it, such as {hidden[:1]}"
        if self.by_hour:
            # Folders of days are none of the other table.
            keys = ddl.keys_of(self.assets, self.tables["coincap_assets"].folder)
            if len(list(ddl.outside(self.tables["coincap_assets_by_hour"], keys))) != len(keys):
                yield "folders of days are taken for those of hours"

    def hours_of_assets(self, trino):
        """The table of hours has the rows of the other one, each in its hour."""
        if not self.by_hour:
            return
        year, month = assets_made.MONTH
        statement = f"SELECT day, hour, count(*) FROM {DATABASE}.coincap_assets_by_hour WHERE year = {year} AND month = {month} GROUP BY 1, 2"
        found = {(int(day), int(hour)): int(count) for day, hour, count in trino.run(statement)[1]}
        times = [row[0] for row in assets_made.Made().cells() if (row[0].year, row[0].month) == (int(year), int(month))]
        if found != collections.Counter((at.day, at.hour) for at in times) or len(found) < 3:
            yield f"Trino: coincap_assets_by_hour has by day and hour {found}"

    def typed(self, trino):
        """The typed table has the newest hour as it is landed, and fails where a value does not fit."""
        year, month, day, hour = self.golden.newest_hour
        where = f"year = {year} AND month = {month} AND day = {day} AND hour = {hour}"
        found = trino.run(f'SELECT id, "timestamp", current_price FROM {DATABASE}.processed_prices WHERE {where} ORDER BY 1, 2')[1]
        shots = [shot for shot in self.shots if shot.hour == self.golden.newest_hour]
        prices = [(row["id"], str(row["timestamp"]), row["current_price"]) for shot in shots for row in shot.rows]
        wanted = sorted([*one[:2], None if one[2] is None else float(one[2])] for one in prices if one[2])
        if sorted([*row[:2], float(row[2])] for row in found if row[2]) != wanted or len(found) != len(prices):
            yield "Trino: processed_prices differs from what is landed"
        odd = " AND ".join(f"{name} = {value}" for name, value in zip(("year", "month", "day", "hour"), self.loads[1]))
        try:
            trino.run(f"SELECT sum(current_price) FROM {DATABASE}.processed_prices WHERE {odd}")
        except Failed:
            return
        yield "Trino: processed_prices takes a text for a price"


# Mistakes that only rows can show.
MISTAKES = [
    ("recent_prices", "- 8 * 86400", "- 6 * 86400"),
    ("recent_prices", "INTERVAL '5' DAY", "INTERVAL '4' DAY"),
    ("v_latest_partition", "ORDER BY 1 DESC, 2 DESC, 3 DESC, 4 DESC", "ORDER BY 1, 2, 3, 4"),
    ("v_latest_partition", "DISTINCT id", "id"),
    ("v_latest_snapshot", '"timestamp" DESC', '"timestamp"'),
    ("v_latest_snapshot", "recent.year = latest.year\n      AND recent.month = latest.month\n      AND recent.day = latest.day", "true"),
    ("v_latest_snapshot", "PARTITION BY recent.id", "PARTITION BY recent.symbol"),
    ("v_market_cap", "NULLS LAST", "NULLS FIRST"),
    ("v_top_100", "<= 100", "< 100"),
    ("v_top_gainers", "price_change_pct_24h DESC", "price_change_pct_24h"),
    ("v_total_market_cap", "sum(CAST(market_cap", "max(CAST(market_cap"),
    ("v_trending", "ORDER BY price_change_pct_7d", "ORDER BY current_price"),
    ("v_trendline_core", "7 * 86400", "6 * 86400"),
    ("v_trendline_core", '"timestamp" DESC', '"timestamp"'),
    ("v_trendline_core", "'tether'", "'usdt'"),
    ("v_bitcoin_24h", "- 86400", "- 80000"),
    ("v_volume_24h", "OVER () AS total", "OVER (PARTITION BY symbol) AS total"),
]
LOAD_MISTAKES = [
    ("AND loaded.id IS NULL", ""),
    ("found.copy = 1 AND", ""),
    ('AND found."timestamp" = loaded."timestamp"', ""),
    ("TRY_CAST(round(TRY_CAST(market_cap AS double)) AS bigint)", "TRY_CAST(floor(TRY_CAST(market_cap AS double)) AS bigint)"),
    ("ORDER BY market_cap_rank, current_price", "ORDER BY market_cap_rank, current_price DESC"),
    ("id <> '' AND", ""),
]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as work:
        Prices(Path(work), *map(Path, sys.argv[1:])).check_without_trino()
