"""athena/load_hour.py: on scripted clients, each request as its API wants it, and on an Athena that ends, fails, hangs and forgets
nothing, with the loader killed at every call.

Usage: loader.py
"""

import io
import json
import sys
from datetime import datetime, timezone

import boto3
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber
from cloudformation import ROOT

sys.path.insert(0, str(ROOT / "athena"))
import load_hour
from load_hour import HOUR, Loader, LoadFailed, Settings

SQL = (ROOT / "athena/market/load/insert_last_hour.sql").read_text()
NOW = datetime(2026, 1, 5, 4, 5, tzinfo=timezone.utc)
SETTINGS = Settings("market", "s3://landing/raw/market/coingecko/processed", "s3://lake/query-results", metrics_namespace="market")
LAST = NOW.replace(minute=0) - HOUR


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


# ---- Requests, one by one


def body(text):
    return StreamingBody(io.BytesIO(text.encode()), len(text))


def request_by_request():
    """One hour, loaded: each request has the parameters that it must have."""
    clients = {
        name: boto3.client(name, region_name="eu-north-1", aws_access_key_id="x", aws_secret_access_key="x")
        for name in ("athena", "s3", "ssm", "cloudwatch")
    }
    stubs = {name: Stubber(client) for name, client in clients.items()}
    prefix = "raw/market/coingecko/processed/year=2026/month=01/day=05/hour=03/"
    contents = [{"Key": f"{prefix}{name}"} for name in ("1767582002.ndjson.gz", "1767582302.ndjson.gz", ".staged")]
    listed = {"Bucket": "landing", "Prefix": prefix}
    stubs["s3"].add_response("list_objects_v2", {"Contents": contents[:1], "NextContinuationToken": "t", "IsTruncated": True}, listed)
    stubs["s3"].add_response("list_objects_v2", {"Contents": contents[1:]}, listed | {"ContinuationToken": "t"})
    key = {"Bucket": "lake", "Key": "query-results/loaded/2026-01-05T03.json"}
    stubs["s3"].add_client_error("get_object", "NoSuchKey", expected_params=key)
    stubs["ssm"].add_response(
        "get_parameter", {"Parameter": {"Value": SQL}}, {"Name": "/crypto-analytics/sql/insert_last_hour"},
    )  # fmt: skip
    start = {
        "QueryString": SQL, "ClientRequestToken": load_hour.token(LAST, SQL, 2, "", 0), "WorkGroup": "market",
        "ExecutionParameters": ["2026", "1", "5", "3"] * 2, "QueryExecutionContext": {"Database": "crypto_data"},
    }  # fmt: skip
    stubs["athena"].add_response("start_query_execution", {"QueryExecutionId": "q-1"}, start)
    for state in ("QUEUED", "RUNNING", "SUCCEEDED"):
        stubs["athena"].add_response(
            "get_query_execution", {"QueryExecution": {"Status": {"State": state}}}, {"QueryExecutionId": "q-1"},
        )  # fmt: skip
    loaded = {"loaded_hour_utc": "2026-01-05T03:00:00Z", "query_id": "q-1", "objects": 2, "attempts": 1}
    stubs["s3"].add_response("put_object", {}, key | {"Body": json.dumps(loaded).encode(), "ContentType": "application/json"})
    stubs["cloudwatch"].add_response("put_metric_data", {}, {"Namespace": "market", "MetricData": ANY})
    for stub in stubs.values():
        stub.activate()
    clock = Clock()
    found = Loader(SETTINGS, clients.__getitem__, clock).run({"hour": "2026-01-05T03"}, NOW)
    for stub in stubs.values():
        stub.assert_no_pending_responses()
    assert found["ok"] and found["query_id"] == "q-1" and found["loaded_hour_utc"] == "2026-01-05T03:00:00Z", found
    assert clock.now == 4, "the query is looked at every two seconds"
    assert 32 <= len(start["ClientRequestToken"]) <= 128, start


# ---- A world that remembers


class Killed(BaseException):
    """The process is gone."""


