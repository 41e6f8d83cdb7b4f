"""Loads market prices of hours that are over into analytics_prices, with Athena. A Lambda function, or by hand:

  load_hour.py --work-group NAME --prices s3://BUCKET/PREFIX/market/coingecko/processed --results s3://BUCKET/query-results
               [--hour 2026-11-29T17 | --since 2026-11-28T00] [--again]

Without an hour it takes those of the last day that have prices and are not loaded, or have got more since, oldest first. A run
may end at any point: the next one goes on. Why: docs/adr/0042-market-prices.md. Needs boto3.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from datetime import datetime, timedelta, timezone

import boto3
from botocore.config import Config

HOUR = timedelta(hours=1)
# The next look at a query, when it is given up and stopped, and how often a load is tried in one run.
POLL_SECONDS, GIVE_UP_SECONDS, ATTEMPTS = 2, 300, 2
# Queries of one hour that failed in earlier runs. So many tell that a person has to look.
ATTEMPTS_EVER = 20
DONE, GONE = "SUCCEEDED", ("FAILED", "CANCELLED")
# What is measured, by database.
METRICS = ("HoursLoaded", "HoursWaiting", "HoursWithoutPrices", "LoadTime")


class LoadFailed(Exception):
    """An hour that could not be loaded."""


@dataclasses.dataclass(frozen=True)
class Settings:
    work_group: str
    prices: str  # folder of the poller's prices
    results: str  # folder for results of queries, where what is loaded is written down too
    database: str = "crypto_data"
    sql_parameter: str = "/crypto-analytics/sql/insert_last_hour"
    look_back_hours: int = 24
    metrics_namespace: str = ""

    @classmethod
    def read(cls, values):
        """From texts by name; names that are not there have their defaults."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        given = {name: value for name, value in values.items() if name in known and value not in (None, "")}
        missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in given]
        if missing:
            raise ValueError(f"not given: {', '.join(missing)}")
        for name in ("prices", "results"):
            if not given[name].startswith("s3://"):
                raise ValueError(f"{name} is {given[name]!r}: it begins with s3://")
        if not str(given.get("look_back_hours", 1)).isdigit() or int(given.get("look_back_hours", 1)) == 0:
            raise ValueError(f"look_back_hours is {given['look_back_hours']!r}: it is a number above 0")
        return cls(**given | ({"look_back_hours": int(given["look_back_hours"])} if "look_back_hours" in given else {}))


# ---- Which hours


