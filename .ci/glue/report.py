"""The page of `kinetide insights` over the lake of real trades has the figures of their files.

Usage: report.py KINETIDE FOLDER_OF_FILES LAKE
"""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import golden

# By figure its members, in the order of the columns of the dashboard query of that name.
FIGURES = {
    "exchange_comparison": ("exchange", "quantity", "trade_fee"),
    "volume_per_trading_pair": ("trading_pair", "quantity"),
    "risk_distribution": ("name", "trades"),
    "order_types": ("name", "trades"),
    "user_categories": ("name", "trades"),
    "risk_by_hour": ("hour", "risk_flag", "trades"),
    "user_activity": ("hour", "trades", "users"),
}


def exact(rows):
    """Numbers without a form: of JSON, where exact ones are texts, and of golden.py."""
    return sorted((str(first), *(str(one) if isinstance(one, str) and not one[:1].isdigit() else Decimal(one) for one in more)) for first, *more in rows)


def wrong(found, answers):
    figures = found["figures"]
    ((fee,),) = answers["dashboard/trade_fee_collected"]
    if Decimal(figures["trade_fee"]) != fee:
        yield f"trade_fee is {figures['trade_fee']}, of the files {fee}"
    ((rows,),) = answers["samples/row_count"]
    if figures["transactions"] != rows:
        yield f"{figures['transactions']} transactions, in the files {rows}"
    for figure, names in FIGURES.items():
        here = exact([row[name] for name in names] for row in figures[figure])
        files = exact(row[: len(names)] for row in answers[f"dashboard/{figure}"])
        if here != files:
            differ = [row for row in here if row not in files], [row for row in files if row not in here]
            yield f"{figure}: {differ[0][:3]}, of the files {differ[1][:3]}"


def main(kinetide, files, lake):
    page = Path(lake).parent / "insights.html"
    command = [kinetide, "insights", "--lake", lake, "--out", str(page), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    answers = golden.answers(golden.rows(sorted(Path(files).glob("*.csv.gz"))))
    problems = list(wrong(found, answers))
    if problems:
        sys.exit("\n".join(problems))
    for figure in FIGURES:
        planted = found | {"figures": found["figures"] | {figure: found["figures"][figure][1:]}}
        if not any(problem.startswith(f"{figure}:") for problem in wrong(planted, answers)):
            sys.exit(f"{figure} without its first line is not noticed")
    print(f"{found['figures']['trades']} real trades: the figures of the page are those of their files")


if __name__ == "__main__":
    main(*sys.argv[1:])
