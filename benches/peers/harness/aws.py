"""The embedded AWS, a stream filled before anybody reads it, and what is in it."""

import base64
import http.client
import json
import os
import subprocess
import threading
import time
import zlib
from urllib.parse import urlsplit

STREAM, REGION = "filled", "us-east-1"
# Every so many records of a shard one is kept whole, to compare its row.
SAMPLE_EVERY = 100
# How an aggregate of the Kinesis Producer Library begins; at its end are 16 bytes of MD5.
AGGREGATE, MD5_BYTES = bytes.fromhex("f3899ac2"), 16


class Failed(Exception):
    """The measurement cannot go on; the text says what to do."""


def environment(**more):
    """For every process that is started: no credentials of the machine it runs on."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KINETIDE_"))}
    fixed = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    return keep | fixed | {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION} | more


class Client:
    """A connection to one endpoint that speaks JSON; a client for each thread."""

    def __init__(self, url, target):
        at = urlsplit(url)
        self.connection, self.target = http.client.HTTPConnection(at.hostname, at.port, timeout=60), target
        self.version = "1.0" if target.startswith("DynamoDB") else "1.1"

    def call(self, operation, **members):
        headers = {
            "X-Amz-Target": f"{self.target}.{operation}",
            "X-Amz-Date": "20260101T000000Z",
            "Content-Type": f"application/x-amz-json-{self.version}",
            # Nobody checks the signature, but there must be one.
            "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/x/aws4_request, "
            "SignedHeaders=host, Signature=0",
        }
        self.connection.request("POST", "/", json.dumps(members), headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise Failed(f"{operation} was answered with {response.status}: {body[:300]!r}")
        return json.loads(body), len(body)


class Server:
    """A process (`process`, with its `log`) that is stopped at the end of `with`."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Aws(Server):
    """`kinetide local` as a process, stopped at the end of `with`."""

    def __init__(self, kinetide, folder, shards, *flags):
        self.kinetide, self.shards = kinetide, shards
        self.log = open(folder / "local.log", "wb")
        command = [kinetide, "local", "--kinesis-port", "0", "--dynamodb-port", "0", "--stream", f"{STREAM}:{shards}",
                   "--region", REGION, "--json", *flags]  # fmt: skip
        # Of a session of its own, as all that is started: a signal to this one is for this one, which stops the others.
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, env=environment(), start_new_session=True
        )
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"`kinetide local` did not start: read {folder / 'local.log'}")
        self.endpoints = json.loads(line)

    def kinesis(self):
        return Client(self.endpoints["kinesis"], "Kinesis_20131202")

    def dynamodb(self):
        return Client(self.endpoints["dynamodb"], "DynamoDB_20120810")

    def fill(self, records, seed, packed=0):
        """Writes so many change records as fast as the stream takes them, up to `packed` in an aggregate."""
        done = subprocess.run(
            [self.kinetide, "generate", "--stream", STREAM, "--kinesis-endpoint", self.endpoints["kinesis"], "--region", REGION,
             "--records", str(records), "--seed", str(seed), "--json", *(["--kpl", str(packed)] if packed else [])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"`kinetide generate` ended with {done.returncode}: {done.stderr[-500:]}")

    def truth(self, progress):
        """Reads the stream once, past every consumer."""
        kinesis, truth = self.kinesis(), Truth()
        for shard in kinesis.call("ListShards", StreamName=STREAM)[0]["Shards"]:
            name = shard["ShardId"]
            truth.hash_keys[name] = shard["HashKeyRange"]["StartingHashKey"]
            truth.records[name] = {}
            truth.last[name] = 0
            at = kinesis.call("GetShardIterator", StreamName=STREAM, ShardId=name, ShardIteratorType="TRIM_HORIZON")[0]
            while True:
                page, size = kinesis.call("GetRecords", ShardIterator=at.get("ShardIterator") or at["NextShardIterator"])
                if not page["Records"] and page["MillisBehindLatest"] == 0:
                    break
                truth.body_bytes += size
                for record in page["Records"]:
                    truth.add(name, record["SequenceNumber"], base64.b64decode(record["Data"]))
                at = page
                progress(f"{truth.count:,} records in the stream")
        return truth


class Truth:
    """What is in the stream: position and checksum of every record, and some payloads."""

    def __init__(self):
        self.records, self.samples, self.hash_keys, self.last = {}, {}, {}, {}
        self.count = self.payload_bytes = self.body_bytes = 0

    def add(self, shard, sequence_number, payload):
        """A record of the stream: those in it, where it is an aggregate."""
        if payload.startswith(AGGREGATE):
            for index, part in enumerate(parts(payload[len(AGGREGATE) : -MD5_BYTES])):
                self.add_one(shard, f"{sequence_number}/{index}", part)
        else:
            self.add_one(shard, sequence_number, payload)
        self.last[shard] = max(self.last[shard], int(sequence_number))

    def add_one(self, shard, sequence_number, payload):
        records = self.records[shard]
        if len(records) % SAMPLE_EVERY == 0:
            self.samples[shard, sequence_number] = payload
        records[sequence_number] = zlib.crc32(payload)
        self.count += 1
        self.payload_bytes += len(payload)


def parts(message):
    """The payloads in the message of an aggregate: of its records (field 3) the data (field 3)."""
    for number, record in fields(message):
        if number == 3:
            yield next(data for number, data in fields(record) if number == 3)


def fields(message):
    """Number and value of the fields of a protobuf message that are numbers or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            at, value = at + value, message[at : at + value]
        elif tag & 7:
            raise Failed(f"an aggregate has a field of the kind {tag & 7}, which none of the KPL has")
        yield tag >> 3, value


class Trickle(threading.Thread):
    """A record a second into each shard, behind all that count: some consumers close a batch only when the next record
    comes. They are no part of any figure."""

    def __init__(self, aws, truth):
        super().__init__(daemon=True)
        self.kinesis, self.ended = aws.kinesis(), threading.Event()
        first = {}
        for (shard, _), payload in truth.samples.items():
            first.setdefault(shard, payload)
        self.records = [
            {"PartitionKey": "trickle", "ExplicitHashKey": truth.hash_keys[shard], "Data": base64.b64encode(payload).decode()}
            for shard, payload in first.items()
        ]
        self.start()

    def run(self):
        while not self.ended.wait(1):
            self.kinesis.call("PutRecords", StreamName=STREAM, Records=self.records)

    def end(self):
        self.ended.set()
        self.join()


class Progress:
    """One line on a terminal that is written over; elsewhere a line every few seconds."""

    def __init__(self, stream, every=5):
        self.stream, self.every, self.said = stream, every, 0.0

    def __call__(self, text):
        now = time.monotonic()
        if now - self.said >= (0.2 if self.stream.isatty() else self.every):
            self.said = now
            end = "\x1b[K\r" if self.stream.isatty() else "\n"
            self.stream.write(f"   {text}{end}")
            self.stream.flush()
