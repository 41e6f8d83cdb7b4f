"""`kinetide insights` has the figures of the shipped SQL over market prices: those of market_golden.py, to which market.py holds the
views and queries of athena/market on Trino and DuckDB, on the same prices. Every digit of a price is that of the provider.

Usage: market_insights.py KINETIDE
"""

import copy
import json
import subprocess
import sys
import tempfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import market
from market_golden import WHOLE, typed, whole

PLACED = ("place", "id", "symbol", "name")
# By query the figure and its columns, in the order of the query's.
FIGURES = {
    "market_cap": ("market_cap", (*PLACED, "market_cap", "current_price", "snapshot_time")),
    "volume_24h": ("volume_24h", (*PLACED, "volume_24h", "total_volume_24h", "snapshot_time")),
    "top_gainers": ("top_gainers", (*PLACED, "price_change_pct_24h", "current_price", "snapshot_time")),
    "trending": ("trending", (*PLACED, "price_change_pct_7d", "current_price", "snapshot_time")),
    "top_100": (
        "top_100",
        ("market_cap_rank", "id", "name", "current_price", "price_change_pct_1h", "price_change_pct_24h", "price_change_pct_7d",
         "volume_24h", "snapshot_time"),
    ),
    "trendline_core": ("trend", ("hour", "id", "symbol", "name", "current_price", "market_cap", "volume_24h")),
    "bitcoin_24h": ("bitcoin_24h", ("snapshot_time", "current_price", "volume_24h", "price_change_pct_24h")),
}  # fmt: skip
NUMBERS = ("current_price", "market_cap", "market_cap_rank", "volume_24h", "price_change_pct_1h", "price_change_pct_24h", "price_change_pct_7d")


def rows(figures, figure, columns):
    """Of a list of the figures, as the query has them."""
    for place, of in enumerate(figures[figure], 1):
        of = of | {"place": place, "total_volume_24h": figures["total_volume_24h"]}
        yield [time(of[column]) if column in ("hour", "snapshot_time") else of[column] for column in columns]


def time(text):
    return text.rstrip("Z")


def hours(text):
    at = datetime.fromisoformat(text)
    return [at.year, at.month, at.day, at.hour]


def single(figures):
    """Queries of one row."""
    newest, changes = figures["newest_hour"], figures["market_cap_changes"]
    yield "total_market_cap", [figures["total_market_cap"]]
    yield "total_volume_24h", [figures["total_volume_24h"]]
    yield "freshness", [*hours(newest["hour"]), newest["prices"], newest["coins"], newest["snapshots"], time(newest["newest_snapshot"])]
    cells = [cell for at in ("now", "midnight", "day_ago") for cell in (changes[at]["total"], changes[at]["coins"], time(changes[at]["snapshot_time"]))]
    yield "market_cap_changes", [*cells, changes["pct_since_midnight"], changes["pct_since_day_ago"]]


def wrong(found, answers):
    """What is not as in SQL."""
    figures = found["prices"]["figures"]
    for name, row in single(figures):
        wanted = [list(row) for row in answers[f"dashboard/{name}"]]
        if name == "market_cap_changes":
            # Percents have six places here, and are doubles there.
            wanted[0][-2:], row[-2:] = [round(cell, 6) for cell in wanted[0][-2:]], [round(float(cell), 6) for cell in row[-2:]]
        if said := market.difference(name, [row], wanted):
            yield said
    for query, (figure, columns) in FIGURES.items():
        if said := market.difference(f"{figure} of {query}", list(rows(figures, figure, columns)), answers[f"dashboard/{query}"]):
            yield said
    if figures["coins"] != len(answers["dashboard/market_cap"]):
        yield f"{figures['coins']} coins, in SQL {len(answers['dashboard/market_cap'])}"


def inexact(found, shots):
    """Numbers with other digits than the provider's. Of two rows with one id and time any may be shown."""
    written = {}
    for row in (row for shot in shots for row in shot.rows if typed(row)):
        written.setdefault((row["id"], int(row["timestamp"])), []).append({name: row[name] for name in NUMBERS})
    figures = found["prices"]["figures"]
    for of in (of for figure in ("market_cap", "top_100", "trend", "bitcoin_24h") for of in figures[figure]):
        at = int(datetime.fromisoformat(of["snapshot_time"]).timestamp())
        shown = {name: None if of[name] is None else Decimal(of[name]) for name in NUMBERS}
        if not any(shown == {name: digits(name, value) for name, value in row.items()} for row in written[of["id"], at]):
            yield f"{of['id']} at {at}: {shown}, of the provider {written[of['id'], at]}"


