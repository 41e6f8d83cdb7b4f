"""What the views and queries of athena/market must give for prices of market_made.py: plain Python, without SQL."""

import collections
import dataclasses
import decimal
import math
import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from market_made import COLUMNS, DAY, HOUR, TREND

WHOLE = {"market_cap": 2**63, "market_cap_rank": 2**31, "volume_24h": 2**63}
PAIRS = {"BTC/USD": "bitcoin", "ETH/USDT": "ethereum", "SOL/USD": "solana", "ADA/USDT": "cardano", "XRP/USD": "ripple"}


def number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def whole(text, limit):
    value = number(text)
    if value is None or not math.isfinite(value):
        return None
    value = int(Decimal(value).to_integral_value(decimal.ROUND_HALF_UP))
    return value if -limit <= value < limit else None


def typed(row):
    """A row as analytics_prices has it, or None."""
    try:
        at = int(row["timestamp"])
    except (TypeError, ValueError):
        return None
    if not row["id"]:
        return None
    cells = [row["id"], row["symbol"], row["name"]]
    cells += [whole(row[name], WHOLE[name]) if name in WHOLE else number(row[name]) for name in COLUMNS[3:-1]]
    return dict(zip(COLUMNS, [*cells, at]))


def first_of(rows):
    """Of rows with the same id and time the one that the load takes: the least, nulls last."""
    names = COLUMNS[5:6] + COLUMNS[3:5] + COLUMNS[6:10] + COLUMNS[1:3]
    return min(rows, key=lambda row: [(row[name] is None, row[name] if row[name] is not None else 0) for name in names])


