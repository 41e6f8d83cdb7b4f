"""Opens the console in headless Chromium: on running workers, and on made-up answers for what takes too long to play.

No request may leave the worker, nothing may violate the page's security policy, no text of an answer may become more than text,
everything must be reachable by keyboard, and axe may find nothing.

Usage: console.py KINETIDE CHROMIUM LIBRARIES AXE [--pictures FOLDER] [--sources]
LIBRARIES are folders for LD_LIBRARY_PATH, or empty; AXE is axe.min.js. With --sources the page is that of the source files, and no
worker is started: for work on the page, without a build. After a change of the page run with
`--pictures docs/console` and look at the pictures; that needs Pillow.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import console_states as states
from browser import FLAGS, Wrong, must, must_be_accessible
from console_standin import Standin, from_sources, from_worker
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright
from processes import Processes, free_ports, until

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "console"
DESK, PHONE = (1280, 900), (400, 860)

# A picture is not larger.
PICTURE_BYTES_MAX = 100 * 1024
# The page asks so often: with 1,000 shards it must be done long before. How long it takes is printed.
REFRESH_MS = 5000
# The token of one of the workers.
TOKEN = "correct-horse-battery-staple"
# What the browser says when a request fails on purpose.
FAILED = re.compile(r"^Failed to load resource: ")


class Console:
    """The page in a browser of its own, which notes what must not happen."""

    def __init__(self, browser, address, size=DESK, dark=False, token=None):
        self.address, self.wrong, self.asked = address, [], set()
        options = {"width": size[0], "height": size[1]}
        # As who types the token where the browser asks for a password.
        password = {"username": "", "password": token} if token else None
        self.context = browser.new_context(
            viewport=options, color_scheme="dark" if dark else "light", reduced_motion="reduce", http_credentials=password
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda said: FAILED.match(said.text) or self.wrong.append(f"the browser says: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"an error in the script: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.add((request.method, request.url)))
        self.page.goto(address)
        self.page.wait_for_selector("#figures > div")

    def close(self):
        for method, url in self.asked:
            if method != "GET" or not url.startswith(self.address + "/"):
                self.wrong.append(f"a request that must not be: {method} {url}")
        self.context.close()
        must(not self.wrong, "\n".join(self.wrong))

    def text(self, selector):
        return self.page.inner_text(selector)

    def verdict(self):
        return self.page.get_attribute("#verdict", "data-level"), self.text("#word")

    def refresh(self):
        """It asks at once when it goes on after a pause."""
        drawn = "performance.getEntriesByName('draw')[0]?.startTime ?? 0"
        before = self.page.evaluate(drawn)
        self.page.click("#pause")
        self.page.click("#pause")
        until("the page refreshes", lambda: self.page.evaluate(drawn) > before, 60)

    def shows(self, level, word, seconds=30):
        self.page.wait_for_selector(f'#verdict[data-level="{level}"]:has(#word:text-is("{word}"))', timeout=seconds * 1000)
        must(self.page.title().startswith(f"{word} – "), f"the title is {self.page.title()}")
        sign = self.page.get_attribute("#verdict use", "href")
        must(sign == f"#sign-{level}", f"the sign of {level} is {sign}")

    def fits(self):
        wide = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        must(wide[0] <= wide[1], f"the page is {wide[0]} wide where {wide[1]} are")

    def axe(self, script, what):
        must_be_accessible(self.page, script, what)


def picture(console, folder, name):
    """What the window shows, in the 256 colours that it has most of."""
    if folder is None:
        return
    import io

    from PIL import Image

    shot = Image.open(io.BytesIO(console.page.screenshot())).convert("RGB")
    often = sorted(shot.getcolors(1 << 24), reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, color in often for part in color])
    path = folder / f"{name}.png"
    shot.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    must(path.stat().st_size <= PICTURE_BYTES_MAX, f"{path} has {path.stat().st_size} bytes")


# ---- made-up answers


def check_states(browser, server, axe, folder):
    """Every state has its verdict, on a desk and on a phone, light and dark, and axe finds nothing."""
    seen = [
        ("healthy", states.healthy(), "ok", "Healthy"),
        ("stuck", states.stuck(), "bad", "Stuck"),
        ("catching-up", states.catching_up(), "warn", "Catching up"),
        ("no-leader", states.no_leader(), "bad", "No leader"),
    ]
    for name, state, level, word in seen:
        server.state = state
        for size, dark in ((DESK, False), (PHONE, True)):
            console = Console(browser, server.address, size, dark)
            console.shows(level, word)
            console.fits()
            if size == DESK:
                picture(console, folder, name)
            console.axe(axe, f"{name}, {size[0]} wide, {'dark' if dark else 'light'}")
            console.close()
    server.state = states.stuck()
    for name, size, dark in (("phone", PHONE, False), ("dark", DESK, True)):
        console = Console(browser, server.address, size, dark)
        console.shows("bad", "Stuck")
        picture(console, folder, name)
        console.close()
    stuck = states.stuck().leases["leases"][0]
    for said in (stuck["why"], stuck["next_step"], stuck["shard"]):
        must(said in Console(browser, server.address).text("#problems"), f"the page does not say: {said}")


def check_old(browser, server, axe, folder):
    """What is not answered is not shown as current, and what comes back is."""
    server.state = states.healthy()
    console = Console(browser, server.address)
    console.shows("ok", "Healthy")
    cause = "lease table kinetide-trades: ResourceNotFoundException: Requested resource not found"
    good, server.state.leases = server.state.leases, (503, {"error": cause, "at": states.utc(states.now()), "since": states.utc(states.now())})
    console.refresh()
    console.shows("unknown", "Unknown")
    must(cause in console.text("#banners"), f"the banner is {console.text('#banners')}")
    must(console.page.evaluate("document.body.classList.contains('old-fleet')"), "old data look like new ones")
    picture(console, folder, "table-does-not-answer")
    console.axe(axe, "the table does not answer")
    whole = server.state
    server.state = states.State(None, None, None)
    console.refresh()
    console.page.wait_for_selector('#banners :text("does not answer.")')
    console.shows("unknown", "Unknown")
    must(console.page.locator(".banner").count() == 1, "one banner is enough")
    whole.leases = good
    server.state = whole
    console.refresh()
    console.shows("ok", "Healthy")
    must(console.page.locator(".banner").count() == 0, "the banner stays")
    # No answer at all, from the beginning.
    console.close()
    refused = (403, "this worker has no token; start it with KINETIDE_HTTP_TOKEN\n")
    server.state = states.State(refused, refused, refused)
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector('.banner :text("KINETIDE_HTTP_TOKEN")')
    must(page.get_attribute("#verdict", "data-level") == "unknown", "nothing known, and a verdict")
    must(page.locator("#figures > div").count() == 0, "nothing known, and figures")
    context.close()


def check_hostile(browser, server):
    """Names from outside are text, and cannot turn the direction of writing."""
    server.state = states.hostile()
    console = Console(browser, server.address)
    console.shows("bad", "Stuck")
    must(console.page.evaluate("window.hurt === undefined"), "a script from a name ran")
    must(console.page.locator("main img, main script, tbody script").count() == 0, "an element from a name")
    shown = states.HOSTILE.replace("\u202e", "\\u{202e}")
    for place in ("#application", "#workers tbody th", "#shards tbody th", "#notes", "#problems .next"):
        must(shown in console.page.locator(place).first.text_content(), f"{place} does not show the name as it is")
    must("\u202e" not in console.page.content(), "a name turns the direction of writing")
    console.page.fill("#text", states.HOSTILE[:30])
    console.page.reload()
    console.page.wait_for_selector("#figures > div")
    must(console.page.input_value("#text") == states.HOSTILE[:30], "the filter is not in the address")
    must(console.page.evaluate("window.hurt === undefined"), "a script from the address ran")
    console.close()
    # The policy holds, whatever the script would do.
    console = Console(browser, server.address)
    console.page.evaluate("""() => new Promise((done) => {
        document.addEventListener('securitypolicyviolation', (event) => { window.refused = event.effectiveDirective; done(); });
        document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt = 1'}));
        setTimeout(done, 2000);
    })""")
    must(console.page.evaluate("window.refused") == "script-src-elem", "an inline script is not refused")
    must(console.page.evaluate("window.hurt === undefined"), "an inline script ran")
    console.wrong = [one for one in console.wrong if "Content Security Policy" not in one]
    console.close()


def check_many(browser, server, axe, folder):
    """1,000 shards: the time of a refresh, filter, order, and the address that keeps them."""
    server.state = states.many()
    console = Console(browser, server.address)
    page = console.page
    console.shows("bad", "Stuck")
    rows = page.locator("#shards tbody tr")
    must(rows.count() == 1000, f"{rows.count()} rows")
    picture(console, folder, "1000-shards-top")
    # Frames that take longer than 50 ms, with style, layout and paint.
    page.evaluate("""() => { window.slow = []; new PerformanceObserver((seen) => window.slow.push(...seen.getEntries().map((one) => one.duration)))
        .observe({type: 'long-animation-frame'}); }""")
    page.evaluate("() => { window.first = document.querySelector('#shards tbody tr'); }")
    times = []
    for turn in range(5):
        # Each shard has moved on.
        for one in server.state.leases["leases"]:
            if one["delivered_age_ms"] is not None:
                one["delivered_age_ms"] += 2000 + turn
        console.refresh()
        page.wait_for_timeout(200)
        times.append(page.evaluate("Math.max(performance.getEntriesByName('draw')[0].duration, ...window.slow.splice(0))"))
    must(statistics.median(times) < REFRESH_MS / 2, f"a refresh takes {statistics.median(times):.0f} ms")
    must(page.evaluate("window.first.isConnected"), "a refresh makes rows anew that are there")
    page.click('#shards th[data-sort="behind"] button')
    must(page.get_attribute('#shards th[data-sort="behind"]', "aria-sort") == "descending", "the order is not said")
    page.check("#stuck")
    must(rows.count() == 11, f"{rows.count()} stuck rows")
    page.fill("#text", "orders 0013")
    must(rows.count() == 1 and console.text("#shown") == "1 of 1,000 shards", f"{rows.count()}, {console.text('#shown')}")
    must(page.evaluate("location.hash") == "#q=orders+0013&stuck=1&sort=-behind", page.evaluate("location.hash"))
    page.fill("#text", "")
    page.evaluate("document.querySelector('#shards').scrollIntoView()")
    picture(console, folder, "1000-shards")
    console.axe(axe, "1,000 shards, stuck only")
    page.goto(f"{server.address}/#q=fills&sort=-shard")
    page.wait_for_selector('#shards th[data-sort="shard"][aria-sort="descending"]')
    must(page.input_value("#text") == "fills" and not page.is_checked("#stuck"), "the address is not followed")
    console.close()
    return statistics.median(times)


def check_names(browser, server):
    """What a screen reader finds, also where rows are cards."""
    server.state = states.healthy()
    for size in (DESK, PHONE):
        console = Console(browser, server.address, size)
        role = console.page.get_by_role
        shards = role("table", name="Shards", exact=True)
        for what, number, found in (
            ("landmarks", 3, role("banner").or_(role("main")).or_(role("contentinfo"))),
            ("filter", 1, role("searchbox", name="Filter", exact=True)),
            ("box", 1, role("checkbox", name=re.compile("^Stuck only"))),
            ("table of workers", 1, role("table", name="Workers", exact=True)),
            ("columns of shards", 7, shards.get_by_role("columnheader")),
            ("shards by name", 12, shards.get_by_role("rowheader", name=re.compile("^shardId-"))),
            ("rows with their headers", 13, shards.get_by_role("row")),
            ("charts in words", 3, role("img", name=re.compile("^(Lag|Throughput|Dead letters) since .* as worker kinetide-a7f2 saw it"))),
            ("headings", 4, role("heading")),
        ):
            must(found.count() == number, f"{what}: {found.count()} where {number} should be, {size[0]} wide")
        console.close()


def check_keyboard(browser, server):
    """Everything with the keyboard alone, and the focus is seen."""
    server.state = states.stuck()
    console = Console(browser, server.address)
    page = console.page
    focus = "(() => { const at = document.activeElement; return at.id || at.className || at.textContent.trim(); })()"
    page.keyboard.press("Tab")
    must(page.evaluate(focus) == "skip", f"first comes {page.evaluate(focus)}")
    must(page.locator(".skip").bounding_box()["y"] >= 0, "the link to skip is not seen")
    page.keyboard.press("Enter")
    must(page.evaluate(focus) == "shards", "the link does not skip")
    page.keyboard.press("Tab")
    must(page.evaluate(focus) == "text", f"after it comes {page.evaluate(focus)}")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth")
    must(outline == "solid3px", f"the focus is not seen: {outline}")
    page.keyboard.type("no room")
    rows = page.locator("#shards tbody tr")
    must(rows.count() == 1, f"{rows.count()} rows")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    must(page.is_checked("#stuck") and rows.count() == 1, "the box is not reached")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    must(page.get_attribute('#shards th[data-sort="shard"]', "aria-sort") == "ascending", "the order is not reached")
    page.keyboard.press("Enter")
    must(page.get_attribute('#shards th[data-sort="shard"]', "aria-sort") == "descending", "the order is not turned")
    seen = []
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.locator("h1").click()
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focus))
    must({"pause", "scroll"} <= set(seen), f"not reached by Tab: {seen}")
    # What is read out to who does not see, once.
    must(page.get_attribute("#headline", "role") == "status", "the verdict is not read out")
    page.evaluate("""() => { window.said = []; new MutationObserver((all) => window.said.push(...all.map((one) => one.target.textContent)))
        .observe(document.querySelector('#headline'), {subtree: true, childList: true, characterData: true}); }""")
    console.refresh()
    console.refresh()
    must(page.evaluate("window.said.length") == 0, f"read out although nothing changed: {page.evaluate('window.said')}")
    server.state = states.healthy()
    console.refresh()
    console.shows("ok", "Healthy")
    must(page.evaluate("window.said.length") > 0, "the change is not read out")
    console.close()


# ---- running workers


class Fleet:
    """Embedded AWS and two workers."""

    def __init__(self, kinetide, folder, processes):
        self.kinetide, self.folder, self.processes = kinetide, folder, processes
        endpoints = processes.local(kinetide, "--stream", "trades:4")
        os.environ.update(
            KINETIDE_KINESIS_ENDPOINT=endpoints["kinesis"], KINETIDE_DYNAMODB_ENDPOINT=endpoints["dynamodb"],
            KINETIDE_REGION=endpoints["region"], KINETIDE_FAILOVER_TIME="10s",
        )  # fmt: skip
        self.workers, self.addresses, self.tokens = {}, {}, {"w-1": None, "w-2": TOKEN}
        for worker in self.tokens:
            self.start(worker)
        processes.start("generate", kinetide, "generate", "--stream", "trades", "--records", "100000", "--rate", "100", "--bad-rate", "0.02")
        until("each worker reads two shards", lambda: sorted(self.owners()) == ["w-1", "w-1", "w-2", "w-2"], 120)

    def start(self, worker):
        (port,) = free_ports(1)
        self.addresses[worker] = f"http://127.0.0.1:{port}"
        token = self.tokens[worker]
        environment = [f"KINETIDE_HTTP_TOKEN={token}"] if token else []
        self.workers[worker] = self.processes.start(
            worker, "env", *environment, self.kinetide, "run", "--stream", "trades", "--lake", str(self.folder / "lake"), "--transform",
            "crypto-transactions", "--batch-age", "1s", "--leases-max", "2", "--http", f"127.0.0.1:{port}", "--worker-id", worker,
        )  # fmt: skip

    def kill(self, worker):
        self.workers[worker].kill()

    def leases(self):
        run = subprocess.run([self.kinetide, "leases", "--stream", "trades", "--json", "--no-lag"], capture_output=True, text=True)
        return json.loads(run.stdout) if run.returncode == 0 else {}

    def leader(self):
        return (self.leases().get("leader") or {}).get("worker")

    def owners(self):
        return [lease["owner"] or "" for lease in self.leases().get("leases", []) if lease["state"] == "read"]

    def get(self, worker, path):
        request = urllib.request.Request(self.addresses[worker] + path)
        if token := self.tokens[worker]:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def console(self, browser, worker):
        return Console(browser, self.addresses[worker], token=self.tokens[worker])


def members(json_):
    """The names of all members, also of those inside, but for what is not always there: batches, what a leader sees."""
    if isinstance(json_, dict):
        inside = (one for name, one in json_.items() if name not in ("pending", "last_prepared", "fleet", "points"))
        return set(json_) | {name for one in inside for name in members(one)}
    return {name for one in json_ for name in members(one)} if isinstance(json_, list) else set()


def check_workers(browser, fleet):
    """Healthy, then a worker dies and nobody has room, then nobody leads, each as running workers say it."""
    # Whichever worker is asked, the fleet is the same.
    for worker in ("w-1", "w-2"):
        console = fleet.console(browser, worker)
        console.shows("ok", "Healthy", 60)
        until("the page says who leads", lambda: f"{fleet.leader()} leads" in console.text("#figures"), 60)
        must(console.page.locator("#workers tbody tr").count() == 2, "two workers")
        console.close()
    leader = fleet.leader()
    (follower,) = {"w-1", "w-2"} - {leader}
    said, asked = fleet.leases(), fleet.get(leader, "/api/leases")
    must(members(said) == members(asked), f"/api/leases and leases --json differ: {members(said) ^ members(asked)}")
    known = {name: json.loads((FIXTURES / f"{name}.json").read_text()) for name in ("healthy", "no_leader", "status", "history")}
    for name, now in (("healthy", asked), ("status", fleet.get(leader, "/api/status")), ("history", fleet.get(leader, "/api/history"))):
        differs = members(known[name]) ^ members(now)
        must(not differs, f"tests/fixtures/console/{name}.json is not what a worker says today: {sorted(differs)}")
    for one in (states.lease(1, "w", 1), states.worker("w", 1)):
        must(set(one) <= members(asked), f"the made-up answers have more: {set(one) - members(asked)}")
    console = fleet.console(browser, leader)
    fleet.kill(follower)
    console.page.wait_for_selector("#problems:not([hidden]) h3", timeout=90000)
    reasons = {lease["reason"].replace("_", " ") for lease in fleet.leases()["leases"] if lease["state"] == "not_read"}
    console.page.wait_for_selector('#problems h3:has-text("2 shards are not read")', timeout=60000)
    must(reasons and any(reason in console.text("#problems") for reason in reasons), f"the page does not say {reasons}")
    must(console.page.locator('#shards tbody tr[data-level]:not([data-level="ok"])').count() == 2, "two rows are marked")
    fleet.kill(leader)
    console.page.wait_for_selector(f'.banner :text("Worker {leader} does not answer.")', timeout=60000)
    console.shows("unknown", "Unknown")
    console.close()


def check_token(browser, fleet):
    """Without the token, or with another, there is no page and no answer."""
    for password in (None, TOKEN[:-1]):
        context = browser.new_context(http_credentials={"username": "", "password": password} if password else None)
        page = context.new_page()
        for path in ("/", "/api/status", "/app.js"):
            # A browser that was refused a password shows a page of its own.
            try:
                status = page.goto(fleet.addresses["w-2"] + path).status
            except PlaywrightError as error:
                must("ERR_INVALID_AUTH_CREDENTIALS" in error.message, error.message)
                status = 401
            must(status == 401, f"{path} answers {status} to who has not the token")
        context.close()


def check_no_leader(browser, server, fleet):
    """What `kinetide leases --json` says when all workers are dead."""
    until("the lock has expired", lambda: (fleet.leases().get("leader") or {"expired": True})["expired"], 60)
    server.state = states.healthy()
    server.state.leases = fleet.leases()
    console = Console(browser, server.address)
    console.shows("bad", "No leader")
    lease = server.state.leases["leases"][0]
    for said in (lease["why"], lease["next_step"]):
        must(said in console.page.locator("#problems").text_content().replace("`", ""), f"the page does not say: {said}")
    console.close()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kinetide")
    arguments.add_argument("chromium")
    arguments.add_argument("libraries")
    arguments.add_argument("axe", type=Path)
    arguments.add_argument("--pictures", type=Path, help="take pictures of the states into this folder")
    arguments.add_argument("--sources", action="store_true", help="the page of the source files, without workers")
    arguments = arguments.parse_args()
    axe = arguments.axe.read_text()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="kinetide-console-") as folder,
        sync_playwright() as playwright,
        Processes(folder) as processes,
    ):
        browser = None
        try:
            fleet = None if arguments.sources else Fleet(str(Path(arguments.kinetide).resolve()), Path(folder), processes)
            environment = dict(os.environ, LD_LIBRARY_PATH=arguments.libraries) if arguments.libraries else None
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS, env=environment)
            server = Standin(from_worker(fleet.addresses["w-1"]) if fleet else from_sources)
            check_states(browser, server, axe, arguments.pictures)
            check_old(browser, server, axe, arguments.pictures)
            check_hostile(browser, server)
            refresh = check_many(browser, server, axe, arguments.pictures)
            check_names(browser, server)
            check_keyboard(browser, server)
            if fleet:
                check_token(browser, fleet)
                check_workers(browser, fleet)
                check_no_leader(browser, server, fleet)
            print(f"the console in Chromium {browser.version}: a refresh with 1,000 shards takes {refresh:.0f} ms")
        except Wrong as wrong:
            sys.exit(str(wrong))
        finally:
            if browser:
                browser.close()


if __name__ == "__main__":
    main()
