"""Processes that a check starts, and waiting for what they do."""

import os
import socket
import subprocess
import time


class Processes:
    """What this script has started, stopped at the end by process id."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self, name, *command, **options):
        log = open(self.folder / f"{name}.log", "wb")
        environment = dict(os.environ, AWS_EC2_METADATA_DISABLED="true")
        process = subprocess.Popen(command, stderr=log, env=environment, **({"stdout": log} | options))
        self.started.append(process)
        return process

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
