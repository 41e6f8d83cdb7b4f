"""What trades must become, worked out from their files alone with exact decimals: rows, and the rows of every dashboard query."""

import collections
import csv
import datetime
import decimal
import gzip
import statistics
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

decimal.getcontext().prec = 60

VENUES = {"binance": "Binance", "coinbase": "Coinbase", "kraken": "Kraken", "ftx": "FTX", "okx": "OKX", "bitfinex": "Bitfinex"}
FACTORS = {"Coinbase": "1.02", "Kraken": "0.98", "OKX": "1.01", "FTX": "0.99", "Bitfinex": "1.03"}


def rounded(value, places):
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def fits(value, places):
    """Ten digits."""
    return abs(value) < Decimal(10) ** (10 - places)


def row(trade, place):
    """The row of a trade: `place` names one without an id."""
    exchange = VENUES.get(trade["exchange"], trade["exchange"])
    at = datetime.datetime.fromtimestamp(int(trade["timestamp_ms"]) / 1000, datetime.UTC)
    price, quantity = Decimal(trade["price"]), Decimal(trade["amount"])
    fee = rounded(price * quantity / 1000, 4)
    found = {
        "transaction_id": f"{trade['exchange']}:{trade['symbol']}:{trade['trade_id'] or place}",
        "timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(trade['timestamp_ms']) % 1000:03}Z",
        "exchange": exchange, "trading_pair": trade["symbol"], "order_type": trade["side"].upper(),
        "price": price, "quantity": quantity, "trade_fee": fee, "trade_status": "SUCCESS",
        "hour_bucket": at.strftime("%Y-%m-%d %H:00:00"),
        "trade_value": None, "risk_flag": None, "normalized_price": None, "adjusted_trade_fee": None, "user_category": None,
    }  # fmt: skip
    p, q = rounded(price, 2), rounded(quantity, 6)
    normalized = rounded(p * Decimal(FACTORS.get(exchange, "1")), 2)
    whole = [fits(p, 2), fits(q, 6), fits(fee, 4)]
    if whole[0] and fits(normalized, 2):
        found["normalized_price"] = normalized
    if whole[1]:
        found["user_category"] = "VIP Trader" if q > 2 else "Active Trader" if q > 1 else "Casual Trader"
    if whole[0] and whole[1]:
        value = found["trade_value"] = p * q
        found["risk_flag"] = "HIGH_RISK" if value > 500000 else "MEDIUM_RISK" if value > 100000 else "LOW_RISK"
        if whole[2]:
            discount = "0.90" if value >= 100000 else "0.95" if value >= 50000 else "1"
            found["adjusted_trade_fee"] = fee * Decimal(discount)
    nothing = (whole[0] and p <= 0) or (whole[1] and q <= 0)
    reason = "non_positive" if nothing else None if all(whole) and found["normalized_price"] is not None else "out_of_range"
    return found | {"is_valid": reason is None, "invalid_reason": reason}


def rows(paths):
    """By transaction_id; of two trades with one id the later counts."""
    found = {}
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            for number, trade in enumerate(csv.DictReader(text), 2):
                one = row(trade, f"{Path(path).name.split('.')[0]}#{number}")
                found[one["transaction_id"]] = one
    return found


def groups(live, *keys):
    found = collections.defaultdict(list)
    for one in live:
        found[tuple(key(one) if callable(key) else one[key] for key in keys)].append(one)
    return found.items()


def total(of, name):
    return sum((one[name] for one in of), Decimal(0))


def counted(live, *names):
    return [(*key, len(of)) for key, of in groups(live, *names)]


def users(of):
    """A user is made of the id of a trade."""
    return len({one["transaction_id"] for one in of})


def deviation(of):
    """Of the price; None for one trade."""
    return float(statistics.stdev(one["price"] for one in of)) if len(of) > 1 else None


def quarter_hour(one):
    at = datetime.datetime.fromisoformat(one["timestamp"][:16])
    return at.replace(minute=at.minute // 15 * 15)


def hourly(live):
    """Rows of hourly_trades."""
    for key, of in groups(live, "hour_bucket", "exchange", "trading_pair"):
        kinds = [sum(one[name] == value for one in of) for name, value in (
            ("order_type", "BUY"), ("order_type", "SELL"), ("risk_flag", "LOW_RISK"), ("risk_flag", "MEDIUM_RISK"),
            ("risk_flag", "HIGH_RISK"), ("trade_status", "SUCCESS"), ("trade_status", "PENDING"),
        )]  # fmt: skip
        prices = [one["price"] for one in of]
        yield (
            *key, len(of), total(of, "quantity"), total(of, "trade_value"),
            float(total(of, "trade_value")) / float(total(of, "quantity")), min(prices), max(prices),
            float(total(of, "normalized_price") / len(of)), deviation(of), total(of, "trade_fee"),
            total(of, "adjusted_trade_fee"), *kinds,
            users(of),
        )  # fmt: skip


def answers(found):
    """By query its rows, in no order."""
    live = [one for one in found.values() if one["is_valid"]]
    pairs = groups(live, "trading_pair", quarter_hour)
    return {
        "dashboard/exchange_comparison": [
            (*key, total(of, "quantity"), total(of, "trade_fee")) for key, of in groups(live, "exchange")
        ],
        "dashboard/normalized_price_by_exchange": [
            (*key, statistics.fmean(one["normalized_price"] for one in of)) for key, of in groups(live, "hour_bucket", "exchange")
        ],
        "dashboard/order_types": counted(live, "order_type"),
        "dashboard/risk_by_hour": counted(live, "hour_bucket", "risk_flag"),
        "dashboard/risk_distribution": counted(live, "risk_flag"),
        "dashboard/trade_fee_collected": [(total(live, "trade_fee"),)],
        "dashboard/trades_by_status": counted(live, "trade_status"),
        "dashboard/trends": [
            (*key, statistics.fmean(one["normalized_price"] for one in of), deviation(of), total(of, "trade_value"), len(of))
            for key, of in pairs
        ],
        "dashboard/user_activity": [
            (*key, len(of), users(of), len(of) / users(of)) for key, of in groups(live, "hour_bucket")
        ],
        "dashboard/user_categories": counted(live, "user_category"),
        "dashboard/volume_per_trading_pair": [(*key, total(of, "quantity")) for key, of in groups(live, "trading_pair")],
        "hourly_trades_computed": list(hourly(live)),
        "samples/row_count": [(len(found),)],
    }
