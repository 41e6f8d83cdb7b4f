"""What an incremental refresh of SPICE leaves, as AWS describes it: rows of the window are deleted and read anew, all others stay.

For visuals.py.
"""

from datetime import datetime, timedelta

# By view what makes a row.
KEYS = {"live_trades": "transaction_id", "trends_15_minutes": "(trading_pair, quarter_hour)"}
# Between these make.py changes and deletes trades of the hour before.
FILLED, REFRESHED = datetime(2026, 1, 5, 4), datetime(2026, 1, 5, 5)


def windows(template):
    """By view the column and the hours of the window."""
    hours = template["Parameters"]["WindowHours"]["Default"]
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::QuickSight::DataSet":
            (table,) = resource["Properties"]["PhysicalTableMap"].values()
            window = resource["Properties"]["DataSetRefreshProperties"]["RefreshConfiguration"]["IncrementalRefresh"]["LookbackWindow"]
            yield table["RelationalTable"]["Name"], window["ColumnName"], hours


def keep(connection, until, name):
    """Copies of the views as they are at a time, named so."""
    connection.execute("DELETE FROM crypto.landing_transactions")
    connection.execute("INSERT INTO crypto.landing_transactions SELECT * FROM landing_transactions_arrow WHERE cdc_ts_us <= epoch_us(?)", [until])
    for view in KEYS:
        connection.execute(f"CREATE TABLE spice.{view}_{name} AS SELECT * FROM crypto.{view}")


def left(connection, view, column, hours):
    """Rows after the refresh; how many of them are there twice, and how many are not as in the view."""
    since = f"TIMESTAMP '{REFRESHED - timedelta(hours=hours)}'"
    connection.execute(
        f"CREATE OR REPLACE TABLE spice.refreshed AS SELECT * FROM spice.{view}_filled WHERE NOT ({column} >= {since})"
        f" UNION ALL SELECT * FROM spice.{view}_now WHERE {column} >= {since}"
    )
    count = f"SELECT count(*), count(*) - count(DISTINCT {KEYS[view]}) FROM spice.refreshed"
    stale = f"SELECT count(*) FROM (SELECT * FROM spice.refreshed EXCEPT SELECT * FROM spice.{view}_now)"
    return *connection.execute(count).fetchone(), *connection.execute(stale).fetchone()


def check(template, connection):
    keep(connection, FILLED, "filled")
    keep(connection, REFRESHED, "now")
    for view, column, hours in windows(template):
        rows, twice, stale = left(connection, view, column, hours)
        if not rows or twice or stale:
            yield f"{view}: after a refresh of {hours} hours by {column} {twice} rows are there twice, {stale} are not as in the view"
        rows, twice, stale = left(connection, view, column, 1)
        if twice or not stale:
            yield f"{view}: a change before the window leaves {twice} rows twice, {stale} as they were"
    # The time of the change, which README.md warns of.
    if not left(connection, "live_trades", "make_timestamp(cdc_ts_us)", 1)[1]:
        yield "a window over the time of the change leaves no row twice: this lake shows nothing"
