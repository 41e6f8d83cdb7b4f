"""Messages of CoinCap in every shape, made of a real reply that is moved through time, as the transform `raw` lands them; and the
rows that the Glue job must make of them, by plain Python."""

import base64
import collections
import gzip
import json
import math
import random
from datetime import datetime, timedelta, timezone

from market_made import REAL, Digits

ASSETS = 60
NUMBERS = ("price_usd", "change_percent_24hr", "volume_usd_24hr", "market_cap_usd", "supply", "max_supply", "vwap_usd_24hr")
NAMES = {
    "id": "id", "symbol": "symbol", "name": "name", "rank": "rank", "price_usd": "priceUsd", "change_percent_24hr": "changePercent24Hr",
    "volume_usd_24hr": "volumeUsd24Hr", "market_cap_usd": "marketCapUsd", "supply": "supply", "max_supply": "maxSupply",
    "vwap_usd_24hr": "vwap24Hr",
}  # fmt: skip
COLUMNS = [
    "event_time", "id", "symbol", "name", "rank", "price_usd", "change_percent_24hr", "volume_usd_24hr", "market_cap_usd", "supply",
    "logo", "max_supply", "vwap_usd_24hr",
]  # fmt: skip
MONTH = (2026, 1)
# Of a message without a time.
ARRIVAL = "2026-01-05T05:00:00.700Z"
DAY = datetime(2026, 1, 5, tzinfo=timezone.utc)


def ms(at):
    return (at - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)


def real():
    path = REAL / "coincap_assets_2019-07-22_500.json.gz"
    if path.exists():
        return json.loads(gzip.open(path, "rt").read())["data"][:ASSETS]
    chance = random.Random(9)
    return [
        {"id": f"asset-{rank}", "rank": str(rank), "symbol": f"A{rank}", "name": f"Asset {rank}", "supply": f"{rank * 1000}.0000000000000000",
         "maxSupply": None, "marketCapUsd": repr(chance.random() * 1e9), "volumeUsd24Hr": repr(chance.random() * 1e7),
         "priceUsd": repr(chance.lognormvariate(0, 6)), "changePercent24Hr": repr(chance.gauss(0, 3)), "vwap24Hr": None}
        for rank in range(1, ASSETS + 1)
    ]  # fmt: skip


def moved(assets, step, chance):
    found = []
    for asset in assets:
        price = float(asset["priceUsd"]) * math.exp(chance.gauss(0, 0.01) * step)
        found.append(asset | {"priceUsd": repr(price) if step else asset["priceUsd"]})
    return found


def expected(asset, at, logo=None):
    """The row of a well-formed asset."""
    row = {column: asset.get(name) for column, name in NAMES.items()}
    row |= {name: None if row[name] is None else float(row[name]) for name in NUMBERS}
    return row | {"rank": int(row["rank"]), "event_time": at.replace(tzinfo=None), "logo": logo}


def flat(asset, at):
    """As producers send it that read the reply themselves: real numbers, other names, a time without a zone."""
    numbers = {name: asset[name] if asset[name] is None else Digits(repr(float(asset[name]))) for name in list(NAMES.values())[4:-1]}
    found = {name: asset[name] for name in ("id", "symbol", "name")} | numbers | {"rank": Digits(asset["rank"])}
    found |= {"vwapUsd24Hr": None if asset["vwap24Hr"] is None else Digits(repr(float(asset["vwap24Hr"])))}
    return found | {"timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.%f"), "logo": asset["symbol"].lower(), "website": "https://a.example"}


def dumped(value):
    if isinstance(value, Digits):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}: {dumped(one)}" for name, one in value.items()) + "}"
    return "[" + ",".join(map(dumped, value)) + "]" if isinstance(value, list) else json.dumps(value)


