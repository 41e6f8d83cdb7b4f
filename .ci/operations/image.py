"""Runs the production binary as the image does, without an image: there is no container engine here.

A root folder holds the binary, the libraries that it is linked with, one file of CA certificates and /etc/hosts, and
nothing else: no shell, no user list, no /tmp, no /proc, no /dev, no time zones. In it, read-only, the worker runs as the
user of the Dockerfile, with the entry point, the variables and the health check of the Dockerfile. All AWS is behind TLS
with a certificate of the tests' own CA. Rows must be in the lake exactly once after SIGTERM, and the same without a
library, without the CA or with other CAs must fail and say why.

Usage: image.py KINETIDE PRODUCTION MINISTACK (KINETIDE has the embedded AWS)
"""

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import botocore
from cloudformation import load
from processes import Processes, free_ports, until

ROOT = Path(__file__).resolve().parents[2]
TLS = ROOT / "tests" / "fixtures" / "tls"
# Where Debian has them, distroless too.
CA = "etc/ssl/certs/ca-certificates.crt"
# What gcr.io/distroless/cc has of shared libraries, as far as a Rust program may need it.
IN_THE_BASE = {"ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6"}
RECORDS, BUCKET, REGION = 5000, "lake", "eu-north-1"
# What the check at the start leaves there.
PROBE = "raw/_kinetide/probe"


class Image:
    """What the last stage of the Dockerfile says."""

    def __init__(self):
        text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        last = text[text.rindex("\nFROM ") :]

        def value(instruction):
            (found,) = re.findall(rf"^{instruction} (.*)$", last, re.MULTILINE)
            return found.strip()

        self.user = value("USER")
        self.environment = dict(one.split("=", 1) for one in value("ENV").split())
        self.command = json.loads(value("ENTRYPOINT")) + json.loads(value("CMD"))
        self.health = json.loads(value("HEALTHCHECK").split(" CMD ", 1)[1])
        self.probe = dict(re.findall(r"--([\w-]+)=(\w+)", value("HEALTHCHECK")))
        self.stop = signal.Signals[value("STOPSIGNAL")]
        self.port = int(value("EXPOSE"))


def unlike_the_template(image, container):
    """Where the task definition of ecs/service.yaml says something else than the image."""
    probe = container["HealthCheck"]
    pairs = {
        "User": (container["User"], image.user),
        "HealthCheck.Command": (probe["Command"], ["CMD", *image.health]),
        "HealthCheck": (
            {"interval": f"{probe['Interval']}s", "timeout": f"{probe['Timeout']}s", "retries": f"{probe['Retries']}",
             "start-period": f"{probe['StartPeriod']}s"},
            image.probe,
        ),
        "PortMappings": ([one["ContainerPort"] for one in container["PortMappings"]], [image.port]),
        "ReadonlyRootFilesystem": (container["ReadonlyRootFilesystem"], True),
        "Capabilities": (container["LinuxParameters"]["Capabilities"], {"Drop": ["ALL"]}),
        "EntryPoint, Command": ({"EntryPoint", "Command"} & set(container), set()),
    }  # fmt: skip
    for name, (template, own) in pairs.items():
        if template != own:
            yield f"{name}: {template} in the template, {own} in the image"


def libraries(binary):
    """The shared libraries of a binary, by name."""
    lines = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout.splitlines()
    paths = [found for line in lines if (found := re.search(r"(/\S+) \(0x", line))]
    return {Path(found[1]).name: Path(found[1]) for found in paths}


def fill(root, binary, found, ca=TLS / "ca.pem"):
    """Makes a root folder."""
    for path in found.values():
        put(path, root / path.relative_to("/"))
    put(binary, root / "kinetide")
    (root / "etc").mkdir()
    # Every container engine writes it.
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    if ca:
        put(ca, root / CA)
    return root


