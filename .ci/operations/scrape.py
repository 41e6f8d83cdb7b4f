"""Scrapes running workers with Prometheus and runs every expression of the shipped rules and dashboards.

None may find nothing, but for the few in EMPTY. Three things are played: load, a killed worker, and AWS out of reach;
an expression must find something at some time of the run. No alert may find anything before the trouble begins.

Usage: scrape.py KINETIDE PROMETHEUS [--calm SECONDS] [--pictures FOLDER]
"""

import argparse
import json
import re
import signal
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml
from processes import Processes, free_ports, until

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"

# Expressions that find nothing here, and why. One that finds something after all must leave the list.
EMPTY = {
    'kinetide_shard_stalled{reason="halted"}': "needs a pending batch that no worker can complete",
    'application_reason:kinetide_shards_not_read:max{reason="stream_not_read"}': "needs a stream that left the settings",
}

# Alerts whose expression is true in the healthy part of the run, and why.
FIRING = {
    "KinetideDeadLetters": "one record in fifty is broken on purpose",
    "KinetideDeadLetterShare": "the same, if it happens to be more than its threshold",
}


class Prometheus:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path, **query):
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{query}: {error.read().decode()}") from None

    def ready(self):
        try:
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def now(self, expression):
        return self.get("/api/v1/query", query=expression)["result"]

    def range(self, expression, start, end, step=1):
        return self.get("/api/v1/query_range", query=expression, start=start, end=end, step=step)["result"]


def rules():
    for name in ("recording.yml", "alerts.yml"):
        for group in yaml.safe_load((DASHBOARDS / "prometheus" / name).read_text())["groups"]:
            yield from group["rules"]


SELECTOR = re.compile(r"(?<![\w:.])((?:application\w*:|kinetide_|process_)[\w:]+|up\b)(\{[^}]*\})?")


