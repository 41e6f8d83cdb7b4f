"""What the dashboard of market prices shows: columns of its data sets are columns of the views, and each visual has the figures of
its query in athena/market/queries/dashboard/, on prices of market_made.py in DuckDB.

Usage: market_visuals.py
"""

import sys
import tempfile
from datetime import datetime
from pathlib import Path

import ddl
import market
import visuals
import yaml

QUERIES = ddl.MARKET / "queries" / "dashboard"
# What a visual shows, as its query names it.
visuals.QUERY_NAMES |= {
    "Market cap": "market_cap", "Volume": "volume_24h", "Change in 24 h": "price_change_pct_24h", "Change in 7 days": "price_change_pct_7d",
    "Price": "current_price", "Change, 1 h": "price_change_pct_1h", "Change, 24 h": "price_change_pct_24h",
    "Change, 7 days": "price_change_pct_7d", "Volume, 24 h": "volume_24h", "Price by hour": "current_price", "Bitcoin price": "current_price",
    "Bitcoin volume": "volume_24h", "Bitcoin change": "price_change_pct_24h", "Snapshots taken": "snapshots",
}  # fmt: skip
# Of these the one figure.
KPIS = {"total_market_cap": "market_cap", "total_volume_24h": "volume_24h"}

DEFINITION = ("Resources", "Dashboard", "Properties", "Definition")
COINS = ("Resources", "Coins", "Properties", "PhysicalTableMap", "coins", "RelationalTable")
PLANTED = [
    ("has no column market_caps", "market_caps", *COINS, "InputColumns", 1, "Name"),
    ("the view v_latest has no column", "v_latest", *COINS, "Name"),
    ("is BIGINT in the view v_latest_snapshot, not STRING", "STRING", *COINS, "InputColumns", 1, "Type"),
    ("total-market-cap: shows", "max({market_cap})", *DEFINITION, "CalculatedFields", 0, "Expression"),
    ("volume-by-coin: shows", "sum({market_cap})", *DEFINITION, "CalculatedFields", 1, "Expression"),
    ("top-gainers: shows", "min({price_change_pct_7d})", *DEFINITION, "CalculatedFields", 2, "Expression"),
    ("four-coins-in-7-days: shows", "avg({current_price}) + 1", *DEFINITION, "CalculatedFields", 9, "Expression"),
]


def main():
    template = yaml.load((visuals.FOLDER / "market-dashboard.yaml").read_text(), visuals.Template)
    shown = [one for sheet in yaml.safe_load((visuals.FOLDER / "market-visuals.yaml").read_text())["sheets"] for one in sheet["visuals"]]
    with tempfile.TemporaryDirectory() as work:
        duck = market.Prices(Path(work)).duck(market.view_texts())
    # A data set has its rows copied.
    duck.connection.execute("CREATE SCHEMA spice")
    for view in market.VIEWS:
        duck.connection.execute(f"CREATE TABLE spice.{view} AS SELECT * FROM {market.DATABASE}.{view}")
    queries = {}
    for one in shown:
        columns, rows = duck.run((QUERIES / f"{one['query']}.sql").read_text())
        queries[one["title"]] = [KPIS.get(one["query"], name) if len(columns) == 1 else name for name in columns], rows
    now = datetime.now()
    wrong = list(visuals.check(template, queries, duck, now))
    for said, value, *path in PLANTED:
        found = list(visuals.check(visuals.changed(template, value, *path), queries, duck, now))
        if not any(said in fault for fault in found):
            wrong.append(f"nothing says {said!r} of a planted fault: {found}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(queries)} visuals of market prices have the figures of their queries; {len(PLANTED)} planted faults noticed")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    main()