class Made:
    """`records`: (arrival, bytes); `rows`: what they are; `counts`: of a run over all of them."""

    def __init__(self):
        self.records, self.rows, self.counts, self.reasons = [], {}, collections.Counter(), collections.Counter()
        chance, assets = random.Random(17), real()
        shapes = (self.reply, self.wrapped, self.flat_list, self.singles)
        # Before midnight, after it, at an hour below ten, and on the last day of a month.
        times = [DAY - timedelta(seconds=8), DAY + timedelta(seconds=2), DAY + timedelta(hours=3, seconds=2), DAY + timedelta(hours=14)]
        times += [DAY + timedelta(days=26, hours=23, minutes=59, seconds=50)]
        for step, at in enumerate(times):
            at += timedelta(milliseconds=250)
            shapes[step % 4](moved(assets, step, chance), at)
        self.odd()
        # A producer sends a message once more, and two pollers have asked at the same time.
        self.record(*self.records[0], self.last(0))

    def last(self, number):
        return {"snapshots": 1, "assets": len(json.loads(self.records[number][1])["data"])}

    def record(self, at, body, counts):
        self.records.append((at + timedelta(milliseconds=700), body if isinstance(body, bytes) else body.encode()))
        self.counts.update({"records": 1} | counts)

    def add(self, rows):
        for row in rows:
            self.rows.setdefault((row["id"], row["event_time"]), row)

    def reply(self, assets, at):
        self.record(at, dumped({"timestamp": Digits(ms(at)), "data": assets}), {"snapshots": 1, "assets": len(assets)})
        self.add(expected(asset, at) for asset in assets)

    def wrapped(self, assets, at):
        body = dumped({"timestamp": Digits(ms(at) + 5000), "data": [asset | {"tokens": {}, "explorer": None} for asset in assets]})
        self.record(at, dumped({"provider": "coincap", "fetched_at_ms": Digits(ms(at)), "body": body}), {"snapshots": 1, "assets": len(assets)})
        self.add(expected(asset, at) for asset in assets)

    def flat_list(self, assets, at):
        self.record(at, dumped([flat(asset, at) for asset in assets]), {"snapshots": 1, "assets": len(assets)})
        self.add(expected(asset, at, asset["symbol"].lower()) for asset in assets)

    def singles(self, assets, at):
        for asset in assets[:7]:
            self.record(at, dumped(flat(asset, at)), {"snapshots": 1, "assets": 1})
            self.add([expected(asset, at, asset["symbol"].lower())])

    def odd(self):
        """Each is rows, or is counted; none does harm to another."""
        at = DAY + timedelta(hours=5)
        empty = dict.fromkeys(COLUMNS) | {"event_time": at.replace(tzinfo=None)}

        def one(asset, counts, row=None):
            self.record(at, dumped({"timestamp": Digits(ms(at)), "data": [asset]}), {"snapshots": 1} | counts)
            self.add([empty | row] if row else [])

        one({"id": "odd-nulls"}, {"assets": 1}, {"id": "odd-nulls"})
        one({"id": "odd-texts", "priceUsd": "n/a", "rank": "first", "supply": ""}, {"assets": 1, "values_unreadable": 3}, {"id": "odd-texts"})
        one({"id": "odd-java", "priceUsd": "1d", "supply": "NaN", "maxSupply": "Infinity", "rank": "0x1"}, {"assets": 1, "values_unreadable": 4}, {"id": "odd-java"})
        one({"id": "odd-exponent", "priceUsd": Digits("9.52e-06"), "rank": Digits("7.0")}, {"assets": 1}, {"id": "odd-exponent", "price_usd": 9.52e-06, "rank": 7})
        one({"id": "odd-huge", "priceUsd": "1e400", "rank": "4294967296"}, {"assets": 1, "values_unreadable": 2}, {"id": "odd-huge"})
        one({"id": "odd-fraction", "rank": "1.5", "priceUsd": " 2 "}, {"assets": 1, "values_unreadable": 2}, {"id": "odd-fraction"})
        one({"id": "odd-nested", "priceUsd": {"usd": Digits("1")}, "name": ["x"]}, {"assets": 1, "values_unreadable": 2}, {"id": "odd-nested"})
        one({"id": "odd-surrogate", "name": "\ud800!"}, {"assets": 1, "values_unreadable": 1}, {"id": "odd-surrogate"})
        one({"priceUsd": "1"}, {"assets_set_aside": 1})
        one({"id": ""}, {"assets_set_aside": 1})
        one("bitcoin", {"assets_set_aside": 1})
        self.record(at, dumped({"timestamp": "soon", "data": [{"id": "odd-time"}]}), {"snapshots": 1, "assets_set_aside": 1})
        self.record(at, dumped({"id": "odd-arrival", "rank": Digits("1"), "priceUsd": Digits("2")}), {"snapshots": 1, "assets": 1})
        self.add([empty | {"id": "odd-arrival", "rank": 1, "price_usd": 2.0, "event_time": (at + timedelta(milliseconds=700)).replace(tzinfo=None)}])
        for body, reason in [
            ('{"error": "rate limit"}', "no_snapshot"), ('{"timestamp": 1, "data": []}', "no_snapshot"), ("[]", "no_snapshot"), ("7", "no_snapshot"),
            (dumped({"provider": "coincap", "interval_start": "2026-01-05T05:00:00Z", "reason": "http_503"}), "no_snapshot"),
            (dumped({"provider": "coingecko", "fetched_at_ms": Digits(ms(at)), "body": '[{"id": "bitcoin"}]'}), "no_snapshot"),
            ("<html>502</html>", "not_json"), ('{"timestamp": 1, "data": [{"id": "cut', "not_json"), ("[" * 5000, "not_json"), (b"\xff\xfe\x00", "not_utf8"),
            (dumped({"provider": "coincap", "fetched_at_ms": Digits(ms(at)), "body": "<html>"}), "not_json"),
        ]:  # fmt: skip
            self.record(at, body, {"without_snapshot": 1})
            self.reasons[reason] += 1

    def lines(self):
        """By hour of the arrival, as the transform `raw` writes them."""
        found = collections.defaultdict(list)
        for number, (at, body) in enumerate(self.records):
            try:
                value = {"value": body.decode(), "value_base64": None}
            except UnicodeDecodeError:
                value = {"value": None, "value_base64": base64.b64encode(body).decode()}
            place = {"ordering_key": f"{ms(at) * 1000:020}-{number:060}", "source": "kafka", "stream": "assets", "shard_id": "0", "sequence_number": str(number)}
            arrival = {"ingestion_time": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "key": None, "key_base64": None}
            found[at.strftime("year=%Y/month=%m/day=%d/hour=%H")].append(json.dumps(place | arrival | value, ensure_ascii=False))
        return found

    def write(self, folder):
        for hour, lines in self.lines().items():
            path = folder / hour / f"assets-0-{len(lines)}.ndjson.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), 1, mtime=0))

    def cells(self):
        """Rows in the order of columns."""
        return [[row[name] for name in COLUMNS] for row in sorted(self.rows.values(), key=lambda row: (row["event_time"], row["id"]))]

    def answers(self):
        """Of the queries of athena/market/queries/coincap, for the month."""
        rows = [row for row in self.rows.values() if (row["event_time"].year, row["event_time"].month) == MONTH]
        newest = max(row["event_time"] for row in rows)
        latest = ("rank", "id", "symbol", "name", "price_usd", "change_percent_24hr", "market_cap_usd", "volume_usd_24hr", "event_time")
        by_day = collections.defaultdict(list)
        for row in sorted(rows, key=lambda row: row["event_time"]):
            by_day[row["id"], row["event_time"].year, row["event_time"].month, row["event_time"].day].append(row["price_usd"])
        prices = lambda of: [price for price in of if price is not None]
        return {
            "coincap/latest_assets": sorted(([row[name] for name in latest] for row in rows if row["event_time"] == newest), key=lambda row: row[:2]),
            "coincap/prices_by_day": [
                [*key, len(of), min(prices(of), default=None), max(prices(of), default=None), of[-1]] for key, of in sorted(by_day.items())
            ],
            "coincap/duplicates": [],
        }