def panels(kind=None):
    """File, panel and expression of every query of the Grafana dashboards."""
    for path in sorted((DASHBOARDS / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield path.stem, panel, target


def played(expression):
    """A panel's expression with its variables replaced, as Grafana does."""
    values = {
        "$__rate_interval": "10s",
        "$__interval": "5s",
        "$__range": "5m",
        "$application": ".*",
        "$stream": ".*",
        "$shard": ".*",
        "$instance": ".*",
    }
    for name, value in values.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise SystemExit(f"an unknown variable: {expression}")
    return expression


def expressions():
    """Where it stands, and what must find something. Of an alert each operand: its comparison is false while all is well."""
    for rule in rules():
        if "record" in rule:
            yield rule["record"], rule["expr"]
        else:
            for name, matchers in SELECTOR.findall(rule["expr"]):
                yield rule["alert"], name + matchers
    for file, panel, target in panels():
        yield f"{file}: {panel['title']}", played(target["expr"])
    for path in sorted((DASHBOARDS / "keda").glob("*.yaml")):
        for trigger in yaml.safe_load(path.read_text())["spec"]["triggers"]:
            yield f"keda: {path.stem}", trigger["metadata"]["query"]


def play(prometheus, processes, workers, generate, start, calm):
    """Plays the run; gives when it began, when the trouble began, and when it ended."""
    began = time.time()
    until("workers are scraped", lambda: len(prometheus.now("kinetide_build_info")) == len(workers))
    generator = generate()
    until("rows are delivered", lambda: prometheus.now("sum(kinetide_records_delivered_total) > 500"))
    until("every shard has an age", lambda: prometheus.now("count(kinetide_delivered_age_seconds) == 3"))
    time.sleep(calm)
    trouble = time.time()
    for rule in rules():
        if "alert" in rule and rule["alert"] not in FIRING:
            found = prometheus.get("/api/v1/query", query=rule["expr"], time=trouble)["result"]
            if found:
                raise SystemExit(f"{rule['alert']} is true although nothing is wrong: {found}")
    # A worker that does not lead is killed: the leader has no room for all of its shards and reports them until it is back.
    follower = prometheus.now("kinetide_leader == 0")[0]["metric"]["instance"]
    workers[follower].send_signal(signal.SIGKILL)
    workers[follower].wait()
    until("the leader reports its shards", lambda: prometheus.now("sum(kinetide_shards_not_read) > 0"))
    start(follower)
    until("they are read again", lambda: not prometheus.now("sum(kinetide_shards_not_read) > 0"))
    time.sleep(5)
    generator.kill()
    processes.aws.kill()
    until("the other worker is stalled", lambda: prometheus.now("kinetide_shard_stalled"))
    until("its calls fail", lambda: prometheus.now("kinetide_coordinator_trouble_seconds > 5"))
    time.sleep(3)
    return began, trouble, time.time()


def judge(prometheus, began, ended):
    wrong, count, unused = [], 0, set(EMPTY)
    for group in prometheus.get("/api/v1/rules")["groups"]:
        ill = (rule for rule in group["rules"] if rule["health"] != "ok")
        wrong += [f"{rule['name']}: {rule.get('lastError')}" for rule in ill]
    for place, expression in expressions():
        count += 1
        found = prometheus.range(expression, began, ended)
        if expression in EMPTY:
            unused.discard(expression)
            if found:
                wrong.append(f"{place}: {expression} finds something: take it from the list EMPTY")
        elif not any(value != "NaN" for series in found for _, value in series["values"]):
            wrong.append(f"{place}: {expression} finds nothing")
    wrong += [f"{expression}: not in any rule or dashboard, take it from the list EMPTY" for expression in unused]
    if wrong:
        raise SystemExit("\n".join(wrong))
    return count


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kinetide")
    arguments.add_argument("prometheus")
    arguments.add_argument("--calm", type=float, default=15, help="seconds of load before the trouble")
    arguments.add_argument("--pictures", type=Path, help="draw the dashboards into this folder")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="kinetide-scrape-") as folder:
        folder = Path(folder)
        with Processes(folder) as processes:
            run(arguments, folder, processes)


def run(arguments, folder, processes):
    kinetide = str(Path(arguments.kinetide).resolve())
    endpoints = processes.local(kinetide, "--stream", "trades:3")
    own, first, second = free_ports(3)
    workers = {}

    def start(address):
        workers[address] = processes.start(
            f"worker-{address}", kinetide, "run", "--stream", "trades", "--lake", str(folder / "lake"),
            "--transform", "crypto-transactions", "--region", endpoints["region"], "--http", address,
            "--kinesis-endpoint", endpoints["kinesis"], "--dynamodb-endpoint", endpoints["dynamodb"],
            "--failover-time", "4s", "--batch-age", "2s", "--leases-max", "2",
        )  # fmt: skip

    for port in (first, second):
        start(f"127.0.0.1:{port}")
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(DASHBOARDS / "prometheus" / name) for name in ("recording.yml", "alerts.yml")],
                "scrape_configs": [
                    {
                        "job_name": "kinetide",
                        "static_configs": [{"targets": list(workers), "labels": {"application": "kinetide-trades"}}],
                    }
                ],
            }
        )
    )
    processes.start(
        "prometheus", arguments.prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{own}",
    )  # fmt: skip
    prometheus = Prometheus(own)
    until("Prometheus is ready", prometheus.ready)

    def generate():
        return processes.start(
            "generate", kinetide, "generate", "--stream", "trades", "--region", endpoints["region"],
            "--kinesis-endpoint", endpoints["kinesis"], "--records", "1000000", "--rate", "300", "--bad-rate", "0.02",
        )  # fmt: skip

    began, trouble, ended = play(prometheus, processes, workers, generate, start, arguments.calm)
    count = judge(prometheus, began, ended)
    print(f"{count} expressions run on {ended - began:.0f} s of scraped data, {len(EMPTY)} of them rightly find nothing")
    if arguments.pictures:
        import pictures

        pictures.draw(prometheus, began, ended, arguments.pictures)


if __name__ == "__main__":
    main()