def put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def inside(root, user, command):
    """The command line that runs a command in the root folder, read-only, as a user; the process keeps its id."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec chroot --userspec="$1" --groups= "$0" "${@:2}"'
    return ["unshare", "--mount", "bash", "-c", script, str(root), user, *command]


def unlike_the_image(pid, root, user, names):
    """How a process differs from one in the container: who it is, what it sees, what it has loaded."""
    proc = Path("/proc") / str(pid)
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    uid, gid = user.split(":")
    if status["Uid"].split() != [uid] * 4 or status["Gid"].split() != [gid] * 4 or status["Groups"].split():
        found = {name: status[name].split() for name in ("Uid", "Gid", "Groups")}
        yield f"it runs as {found}, not as {user}"
    if uid == "0" or int(status["CapEff"], 16) or int(status["CapPrm"], 16):
        yield f"it has privileges: user {uid}, capabilities {status['CapEff']}"
    if os.readlink(proc / "root") != str(root):
        yield f"its root is {os.readlink(proc / 'root')}"
    mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    if not any(line[4] == "/" and "ro" in line[5].split(",") for line in mounts):
        yield "its root can be written"
    mapped = {line.split(maxsplit=5)[5] for line in (proc / "maps").read_text().splitlines() if " /" in line}
    extra = {Path(path).name for path in mapped} - names - {"kinetide"}
    if extra or not mapped:
        yield f"it has loaded {extra or 'nothing'}"


class Door:
    """TLS in front of a plain server."""

    def __init__(self, port, loop):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
        self.target, self.connections = port, 0
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.passes, "127.0.0.1", 0, ssl=context), loop)
        self.url = f"https://localhost:{server.result(10).sockets[0].getsockname()[1]}"

    async def passes(self, reader, writer):
        self.connections += 1
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))


async def pipe(reader, writer):
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def answer(url):
    """Status and body, or nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, ""


