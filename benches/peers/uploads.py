"""What one object costs, and what TLS and signing cost a whole worker.

One worker of kinetide drains the same stream into a folder in memory, a folder on the disk, and S3 (ministack) with and
without TLS: each with large objects, and with many small ones. The difference of the two is the price of an object. At the
end everything is over TLS: Kinesis, DynamoDB and S3. Every record is looked for in every object. FOLDER gets uploads.json,
uploads.md, and a log of each worker.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "python")]

from handler import row as reference  # noqa: E402
from harness import flags, table  # noqa: E402
from harness.aws import Aws, Failed, Progress, Server, environment  # noqa: E402
from harness.consumer import Consumer, Proxy, free_port, kinetide, run, wait_for_all  # noqa: E402
from harness.lake import S3, Folder, Follower, differing  # noqa: E402

TLS = HERE.parents[1] / "tests" / "fixtures" / "tls"
CERTIFICATE = TLS / "server.pem", TLS / "server.key"
BUCKET = "lake"
# Where files need no disk.
MEMORY = Path("/dev/shm")
LAKES = {
    "memory": "folder in memory",
    "disk": "folder on the disk",
    "s3": "S3, plain",
    "s3-tls": "S3 over TLS",
    "all-tls": "S3, Kinesis and DynamoDB over TLS",
}
START_SECONDS = 60


def arguments():
    parser = flags.parser(
        "uploads", __doc__, "exactly once each time", shards=4, batch_age=2, patience=120, built=["kinetide", "ministack"]
    )
    parser.add_argument("--records", type=int, default=400_000, help="records to fill the stream with [%(default)s]")
    flags.add_only(parser, LAKES, "lake")
    parser.add_argument("--small", default="256KiB", metavar="SIZE", help="rows of a small object, before gzip [%(default)s]")
    return flags.chosen(parser, LAKES, "lake")


class Ministack(Server):
    """S3 on a free port, over TLS or without, with the bucket; stopped at the end of `with`."""

    def __init__(self, program, folder, tls):
        port = free_port()
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        self.context = ssl.create_default_context(cafile=TLS / "ca.pem") if tls else None
        variables = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0"}
        if tls:
            certificate, key = CERTIFICATE
            variables |= {"USE_SSL": "1", "MINISTACK_SSL_CERT": str(certificate), "MINISTACK_SSL_KEY": str(key)}
        self.path = folder / f"ministack{'-tls' if tls else ''}.log"
        self.log = open(self.path, "wb")
        self.process = subprocess.Popen(
            [program], stdout=self.log, stderr=self.log, env=environment(**variables), start_new_session=True
        )

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=5, context=self.context).close()
                return self
            except urllib.error.HTTPError as error:
                self.__exit__()
                raise Failed(f"ministack refused the bucket: {error.read()[:300]!r}") from error
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise Failed(f"ministack did not start ({error}): read {self.path}") from error
                time.sleep(0.25)


def metrics(log):
    """What the worker itself says of its uploads: how many, and the seconds that they took."""
    found = re.search(r'"message":"started".*?"http":"([^"]+)"', log.read_text())
    text = urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10).read().decode()

    def total(name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    return {
        "uploads": total("kinetide_deliver_duration_seconds_count"),
        "upload_seconds": total("kinetide_deliver_duration_seconds_sum"),
        "batches": total("kinetide_batches_delivered_total"),
    }


def measure(lake_name, size, chosen, aws, truth, work, progress):
    name = f"uploads-{lake_name}-{'small' if size else 'large'}"
    flags, variables, servers, doors = (["--batch-bytes", size] if size else []), {}, [], []
    urls, root = dict(aws.endpoints), None
    try:
        if lake_name in ("memory", "disk"):
            root = Path(tempfile.mkdtemp(prefix="kinetide-uploads-", dir=MEMORY if lake_name == "memory" else work))
            lake, target = Folder(root), root
        else:
            tls = lake_name != "s3"
            s3 = Ministack(chosen.ministack_at, chosen.folder, tls).__enter__()
            servers.append(s3)
            lake, target = S3(s3.url, BUCKET, f"{name}/", s3.context), f"s3://{BUCKET}/{name}"
            flags += ["--s3-endpoint", s3.url]
        if lake_name in ("s3-tls", "all-tls"):
            trusted = work / "trusted.pem"
            trusted.write_bytes((TLS / "ca.pem").read_bytes() + Path(aws.endpoints["ca_bundle"]).read_bytes())
            variables["AWS_CA_BUNDLE"] = str(trusted)
        if lake_name == "all-tls":
            doors.append(Proxy({"dynamodb": aws.endpoints["dynamodb"]}, CERTIFICATE))
            urls |= {"kinesis": aws.endpoints["kinesis_tls"], "dynamodb": doors[0].urls["dynamodb"]}
        follower = Follower(lake, truth)
        log = chosen.folder / f"{name}.log"
        began = time.time()
        worker = Consumer(kinetide(chosen.kinetide_at, urls, target, name, f"{chosen.batch_age}s", *flags), variables, log)
        try:
            wait_for_all(truth, follower, lambda: {name: worker}, progress, chosen.patience)
            said = metrics(log) if worker.running else {}
        finally:
            code = worker.stop()
        verdict = follower.finish()
    finally:
        for door in doors:
            door.end()
        for server in servers:
            server.__exit__()
        if root:
            shutil.rmtree(root)
    rows = verdict.pop("rows")
    if not verdict["found"]:
        raise Failed(f"no record came to the lake: read the logs in {chosen.folder}")
    compared, differ = differing(rows, truth, reference)
    return {
        "lake": lake_name, "small": bool(size), "records": truth.count, **verdict, **said, "missing": truth.count - verdict["found"],
        "values_compared": compared, "values_differ": len(differ), "exit_code": code, "seconds": verdict["last_time"] - began,
        "cpu_seconds": worker.sampler.cpu, "rss_max_bytes": worker.sampler.rss_max,
    }  # fmt: skip


def good(found):
    wrong = ("missing", "duplicated", "unexpected", "values_differ", "torn", "exit_code")
    return not any(found[name] for name in wrong) and found["values_compared"] > 0


def main():
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    progress, found = Progress(sys.stderr), []
    with tempfile.TemporaryDirectory(prefix="kinetide-uploads-") as work:
        work = Path(work)
        with Aws(chosen.kinetide_at, chosen.folder, chosen.shards, "--tls", str(work / "kinesis-ca.pem")) as aws:
            print(f"== filling {chosen.shards} shards with {chosen.records:,} records", file=sys.stderr)
            aws.fill(chosen.records, chosen.seed)
            truth = aws.truth(progress)
            for lake in chosen.only:
                for size in (None, chosen.small):
                    print(f"== {LAKES[lake]}, {'small' if size else 'large'} objects", file=sys.stderr)
                    found.append(measure(lake, size, chosen, aws, truth, work, progress))
                    print(f"   {table.uploaded_line(found[-1])}", file=sys.stderr)
    head = (
        f"`benches/peers/run --uploads` with `--records {chosen.records} --shards {chosen.shards} --seed {chosen.seed} "
        f"--small {chosen.small} --batch-age {chosen.batch_age}`; {os.cpu_count()} processors."
    )
    (chosen.folder / "uploads.json").write_text(json.dumps({"head": head, "runs": found}, indent=1) + "\n")
    text = head + "\n\n" + table.uploads(found, LAKES)
    (chosen.folder / "uploads.md").write_text(text)
    print(text)
    bad = [f"{one['lake']} ({'small' if one['small'] else 'large'})" for one in found if not good(one)]
    if bad:
        print(f"not exactly once, or no clean exit: {', '.join(bad)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
