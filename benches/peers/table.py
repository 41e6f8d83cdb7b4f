"""Verdicts of the load test as a line or as a table side by side: `line FILE.json`, `table FOLDER`."""

import json
import pathlib
import sys

CONSUMERS = {"kinetide": "kinetide", "java": "Java KCL", "bento": "Bento", "bento-defaults": "Bento, default periods"}
PLANS = {"calm": "Without faults", "chaos": "Under chaos"}


def number(value):
    return f"{value:,}"


def seconds(ms):
    return f"{ms / 1000:.1f} s"


def percent(found, name):
    share = 100 * found[name] / max(found["put"], 1)
    return number(found[name]) + (f" ({share:.2f} %)" if found[name] else "")


def requests(found, service):
    of = [requests["requests"] for requests in found["requests"] if requests["service"] == service]
    return number(sum(of))


def other(found):
    lake = found["lake"]
    names = ["unexpected", "value_mismatches", "misplaced", "needless_dead_letters", "broken_lines"]
    return number(sum(lake[name] for name in names))


ROWS = {
    "records put": lambda found: number(found["put"]),
    "**missing**": lambda found: percent(found, "missing"),
    "**duplicated**": lambda found: percent(found, "duplicated"),
    "files that end torn": lambda found: number(found["lake"]["broken_objects"]),
    "other defects": other,
    "put to lake, p50": lambda found: seconds(found["latency_ms"]["p50"]),
    "put to lake, p99": lambda found: seconds(found["latency_ms"]["p99"]),
    "put to lake, max": lambda found: seconds(found["latency_ms"]["max"]),
    "files": lambda found: number(found["lake"]["objects"]),
    "faults played": lambda found: number(len(found["faults"])),
    "workers killed": lambda found: number(found["workers_killed"]),
    "zombies": lambda found: number(found["zombies"]),
    "reshardings": lambda found: number(found["reshards"]),
    "workers that exited unexpectedly": lambda found: number(len(found["ended_by_themselves"])),
    "worker processes": lambda found: number(len(found["workers"])),
    "CPU time of all workers": lambda found: f"{sum(worker['cpu_seconds'] for worker in found['workers']):.0f} s",
    "peak memory of one worker": lambda found: f"{max(worker['rss_max_bytes'] for worker in found['workers']) / 2**20:.0f} MiB",
    "requests to Kinesis": lambda found: requests(found, "kinesis"),
    "requests to DynamoDB": lambda found: requests(found, "dynamodb"),
}


def read(path):
    return json.loads(path.read_text())


def table(folder):
    for plan, title in PLANS.items():
        paths = {name: folder / f"{plan}-{key}.json" for key, name in CONSUMERS.items()}
        found = {name: read(path) for name, path in paths.items() if path.exists()}
        if not found:
            continue
        print(f"| {title} | {' | '.join(found)} |")
        print("| --- |" + " ---: |" * len(found))
        for name, row in ROWS.items():
            print(f"| {name} | {' | '.join(row(each) for each in found.values())} |")
        print()


def line(path):
    found = read(path)
    print("{put} put, {missing} missing, {duplicated} duplicated, {torn} torn files, {seconds:.0f} s".format(
        torn=found["lake"]["broken_objects"], **found))


if __name__ == "__main__":
    {"line": line, "table": table}[sys.argv[1]](pathlib.Path(sys.argv[2]))