def hour_of(text):
    """An hour as people write it: 2026-11-29T17, in UTC."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H").replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(f"{text!r} is no hour: write it as 2026-11-29T17, in UTC") from None


def asked(event, now, look_back_hours):
    """The hours to look at, oldest first. Only hours that are over."""
    last = now.replace(minute=0, second=0, microsecond=0) - HOUR
    if event.get("hour"):
        hours = [hour_of(event["hour"])]
    elif event.get("since"):
        first = hour_of(event["since"])
        hours = [first + at * HOUR for at in range((last - first) // HOUR + 1)]
    else:
        hours = [last - at * HOUR for at in reversed(range(look_back_hours))]
    if not hours or hours[-1] > last:
        raise ValueError(f"{event.get('hour') or event.get('since')} is not over yet")
    return hours


def folder(hour):
    """Of the poller: with zeros."""
    return f"year={hour:%Y}/month={hour:%m}/day={hour:%d}/hour={hour:%H}/"


def parameters(hour):
    """Of the statement: year, month, day and hour, twice, without zeros."""
    return [str(part) for part in (hour.year, hour.month, hour.day, hour.hour)] * 2


def token(hour, sql, objects, again, attempt):
    """The same for the same work: Athena starts one query for it, however often it is asked."""
    content = hashlib.sha256(f"{sql}\0{objects}\0{again}".encode()).hexdigest()[:16]
    return f"kinetide-market-{hour:%Y-%m-%dT%H}-{content}-{attempt}"


def missing(hours, objects):
    """Hours without prices after the first that has some, and how many of the newest have none."""
    found = [hour for hour in hours if objects[hour]]
    gaps = [hour for hour in hours if found and hour > found[0] and not objects[hour]]
    return gaps, len([hour for hour in hours if not found or hour > found[-1]])


# ---- What is there


def place(url):
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key.strip("/")


class Loader:
    def __init__(self, settings, client=None, clock=time, seconds_left=lambda: float("inf")):
        """`client`: gives a client of a service by its name; `seconds_left`: until this process is ended."""
        config = Config(retries={"mode": "standard", "total_max_attempts": 6}, connect_timeout=10, read_timeout=60)
        client = client or (lambda service: boto3.client(service, config=config))
        self.settings, self.clock, self.seconds_left = settings, clock, seconds_left
        self.athena, self.s3, self.ssm, self.cloudwatch = map(client, ("athena", "s3", "ssm", "cloudwatch"))

    def objects(self, hour):
        """How many objects of prices an hour has."""
        bucket, prefix = place(self.settings.prices)
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{folder(hour)}")
        names = [one["Key"].rpartition("/")[2] for page in pages for one in page.get("Contents", [])]
        return sum(not name.startswith(("_", ".")) for name in names)

    def noted(self, hour):
        """How many objects the hour had when it was loaded; None if it was not."""
        bucket, prefix = place(self.settings.results)
        try:
            found = self.s3.get_object(Bucket=bucket, Key=f"{prefix}/loaded/{hour:%Y-%m-%dT%H}.json")
        except self.s3.exceptions.NoSuchKey:
            return None
        return json.loads(found["Body"].read())["objects"]

    def note(self, hour, loaded):
        bucket, prefix = place(self.settings.results)
        body = json.dumps(loaded).encode()
        self.s3.put_object(Bucket=bucket, Key=f"{prefix}/loaded/{hour:%Y-%m-%dT%H}.json", Body=body, ContentType="application/json")

    # ---- One hour

    def load(self, hour, sql, objects, again=""):
        """Loads an hour, and writes down that it is loaded."""
        failures = 0
        for attempt in range(ATTEMPTS_EVER):
            started = self.athena.start_query_execution(
                QueryString=sql,
                ClientRequestToken=token(hour, sql, objects, again, attempt),
                ExecutionParameters=parameters(hour),
                QueryExecutionContext={"Database": self.settings.database},
                WorkGroup=self.settings.work_group,
            )
            query = started["QueryExecutionId"]
            status, watched = self.ended(hour, query)
            if status["State"] == DONE:
                loaded = {"loaded_hour_utc": f"{hour:%Y-%m-%dT%H}:00:00Z", "query_id": query, "objects": objects, "attempts": attempt + 1}
                self.note(hour, loaded)
                return loaded
            # One that had ended before was tried, and told of, by an earlier run.
            failures += watched
            if failures == ATTEMPTS:
                raise LoadFailed(f"{hour:%Y-%m-%dT%H}: query {query} {status['State']}: {status.get('StateChangeReason', 'no reason')}")
        raise LoadFailed(f"{hour:%Y-%m-%dT%H}: {ATTEMPTS_EVER} queries have failed, the last is {query}: repair the cause, then load it again")

    def ended(self, hour, query):
        """How a query ended, and whether it did while we watched."""
        began, watched = self.clock.monotonic(), False
        while True:
            status = self.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
            if status["State"] == DONE or status["State"] in GONE:
                return status, watched
            watched = True
            if self.clock.monotonic() - began >= GIVE_UP_SECONDS:
                self.athena.stop_query_execution(QueryExecutionId=query)
                raise LoadFailed(f"{hour:%Y-%m-%dT%H}: query {query} was still {status['State']} after {GIVE_UP_SECONDS} s, and was stopped")
            self.clock.sleep(POLL_SECONDS)

    # ---- A run

    def run(self, event, now):
        """Loads what is due, one hour after the other; gives what it did. An hour that fails is no harm to the next ones."""
        hours = asked(event, now, self.settings.look_back_hours)
        chosen, again = bool(event.get("hour") or event.get("since")), str(event.get("again") or "")
        objects = {hour: self.objects(hour) for hour in hours}
        due = [hour for hour in hours if objects[hour] and (again or self.noted(hour) != objects[hour])]
        sql = self.ssm.get_parameter(Name=self.settings.sql_parameter)["Parameter"]["Value"]
        began, loads, failed = self.clock.monotonic(), [], []
        for hour in due:
            # The first one has its time.
            if (loads or failed) and self.seconds_left() < GIVE_UP_SECONDS + 30:
                break
            try:
                loads.append(self.load(hour, sql, objects[hour], again))
            except LoadFailed as error:
                failed.append(str(error))
        gaps, newest = missing(hours, objects)
        waiting = len(due) - len(loads) - len(failed)
        self.measure(len(loads), waiting, None if chosen else newest, self.clock.monotonic() - began)
        if failed:
            raise LoadFailed("\n".join(failed))
        last = loads[-1] if loads else {"loaded_hour_utc": None, "query_id": None}
        return {
            "ok": True,
            "query_id": last["query_id"],
            "loaded_hour_utc": last["loaded_hour_utc"],
            "loads": loads,
            "hours_waiting": waiting,
            "hours_without_prices": [f"{hour:%Y-%m-%dT%H}" for hour in gaps],
        }

    def measure(self, *values):
        if not self.settings.metrics_namespace:
            return
        by = [{"Name": "Database", "Value": self.settings.database}]
        data = [
            {"MetricName": name, "Dimensions": by, "Value": float(value), "Unit": "Seconds" if name == "LoadTime" else "Count"}
            # Hours that somebody has chosen say nothing of the newest ones.
            for name, value in zip(METRICS, values, strict=True) if value is not None
        ]
        self.cloudwatch.put_metric_data(Namespace=self.settings.metrics_namespace, MetricData=data)


def handler(event, context):
    """Lambda. The event may have `hour`, or `since`, and `again`; that of a schedule has none."""
    settings = Settings.read({name.lower(): value for name, value in os.environ.items()})
    loader = Loader(settings, seconds_left=lambda: context.get_remaining_time_in_millis() / 1000)
    result = loader.run(event or {}, datetime.now(timezone.utc))
    print(json.dumps(result))
    return result


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Settings):
        needed = field.default is dataclasses.MISSING
        arguments.add_argument(f"--{field.name.replace('_', '-')}", required=needed, default=None if needed else str(field.default))
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--hour", help="this hour, in UTC")
    which.add_argument("--since", help="every hour from this one on")
    arguments.add_argument("--again", action="store_true", help="also hours that are loaded")
    given = vars(arguments.parse_args(argv))
    event = {name: given.pop(name) for name in ("hour", "since")}
    event["again"] = f"{time.time():.0f}" if given.pop("again") else ""
    try:
        result = Loader(Settings.read(given)).run(event, datetime.now(timezone.utc))
    except (LoadFailed, ValueError) as error:
        sys.exit(str(error))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
