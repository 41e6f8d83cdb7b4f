"""How often the anomaly score is right: on trades of our making, some hours of which are made unusual.

Usage: anomalies.py [--write]

The views of athena/ run on DuckDB; results.py has them on Trino. The tables of docs/ANOMALIES.md must be what comes out here;
--write puts them there.
"""

import collections
import math
import random
import re
import statistics
import sys
from decimal import Decimal

import ddl
import pyarrow
from engines import Duck

GUIDE = ddl.ATHENA.parent / "docs/ANOMALIES.md"
DAYS = 30
HOURS = [f"2026-01-{day + 1:02} {hour:02}:00:00" for day in range(DAYS) for hour in range(24)]
THRESHOLDS = (3.5, 4, 5)
THRESHOLD = 4
# What is done to some hours.
KINDS = {
    "spike": "one trade 20 times as large",
    "small spike": "one trade 5 times as large",
    "burst": "20 trades more",
    "small burst": "6 trades more",
    "dust": "every trade a twentieth",
}
# Who trades: users, share of hours in which they do, mean trades in one, scatter of their values, share of unusual hours.
GROUPS = {
    "steady": (60, 0.3, 3, 0.5, 0.01),
    "often": (10, 0.3, 3, 0.5, 0.1),
    "wild": (20, 0.3, 3, 1.5, 0.01),
    "robots": (10, 0.9, 1, 0.0, 0.01),
    "changed": (10, 0.3, 3, 0.5, 0.01),
    "new": (20, 0.015, 3, 0.5, 0.1),
}
ABOUT = {
    "steady": "steady: three trades an hour, most between half and twice the usual",
    "often": "often: the same, but every tenth hour is unusual",
    "wild": "wild: trades between a twentieth and twenty times the usual",
    "robots": "robots: always one trade of one value (half of the distances are 0)",
    "changed": "changed: steady, then five times larger trades for the last third",
    "new": "new: some ten hours so far",
}


def poisson(dice, mean):
    found, product, floor = 0, dice.random(), math.exp(-mean)
    while product > floor:
        found, product = found + 1, product * dice.random()
    return found


def trades_of(dice, group):
    """(hour, values, kind of what was done to it or None) of one user and pair."""
    _, share, mean, sigma, unusual = GROUPS[group]
    typical = math.exp(dice.gauss(7, 1))
    for at, hour in enumerate(HOURS):
        # People sleep.
        awake = 1 if group == "robots" else 0.3 if at % 24 < 7 else 1.3
        if dice.random() >= share * awake:
            continue
        scale = typical * (5 if group == "changed" and at > len(HOURS) * 0.7 else 1)
        values = [scale * math.exp(dice.gauss(0, sigma)) for _ in range(1 + poisson(dice, mean - 1))]
        kind = dice.choice(list(KINDS)) if dice.random() < unusual else None
        values[0] *= {"spike": 20, "small spike": 5}.get(kind, 1)
        more = {"burst": 20, "small burst": 6}.get(kind, 0)
        values += [scale * math.exp(dice.gauss(0, sigma)) for _ in range(more)]
        yield hour, [value / (20 if kind == "dust" else 1) for value in values], kind


def made():
    """Live trades as a table, and by user, pair and hour the group and what was done."""
    dice = random.Random(20260115)
    rows, truth = [], {}
    for group, (users, *_) in GROUPS.items():
        for number in range(users):
            for pair in ("BTC/USD", "ETH/USDT"):
                for hour, values, kind in trades_of(dice, group):
                    truth[f"{group}-{number}", pair, hour] = group, kind
                    rows += [(f"{group}-{number}", pair, hour, Decimal(f"{value:.8f}")) for value in values]
    names = ("user_id", "trading_pair", "hour_bucket", "trade_value")
    kinds = (*[pyarrow.string()] * 3, pyarrow.decimal128(21, 8))
    return pyarrow.table({name: pyarrow.array(of, kind) for name, of, kind in zip(names, zip(*rows), kinds)}), truth


def scores(trades):
    """By user, pair and hour the scores of the views, and what Python needs to compute them again."""
    duck = Duck(None, [])
    duck.add("live_trades", trades)
    for view in ("user_hours", "user_hour_scores"):
        duck.run((ddl.ATHENA / f"views/{view}.sql").read_text())
    columns = "measure, user_id, trading_pair, hour_bucket, score, not_scored, measured"
    rows = duck.run(f"SELECT {columns} FROM crypto.user_hour_scores")[1]
    assert all((score is None) == (why == "few_hours") for *_, score, why, _ in rows), "no score, and no reason"
    return {row[:4]: row[4] for row in rows}, {row[:4]: row[6] for row in rows}


