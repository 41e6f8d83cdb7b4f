"""Prices of eight days, made of a real snapshot that is moved through time, as the poller of CoinGecko lands them.

The newest hour is the last one that is over: views look at the last eight days. The four coins of the trend have a snapshot an
hour, all others on the last day only, the newest hour has twelve snapshots. Odd values have an hour of their own. Apart from those,
market_program.py holds the program itself to these objects, byte for byte.
"""

import dataclasses
import gzip
import json
import math
import random
import time
from datetime import datetime, timezone
from pathlib import Path

REAL = Path(__file__).resolve().parents[3] / "shared/data/market"
TREND = ("bitcoin", "ethereum", "tether", "solana")
HOUR, DAY = 3600, 86_400
COLUMNS = [
    "id", "symbol", "name", "current_price", "market_cap", "market_cap_rank", "volume_24h", "price_change_pct_1h",
    "price_change_pct_24h", "price_change_pct_7d", "timestamp",
]  # fmt: skip
# Hours before the newest one.
ODD, GROWS, LONG_AGO = 30, 2, 9 * 24


class Digits(str):
    """A number as it is written."""


@dataclasses.dataclass
class Snapshot:
    at: int  # seconds
    rows: list  # by column the value: text, Digits, None
    name: str = ""  # of the object, where it is not the time

    @property
    def hour(self):
        """Year, month, day and hour of its folder."""
        at = datetime.fromtimestamp(self.at, timezone.utc)
        return at.year, at.month, at.day, at.hour

    def lines(self):
        parts = dict(zip(("year", "month", "day", "hour"), (f"{part:02}" for part in self.hour)))
        for row in self.rows:
            cells = (row | parts).items()
            yield "{" + ",".join(f"{json.dumps(name)}:{literal(value)}" for name, value in cells) + "}\n"


def literal(value):
    return str(value) if isinstance(value, Digits) else json.dumps(value)


