"""What AWS does around a Lambda function: reads the shards, makes events, calls the handler.

The CPU time inside the handler, with the parsing of the event that its runtime does, is told apart from that of this
driver, which nobody pays for at AWS. One process and one shard at a time; no checkpoint, as the service keeps that.
"""

import http.client
import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from handler import handler

# The most that Lambda puts into an event; it is the bytes that end it here.
EVENT_RECORDS, EVENT_BYTES = 10_000, 6_000_000
POLL_PAUSE = 0.2


def told(name, otherwise=None):
    value = os.environ.get(f"KINETIDE_PEER_{name}", otherwise)
    if value is None:
        sys.exit(f"the variable KINETIDE_PEER_{name} is missing")
    return value


class Lake:
    def __init__(self, root):
        self.root = Path(root)

    def put(self, content):
        folder = self.root / time.strftime("year=%Y/month=%m/day=%d/hour=%H", time.gmtime())
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{uuid.uuid4()}.ndjson.gz"
        hidden = folder / f".{name}.tmp"
        with open(hidden, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(folder / name)


class Driver:
    def __init__(self):
        at = urlsplit(told("KINESIS"))
        self.connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        self.lake, self.stream = Lake(told("LAKE")), told("STREAM")
        # What gzip.compress has by default.
        self.gzip_level = int(told("GZIP_LEVEL", "9"))
        self.handler_cpu, self.events, self.records, self.ended = 0.0, 0, 0, False

    def call(self, operation, **members):
        headers = {"X-Amz-Target": f"Kinesis_20131202.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        self.connection.request("POST", "/", json.dumps(members), headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"{operation} was answered with {response.status}: {body[:300]!r}")
        return json.loads(body)

    def invoke(self, shard, records):
        event = [
            {"eventSource": "aws:kinesis", "eventID": f"{shard}:{record['SequenceNumber']}",
             "kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": record["PartitionKey"],
                         "sequenceNumber": record["SequenceNumber"], "data": record["Data"],
                         "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"]}}
            for record in records
        ]  # fmt: skip
        payload = json.dumps({"Records": event}).encode()
        began = time.process_time()
        handler(json.loads(payload), self.lake.put, self.gzip_level)
        self.handler_cpu += time.process_time() - began
        self.events += 1
        self.records += len(records)

    def page(self, shard, records):
        batch, size = [], 0
        for record in records:
            bytes_of = len(record["Data"]) + 300
            if batch and (size + bytes_of > EVENT_BYTES or len(batch) == EVENT_RECORDS):
                self.invoke(shard, batch)
                batch, size = [], 0
            batch.append(record)
            size += bytes_of
        if batch:
            self.invoke(shard, batch)

    def run(self):
        at = {}
        for shard in self.call("ListShards", StreamName=self.stream)["Shards"]:
            name = shard["ShardId"]
            start = self.call("GetShardIterator", StreamName=self.stream, ShardId=name, ShardIteratorType="TRIM_HORIZON")
            at[name] = start["ShardIterator"]
        while not self.ended:
            busy = False
            for shard in at:
                if self.ended:
                    return
                page = self.call("GetRecords", ShardIterator=at[shard])
                at[shard] = page["NextShardIterator"]
                if page["Records"]:
                    busy = busy or page["MillisBehindLatest"] > 0
                    self.page(shard, page["Records"])
            if not busy:
                time.sleep(POLL_PAUSE)

    def end(self, *_):
        self.ended = True


def main():
    driver = Driver()
    signal.signal(signal.SIGTERM, driver.end)
    driver.run()
    figures = {"handler_cpu_seconds": driver.handler_cpu, "events": driver.events, "records": driver.records}
    Path(told("FIGURES")).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
