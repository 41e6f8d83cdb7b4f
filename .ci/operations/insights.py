"""Opens pages of `kinetide insights` in headless Chromium: of a lake of some days, of one with names that want to be more than text
and objects that cannot be read, of an empty one, of eight days of market prices (market_made.py), and of a lake with both.

No request may leave the page, nothing may violate its security policy, axe may find nothing, a phone must not have to scroll
sideways, and every figure of --json must be on the page.

Usage: insights.py KINETIDE CHROMIUM LIBRARIES AXE [--lake FOLDER] [--picture FILE] [--prices-picture FILE]
LIBRARIES are folders for LD_LIBRARY_PATH, or empty; AXE is axe.min.js. With --lake it is that one instead, without mistakes. After a change of the page run with
`--picture docs/insights.png --prices-picture docs/insights-prices.png` and look at both; that needs Pillow.
"""

import argparse
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lake"))

import market_made
from browser import FLAGS, Wrong, must, must_be_accessible
from playwright.sync_api import sync_playwright

DESK, PHONE = (1280, 900), (360, 780)
PICTURE_BYTES_MAX = 300_000
VISUALS = [
    "Trade Fee Collected", "Exchange Comparison", "Trading Volume per Trading Pair", "Risk Distribution",
    "Number of Trades by Status", "Order Type Distribution", "User Category Distribution", "Risk by hour",
    "Normalised price by exchange", "User activity", "What this covers",
]  # fmt: skip
PRICES = [
    "Total Market Cap", "Volume in 24 Hours", "Snapshots of the Last Hour", "Market Cap Now and Before", "Top 100", "Market Cap",
    "Volume by Coin", "Top Gainers", "Trending", "Four Coins in 7 Days", "Bitcoin in 24 Hours", "What this covers",
]  # fmt: skip
# Those of the newest hours.
HOURLY, HOURS_MAX = ("Risk by hour", "Normalised price by exchange", "User activity"), 168
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</title></svg>", "a\u202ecod.exe", "x" * 300, "", None]


# ---- lakes


def row(dice, number, names):
    """As the service lands it, as far as the page looks."""
    hour = number // 25
    price, quantity = dice.randint(10_000, 7_000_000) / 100, dice.randint(10_000, 5_000_000) / 1_000_000
    value = price * quantity * dice.choice([1, 1, 1, 1, 4])
    return {
        "transaction_id": f"{number}",
        "ordering_key": f"{number:020}",
        "cdc_ts_us": 1_767_571_200_000_000 + number,
        "is_deleted": dice.random() < 0.03,
        "is_valid": dice.random() < 0.93,
        "exchange": dice.choice(names or ["Binance", "Binance", "Coinbase", "Kraken", "OKX", "Bitfinex"]),
        "trading_pair": dice.choice(names or ["BTC/USD", "BTC/USD", "ETH/USDT", "SOL/USD", "ADA/USDT", "XRP/USD"]),
        "order_type": dice.choice(names or ["BUY", "SELL"]),
        "trade_status": dice.choice(names or ["SUCCESS", "SUCCESS", "SUCCESS", "PENDING"]),
        "risk_flag": "HIGH_RISK" if value > 500_000 else "MEDIUM_RISK" if value > 100_000 else "LOW_RISK",
        "user_category": "VIP Trader" if quantity > 2 else "Active Trader" if quantity > 1 else "Casual Trader",
        "hour_bucket": f"2026-01-{5 + hour // 24:02} {hour % 24:02}:00:00",
        "user_id": f"user-{dice.randint(1, 40)}",
        "quantity": quantity,
        "trade_fee": dice.randint(100, 10_000) / 10_000,
        "normalized_price": round(price, 2),
    }


def put(lake, name, body):
    path = lake / "landing/transactions/year=2026/month=01/day=05/hour=00" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def lakes(folder):
    dice = random.Random(7)
    days, hostile, empty = folder / "days", folder / "hostile", folder / "empty"
    for lake, names, count in ((days, None, 900), (hostile, HOSTILE, 150)):
        rows = [json.dumps(row(dice, number, names)) + "\n" for number in range(count)]
        put(lake, "1.ndjson.gz", gzip.compress("".join(rows).encode()))
    put(hostile, "<b>cut.ndjson.gz", gzip.compress(b"{}\n")[:-3])
    put(hostile, "lines.ndjson.gz", gzip.compress(b"rubbish\n"))
    empty.mkdir()
    prices, both = folder / "prices", folder / "both"
    shots = [shot for shot in market_made.snapshots() if not any(row["id"] == "odd-nulls" for row in shot.rows)]
    market_made.write(prices, shots)
    put(both, "1.ndjson.gz", gzip.compress("".join(json.dumps(row(dice, number, None)) + "\n" for number in range(60)).encode()))
    market_made.write(both, [market_made.Snapshot(shots[-1].at, hostile_prices(shots[-1]))])
    return {"days": (days, 0), "hostile": (hostile, 1), "empty": (empty, 1), "prices": (prices, 0), "both": (both, 0)}


