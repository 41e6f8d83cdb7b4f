"""The eight days of market_made.py go through the program: a scripted provider, `kinetide snapshot` with the clock of each snapshot.

Into a lake: bodies byte for byte, and rows that are those of market_made.py to the last byte. The load, the views and the queries of
athena/market run on the landed rows in DuckDB, and `kinetide insights` on their lake: both must give what market_golden.py works out.
Into a stream of the embedded Kinesis and into a topic of a broker of Kafka, from each of which `kinetide run` lands them: the same rows
behind the columns that name the record.

Usage: market_program.py KINETIDE KAFKA_JARS
"""

import concurrent.futures
import dataclasses
import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "operations"))

import market
import market_insights
import market_made
from market_golden import Golden
from processes import Processes, free_ports, until

PROCESSED = "market/coingecko/processed"
MEMBERS = {
    "volume_24h": "total_volume", "price_change_pct_1h": "price_change_percentage_1h_in_currency",
    "price_change_pct_24h": "price_change_percentage_24h_in_currency", "price_change_pct_7d": "price_change_percentage_7d_in_currency",
}  # fmt: skip


def taken():
    """Snapshots that a provider can have sent: not the odd values of other producers, nor copies that came another way."""
    shots = market_made.snapshots()
    late = market_made.late(shots)
    return [shot for shot in shots if not shot.name and not any(row["id"] == "odd-nulls" for row in shot.rows)], late


def reply(shot):
    """The body that a provider sends."""
    coins = [{MEMBERS.get(name, name): value for name, value in row.items() if name != "timestamp"} for row in shot.rows]
    one = lambda coin: "{" + ",".join(f"{json.dumps(name)}:{market_made.literal(value)}" for name, value in coin.items()) + "}"
    return ("[" + ",".join(map(one, coins)) + "]").encode()


class Provider:
    """Sends what belongs to the key: each snapshot has its own."""

    def __init__(self, bodies):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = bodies[int(self.headers["x-cg-demo-api-key"])]
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


ENVIRONMENT = {
    "PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
}  # fmt: skip


def poll(kinetide, provider, at, *target):
    """One snapshot, in the middle of the interval that begins at this time."""
    offset = at + 100 - int(time.time())
    command = [kinetide, "snapshot", "--provider", "coingecko", "--once", "--endpoint", provider, f"--clock-offset={offset}", "--json", *target]
    run = subprocess.run(command, env=ENVIRONMENT | {"KINETIDE_MARKET_API_KEY": str(at)}, capture_output=True, text=True, timeout=60)
    found = json.loads(run.stdout) if run.returncode == 0 else {}
    if (found.get("snapshots"), found.get("newest_interval")) != (1, at):
        raise SystemExit(f"the snapshot of {at} ends with {run.returncode}: {run.stdout} {run.stderr[-2000:]}")


def zone(lake, name):
    """Contents by name of the objects of a zone."""
    paths = [path for path in (lake / "market/coingecko" / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(lake / "market/coingecko" / name)): path.read_bytes() for path in paths}


