"""A backlog of many shards is drained by 1, 2 and 4 workers of kinetide, with a hand-over in the middle.

Each number of workers reads the same stream with a lease table and a lake of its own. When half of the bytes are read,
another worker joins; once it has written its row to the lease table, the first one leaves (SIGTERM). Every record is looked
for in every file. A proxy in front of each worker counts its bytes. FOLDER gets catch-up.json, catch-up.md, and a log of
each worker.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "python")]

from handler import row as reference  # noqa: E402
from harness import flags, table  # noqa: E402
from harness.aws import Aws, Failed, Progress  # noqa: E402
from harness.consumer import Consumer, Proxy, kinetide, read_bytes, run, wait_for_all  # noqa: E402
from harness.lake import Folder, Follower, differing  # noqa: E402
from harness.usage import Sampler  # noqa: E402

# Bytes of payload of a record that `kinetide generate` writes, on average.
RECORD_BYTES = 1_115

def arguments():
    parser = flags.parser(
        "catch-up", __doc__, "exactly once each time", shards=100, batch_age=5, patience=120, built=["kinetide"]
    )
    parser.add_argument("--megabytes", type=float, default=20, help="payload of each shard, about; all of it is in memory "
                        "[%(default)s]")  # fmt: skip
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers, with commas [%(default)s]")
    chosen = parser.parse_args()
    chosen.workers = [int(number) for number in chosen.workers.split(",")]
    return chosen


class Fleet:
    """Workers, each with its proxy, and what is seen of them while they drain."""

    def __init__(self, chosen, aws, lake, application):
        self.chosen, self.aws, self.lake, self.application = chosen, aws, lake, application
        self.workers, self.proxies, self.left = {}, {}, {}
        self.table = aws.dynamodb()
        # Times with the bytes of each worker, and with the leases of each; and who is a member.
        self.bytes, self.leases, self.members = [], [], set()

    def start(self):
        name = f"worker-{len(self.proxies) + 1}"
        proxy = self.proxies[name] = Proxy({kind: self.aws.endpoints[kind] for kind in ("kinesis", "dynamodb")})
        line = kinetide(self.chosen.kinetide_at, proxy.urls, self.lake, self.application, f"{self.chosen.batch_age}s",
                        "--worker-id", name)  # fmt: skip
        self.workers[name] = Consumer(line, {}, self.chosen.folder / f"{self.application}-{name}.log")
        return name

    def leave(self, name):
        """SIGTERM; it is no surprise any more when this one ends."""
        self.left[name] = self.workers.pop(name)
        self.left[name].terminate()

    @property
    def all(self):
        return self.left | self.workers

    def look(self):
        now = time.time()
        self.bytes.append((now, {name: read_bytes(proxy.counts()) for name, proxy in self.proxies.items()}))
        owners = {}
        for item in self.scan():
            if item.get("entityType", {}).get("S") == "WORKER_METRIC_STATS":
                self.members.add(item["leaseKey"]["S"])
            # The leader lock and the rows of the workers have no checkpoint.
            if "leaseOwner" in item and "checkpoint" in item:
                owner = item["leaseOwner"]["S"]
                owners[owner] = owners.get(owner, 0) + 1
        self.leases.append((now, owners))

    def scan(self):
        start = {}
        while True:
            try:
                page, _ = self.table.call("Scan", TableName=self.application, **start)
            except Failed as failed:
                # There is no table before a worker has made one.
                if "ResourceNotFoundException" not in str(failed):
                    raise
                return
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def stop(self):
        for worker in self.workers.values():
            worker.terminate()
        codes = {name: worker.stop() for name, worker in self.all.items()}
        counts = {name: proxy.counts() for name, proxy in self.proxies.items()}
        for proxy in self.proxies.values():
            proxy.end()
        return codes, counts


class HandOver:
    """When half is read one worker joins; when that is a member the first leaves, and others take its leases at once. A fleet
    that nobody leaves is balanced only when it has been at rest for a minute, at the default failover time."""

    def __init__(self, fleet, body_bytes):
        self.fleet, self.half = fleet, body_bytes / 2
        self.joiner = self.leaver = None
        self.times = {}

    def __call__(self):
        """Looks, acts, and answers how many bytes are read."""
        fleet = self.fleet
        fleet.look()
        now, read = fleet.bytes[-1]
        _, owners = fleet.leases[-1]
        if self.joiner is None and sum(read.values()) >= self.half:
            self.times |= {"began": now, "read": dict(read), "leases": owners}
            self.joiner = fleet.start()
            self.times["joined"] = time.time()
        elif self.joiner and self.leaver is None and self.joiner in fleet.members:
            self.leaver = "worker-1"
            self.times["left"] = time.time()
            fleet.leave(self.leaver)
        elif self.leaver and "gone" not in self.times and not fleet.left[self.leaver].running:
            self.times["gone"] = time.time()
        if self.joiner in owners and "first_lease" not in self.times:
            self.times["first_lease"] = now
        return sum(read.values())


def all_read(samples, until):
    """When the last byte was read, as far as samples show it."""
    return next((now for now, read in samples if sum(read.values()) >= until), samples[-1][0])


def pauses(samples, until):
    """The longest time in which nobody read a byte, before all was read."""
    longest, since, best = 0.0, samples[0][0], 0
    for now, read in samples:
        total = sum(read.values())
        if total > best:
            longest, since, best = max(longest, now - since if best else 0.0), now, total
        if total >= until:
            break
    return longest


def measure(number, chosen, aws, truth, work, progress):
    lake = work / f"{number}"
    lake.mkdir()
    follower = Follower(Folder(lake), truth, held=True)
    fleet = Fleet(chosen, aws, lake, f"catch-up-{number}")
    server = Sampler(aws.process.pid)
    for _ in range(number):
        fleet.start()
    hand_over = HandOver(fleet, truth.body_bytes)
    proxies = [Sampler(proxy.process.pid) for proxy in fleet.proxies.values()]
    try:
        wait_for_all(truth, follower, lambda: dict(fleet.workers), progress, chosen.patience, hand_over)
    finally:
        codes, counts = fleet.stop()
        for sampler in (server, *proxies):
            sampler.end()
    verdict = follower.finish()
    rows = verdict.pop("rows")
    if not verdict["found"]:
        raise Failed(f"no record came to the lake: read the logs in {chosen.folder}")
    compared, differ = differing(rows, truth, reference)
    first = min(one["first"] for each in counts.values() for one in each if one["operation"] == "GetRecords")
    last = verdict["last_time"]

    def cpu(samplers):
        return sum(sampler.cpu_at(last) - sampler.cpu_at(first) for sampler in samplers)

    read = {name: read_bytes(each) for name, each in counts.items()}
    return {
        "workers": number, "records": truth.count, "payload_bytes": truth.payload_bytes, "body_bytes": truth.body_bytes,
        **verdict, "missing": truth.count - verdict["found"], "values_compared": compared, "values_differ": len(differ),
        "exit_codes": codes, "seconds": last - first,
        "read_seconds": all_read(fleet.bytes, truth.body_bytes) - first, "cpu_seconds": cpu(worker.sampler for worker in fleet.all.values()),
        "server_cpu_seconds": cpu([server]), "proxy_cpu_seconds": cpu(proxies),
        "rss_max_bytes": {name: worker.sampler.rss_max for name, worker in fleet.all.items()}, "read_bytes": read,
        "longest_pause": pauses(fleet.bytes, truth.body_bytes), "hand_over": hand_over.times,
        "leases": fleet.leases[-1][1], "bytes_by_time": fleet.bytes, "leases_by_time": fleet.leases, "requests": counts,
    }  # fmt: skip


def good(found):
    """Exactly once, with a worker that left before all was in the lake, and every worker drained."""
    wrong = ("missing", "duplicated", "unexpected", "values_differ", "torn")
    played = found["hand_over"].get("left", found["last_time"]) < found["last_time"]
    return not any(found[name] for name in wrong) and played and not any(found["exit_codes"].values())


def main():
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    progress, found = Progress(sys.stderr), []
    records = int(chosen.shards * chosen.megabytes * 1e6 / RECORD_BYTES)
    with tempfile.TemporaryDirectory(prefix="kinetide-catch-up-") as work, Aws(chosen.kinetide_at, chosen.folder, chosen.shards) as aws:
        print(f"== filling {chosen.shards} shards with {records:,} records", file=sys.stderr)
        aws.fill(records, chosen.seed)
        truth = aws.truth(progress)
        for number in chosen.workers:
            print(f"== {number} workers", file=sys.stderr)
            found.append(measure(number, chosen, aws, truth, Path(work), progress))
            print(f"   {table.caught_up_line(found[-1])}", file=sys.stderr)
    head = (
        f"`benches/peers/run --catch-up` with `--shards {chosen.shards} --megabytes {chosen.megabytes:g} --seed {chosen.seed} "
        f"--batch-age {chosen.batch_age}`: {truth.count:,} records, {truth.payload_bytes:,} B of payload; {os.cpu_count()} processors."
    )
    (chosen.folder / "catch-up.json").write_text(json.dumps({"head": head, "runs": found}, indent=1) + "\n")
    text = head + "\n\n" + table.catch_up(found, os.cpu_count())
    (chosen.folder / "catch-up.md").write_text(text)
    print(text)
    bad = [str(one["workers"]) for one in found if not good(one)]
    if bad:
        print(f"not exactly once, no hand-over before the end, or no clean exit, with workers: {', '.join(bad)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
