"""Looks for every record of the stream in every line of every file of a lake, while the consumer writes and afterwards.

It does so in a process of its own, which may wait until the consumer has read everything, so that it takes nothing from
it. Nothing is timed by it: the time of a record is that of its file.
"""

import base64
import json
import multiprocessing
import os
import time
import urllib.request
import zlib
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from .aws import Failed

PAUSE = 0.25
BEGIN, END = "begin", "end"


class Folder:
    """A lake on a disk."""

    def __init__(self, root):
        self.root = Path(root)

    def names(self):
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(("_", "."))]
            for name in files:
                if not name.startswith(("_", ".")):
                    yield os.path.join(folder, name)

    def read(self, name):
        """Content, and when it was written last."""
        with open(name, "rb") as file:
            return file.read(), os.stat(file.fileno()).st_mtime


class S3:
    """A lake in a bucket of a server that does not check signatures."""

    def __init__(self, url, bucket, prefix, context=None):
        self.base, self.bucket, self.prefix, self.context = url, bucket, prefix, context
        self.times = {}

    def get(self, path):
        with urllib.request.urlopen(f"{self.base}/{self.bucket}{path}", timeout=60, context=self.context) as response:
            return response.read()

    def names(self):
        more = ""
        while True:
            page = ElementTree.fromstring(self.get(f"?list-type=2&prefix={quote(self.prefix, safe='')}{more}"))
            space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
            for entry in page.iter(f"{space}Contents"):
                key = entry.findtext(f"{space}Key")
                # Whole seconds: the end of that one.
                text = entry.findtext(f"{space}LastModified").partition(".")[0].rstrip("Z")
                self.times[key] = calendar_seconds(text) + 1
                if not any(part.startswith(("_", ".")) for part in key[len(self.prefix) :].split("/")):
                    yield key
            token = page.findtext(f"{space}NextContinuationToken")
            if not token:
                return
            more = f"&continuation-token={quote(token, safe='')}"

    def read(self, name):
        return self.get("/" + quote(name)), self.times[name]


def calendar_seconds(text):
    import calendar

    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


class Verdict:
    """What has been found so far."""

    def __init__(self, truth):
        self.truth = truth
        self.seen = {shard: set() for shard in truth.records}
        self.found = self.duplicated = self.later = self.unexpected = self.other_payload = 0
        self.payloads = self.objects = self.object_bytes = 0
        self.last_time, self.rows, self.first_wrong = 0.0, {}, None

    def wrong(self, what, line):
        self.first_wrong = self.first_wrong or f"{what}: {line[:300]!r}"

    def take(self, content, written):
        """One file; false if it is not complete yet."""
        text, rest = b"", content
        pieces = []
        while rest:
            decoder = zlib.decompressobj(31)
            pieces.append(decoder.decompress(rest))
            if not decoder.eof:
                return False
            rest = decoder.unused_data
        text = b"".join(pieces)
        before = self.found
        for line in text.splitlines():
            self.line(line)
        self.objects += 1
        self.object_bytes += len(content)
        if self.found > before:
            self.last_time = max(self.last_time, written)
        return True

    def line(self, line):
        row = json.loads(line, parse_float=Decimal)
        shard, sequence_number = row["shard_id"], row["sequence_number"]
        # What is behind the stream as it was filled.
        if int(sequence_number) > self.truth.last.get(shard, -1) >= 0:
            self.later += 1
            return
        # A record of an aggregate.
        if "sub_sequence_number" in row:
            sequence_number += f"/{row['sub_sequence_number']}"
        checksum = self.truth.records.get(shard, {}).get(sequence_number)
        if checksum is None:
            self.unexpected += 1
            self.wrong("no such record", line)
            return
        if sequence_number in self.seen[shard]:
            self.duplicated += 1
            return
        self.seen[shard].add(sequence_number)
        self.found += 1
        data = row.get("data")
        if data is not None:
            # As base64, or as it is, between the mark and the end of the row.
            payload = base64.b64decode(data) if isinstance(data, str) else line[line.index(b'"data":') + 7 : -1]
            self.payloads += 1
            if zlib.crc32(payload) != checksum:
                self.other_payload += 1
                self.wrong("another payload", line)
        elif (shard, sequence_number) in self.truth.samples:
            self.rows[shard, sequence_number] = row

    def status(self):
        names = ("found", "duplicated", "later", "unexpected", "other_payload", "payloads", "objects", "object_bytes",
                 "last_time", "first_wrong")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def differing(rows, truth, reference):
    """How many columns of the sampled rows are compared, and the first that say something else than the reference says of
    the payload, which is as many columns as any of the consumers makes."""
    compared, differ = 0, []
    for (shard, sequence_number), row in rows.items():
        payload = json.loads(truth.samples[shard, sequence_number])
        expected = reference(payload, shard, sequence_number.partition("/")[0])
        for column, value in expected.items():
            compared += 1
            found = row.get(column, "no such column")
            same = same_number(found, value) if isinstance(value, (float, Decimal)) else found == value
            if not same:
                differ.append(f"{column} of {shard} {sequence_number}: {found!r}, not {value!r}")
    return compared, differ


def same_number(found, value):
    # Every digit counts, however it is written.
    return isinstance(found, (int, Decimal)) and Decimal(found) == Decimal(str(value))


def follow(lake, truth, pipe, held):
    # The first word lets it begin.
    verdict, done, last = Verdict(truth), set(), held and pipe.recv() == END
    while True:
        for name in lake.names():
            if name not in done and verdict.take(*lake.read(name)):
                done.add(name)
            if not last and pipe.poll():
                break
        if last:
            torn = sum(1 for name in lake.names() if name not in done)
            pipe.send(verdict.status() | {"torn": torn, "rows": verdict.rows})
            return
        pipe.send(verdict.status())
        # The consumer has ended: look at all of it once more.
        last = pipe.poll(PAUSE) and pipe.recv() == END


class Follower:
    """The process; `status` is what it said last. With `held` it begins when it is released."""

    def __init__(self, lake, truth, held=False):
        self.held = held
        fork = multiprocessing.get_context("fork")
        self.pipe, other = fork.Pipe()
        self.process = fork.Process(target=follow, args=(lake, truth, other, held), daemon=True)
        self.process.start()
        other.close()
        self.last = {"found": 0, "objects": 0}

    @property
    def status(self):
        try:
            # The last word is the verdict; after it the process ends.
            while "torn" not in self.last and self.pipe.poll():
                self.last = self.pipe.recv()
        except EOFError:
            raise Failed("the process that reads the lake ended; its message is above") from None
        return self.last

    def release(self):
        self.held = False
        self.pipe.send(BEGIN)

    def finish(self):
        """The verdict, once nobody writes any more."""
        self.pipe.send(END)
        while "torn" not in self.status:
            time.sleep(0.05)
        self.process.join()
        return self.last