class World:
    """S3, Athena, SSM and CloudWatch of some hours. `fate` says of a started query, by hour and number, how it ends."""

    def __init__(self, hours, fate=lambda hour, number: "SUCCEEDED"):
        self.fate, self.prices = fate, dict(hours)
        self.notes, self.tokens, self.queries, self.metrics, self.stopped = {}, {}, {}, [], []
        self.clock, self.kill_at, self.calls = Clock(), None, 0
        self.exceptions = type("Exceptions", (), {"NoSuchKey": KeyError})

    def __call__(self, _):
        return self

    def call(self):
        self.calls += 1
        if self.kill_at == self.calls:
            raise Killed

    # After the effect of a call the answer may be lost with the process.
    def get_paginator(self, _):
        return self

    def paginate(self, Bucket, Prefix):
        self.call()
        hour = datetime.strptime(Prefix, "raw/market/coingecko/processed/year=%Y/month=%m/day=%d/hour=%H/").replace(tzinfo=timezone.utc)
        return [{"Contents": [{"Key": f"{Prefix}{number}.ndjson.gz"} for number in range(self.prices.get(hour, 0))]}]

    def get_object(self, Bucket, Key):
        self.call()
        return {"Body": io.BytesIO(self.notes[Key])}

    def put_object(self, Bucket, Key, Body, ContentType):
        self.call()
        self.notes[Key] = Body
        self.call()

    def get_parameter(self, Name):
        self.call()
        return {"Parameter": {"Value": SQL}}

    def start_query_execution(self, **request):
        self.call()
        given = request["ClientRequestToken"]
        if given not in self.tokens:
            running = [query for query, one in self.queries.items() if one["state"] == "RUNNING"]
            assert not running, f"{running} still run: one query at a time"
            hour = datetime(*map(int, request["ExecutionParameters"][:4]), tzinfo=timezone.utc)
            number = sum(one["hour"] == hour for one in self.queries.values())
            query = f"q-{len(self.queries)}"
            self.tokens[given] = query, request
            self.queries[query] = {"hour": hour, "state": "RUNNING", "end": self.fate(hour, number), "looks": 0}
        query, before = self.tokens[given]
        assert before == request, "Athena refuses a token with another request"
        self.call()
        return {"QueryExecutionId": query}

    def get_query_execution(self, QueryExecutionId):
        self.call()
        one = self.queries[QueryExecutionId]
        one["looks"] += 1
        if one["looks"] == 3 and one["end"] != "HANGS":
            one["state"] = one["end"]
        return {"QueryExecution": {"Status": {"State": one["state"], "StateChangeReason": "because"}}}

    def stop_query_execution(self, QueryExecutionId):
        self.call()
        self.stopped.append(QueryExecutionId)
        self.queries[QueryExecutionId]["state"] = "CANCELLED"

    def put_metric_data(self, Namespace, MetricData):
        self.call()
        self.metrics.append({one["MetricName"]: one["Value"] for one in MetricData})

    def run(self, event=None, now=NOW, **more):
        return Loader(SETTINGS, self, self.clock, **more).run(event or {}, now)

    def loaded(self):
        """Hours of queries that succeeded, in the order of their start."""
        return [one["hour"] for one in self.queries.values() if one["state"] == "SUCCEEDED"]


def hours(*back, objects=12):
    return {LAST - at * HOUR: objects for at in back}


def catches_up():
    """After an outage of the loader: what is due, oldest first; and nothing twice."""
    world = World(hours(5, 4, 2, 0))
    found = world.run()
    assert world.loaded() == sorted(world.prices) and found["loaded_hour_utc"] == "2026-01-05T03:00:00Z", found
    assert found["hours_without_prices"] == ["2026-01-05T00", "2026-01-05T02"] and world.metrics[-1]["HoursWithoutPrices"] == 0, found
    again = world.run()
    assert again["loads"] == [] and again["loaded_hour_utc"] is None and len(world.queries) == 4, again
    world.prices[LAST - 4 * HOUR] += 1
    assert [one["loaded_hour_utc"] for one in world.run()["loads"]] == ["2026-01-04T23:00:00Z"], "an hour that has got more"
    forced = world.run({"hour": "2026-01-05T01", "again": "1"})
    assert forced["loaded_hour_utc"] == "2026-01-05T01:00:00Z" and len(world.queries) == 6, forced
    assert "HoursWithoutPrices" not in world.metrics[-1]
    many = World(hours(*range(60)))
    assert len(many.run({"since": "2026-01-03T00"})["loads"]) == 52 and len(many.queries) == 52


