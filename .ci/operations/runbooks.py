"""Runs the commands of docs/runbooks against embedded AWS with running workers, page by page.

Commands of kinetide run as they stand, but for the lake and --yes where a person would be asked; those of the AWS CLI for
Kinesis and DynamoDB through boto3. A block of output after a command must be what the command prints, up to numbers.

Usage: runbooks.py KINETIDE
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import boto3
from botocore import xform_name
from processes import Processes, free_ports, until

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "runbooks"

# Pages whose commands need a fleet that is stopped, after all others.
STOPPED = ("lease-table-lost.md", "stream-recreated.md")

# A page about a table that is older than the lake.
RESTORED = "lease-table-lost.md"

# Pages that change the shards: each has a fleet of its own.
RESHARD = ("hot-shard.md", "scale-in.md", "scale-out.md")

# Commands that do not succeed here, by how they begin, and why.
FAILS = {
    "kinetide dead-letters replay": "the dead letters of this run are broken for good, and say so with exit code 1",
    "kinetide leases delete 111122223333:orders": "there is no second application",
    "kinetide leases --application market": "there is no second application",
    "aws dynamodb describe-kinesis-streaming-destination": "there is no such table",
}
# Services that embedded AWS does not have. templates.py checks that their commands can be typed.
ELSEWHERE = ("ecs", "logs", "cloudformation", "s3", "ecr", "glue", "events", "lambda", "secretsmanager", "sqs")

WRITES = ("release", "evict", "set-checkpoint", "delete", "replay")
SHARD = "shardId-000000000003"


def blocks(text):
    """Code blocks in order: language and lines."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block):
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def alike(text):
    """Output without what differs from run to run: numbers, times, widths."""
    text = re.sub(r"/\d+/[0-9a-f]{8}\b", "/0/0", text)  # the version of a transform
    text = re.sub(r"w-\d", "w-0", text)
    text = re.sub(r"\d+m (?=\d)", "", text)
    text = re.sub(r"\d+(\.\d+)?( %)?", "0", text)
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    # Rows that differ in their hour only are one.
    return list(dict.fromkeys(re.sub(r" (-|0)(?= |$)", " 0", line) for line in lines if line))


class Fleet:
    """Embedded AWS, and workers by their id."""

    def __init__(self, kinetide, folder, processes):
        self.kinetide, self.folder, self.processes = kinetide, folder, processes
        self.endpoints = processes.local(kinetide, "--stream", "trades:4")
        os.environ.update(
            KINETIDE_KINESIS_ENDPOINT=self.endpoints["kinesis"], KINETIDE_DYNAMODB_ENDPOINT=self.endpoints["dynamodb"],
            KINETIDE_REGION=self.endpoints["region"], KINETIDE_FAILOVER_TIME="3s", AWS_EC2_METADATA_DISABLED="true",
        )  # fmt: skip
        self.workers, self.ports = {}, {}
        # The first one leads.
        self.start("w-1")
        until("w-1 leads", lambda: (self.leases().get("leader") or {}).get("worker") == "w-1")
        until("every shard has a lease", lambda: len(self.leases()["leases"]) == 4)
        self.table = self.client("dynamodb")
        self.backup = self.rows()
        self.start("w-2")
        generate = [kinetide, "generate", "--stream", "trades", "--records", "1000", "--bad-rate", "0.02"]
        written = json.loads(subprocess.run([*generate, "--json"], check=True, capture_output=True, timeout=120).stdout)
        until("all records are in the lake", lambda: self.delivered() >= written["written"])

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.endpoints[service], region_name=self.endpoints["region"],
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip

    def rows(self):
        return self.table.scan(TableName="kinetide-trades")["Items"]

    def restore(self, rows):
        """The lease table has these rows and no others."""
        for row in self.rows():
            self.table.delete_item(TableName="kinetide-trades", Key={"leaseKey": row["leaseKey"]})
        for row in rows:
            self.table.put_item(TableName="kinetide-trades", Item=row)

    def start(self, worker):
        (port,) = free_ports(1)
        self.ports[worker] = port
        self.workers[worker] = self.processes.start(
            worker, self.kinetide, "run", "--stream", "trades", "--lake", str(self.folder / "crypto"), "--transform",
            "crypto-transactions", "--batch-age", "2s", "--http", f"127.0.0.1:{port}", "--worker-id", worker,
        )  # fmt: skip

    def delivered(self):
        """Records that the workers have committed."""
        counted = 0
        for port in self.ports.values():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                counted += sum(
                    int(line.split()[1]) for line in response.read().decode().splitlines()
                    if line.startswith("kinetide_records_delivered_total ")
                )  # fmt: skip
        return counted

    def leases(self):
        run = subprocess.run([self.kinetide, "leases", "--stream", "trades", "--json"], capture_output=True, text=True)
        return json.loads(run.stdout) if run.returncode == 0 else {"leases": [], "workers": []}

    def calm(self, page):
        """Every open lease is read, and by both workers."""

        def settled():
            found = self.leases()
            open_ = [lease for lease in found["leases"] if lease["state"] != "finished"]
            owners = {lease["owner"] for lease in open_}
            return len(open_) >= 4 and owners == set(self.workers) and all(lease["state"] == "read" for lease in open_)

        until(f"before {page} every shard is read, and each worker reads some", settled, 90)

    def stop(self):
        for worker in self.workers.values():
            worker.terminate()
        if [worker.wait(timeout=60) for worker in self.workers.values()] != [0, 0]:
            raise SystemExit("a worker did not drain cleanly")
        self.workers = {}