def digits(name, value):
    return None if value is None else whole(value, WHOLE[name]) if name in WHOLE else Decimal(value)


def counted(found, prices):
    """What was read, and what could not be."""
    coverage, golden = found["prices"]["coverage"], prices.golden
    day = golden.newest // 86_400 * 86_400 - 8 * 86_400
    recent = [row for row in golden.rows if row["timestamp"] >= day]
    lines = [row for shot in prices.shots + [prices.late] if shot.at >= day for row in shot.rows]
    usable = [row for row in lines if typed(row)]
    odd = sum(row[name] is not None and typed(row)[name] is None for row in usable for name in NUMBERS) + sum("unusable" in row for row in usable)
    wanted = {"rows": len(recent), "rows_twice": len(usable) - len(recent), "rows_without_key": len(lines) - len(usable), "values_unreadable": odd}
    assert all(wanted.values()), f"nothing to count: {wanted}"
    for name, count in wanted.items():
        if coverage[name] != count:
            yield f"{name}: {coverage[name]}, not {count}"
    if coverage["unreadable"]["objects"] or coverage["unreadable"]["rows"]:
        yield f"unreadable: {coverage['unreadable']}"


def other(value):
    """Nearly the same."""
    if isinstance(value, int):
        return value + 1
    if value is None:
        return "0"
    try:
        return str(Decimal(value) + 1)
    except ArithmeticError:
        return value[:-2] + ("0Z" if value.endswith("Z") else "xx") if value[:2] != "20" else value.replace("20", "19", 1)


def spoilt(found):
    """Each has one figure that is not right."""
    figures = found["prices"]["figures"]
    places = [("coins",), ("total_market_cap",), ("total_volume_24h",)]
    places += [("newest_hour", name) for name in figures["newest_hour"]]
    places += [("market_cap_changes", at, name) for at in ("now", "midnight", "day_ago") for name in figures["market_cap_changes"][at]]
    places += [("market_cap_changes", f"pct_since_{at}") for at in ("midnight", "day_ago")]
    places += [(figure, 0, name) for figure, columns in FIGURES.values() for name in columns if name not in ("place", "total_volume_24h")]
    for *path, last in places:
        changed = copy.deepcopy(found)
        at = changed["prices"]["figures"]
        for part in path:
            at = at[part]
        at[last] = other(at[last])
        yield (*path, last), changed
    for figure, _ in FIGURES.values():
        fewer = copy.deepcopy(found)
        fewer["prices"]["figures"][figure].pop()
        yield (figure,), fewer


def main(kinetide):
    with tempfile.TemporaryDirectory() as work:
        prices = market.Prices(Path(work))
        market.market_made.write(prices.lake, [prices.late])
        run = subprocess.run([kinetide, "insights", "--lake", str(prices.lake), "--json"], capture_output=True, text=True, timeout=60)
    # The odd values, which are said.
    if run.returncode != 1 or "unreadable_values" not in run.stderr or len(run.stderr.splitlines()) != 1:
        raise SystemExit(f"exit code {run.returncode}: {run.stderr}")
    found, answers = json.loads(run.stdout), prices.golden.answers()
    problems = [*wrong(found, answers), *inexact(found, prices.shots + [prices.late]), *counted(found, prices)][:10]
    faults = list(spoilt(found))
    problems += [f"not noticed: another {path}" for path, fault in faults if not any(wrong(fault, answers))]
    longer = copy.deepcopy(found)
    longer["prices"]["figures"]["market_cap"][0]["current_price"] += "00000000000000000001"
    if not any(inexact(longer, prices.shots + [prices.late])):
        problems.append("not noticed: a digit behind all others")
    if problems:
        raise SystemExit("\n".join(problems))
    lines = sum(len(found["prices"]["figures"][figure]) for figure, _ in FIGURES.values())
    print(f"prices: {lines} lines of `kinetide insights` are those of {len(FIGURES) + 4} queries; {len(faults) + 1} wrong figures are noticed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
