"""What queries of athena/ must find in a lake, worked out from its lines without SQL."""

import collections
import gzip
import json
import re
import statistics
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import ddl

LATE_SECONDS = 900


class Lake:
    """Lines of the folders of a month."""

    def __init__(self, lake, month):
        self.landed = list(lines(lake, "landing/transactions", month))
        self.compacted = list(lines(lake, "compacted/transactions", month))
        self.letters = list(lines(lake, "errors", month))
        self.positions = {position(row) for _, row in self.landed}


def lines(lake, folder, month):
    """Each with its folder; numbers are exact."""
    year, number = month
    for key in ddl.keys_of(lake, folder):
        if f"/year={year}/month={int(number):02}/" in key:
            with gzip.open(lake / key, "rt", encoding="utf-8") as text:
                yield from ((key, json.loads(line, parse_float=Decimal)) for line in text)


def position(row):
    return row["shard_id"], row["sequence_number"]


def letter_position(letter):
    return letter["shardId"], letter["sequenceNumber"]


def micros(text):
    return int((datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(microseconds=1))


def hour_of(letter):
    return datetime.fromtimestamp(letter["arrivalTimestamp"] / 1000, timezone.utc).strftime("%Y-%m-%dT%H")


def grouped(pairs):
    found = collections.defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return sorted(found.items())


def rows_per_hour(lake):
    arrived = [(row["ingestion_time"][:13], (1, 0, position(row))) for _, row in lake.landed]
    arrived += [(hour_of(letter), (0, 1, letter_position(letter))) for _, letter in lake.letters]
    for hour, of in grouped(arrived):
        yield hour, sum(one[0] for one in of), sum(one[1] for one in of), len({one[2] for one in of})


def late_rows(lake):
    delays = ((row["event_timestamp"][:13], (micros(row["ingestion_time"]) - row["cdc_ts_us"]) / 1e6) for _, row in lake.landed)
    for hour, of in grouped(delays):
        yield hour, len(of), sum(one > LATE_SECONDS for one in of), max(of)


def dead_letters_by_reason(lake):
    for reason, of in grouped((re.search("errors/([^/]+)/", key)[1], letter) for key, letter in lake.letters):
        open_ = sum(letter_position(letter) not in lake.positions for letter in of)
        yield reason, len(of), open_, min("/".join(letter_position(letter)) for letter in of), max(map(hour_of, of))


def duplicates(lake):
    counts = collections.Counter(position(row) for _, row in lake.landed)
    return sorted((*key, count) for key, count in counts.items() if count > 1)


def invalid_rows(lake):
    return sorted(collections.Counter(row["invalid_reason"] for _, row in lake.landed if not row["is_valid"]).items())


def repeated_changes(lake):
    names = ("table_name", "transaction_id", "cdc_ts_us", "event_name")
    counts = collections.Counter(tuple(row[name] for name in names) for _, row in lake.landed if row.get("transaction_id"))
    return sorted(((*key, count) for key, count in counts.items() if count > 1), key=lambda row: row[1:3])


def compacted(lake):
    folder = lambda key: re.sub(r".*year=(\d+)/month=(\d+)/day=(\d+)/hour=(\d+)/.*", r"\1-\2-\3T\4", key)
    found = [(folder(key), (1, 0, position(row))) for key, row in lake.landed]
    found += [(folder(key), (0, 1, position(row))) for key, row in lake.compacted]
    for hour, of in grouped(found):
        yield hour, sum(one[0] for one in of), sum(one[1] for one in of), len({one[2] for one in of})


OPERATORS = (rows_per_hour, late_rows, dead_letters_by_reason, duplicates, invalid_rows, repeated_changes, compacted)


def trends(lakes):
    """Volatility and liquidity by pair and quarter of an hour, of the newest changes in all folders."""
    newest = {}
    for row in sorted((row for lake in lakes for _, row in lake.landed if row.get("transaction_id")), key=lambda row: row["ordering_key"]):
        newest[row["transaction_id"]] = row
    live = [row for row in newest.values() if row["is_valid"] and not row["is_deleted"]]
    for (pair, quarter), of in grouped(((row["trading_pair"], quarter_hour(row["timestamp"])), row) for row in live):
        prices = [float(row["price"]) for row in of]
        normalized = [float(row["normalized_price"]) for row in of if row["normalized_price"] is not None]
        yield (
            pair,
            quarter,
            statistics.fmean(normalized) if normalized else None,
            statistics.stdev(prices) if len(prices) > 1 else None,
            sum(Decimal(row["trade_value"]) for row in of),
            len(of),
        )


def quarter_hour(text):
    time = datetime.fromisoformat(text)
    time = time.astimezone(timezone.utc).replace(tzinfo=None) if time.tzinfo else time
    return time.replace(minute=time.minute // 15 * 15, second=0, microsecond=0)