class Page:
    def __init__(self, fleet, path):
        self.fleet, self.path, self.played, self.wrong, self.at = fleet, path, 0, [], None

    def writes(self):
        """Whether a command of the page moves leases."""
        lines = [line for language, block in blocks(self.path.read_text()) if language == "sh" for line in commands(block)]
        return any(f" {word} " in line and "--dry-run" not in line for line in lines for word in WRITES)

    def play(self):
        last = None
        for language, block in blocks(self.path.read_text()):
            if language == "sh":
                for command in commands(block):
                    last = self.one(command)
            elif language == "text":
                self.compare(block, last)
        return self.wrong

    def compare(self, shown, printed):
        if printed is None or alike(shown) != alike(printed):
            self.wrong.append(f"{self.path.name}: shows\n{shown}but the command prints\n{printed}")

    def one(self, command):
        words = shlex.split(command)
        if words[0] == "aws":
            return self.aws(words, command)
        if words[0] == "curl":
            return self.curl(command)
        if words[0] != "kinetide":
            self.wrong.append(f"{self.path.name}: nobody knows how to run {command}")
            return None
        self.played += 1
        line = command.replace("s3://my-lake", str(self.fleet.folder))
        if any(f" {word} " in line for word in WRITES) and "--dry-run" not in line:
            line += " --yes"
        line = re.sub(r"\b\d{50,60}\b", lambda _: self.checkpoint(), line)
        if words[1] == "run":
            return self.worker(line)
        run = subprocess.run(
            ["bash", "-o", "pipefail", "-c", re.sub(r"^kinetide", shlex.quote(self.fleet.kinetide), line)],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.expect(command, run.returncode == 0, run.stdout + run.stderr)
        return run.stdout

    def expect(self, command, done, said):
        fails = any(command.startswith(start) for start in FAILS)
        if done == fails:
            self.wrong.append(f"{self.path.name}: {command}\n  {'succeeds after all' if done else 'fails'}: {said}")

    def checkpoint(self):
        if self.at:
            return self.at
        (lease,) = [lease for lease in self.fleet.leases()["leases"] if lease["shard"] == SHARD]
        return lease["checkpoint"]

    def worker(self, line):
        """A worker of a page: it must start, be ready, and drain."""
        (port,) = free_ports(1)
        words = [self.fleet.kinetide, *shlex.split(line)[1:], "--http", f"127.0.0.1:{port}", "--batch-age", "2s"]
        worker = self.fleet.processes.start(f"{self.path.stem}-worker", *words)

        def ready():
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200
            except OSError:
                return False

        until(f"{line} is ready", lambda: ready() or worker.poll() is not None)
        time.sleep(6)
        worker.terminate()
        self.expect(line, worker.wait(timeout=60) == 0, "the worker did not drain cleanly")

    def curl(self, command):
        """The request, and the members that jq asks for."""
        self.played += 1
        url = re.search(r"http://\S+", command)[0].replace("WORKER:8080", f"127.0.0.1:{next(iter(self.fleet.ports.values()))}")
        with urllib.request.urlopen(url, timeout=10) as response:
            body = response.read().decode()
        if "| jq" in command:
            members = re.findall(r"\b(troubles|not_ready|shards)\b", command)
            if not members or set(members) - set(json.loads(body)):
                self.wrong.append(f"{self.path.name}: {url} does not have {members}")

    def aws(self, words, command):
        service = words[1]
        if service in ELSEWHERE:
            return
        self.played += 1
        client = self.fleet.client(service)
        try:
            call(client, words)
            self.expect(command, True, "")
        except client.exceptions.ClientError as error:
            self.expect(command, False, str(error))


def call(client, words):
    """A command of the AWS CLI by its words, through boto3."""
    name = next(one for one in client.meta.service_model.operation_names if xform_name(one, "-") == words[2])
    members = client.meta.service_model.operation_model(name).input_shape.members
    given = dict(zip((word[2:] for word in words[3::2]), words[4::2]))
    request = {}
    for member, shape in members.items():
        value = given.get(xform_name(member, "-"))
        if value is not None:
            request[member] = int(value) if shape.type_name in ("integer", "long") else value
    return getattr(client, xform_name(name))(**request)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kinetide")
    kinetide = str(Path(arguments.parse_args().kinetide).resolve())
    with tempfile.TemporaryDirectory(prefix="kinetide-runbooks-") as folder, Processes(folder) as processes:
        fleet, wrong, played = None, [], 0
        pages = sorted(PAGES.glob("*.md"), key=lambda path: (path.name in RESHARD, path.name in STOPPED, path.name))
        for path in pages:
            if fleet is None or path.name in RESHARD:
                processes.stop_all()
                fleet, restless = Fleet(kinetide, Path(tempfile.mkdtemp(dir=folder)), processes), True
            if path.name in STOPPED:
                if fleet.workers:
                    fleet.stop()
            elif restless:
                fleet.calm(path.name)
            page = Page(fleet, path)
            restless = page.writes()
            rows = fleet.rows()
            if path.name == RESTORED:
                # Where the lake is, which the rows do not say any more.
                page.at = page.checkpoint()
                fleet.restore(fleet.backup)
            wrong += page.play()
            if path.name == RESTORED:
                fleet.restore(rows)
            played += page.played
        if wrong:
            sys.exit("\n".join(wrong))
        print(f"{played} commands of {len(pages)} pages run")


if __name__ == "__main__":
    main()