def hostile_prices(shot):
    """Coins with names that want to be more than text; few, so that they are in all pictures."""
    coins = shot.rows[:12]
    for coin, name in zip(coins[5:], filter(None, HOSTILE)):
        coin["id"] = coin["name"] = name
    coins[-1] |= {"price_change_pct_24h": None, "price_change_pct_7d": market_made.Digits("-12.345678901234567890")}
    return coins


def report(kinetide, lake, page, code):
    """The figures, as --json has them."""
    run = subprocess.run([kinetide, "insights", "--lake", str(lake), "--out", str(page), "--json"], capture_output=True, text=True, timeout=60)
    must(run.returncode == code, f"{lake.name}: exit code {run.returncode}, not {code}: {run.stderr}")
    return json.loads(run.stdout)


# ---- pages


def opened(browser, page, size, dark):
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    wrong, tab = [], context.new_page()
    tab.on("console", lambda said: wrong.append(f"the browser says: {said.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"an error in a script: {error}"))
    tab.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
    tab.on("request", lambda request: request.url == page.as_uri() or wrong.append(f"a request that must not be: {request.url}"))
    tab.goto(page.as_uri())
    return context, tab, wrong


def shown(name):
    """As the page writes a name."""
    if name is None:
        return "(none)"
    if name == "":
        return "(empty)"
    return (name if len(name) <= 80 else name[:80] + "…").replace("\u202e", "\\u{202e}")


def grouped(text):
    if text is None:
        return "(none)"
    sign, size = ("-", str(text)[1:]) if str(text).startswith("-") else ("", str(text))
    whole, point, fraction = size.partition(".")
    return f"{sign}{int(whole):,}{point}{fraction}"


def cells(figures):
    """Every line of a table that there must be: the title of its card, its cells."""
    for of in figures["exchange_comparison"]:
        yield "Exchange Comparison", [shown(of["exchange"]), grouped(of["quantity"]), grouped(of["trade_fee"]), grouped(of["trades"])]
    for of in figures["volume_per_trading_pair"]:
        yield "Trading Volume per Trading Pair", [shown(of["trading_pair"]), grouped(of["quantity"])]
    shares = ("risk_distribution", "trades_by_status", "order_types", "user_categories")
    titles = ("Risk Distribution", "Number of Trades by Status", "Order Type Distribution", "User Category Distribution")
    for name, title in zip(shares, titles):
        for of in figures[name]:
            yield title, [shown(of["name"]), grouped(of["trades"])]
    for of in figures["risk_by_hour"]:
        yield "Risk by hour", [of["hour"], shown(of["risk_flag"]), grouped(of["trades"])]
    for of in figures["normalized_price_by_hour"]:
        price = grouped(of["normalized_price"])
        yield "Normalised price by exchange", [of["hour"], shown(of["exchange"]), price, grouped(of["trades"])]
    for of in figures["user_activity"]:
        yield "User activity", [of["hour"], grouped(of["trades"]), grouped(of["users"])]


def signed(text):
    return grouped(text) if text is None or text.startswith("-") else "+" + grouped(text)


def short(time):
    return time.rstrip("Z").replace("T", " ")


def price_cells(figures):
    """As `cells`, of prices."""
    changes = figures["market_cap_changes"]
    for what, at in (("now", "now"), ("00:00 UTC", "midnight"), ("24 hours ago", "day_ago")):
        change = "" if at == "now" else signed(changes[f"pct_since_{at}"])
        row = changes[at]
        yield "Market Cap Now and Before", [what, short(row["snapshot_time"]), grouped(row["total"]), grouped(row["coins"]), change]
    for of in figures["top_100"]:
        changes = [of[f"price_change_pct_{time}"] for time in ("1h", "24h", "7d")]
        percents = ["(none)" if change is None else f"{float(change):+.2f}" for change in changes]
        yield "Top 100", [str(of["market_cap_rank"]), shown(of["id"]), grouped(of["current_price"]), *percents, grouped(of["volume_24h"])]
    rankings = {"market_cap": "Market Cap", "volume_24h": "Volume by Coin", "top_gainers": "Top Gainers", "trending": "Trending"}
    for figure, title in rankings.items():
        column = {"top_gainers": "price_change_pct_24h", "trending": "price_change_pct_7d"}.get(figure, figure)
        for of in figures[figure]:
            yield title, [shown(of["id"]), (signed if "pct" in column else grouped)(of[column])]
    for of in figures["trend"]:
        yield "Four Coins in 7 Days", [of["hour"], of["id"], *(grouped(of[name]) for name in ("current_price", "market_cap", "volume_24h"))]
    for of in figures["bitcoin_24h"]:
        row = [short(of["snapshot_time"]), grouped(of["current_price"]), grouped(of["volume_24h"]), signed(of["price_change_pct_24h"])]
        yield "Bitcoin in 24 Hours", row


# Cards in their order, with whether they are of prices: behind the heading of those, or on a page of prices alone.
TABLES = """[...document.querySelectorAll('section')].map(section => [
    section.querySelector('h2').textContent,
    [...section.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent)),
    document.querySelector('header h1').textContent === 'Market prices' || [...document.querySelectorAll('.part')].some(part =>
        Boolean(part.compareDocumentPosition(section) & Node.DOCUMENT_POSITION_FOLLOWING))])"""


def check_figures(tab, found, name):
    sections = tab.evaluate(TABLES)
    trades, prices = ({title: [tuple(row) for row in rows] for title, rows, of_prices in sections if of_prices == part} for part in (False, True))
    pictures = checked = 0
    if trades:
        pictures, checked = check_trades(tab, found, name, trades)
    must(bool(trades) == (found["coverage"]["objects"] > 0 or "prices" not in found), f"{name}: the cards of trades are {list(trades)}")
    must(bool(prices) == ("prices" in found), f"{name}: the cards of prices are {list(prices)}")
    if prices:
        more, cells_of_prices = check_prices(tab, found["prices"], name, prices)
        pictures, checked = pictures + more, checked + cells_of_prices
    must(tab.locator("svg[role=img] > title").count() == pictures, f"{name}: a picture has no title")
    must(tab.locator("svg > desc").count() == pictures, f"{name}: a picture has no description")
    return checked


def check_prices(tab, found, name, tables):
    """How many pictures there must be, and how many lines were looked for."""
    figures, checked = found["figures"], 0
    must([title for title in tables if title in PRICES] == PRICES, f"{name}: the visuals of prices are {list(tables)}")
    wanted = [figures["total_market_cap"], figures["total_volume_24h"], figures["newest_hour"]["snapshots"]]
    kpis = tab.locator(".kpi").all_inner_texts()[-3:]
    must(kpis == list(map(grouped, wanted)), f"{name}: the figures in large are {kpis}")
    kept = {title: set(rows) for title, rows in tables.items()}
    for title, row in price_cells(figures):
        if len(tables[title]) < 500:
            must(tuple(row) in kept[title], f"{name}, {title}: {row} is not in {tables[title][:4]}")
            checked += 1
    coins = {of["id"] for of in figures["trend"]}
    return 4 + len(coins) + (3 if figures["bitcoin_24h"] else 0), checked


def check_trades(tab, found, name, tables):
    figures, checked = found["figures"], 0
    if figures["trades"] == 0:
        must("No trades" in tables, f"{name}: an empty lake has no word for it")
        return 0, 0
    must([title for title in tables if title in VISUALS] == VISUALS, f"{name}: the visuals are {list(tables)}")
    fee = tab.locator(".kpi").first.inner_text()
    must(fee == grouped(figures["trade_fee"]), f"{name}: the fee is {fee}")
    kept = {title: set(rows) for title, rows in tables.items()}
    hours = [of["hour"] for of in figures["user_activity"]]
    newest = set(hours[-HOURS_MAX:])
    if len(hours) > HOURS_MAX:
        words = f"{HOURS_MAX} of {len(hours)} hours, the newest."
        must(tab.locator("section", has_text=words).count() == len(HOURLY), f"{name}: the page does not say: {words}")
    for title, row in cells(figures):
        if title in HOURLY and row[0] not in newest:
            continue
        # A table ends after 500 lines and says so.
        if len(tables[title]) < 500:
            must(tuple(row) in kept[title], f"{name}, {title}: {row} is not in {tables[title][:4]}")
            checked += 1
    return 8, checked


def check_fits(tab, name):
    tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    wide = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    must(wide[0] <= wide[1], f"{name}: the page is {wide[0]} wide where {wide[1]} are")
    # The ring's own labels are empty.
    texts = "[...document.querySelectorAll('svg text')].filter(text => text.textContent.trim())"
    small = tab.evaluate(f"{texts}.map(text => text.getBoundingClientRect().height)")
    must(all(height >= 9 for height in small), f"{name}: text of a picture is {min(small, default=0)} high")


def check_page(browser, page, found, name, axe):
    checked = 0
    for size, dark in ((DESK, False), (PHONE, True)):
        at = f"{name}, {size[0]} wide, {'dark' if dark else 'light'}"
        context, tab, wrong = opened(browser, page, size, dark)
        checked += check_figures(tab, found, at)
        check_fits(tab, at)
        must_be_accessible(tab, axe, at)
        context.close()
        must(not wrong, f"{at}: " + "\n".join(wrong))
    return checked


# Mistakes in a page that must be noticed: what is replaced, and by what.
MISTAKES = {
    "a figure": ("</td><td class=\"n\">", "</td><td class=\"n\">9"),
    "a request": ("<main>", "<main><img alt=\"x\" src=\"http://127.0.0.1:9/x.png\">"),
    "a script": ("<main>", "<main><script>alert(1)</script>"),
    "a picture without a name": ("<title>Risk by hour</title>", ""),
    "too wide": ("<main>", "<main><p style=\"width:2000px\">wide</p>"),
    "a table without keys": ("tabindex=\"0\" role=\"region\"", "role=\"img\""),
}
PRICE_MISTAKES = {
    "a figure of prices": ("</td><td class=\"n\">+", "</td><td class=\"n\">+9"),
    "a figure in large": ("<h2>Total Market Cap</h2><p class=\"kpi\">", "<h2>Total Market Cap</h2><p class=\"kpi\">9"),
    "a card that is missing": ("<h2>Trending</h2>", "<h2>Rising</h2>"),
    "a picture without words": ("<desc>Price of bitcoin", "<p>Price of bitcoin"),
}


def check_mistakes(browser, page, found, axe, mistakes):
    right = page.read_text()
    for mistake, (part, other) in mistakes.items():
        must(part in right, f"{part} is not in the page")
        spoilt = page.with_name("spoilt.html")
        spoilt.write_text(right.replace(part, other))
        try:
            check_page(browser, spoilt, found, mistake, axe)
        except Wrong:
            continue
        raise Wrong(f"not noticed: {mistake}")


def picture(browser, page, lake, file):
    from PIL import Image

    shown = page.with_name("shown.html")
    folder = "landing/transactions" if lake.endswith("landing/transactions") else "market/coingecko/processed"
    shown.write_text(page.read_text().replace(lake, f"s3://my-lake/crypto/{folder}"))
    context, tab, _ = opened(browser, shown, DESK, False)
    shot = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
    shot.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    context.close()
    must(file.stat().st_size <= PICTURE_BYTES_MAX, f"{file} has {file.stat().st_size} bytes")


def main():
    arguments = argparse.ArgumentParser()
    for name in ("kinetide", "chromium", "libraries", "axe"):
        arguments.add_argument(name)
    arguments.add_argument("--lake", type=Path)
    arguments.add_argument("--picture", type=Path)
    arguments.add_argument("--prices-picture", type=Path)
    given = arguments.parse_args()
    axe = Path(given.axe).read_text()
    environment = dict(os.environ) | ({"LD_LIBRARY_PATH": given.libraries} if given.libraries else {})
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder, checked = Path(folder), 0
        browser = playwright.chromium.launch(executable_path=given.chromium, args=FLAGS, env=environment)
        looked_at = {"the lake": (given.lake, 0)} if given.lake else lakes(folder)
        for name, (lake, code) in looked_at.items():
            page = folder / f"{name}.html"
            found = report(given.kinetide, lake, page, code)
            checked += check_page(browser, page, found, name, axe)
            if name == "days" and given.picture:
                picture(browser, page, found["lake"], given.picture)
            if name == "prices" and given.prices_picture:
                picture(browser, page, found["prices"]["lake"], given.prices_picture)
            # The smallest that have all visuals.
            if name in ("hostile", "both"):
                check_mistakes(browser, page, found, axe, MISTAKES if name == "hostile" else PRICE_MISTAKES)
        browser.close()
    noticed = "" if given.lake else f"; {len(MISTAKES) + len(PRICE_MISTAKES)} mistakes are noticed"
    print(f"{len(looked_at)} pages of a dashboard: {checked} figures are shown, light on a desk and dark on a phone{noticed}")


if __name__ == "__main__":
    try:
        main()
    except Wrong as wrong:
        sys.exit(f"insights: {wrong}")
