"""Processes that a check starts, and waiting for what they do."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


class Processes:
    """What this script has started, stopped at the end of `with` by process id; after a failure with the ends of the logs."""

    def __init__(self, folder):
        self.folder, self.started, self.aws = Path(folder), [], None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(*self.logs(), sep="\n", file=sys.stderr)
        self.stop_all()

    def start(self, name, *command, **options):
        log = open(self.folder / f"{name}.log", "ab")
        environment = dict(os.environ, AWS_EC2_METADATA_DISABLED="true")
        process = subprocess.Popen(command, stderr=log, env=environment, **({"stdout": log} | options))
        self.started.append(process)
        return process

    def local(self, kinetide, *flags):
        """Starts the embedded AWS on free ports, as `aws`; answers its endpoints and region."""
        ports = ("--kinesis-port", "0", "--dynamodb-port", "0")
        self.aws = self.start("local", kinetide, "local", *ports, *flags, "--json", stdout=subprocess.PIPE)
        return json.loads(self.aws.stdout.readline())

    def stop_all(self):
        for process in self.started:
            process.kill()
        for process in self.started:
            process.wait()

    def logs(self):
        for log in sorted(self.folder.glob("*.log")):
            yield f"-- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return [each.getsockname()[1] for each in sockets]


def until(what, condition, seconds=90, pause=0.25):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"did not happen in {seconds} s: {what}")
        time.sleep(pause)