def rows(s3):
    """The positions of all rows in the lake; and its other objects."""
    found, others = [], []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for key in (one["Key"] for one in page.get("Contents", [])):
            if not key.startswith("raw/landing/"):
                others.append(key)
                continue
            content = gzip.decompress(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            found += [(row["shard_id"], row["sequence_number"]) for row in map(json.loads, content.splitlines())]
    return found, others


def refuses(name, run, code, *says):
    """The run of a broken image ends with this code and a line that says all of it."""
    try:
        done = run(timeout=60)
    except subprocess.TimeoutExpired as late:
        sys.exit(f"{name}: still runs after 60 s\n{(late.stderr or b'').decode()}")
    lines = done.stderr.splitlines()
    said = next((line for line in lines if all(one in line for one in says)), None)
    if done.returncode != code or not said:
        sys.exit(f"{name}: exit code {done.returncode}, not {code} with {says}:\n{done.stderr}")
    print(f"{name}: exit code {code}, {said}")


def mib(size):
    return f"{size / (1 << 20):.1f} MiB"


def play(kinetide, production, ministack, folder, processes):
    image, found = Image(), libraries(production)
    if not {"libc.so.6"} <= set(found) <= IN_THE_BASE:
        sys.exit(f"it is linked with {sorted(found)}; the base image has {sorted(IN_THE_BASE)}")
    (container,) = load("service.yaml")["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
    wrong = list(unlike_the_template(image, container))
    if wrong:
        sys.exit("\n".join(wrong))
    faults = {
        "User": "0:0",
        "HealthCheck": container["HealthCheck"] | {"Retries": 1},
        "PortMappings": [],
        "ReadonlyRootFilesystem": False,
        "Command": ["leases"],
    }
    for name, value in faults.items():
        if not list(unlike_the_template(image, container | {name: value})):
            sys.exit(f"{name}: {value} in the template is not noticed")
    aws_port, http = free_ports(2)
    endpoints = processes.local(kinetide, "--stream", "trades:2", "--region", REGION)
    os.environ |= {"GATEWAY_PORT": str(aws_port), "BIND_HOST": "127.0.0.1", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0"}
    processes.start("ministack", ministack)
    until("ministack answers", lambda: answer(f"http://127.0.0.1:{aws_port}/")[0])
    s3 = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{aws_port}", region_name=REGION, aws_access_key_id="test",
        aws_secret_access_key="test",
    )  # fmt: skip
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    subprocess.run(
        [kinetide, "generate", "--stream", "trades", "--region", REGION, "--kinesis-endpoint", endpoints["kinesis"],
         "--records", str(RECORDS)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    plain = {"KINESIS": endpoints["kinesis"], "DYNAMODB": endpoints["dynamodb"], "S3": f"http://127.0.0.1:{aws_port}"}
    doors = {name: Door(int(url.rstrip("/").rsplit(":", 1)[1]), loop) for name, url in plain.items()}
    settings = image.environment | {
        # Only the port differs: 8080 may be taken here.
        "KINETIDE_HTTP": image.environment["KINETIDE_HTTP"].replace(":8080", f":{http}"),
        "KINETIDE_STREAM": "trades",
        "KINETIDE_LAKE": f"s3://{BUCKET}/raw",
        "KINETIDE_TRANSFORM": "crypto-transactions",
        "KINETIDE_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    } | {f"KINETIDE_{name}_ENDPOINT": door.url for name, door in doors.items()}

    def run(root, command):
        """Runs a command to its end in a root folder."""
        return lambda timeout: subprocess.run(
            inside(root, image.user, command), env=settings | {"PATH": os.environ["PATH"]}, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip

    root = fill(folder / "root", production, found)
    began = time.monotonic()
    with open(folder / "worker.log", "wb") as log:
        worker = subprocess.Popen(
            inside(root, image.user, image.command), env=settings | {"PATH": os.environ["PATH"]}, stdout=log, stderr=log
        )
    processes.started.append(worker)
    url = f"http://127.0.0.1:{http}"
    times = {}
    for path in ("/healthz", "/readyz"):
        until(path, lambda: worker.poll() is not None or answer(url + path)[0] == 200, pause=0.01)
        times[path] = 1000 * (time.monotonic() - began)
    if worker.poll() is not None:
        sys.exit(f"the worker ended with {worker.returncode}")
    fetched = re.compile(rf"^kinetide_records_fetched_total {RECORDS}$", re.MULTILINE)
    until("all records are fetched", lambda: fetched.search(answer(f"{url}/metrics")[1]))
    if "process_resident_memory_bytes " in re.sub("^#.*$", "", answer(f"{url}/metrics")[1], flags=re.MULTILINE):
        sys.exit("its memory is known without /proc")
    wrong = list(unlike_the_image(worker.pid, root, image.user, set(found)))
    if wrong:
        sys.exit("\n".join(wrong))
    # This script is nothing like a container: each difference must be seen.
    if len(list(unlike_the_image(os.getpid(), root, image.user, set(found)))) != 5:
        sys.exit("a process with privileges, another root and other libraries is not noticed")
    healthy = run(root, image.health)(timeout=30)
    if healthy.returncode != 0:
        sys.exit(f"the health check of a healthy worker: exit code {healthy.returncode}, {healthy.stderr}")
    # Batches close after five minutes by default: only the drain can deliver now.
    worker.send_signal(image.stop)
    drain = time.monotonic()
    if worker.wait(30) != 0:
        sys.exit(f"after {image.stop.name}: exit code {worker.returncode}")
    drain = time.monotonic() - drain
    positions, others = rows(s3)
    if len(positions) != RECORDS or len(set(positions)) != RECORDS or others != [PROBE]:
        sys.exit(f"{len(positions)} rows, {len(set(positions))} different, of {RECORDS} records; other objects: {others}")
    if not all(door.connections for door in doors.values()):
        sys.exit(f"not all calls went through TLS: {[(name, door.connections) for name, door in doors.items()]}")
    sizes = {name: path.stat().st_size for name, path in found.items()}
    whole = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(
        f"{len(positions)} rows of {RECORDS} records, each once, over TLS; drained in {drain:.1f} s; alive after "
        f"{times['/healthz']:.0f} ms, ready after {times['/readyz']:.0f} ms"
    )
    print(
        f"binary {mib(Path(production).stat().st_size)}, libraries {mib(sum(sizes.values()))} ({', '.join(sorted(sizes))}), "
        f"root {mib(whole)}"
    )
    refuses("the health check without a worker", run(root, image.health), 1, "could not reach the worker")
    for gone in sorted(set(found) - {"ld-linux-x86-64.so.2"}):
        less = {name: path for name, path in found.items() if name != gone}
        refuses(f"without {gone}", run(fill(folder / gone, production, less), image.command), 127, gone)
    public = Path(botocore.__file__).with_name("cacert.pem")
    for name, ca in (("without CA certificates", None), ("with the CAs of the web only", public)):
        refuses(name, run(fill(folder / name, production, found, ca), image.command), 1, "AWS_CA_BUNDLE")


def main():
    kinetide, production, ministack = (str(Path(one).resolve()) for one in sys.argv[1:])
    if os.geteuid() != 0:
        print("SKIPPED: only root can start a process in another root folder")
        return
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        print("SKIPPED: this machine does not allow mounts (unshare --mount)")
        return
    with tempfile.TemporaryDirectory(prefix="kinetide-image-") as folder:
        # Nobody but root could enter it otherwise.
        os.chmod(folder, 0o755)
        with Processes(folder) as processes:
            play(kinetide, production, ministack, Path(folder).resolve(), processes)


if __name__ == "__main__":
    main()