def killed_at_every_call():
    """Wherever a run is killed: the next ones do the rest, and each hour has one query that succeeded."""
    last, kills = World(hours(2, 1, 0)), 0
    last.run()
    for at in range(1, last.calls + 1):
        world = World(hours(2, 1, 0))
        world.kill_at = at
        try:
            world.run()
            raise SystemExit(f"not killed at call {at}")
        except Killed:
            kills += 1
        world.run()
        assert world.loaded() == sorted(world.prices), f"killed at call {at}: {world.queries}"
        assert len(world.queries) == 3 and len(world.notes) == 3, f"killed at call {at}: {world.queries}"
    return kills


def fails():
    """A query that fails is tried once more; then the hour is told of, the others are loaded, and the next run goes on."""
    bad = LAST - HOUR
    world = World(hours(2, 1, 0), lambda hour, number: "FAILED" if hour == bad and number < 3 else "SUCCEEDED")
    try:
        world.run()
        raise SystemExit("a failed hour is not told of")
    except LoadFailed as error:
        assert "2026-01-05T02" in str(error) and "because" in str(error), error
    assert world.loaded() == [LAST - 2 * HOUR, LAST] and world.metrics[-1]["HoursLoaded"] == 2, world.metrics
    assert world.run()["loads"][0]["attempts"] == 4, world.queries
    for_good = World(hours(0), lambda hour, number: "FAILED")
    for _ in range(20):
        try:
            for_good.run()
            raise SystemExit("it succeeded")
        except LoadFailed as error:
            said = str(error)
    assert len(for_good.queries) == load_hour.ATTEMPTS_EVER and "repair the cause" in said, said


def hangs():
    world = World(hours(1, 0), lambda hour, number: "HANGS" if (hour, number) == (LAST - HOUR, 0) else "SUCCEEDED")
    try:
        world.run()
        raise SystemExit("a query that hangs is not told of")
    except LoadFailed as error:
        assert "stopped" in str(error), error
    assert world.stopped == ["q-0"] and world.clock.now >= 300 and world.loaded() == [LAST]
    assert world.run()["loads"][0]["attempts"] == 2 and world.loaded() == [LAST, LAST - HOUR]


def short_of_time():
    """A run that is about to be ended begins no other hour."""
    world = World(hours(2, 1, 0))
    found = world.run(seconds_left=lambda: 200)
    assert len(found["loads"]) == 1 and found["hours_waiting"] == 2, found
    assert len(world.run(seconds_left=lambda: 900)["loads"]) == 2


def no_prices():
    for there, missing in ((hours(3), 3), ({}, 24)):
        world = World(there)
        world.run()
        assert world.metrics[-1]["HoursWithoutPrices"] == missing, world.metrics


def refused():
    for event in ({"hour": "yesterday"}, {"hour": "2026-01-05T04"}, {"since": "2026-01-06T00"}, {"hour": "2026-1-5 3"}):
        try:
            World({}).run(event)
            raise SystemExit(f"{event} is taken")
        except ValueError:
            pass
    for values in ({}, {"work_group": "w", "prices": "/tmp", "results": "s3://b/r"}, {"work_group": "w", "prices": "s3://b", "results": "s3://b", "look_back_hours": "x"}):
        try:
            Settings.read(values)
            raise SystemExit(f"{values} is taken")
        except ValueError:
            pass
    assert Settings.read({"work_group": "w", "prices": "s3://b/p", "results": "s3://b/r", "look_back_hours": "48", "path": "x"}).look_back_hours == 48


def main():
    request_by_request()
    catches_up()
    kills = killed_at_every_call()
    for check in (fails, hangs, short_of_time, no_prices, refused):
        check()
    assert SQL.count("?") == len(load_hour.parameters(LAST)), "the load has other parameters"
    print(f"the loader: each request as its API wants it; killed at {kills} calls, each hour was loaded once")


if __name__ == "__main__":
    main()
