"""`kinetide insights` has the figures of the shipped SQL: those of expected.json, which results.py holds Trino and DuckDB to, on
the same lake.

Usage: insights.py KINETIDE FOLDER_OF_MAKE
"""

import copy
import decimal
import json
import subprocess
import sys
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected.json")
# By figure the query, and its columns under the names that the figure has.
FIGURES = {
    "exchange_comparison": ("exchange_comparison", {"exchange": "exchange", "quantity": "quantity", "trade_fee": "trade_fee"}),
    "volume_per_trading_pair": ("volume_per_trading_pair", {"trading_pair": "trading_pair", "quantity": "quantity"}),
    "risk_distribution": ("risk_distribution", {"risk_flag": "name", "trades": "trades"}),
    "trades_by_status": ("trades_by_status", {"trade_status": "name", "trades": "trades"}),
    "order_types": ("order_types", {"order_type": "name", "trades": "trades"}),
    "user_categories": ("user_categories", {"user_category": "name", "trades": "trades"}),
    "risk_by_hour": ("risk_by_hour", {"hour_bucket": "hour", "risk_flag": "risk_flag", "trades": "trades"}),
    "normalized_price_by_hour": (
        "normalized_price_by_exchange",
        {"hour_bucket": "hour", "exchange": "exchange", "avg_normalized_price": "normalized_price"},
    ),
    "user_activity": ("user_activity", {"hour_bucket": "hour", "trades": "trades", "users": "users"}),
}


def plain(value, now_hour):
    """As expected.json writes it."""
    if value is None:
        return None
    text = str(value)
    return "NOW" if text.startswith(now_hour.replace("T", " ")) else text


def number(text):
    """Averages are doubles in SQL, shown with 8 digits."""
    return None if text is None else f"{float(text):.8g}"


def wrong(found, expected, now_hour):
    """What is not as in SQL."""
    figures = found["figures"]
    fee = expected["dashboard/trade_fee_collected"]["rows"][0][0]
    if decimal.Decimal(figures["trade_fee"]) != decimal.Decimal(fee):
        yield f"trade_fee is {figures['trade_fee']}, in SQL {fee}"
    for figure, (query, names) in FIGURES.items():
        result = expected[f"dashboard/{query}"]
        places = [list(result["columns"]).index(column) for column in names]
        of_sql = [[row[place] for place in places] for row in result["rows"]]
        here = [[plain(row[name], now_hour) for name in names.values()] for row in figures[figure]]
        if figure == "normalized_price_by_hour":
            here, of_sql = ([[*row[:-1], number(row[-1])] for row in rows] for rows in (here, of_sql))
        if sorted(here, key=str) != sorted(of_sql, key=str):
            yield f"{figure}: {[row for row in here if row not in of_sql]}, in SQL {[row for row in of_sql if row not in here]}"
    states = expected["samples/row_count"]["rows"][0][0]
    if str(figures["transactions"]) != states:
        yield f"{figures['transactions']} transactions, in SQL {states}"


def other(value):
    """Nearly the same."""
    if isinstance(value, int):
        return value + 1
    if value is None:
        return "0"
    try:
        return str(decimal.Decimal(value) + decimal.Decimal("0.01"))
    except decimal.InvalidOperation:
        return value + "x"


def spoilt(found):
    """Each has one figure that is not right."""
    yield {"figures": found["figures"] | {"trade_fee": other(found["figures"]["trade_fee"])}}
    yield {"figures": found["figures"] | {"transactions": found["figures"]["transactions"] + 1}}
    for figure, (_, names) in FIGURES.items():
        for name in names.values():
            changed = copy.deepcopy(found)
            changed["figures"][figure][0][name] = other(changed["figures"][figure][0][name])
            yield changed
        fewer = copy.deepcopy(found)
        fewer["figures"][figure].pop()
        yield fewer


def main(kinetide, folder):
    made, expected = json.loads((folder / "made.json").read_text()), json.loads(EXPECTED.read_text())
    run = subprocess.run([kinetide, "insights", "--lake", str(folder / "lake"), "--json"], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        raise SystemExit(f"exit code {run.returncode}: {run.stderr}")
    found = json.loads(run.stdout)
    problems = list(wrong(found, expected, made["now_hour"]))
    if found["coverage"]["rows"] != made["rows"]:
        problems.append(f"{found['coverage']['rows']} rows were read, {made['rows']} have landed")
    faults = list(spoilt(found))
    unnoticed = sum(not list(wrong(fault, expected, made["now_hour"])) for fault in faults)
    if unnoticed:
        problems.append(f"{unnoticed} of {len(faults)} wrong figures are not noticed")
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"the figures of `kinetide insights` are those of {len(FIGURES) + 2} queries; {len(faults)} wrong ones are noticed")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