def landed(lake):
    """Snapshots by the rows in their objects, with numbers as they are written. The folders say the hour."""
    found = {}
    for path in sorted((lake / PROCESSED).rglob("*.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            row = json.loads(line, parse_int=market_made.Digits, parse_float=market_made.Digits)
            row = {name: row[name] for name in market_made.COLUMNS}
            found.setdefault(int(row["timestamp"]), []).append(row)
    return [market_made.Snapshot(at, rows) for at, rows in sorted(found.items())]


class Landed(market.Prices):
    """What market.py checks, on rows that the program has landed; worked out of what the provider sent."""

    def __init__(self, folder, shots, sent, late):
        self.lake, self.assets, self.by_hour, self.shots, self.late = folder, None, None, shots, late
        self.golden, self.tables = Golden([*sent, late]), market.ddl.tables(market.ddl.MARKET)
        self.loads = [self.golden.newest_hour, late.hour]


def check_lake(lake, sent):
    """Bodies and rows are what was sent, to the last byte."""
    raw, processed = zone(lake, "raw"), zone(lake, "processed")
    for shot in sent:
        name = "year={}/month={:02}/day={:02}/hour={:02}/{}".format(*shot.hour, shot.at)
        if raw.pop(f"{name}.json", None) != reply(shot):
            yield f"the body of {shot.at} is not what was sent"
        rows = processed.pop(f"{name}.ndjson.gz", None)
        if rows is None or gzip.decompress(rows).decode() != "".join(shot.lines()):
            yield f"the rows of {shot.at} are not those of market_made.py"
    if raw or processed:
        yield f"beside them there are {[*raw, *processed][:5]}"


def rows_by_hour(lake, start=""):
    """Lines by the folder of their hour, from the first column of prices on."""
    found = {}
    for name, body in zone(lake, "processed").items():
        lines = gzip.decompress(body).decode().splitlines()
        found.setdefault(name.rpartition("/")[0], []).extend(line[line.index(start) :] for line in lines)
    return {hour: sorted(lines) for hour, lines in found.items()}


def land(processes, kinetide, local, lake, wanted, *source):
    """A worker lands so many rows of this source."""
    worker = processes.start(
        "worker", "env", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", kinetide, "run", *source, "--region", local["region"],
        "--dynamodb-endpoint", local["dynamodb"], "--lake", str(lake), "--landing", PROCESSED, "--transform", "market-snapshot",
        "--batch-age", "1s", "--http", "127.0.0.1:0",
    )  # fmt: skip
    until("all rows have landed", lambda: worker.poll() is not None or sum(map(len, rows_by_hour(lake).values())) >= wanted)
    worker.send_signal(signal.SIGTERM)
    if worker.wait(timeout=60) != 0:
        raise SystemExit(f"the worker ends with {worker.returncode}\n" + "\n".join(processes.logs()))


def through_a_stream(kinetide, folder, provider, sent):
    """Each snapshot as a record, which a worker lands."""
    folder.mkdir()
    with Processes(folder) as processes:
        local = processes.local(kinetide, "--stream", "prices:2")
        stream = ["--stream", "prices", "--kinesis-endpoint", local["kinesis"]]
        for shot in sent:
            poll(kinetide, provider, shot.at, *stream, "--region", local["region"])
        land(processes, kinetide, local, folder / "lake", sum(len(shot.rows) for shot in sent), *stream)
    return folder / "lake"


def broker(processes, folder, jars):
    """Starts a broker of Kafka, which is its own controller, with the topic `prices`; answers where it listens."""
    client, controller = free_ports(2)
    java = ["java", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
    settings, address = folder / "broker.properties", f"127.0.0.1:{client}"
    settings.write_text(
        f"process.roles=broker,controller\nnode.id=0\ncontroller.quorum.voters=0@127.0.0.1:{controller}\n"
        f"listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n"
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\noffsets.topic.replication.factor=1\n"
        # The times of records are those of the snapshots.
        f"log.dirs={folder / 'data'}\nlog.retention.ms=-1\nauto.create.topics.enable=false\n"
    )
    once = lambda *command: subprocess.run([*java, *command], capture_output=True, text=True, timeout=120)
    formatted = once("kafka.tools.StorageTool", "format", "-t", "kinetide-PricesOfMarkA", "-c", str(settings))
    if formatted.returncode != 0:
        raise SystemExit(f"the folder of the broker was not made: {formatted.stdout} {formatted.stderr}")
    processes.start("broker", *java, "kafka.Kafka", str(settings))
    made = once("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", address, "--create", "--topic", "prices", "--partitions", "2")
    if made.returncode != 0:
        raise SystemExit(f"the topic was not made: {made.stdout} {made.stderr}")
    return address


def through_a_topic(kinetide, folder, provider, sent, jars):
    """As through_a_stream."""
    folder.mkdir()
    with Processes(folder) as processes:
        topic = ["--topic", "prices", "--kafka-bootstrap", broker(processes, folder, jars)]
        for shot in sent:
            poll(kinetide, provider, shot.at, *topic)
        local, rows = processes.local(kinetide), sum(len(shot.rows) for shot in sent)
        land(processes, kinetide, local, folder / "lake", rows, "--source", "kafka", *topic)
    return folder / "lake"


def other_rows(lake, others):
    """What has landed from records, against the rows of a lake: from the id on, behind the columns that name the record."""
    direct = {hour: sorted(line[1:] for line in lines) for hour, lines in rows_by_hour(lake).items()}
    for way, other in others.items():
        through = rows_by_hour(other, '"id":')
        if direct != through:
            hours = [hour for hour in direct.keys() | through.keys() if direct.get(hour) != through.get(hour)]
            yield f"through a {way} other rows have landed in {sorted(hours)[:5]}"
        if not all('"ordering_key":' in line for lines in rows_by_hour(other).values() for line in lines):
            yield f"rows of a {way} do not name their record"


def differences(kinetide, folder, lake, others, sent, late):
    yield from check_lake(lake, [*sent, late])
    yield from other_rows(lake, others)
    shots = landed(lake)
    prices = Landed(folder, [shot for shot in shots if shot.at != late.at], sent, late)
    answers, views = prices.answers(), market.view_texts()
    duck = prices.duck(views)
    yield from prices.differences(duck, answers)
    yield from filter(None, [prices.cells(duck, prices.golden.hours)])
    run = subprocess.run([kinetide, "insights", "--lake", str(lake), "--json"], capture_output=True, text=True, timeout=120)
    if run.returncode != 0 or run.stderr:
        yield f"insights: exit code {run.returncode}: {run.stderr}"
        return
    yield from market_insights.wrong(json.loads(run.stdout), answers)
    # A row that is not there must be noticed.
    fewer = dataclasses.replace(shots[-1], rows=shots[-1].rows[1:])
    blind = Landed(folder, [*[shot for shot in shots[:-1] if shot.at != late.at], fewer], sent, late)
    if not any(blind.differences(blind.duck(views), answers)):
        yield "a price that has not landed is not noticed"
    for way, other in others.items():
        next((other / PROCESSED).rglob("*.gz")).unlink()
        if not any(other_rows(lake, {way: other})):
            yield f"rows that have not landed through a {way} are not noticed"


def main(kinetide, jars):
    sent, late = taken()
    bodies = {shot.at: reply(shot) for shot in [*sent, late]}
    provider = Provider(bodies)
    with tempfile.TemporaryDirectory() as work, concurrent.futures.ThreadPoolExecutor() as side:
        folder = Path(work)
        ways = {
            "stream": side.submit(through_a_stream, kinetide, folder / "stream", provider.url, [*sent, late]),
            "topic": side.submit(through_a_topic, kinetide, folder / "topic", provider.url, [*sent, late], jars),
        }
        lake, began = folder / "direct", time.monotonic()
        for shot in [*sent, late]:
            poll(kinetide, provider.url, shot.at, "--lake", str(lake))
        others = {way: landed.result() for way, landed in ways.items()}
        problems = list(differences(kinetide, folder, lake, others, sent, late))[:10]
        seconds = time.monotonic() - began
    if problems:
        raise SystemExit("\n".join(problems))
    rows = sum(len(shot.rows) for shot in [*sent, late])
    print(
        f"prices: {len(bodies)} snapshots of eight days went through the program into a lake, through a stream and through a topic, {rows} "
        f"rows each, in {seconds:.0f} s; load, views, queries and `kinetide insights` give on them what is worked out"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