def loaded(shots):
    """Rows of analytics_prices by folder."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for shot in shots:
        for row in filter(None, map(typed, shot.rows)):
            found[shot.hour][row["id"], row["timestamp"]].append(row)
    return {hour: [first_of(same) for same in rows.values()] for hour, rows in sorted(found.items())}


def moment(at):
    return datetime.fromtimestamp(at, timezone.utc).replace(tzinfo=None)


def descending(rows, name):
    """Greatest first, nulls last, equal ones by id; with their places."""
    ordered = sorted(rows, key=lambda row: (row[name] is None, -(row[name] or 0), row["id"]))
    return list(enumerate(ordered, 1))


@dataclasses.dataclass
class Trade:
    at: int
    pair: str
    quantity: Decimal
    value: Decimal


def trades(hours):
    """Trades in some of the hours that have prices, of pairs that have a coin and of one that has none, and long before."""
    chance, found = random.Random(3), []
    places = [datetime(*hour, tzinfo=timezone.utc) for hour in hours][-25:] + [datetime(2024, 1, 1, tzinfo=timezone.utc)]
    for pair in [*PAIRS, "DOGE/USD"]:
        for _ in range(20):
            at = int(chance.choice(places).timestamp()) + chance.randrange(HOUR)
            quantity = Decimal(chance.randrange(1, 10**6)).scaleb(-4)
            found.append(Trade(at, pair, quantity, (quantity * chance.randrange(1, 10**5)).quantize(Decimal("1e-8"))))
    return found


class Golden:
    def __init__(self, shots):
        self.hours = loaded(shots)
        self.shots = shots
        self.rows = [row | {"hour": hour} for hour, rows in self.hours.items() for row in rows]
        today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        self.recent = [row for row in self.rows if row["timestamp"] >= (today - timedelta(days=8)).timestamp()]
        self.newest = max(row["timestamp"] for row in self.recent)
        self.newest_hour = max(row["hour"] for row in self.recent)
        self.month = self.newest_hour[:2]
        newest = {}
        for row in sorted((row for row in self.recent if row["hour"] == self.newest_hour), key=lambda row: row["timestamp"]):
            newest[row["id"]] = row
        self.latest = list(newest.values())
        self.trades = trades(list(self.hours))

    def in_month(self):
        return {hour: rows for hour, rows in self.hours.items() if hour[:2] == self.month}

    def ranked(self, name, *columns):
        for place, row in descending(self.latest, name):
            yield place, row["id"], row["symbol"], row["name"], *(row[column] for column in columns), moment(row["timestamp"])

    def market_cap(self):
        return self.ranked("market_cap", "market_cap", "current_price")

    def top_gainers(self):
        return self.ranked("price_change_pct_24h", "price_change_pct_24h", "current_price")

    def trending(self):
        return self.ranked("price_change_pct_7d", "price_change_pct_7d", "current_price")

    def volume_24h(self):
        total = Decimal(sum(row["volume_24h"] or 0 for row in self.latest))
        for place, row in descending(self.latest, "volume_24h"):
            yield place, row["id"], row["symbol"], row["name"], row["volume_24h"], total, moment(row["timestamp"])

    def top_100(self):
        names = ("market_cap_rank", "id", "name", "current_price", "price_change_pct_1h", "price_change_pct_24h", "price_change_pct_7d", "volume_24h")
        best = [row for row in self.latest if row["market_cap_rank"] and row["market_cap_rank"] <= 100]
        for row in sorted(best, key=lambda row: (row["market_cap_rank"], row["id"])):
            yield *(row[name] for name in names), moment(row["timestamp"])

    def total_market_cap(self):
        yield (Decimal(sum(row["market_cap"] or 0 for row in self.latest)),)

    def total_volume_24h(self):
        yield (Decimal(sum(row["volume_24h"] or 0 for row in self.latest)),)

    def freshness(self):
        rows = self.hours[self.newest_hour]
        yield *self.newest_hour, len(rows), len({row["id"] for row in rows}), len({row["timestamp"] for row in rows}), moment(self.newest)

    def trendline_core(self):
        last = {}
        for row in sorted(self.recent, key=lambda row: row["timestamp"]):
            if row["id"] in TREND:
                last[row["id"], row["hour"]] = row
        for (coin, hour), row in sorted(last.items()):
            if row["timestamp"] > self.newest - 7 * DAY:
                yield datetime(*hour), coin, row["symbol"], row["name"], row["current_price"], row["market_cap"], row["volume_24h"]

    def bitcoin_24h(self):
        rows = [row for row in self.recent if row["id"] == "bitcoin"]
        newest = max(row["timestamp"] for row in rows)
        for row in sorted(rows, key=lambda row: row["timestamp"]):
            if row["timestamp"] > newest - DAY:
                yield moment(row["timestamp"]), row["current_price"], row["volume_24h"], row["price_change_pct_24h"]

    def market_cap_changes(self):
        totals = collections.defaultdict(list)
        for row in self.recent:
            totals[row["timestamp"]].append(row["market_cap"])
        cells, values = [], []
        times = sorted(totals)
        midnight = next(at for at in times if at >= self.newest - self.newest % DAY)
        for at in (self.newest, midnight, next(at for at in times if at >= self.newest - DAY)):
            caps = [cap for cap in totals[at] if cap is not None]
            values.append(Decimal(sum(caps)))
            cells += [values[-1], len(caps), moment(at)]
        changes = [float(values[0] - then) * 100 / float(then) for then in values[1:]]
        yield *cells, *changes

    def top_100_twelve_hours_ago(self):
        at = max(row["timestamp"] for row in self.recent if row["timestamp"] <= self.newest - 12 * HOUR)
        rows = [row for row in self.recent if row["timestamp"] == at and row["market_cap_rank"] and row["market_cap_rank"] <= 100]
        for row in sorted(rows, key=lambda row: (row["market_cap_rank"], row["id"])):
            yield row["market_cap_rank"], row["id"], row["name"], row["current_price"], row["market_cap"], moment(at)

    def trades_against_market(self):
        prices, groups = {}, collections.defaultdict(list)
        for hour, rows in self.in_month().items():
            for row in sorted(rows, key=lambda row: row["timestamp"]):
                if row["current_price"] is not None:
                    prices[datetime(*hour), row["id"]] = row["current_price"]
        for trade in self.trades:
            if trade.pair in PAIRS:
                groups[moment(trade.at // HOUR * HOUR), trade.pair].append(trade)
        for (hour, pair), of in sorted(groups.items()):
            market = prices.get((hour, PAIRS[pair]))
            if market is not None:
                mean = float(sum(trade.value for trade in of)) / float(sum(trade.quantity for trade in of))
                yield hour, pair, len(of), mean, market, 100 * (mean / market - 1)

    def rows_per_hour(self):
        for hour, rows in self.in_month().items():
            yield *hour, len(rows), len({row["id"] for row in rows}), len({row["timestamp"] for row in rows})

    def partitions(self):
        yield from self.in_month()

    def duplicates(self):
        return []

    def hours_not_loaded(self):
        """Nothing but the hours that were left out: market.py says which."""
        return []

    def unreadable_values(self):
        for shot in self.shots:
            if shot.hour[:2] != self.month:
                continue
            for row in shot.rows:
                there = typed(row)
                checked = ("current_price", "market_cap", "market_cap_rank", "volume_24h")
                if there is None or "unusable" in row or any(row[name] is not None and there[name] is None for name in checked):
                    texts = [None if row.get(name) is None else str(row[name]) for name in ("id", "timestamp", *checked, "unusable")]
                    yield *shot.hour, *texts

    def answers(self):
        """By query."""
        of = {
            "dashboard": ("market_cap", "top_gainers", "trending", "volume_24h", "top_100", "total_market_cap", "total_volume_24h", "freshness",
                          "trendline_core", "bitcoin_24h", "market_cap_changes", "top_100_twelve_hours_ago", "trades_against_market"),
            "operators": ("rows_per_hour", "partitions", "duplicates", "hours_not_loaded", "unreadable_values"),
        }  # fmt: skip
        found = {f"{folder}/{name}": [list(row) for row in getattr(self, name)()] for folder, names in of.items() for name in names}
        by = lambda row: [(cell is None, cell or "") for cell in row]
        found["operators/unreadable_values"].sort(key=lambda row: (row[:4], by(row[4:6])))
        return found