def coins():
    """Members of CoinGecko's reply by coin, numbers as they are written."""
    path = REAL / "coingecko_markets_usd_2025-02-09_250.json.gz"
    if path.exists():
        return json.loads(gzip.open(path, "rt").read(), parse_int=Digits, parse_float=Digits)
    print("SKIPPED: real prices, as there are none beside this clone (shared/data/market); made-up ones take their place")
    chance, found = random.Random(5), []
    for rank, name in enumerate([*TREND, "ripple", "cardano", *(f"coin-{number}" for number in range(244))], 1):
        price = chance.lognormvariate(0, 4)
        cap = chance.randint(10**7, 10**10) * 251 // rank
        found.append({
            "id": name, "symbol": name[:4], "name": name.title(), "current_price": Digits(repr(price)), "market_cap": Digits(cap),
            "market_cap_rank": Digits(rank), "total_volume": Digits(cap // 9), "price_change_percentage_24h": Digits(chance.gauss(0, 4)),
            "price_change_percentage_1h_in_currency": None if rank % 9 == 0 else Digits(chance.gauss(0, 1)),
        })  # fmt: skip
    return found


def moved(coin, steps, at, chance):
    """A coin as it may have been some hours before: at 0 as it is."""
    factor = math.exp(chance.gauss(0, 0.004) * math.sqrt(steps)) if steps else 1.0

    def scaled(name, whole=False):
        value = coin.get(name)
        if value is None or steps == 0:
            return value
        value = float(value) * factor
        return Digits(round(value) if whole else repr(value))

    day = coin.get("price_change_percentage_24h_in_currency") or coin.get("price_change_percentage_24h")
    values = [
        coin["id"], coin["symbol"], coin["name"], scaled("current_price"), scaled("market_cap", whole=True), coin.get("market_cap_rank"),
        scaled("total_volume", whole=True), coin.get("price_change_percentage_1h_in_currency"), day,
        None if chance.random() < 0.1 else Digits(round(chance.gauss(0, 12), 5)), Digits(at),
    ]  # fmt: skip
    return dict(zip(COLUMNS, values))


def odd_rows(at):
    """What a provider, or another producer, may send: each is a row or left out, and its neighbours stay."""
    plain = dict.fromkeys(COLUMNS) | {"symbol": "o", "name": "Odd", "timestamp": Digits(at)}
    number = lambda text: {"current_price": Digits(text), "market_cap": Digits(text), "market_cap_rank": Digits(text), "volume_24h": Digits(text)}
    text = lambda value: {"current_price": value, "market_cap": value, "market_cap_rank": value, "volume_24h": value}
    return [
        plain | {"id": "odd-nulls"},
        plain | {"id": "odd-exponent"} | number("9.52e-06"),
        plain | {"id": "odd-fraction"} | number("376550123456.75"),
        plain | {"id": "odd-half"} | number("2.5"),
        plain | {"id": "odd-point"} | number("7.0"),
        plain | {"id": "odd-huge"} | number("1e300"),
        plain | {"id": "odd-negative"} | number("-12.5"),
        plain | {"id": "odd-text"} | text("n/a"),
        plain | {"id": "odd-number-as-text"} | text("15400200300"),
        plain | {"id": "odd-empty"} | text(""),
        plain | {"id": "odd-name", "name": 'quote " \\ \u2028 ключ'},
        plain | {"id": "odd-twice", "current_price": Digits("2")},
        plain | {"id": "odd-twice", "current_price": Digits("1")},
        plain | {"id": "odd-unusable", "unusable": '{"current_price":"soon"}'},
        plain | {"id": None, "current_price": Digits("1")},
        plain | {"id": "", "current_price": Digits("1")},
        plain | {"id": "odd-no-time", "timestamp": None},
        plain | {"id": "odd-time", "timestamp": "soon"},
    ]


def spoiled(rows, number):
    """What the newest hour has: equal ranks, missing values, a coin that leaves in the middle, one that has left."""
    for row in rows:
        rank = int(row["market_cap_rank"] or 0)
        if rank == 101:
            row["market_cap_rank"] = Digits(100)
        if rank == 40:
            row["market_cap_rank"] = None
        if rank == 50:
            row |= {"market_cap": None, "current_price": None, "volume_24h": None, "price_change_pct_24h": None}
    return [row for row in rows if row["market_cap_rank"] != "61" and (row["market_cap_rank"] != "60" or number < 6)]


def snapshots(now=None):
    newest, chance = int((now or time.time()) // HOUR - 1) * HOUR, random.Random(11)
    everything = coins()
    core = [coin for coin in everything if coin["id"] in TREND]
    assert len(core) == len(TREND), "a coin of the trend is missing"

    def taken(hours, at, of=everything, name=""):
        return Snapshot(at, [moved(coin, hours, at, chance) for coin in of], name)

    found = [taken(LONG_AGO, newest - LONG_AGO * HOUR, core)]
    found += [taken(hours, newest - hours * HOUR, everything if hours <= 24 else core) for hours in range(192, 0, -1)]
    # The last row of an hour counts: not the first one, and not the one with the highest price.
    found += [taken(hours, newest - hours * HOUR + 2400, core) for hours in (100, 60)]
    for number in range(12):
        one = taken(11 - number, newest + number * 300)
        one.rows = spoiled(one.rows, number)
        found.append(one)
    odd = newest - ODD * HOUR + 300
    found.append(Snapshot(odd, odd_rows(odd)))
    # Another way to the lake has brought a snapshot once more.
    found.append(dataclasses.replace(found[-2], name=f"{found[-2].at}-again"))
    return found


def late(shots):
    """A snapshot that arrives after its hour was loaded."""
    newest = max(one.at for one in shots) // HOUR * HOUR
    first = next(one for one in shots if one.at == newest - GROWS * HOUR)
    rows = [row | {"timestamp": Digits(first.at + 300)} for row in first.rows]
    return Snapshot(first.at + 300, rows)


def write(lake, shots, folder="market/coingecko/processed"):
    for one in shots:
        year, month, day, hour = one.hour
        path = lake / folder / f"year={year}/month={month:02}/day={day:02}/hour={hour:02}" / f"{one.name or one.at}.ndjson.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(one.lines()).encode(), 1, mtime=0))
