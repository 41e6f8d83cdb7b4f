"""One consumer process with its proxy, from the start to its end."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .aws import Failed, environment
from .usage import Sampler

PROXY = Path(__file__).with_name("proxy.py")
STOP_SECONDS = 60


def run(main):
    """Runs a measurement. A signal ends it as an exception does, so what it has started ends as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(str(failed))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Proxy:
    """Between one consumer and its servers; counts what passes."""

    def __init__(self, servers, tls=()):
        flags = ["--tls", *tls] if tls else []
        self.process = subprocess.Popen(
            [sys.executable, PROXY, *(f"{name}={url}" for name, url in servers.items()), *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
        )  # fmt: skip
        self.urls = json.loads(self.process.stdout.readline())

    def counts(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Consumer:
    """The process. Its stdin stays open for as long as this one lives."""

    def __init__(self, command, variables, log):
        self.log_path = log
        self.log = open(log, "wb")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=self.log, stderr=self.log,
            env=environment(**variables), start_new_session=True,
        )
        self.sampler = Sampler(self.process.pid)
        self.told = False

    @property
    def running(self):
        return self.process.poll() is None

    def check(self, what):
        if not self.running:
            raise Failed(f"{what} ended by itself with {self.process.returncode}: read {self.log_path}")

    def terminate(self):
        """SIGTERM, once: a second one would end a drain."""
        if not self.told:
            self.told = True
            self.process.terminate()

    def stop(self):
        """SIGTERM, and SIGKILL after a minute; answers the exit code."""
        self.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.sampler.end()
        self.process.stdin.close()
        self.log.close()
        return self.process.returncode


def kinetide(program, aws_urls, lake, application, batch_age, *flags):
    """The command line of a worker."""
    return [program, "run", "--stream", "filled", "--application", application, "--lake", lake, "--region", "us-east-1",
            "--transform", "crypto-transactions", "--batch-age", batch_age, "--http", "127.0.0.1:0",
            "--kinesis-endpoint", aws_urls["kinesis"], "--dynamodb-endpoint", aws_urls["dynamodb"], *flags]  # fmt: skip


# The same records make a little less when they come in fewer responses.
ALL_READ = 0.97


def read_bytes(counts):
    """Bytes of all GetRecords responses."""
    return sum(one["received"] for one in counts if one["operation"] == "GetRecords")


def wait_for_all(truth, follower, consumers, progress, patience, read=None):
    """Until every record is in the lake, or nothing has come for so many seconds; answers whether all came.

    `read` says how many bytes the consumers have read. A follower that is held is released when that is all of them, and
    until then what is read is what comes.
    """
    best, since, began = (0, 0), time.monotonic(), time.monotonic()
    while True:
        found = follower.status["found"]
        if found == truth.count:
            return True
        bytes_read = read() if read else 0
        if follower.held and bytes_read >= ALL_READ * truth.body_bytes:
            follower.release()
        come = (found, bytes_read if follower.held else best[1])
        if come > best:
            best, since = come, time.monotonic()
        if time.monotonic() - since > patience:
            return False
        for name, consumer in consumers().items():
            consumer.check(name)
        seconds = f"{time.monotonic() - began:.0f} s"
        if follower.held:
            progress(f"{seconds}: {bytes_read / 1e6:,.0f} of {truth.body_bytes / 1e6:,.0f} MB read")
        else:
            progress(f"{seconds}: {found:,} of {truth.count:,} records found in the lake")
        time.sleep(0.2)
