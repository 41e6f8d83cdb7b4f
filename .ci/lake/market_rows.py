"""What the other checks take for prices of the service is what it makes: `kinetide transform` on replies of CoinGecko and CoinCap gives
the rows of market_made.py, and those that the Glue job for CoinCap must make (assets_made.py).

Usage: market_rows.py KINETIDE
"""

import base64
import gzip
import json
import subprocess
import sys
from datetime import datetime

import assets_made
import market_made

AT = 1_768_469_412


def transformed(kinetide, records, *more):
    """Rows of records, and how many were dead letters."""
    lines = "".join(base64.b64encode(record).decode() + "\n" for record in records)
    command = [kinetide, "transform", "--transform", "market-snapshot", "--base64", *more, "-"]
    run = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
    if run.returncode not in (0, 1):
        raise SystemExit(f"kinetide transform: {run.stderr[-2000:]}")
    letters = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    return [json.loads(line, parse_int=market_made.Digits, parse_float=market_made.Digits) for line in run.stdout.splitlines()], letters


def coingecko(kinetide):
    """Digit for digit; the change of 7 days is not in the real reply."""
    coins, path = market_made.coins(), market_made.REAL / "coingecko_markets_usd_2025-02-09_250.json.gz"
    body = gzip.open(path, "rt").read() if path.exists() else assets_made.dumped(coins)
    record = json.dumps({"provider": "coingecko", "fetched_at_ms": AT * 1000, "body": body}).encode()
    rows, letters = transformed(kinetide, [record])
    names = [name for name in market_made.COLUMNS if name != "price_change_pct_7d"]
    found = [[row[name] for name in names] for row in rows]
    wanted = [[market_made.moved(coin, 0, AT, market_made.random.Random(1))[name] for name in names] for coin in coins]
    assert found == wanted and not letters, next((pair for pair in zip(found, wanted) if pair[0] != pair[1]), letters)
    return len(found)


# The service keeps any number as a rank.
RANKS = {"odd-huge": 4294967296.0, "odd-fraction": 1.5}


def coincap(kinetide):
    """Those of every message of which the job makes rows too; what it counts as no snapshot is a dead letter, or another provider's."""
    made, found = assets_made.Made(), {}
    rows, _ = transformed(kinetide, [body for _, body in made.records], "--arrival", assets_made.ARRIVAL)
    for row in rows:
        if "event_time" in row and row["id"]:
            at = datetime.fromisoformat(row["event_time"]).replace(tzinfo=None)
            numbers = {name: None if row[name] is None else float(row[name]) for name in ("rank", *assets_made.NUMBERS)}
            found.setdefault((row["id"], at), {name: row[name] for name in ("symbol", "name", "logo")} | numbers)
    wanted = {key: {name: row[name] for name in found.get(key, row)} for key, row in made.rows.items()}
    wanted = {key: row | ({"rank": RANKS[key[0]]} if key[0] in RANKS else {}) for key, row in wanted.items()}
    assert found == wanted, [(key, found.get(key), wanted.get(key)) for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key)][:3]
    return len(found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"{coingecko(sys.argv[1])} prices and {coincap(sys.argv[1])} assets of kinetide are as the other checks have them")