def by_hand(measured, middle, scatter, scale, floors):
    """Scores of each measure, user and pair, by Python's own statistics."""
    series, found = collections.defaultdict(dict), {}
    for key, value in measured.items():
        series[key[:3]][key] = math.sqrt(value) if key[0] == "trades" else math.log(value)
    for (measure, *_), of in series.items():
        center = middle(of.values())
        spread = max(scatter(of.values(), center), floors[measure])
        found |= {key: scale * (level - center) / spread if len(of) >= 24 else None for key, level in of.items()}
    return found


def distance(levels, center):
    return statistics.median(abs(level - center) for level in levels)


def largest(found):
    """By user, pair and hour the largest of its scores, whichever sign it has."""
    scores = {}
    for (_, *key), score in found.items():
        if score is not None:
            scores[tuple(key)] = max(abs(score), scores.get(tuple(key), 0))
    return scores


def judged(found, truth, threshold, group=None, kind=None):
    """Hours, unusual ones, those that are reported, precision and recall, as text. An hour without a score is not reported."""
    keys = [key for key, (of, what) in truth.items() if group in (None, of) and (kind is None or what in (None, kind))]
    unusual = {key for key in keys if truth[key][1]}
    reported = {key for key in keys if found.get(key, 0) >= threshold}
    right = len(unusual & reported)
    precision = f"{right / len(reported):.2f}" if reported else "–"
    return len(keys), len(unusual), len(reported), precision, f"{right / len(unusual):.2f}"


def line(*cells):
    return "| " + " | ".join(map(str, cells)) + " |\n"


def table(*rows):
    head, *rest = rows
    return "".join(line(*cells) for cells in (head, ["---"] * len(head), *rest))


def tables(found, ordinary, truth):
    """The tables of the guide."""
    heads = ("Hours", "Unusual", "Reported", "Precision", "Recall")
    yield table(("Users", *heads), *((ABOUT[group], *judged(found, truth, THRESHOLD, group)) for group in GROUPS))
    kinds = ((f"{kind}: {what}", *judged(found, truth, THRESHOLD, "steady", kind)[1::3]) for kind, what in KINDS.items())
    yield table(("What happened to steady users", "Unusual", "Recall"), *kinds)
    steps = ((f"from {step} on", *judged(found, truth, step, "steady")) for step in THRESHOLDS)
    yield table(("Threshold, steady users", *heads), *steps)
    groups = ("steady", "often")
    yield table(("Mean and standard deviation instead", *heads), *((of, *judged(ordinary, truth, THRESHOLD, of)) for of in groups))


def main(write):
    trades, truth = made()
    found, measured = scores(trades)
    hand = by_hand(measured, statistics.median, distance, 0.6745, {"largest_trade": 0.05, "trades": 0.34})
    for key, score in found.items():
        same = score is None if hand[key] is None else math.isclose(score, hand[key], rel_tol=1e-9, abs_tol=1e-9)
        assert same, f"{key}: the view has {score}, Python {hand[key]}"
    ordinary = by_hand(measured, statistics.fmean, lambda levels, _: statistics.pstdev(levels), 1, {"largest_trade": 0.05, "trades": 0.34})
    assert {key[1:] for key in found} == truth.keys()
    found = largest(found)
    text = GUIDE.read_text()
    for found_table in tables(found, largest(ordinary), truth):
        head = found_table.split(" | ")[0]
        stands = re.search(rf"^{re.escape(head)} \|.*?\n(?=\n|\Z)", text, re.MULTILINE | re.DOTALL)[0]
        if write:
            text = text.replace(stands, found_table)
        elif stands != found_table:
            raise SystemExit(f"docs/ANOMALIES.md has\n{stands}and it is\n{found_table}run .ci/lake/anomalies.py --write, and read what changed")
    if write:
        GUIDE.write_text(text)
    hours, unusual, _, precision, recall = judged(found, truth, THRESHOLD, group="steady")
    print(f"anomaly score: {len(hand)} scores as by hand; precision {precision}, recall {recall} of {unusual} in {hours} hours of steady users")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [] | ["--write"]:
            main(sys.argv[1:] == ["--write"])
        case _:
            sys.exit(__doc__)
