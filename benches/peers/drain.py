"""A stream that was filled before is drained by one consumer after the other: what a record costs each of them.

All read the same stream of the embedded Kinesis, so the same bytes, through a proxy of their own that counts requests;
kinetide-kpl another one, with the same records in aggregates, and kinetide-tidy one of tidier records.
Every record is looked for in every file, payloads are compared, and so are the rows of a sample; nobody is asked what it
has done. FOLDER gets drain.json, drain.md, and a log of each consumer.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "python")]

from handler import row as reference  # noqa: E402
from harness import flags, table, tidy  # noqa: E402
from harness.aws import REGION, STREAM, Aws, Failed, Progress, Trickle  # noqa: E402
from harness.consumer import Consumer, Proxy, kinetide, read_bytes, run, wait_for_all  # noqa: E402
from harness.lake import Folder, Follower, differing  # noqa: E402

# Records in an aggregate of the Kinesis Producer Library (KPL), at most.
PACKED = 100
COLUMNS = {
    "kinetide": "kinetide",
    "kinetide-kpl": f"kinetide, {PACKED} records in an aggregate of the KPL",
    "kinetide-tidy": "kinetide, records of the path's bench",
    "java-raw": "Java KCL raw",
    "java-text": "Java KCL text",
    "java-cdc": "Java KCL, CDC rows by Jackson",
    "bento-raw": "Bento raw",
    "bento-text": "Bento text",
    "bento-cdc": "Bento, CDC mapping",
    "python": "Python as in a Lambda",
}
# Those that read a stream of their own.
APART = ("kinetide-kpl", "kinetide-tidy")
# What a lease table and a group of workers go by; the default of the Java library and of kinetide.
FAILOVER_MS = 10_000


def arguments():
    parser = flags.parser(
        "drain", __doc__, "once with the values it should have", shards=8, batch_age=2, patience=180,
        built=["kinetide", "java", "bento"],
    )  # fmt: skip
    parser.add_argument("--records", type=int, default=600_000, help="records to fill the stream with [%(default)s]")
    flags.add_only(parser, COLUMNS, "consumer")
    parser.add_argument("--gzip-level", type=int, choices=range(1, 10), help="level of all [what each has by default]")
    parser.add_argument("--java-heap", default="1g", help="largest heap of the Java machine [%(default)s]")
    return flags.chosen(parser, COLUMNS, "consumer")


def command(column, chosen, urls, lake):
    """The command line of a consumer, and the variables that it needs beside the common ones."""
    kind, _, rows = column.partition("-")
    if kind == "kinetide":
        level = ["--gzip-level", chosen.gzip_level] if chosen.gzip_level else []
        return kinetide(chosen.kinetide_at, urls, lake, "drain-kinetide", f"{chosen.batch_age}s", *level), {}
    variables = {
        "KINETIDE_PEER_STREAM": STREAM,
        "KINETIDE_PEER_REGION": REGION,
        "KINETIDE_PEER_APPLICATION": f"drain-{column}",
        "KINETIDE_PEER_WORKER": column,
        "KINETIDE_PEER_KINESIS": urls["kinesis"],
        "KINETIDE_PEER_DYNAMODB": urls["dynamodb"],
        "KINETIDE_PEER_LAKE": str(lake),
        "KINETIDE_PEER_BATCH_AGE_MS": str(1000 * chosen.batch_age),
        "KINETIDE_PEER_FAILOVER_MS": str(FAILOVER_MS),
        "KINETIDE_PEER_ROWS": rows,
        "KINETIDE_PEER_FIGURES": str(lake.with_name("figures.json")),
    }
    if chosen.gzip_level:
        variables["KINETIDE_PEER_GZIP_LEVEL"] = str(chosen.gzip_level)
    if kind == "java":
        classes = f"{chosen.java_at}/classes:{chosen.java_at}/jars/*"
        return ["java", f"-Xmx{chosen.java_heap}", "-cp", classes, "kinetide.peer.Consumer"], variables
    if kind == "bento":
        variables |= {
            "AWS_ENDPOINT_URL_KINESIS": urls["kinesis"],
            "AWS_ENDPOINT_URL_DYNAMODB": urls["dynamodb"],
            "PEER_MAPPING": str(HERE / "bento" / f"{rows}.blobl"),
            # Its own periods.
            "PEER_COMMIT_PERIOD": "5s",
            "PEER_LEASE_PERIOD": "30s",
            "PEER_REBALANCE_PERIOD": "30s",
        }
        return [chosen.bento_at, "run", HERE / "bento" / "bento.yaml"], variables
    return [sys.executable, HERE / "python" / "driver.py"], variables


def measure(column, chosen, aws, truth, work, progress):
    lake = work / column / "lake"
    lake.mkdir(parents=True)
    follower = Follower(Folder(lake), truth, held=True)
    proxy = Proxy({name: aws.endpoints[name] for name in ("kinesis", "dynamodb")})
    line, variables = command(column, chosen, proxy.urls, lake)
    trickle = Trickle(aws, truth)
    consumer = Consumer(line, variables, chosen.folder / f"drain-{column}.log")
    try:
        wait_for_all(
            truth, follower, lambda: {column: consumer}, progress, chosen.patience, lambda: read_bytes(proxy.counts())
        )
    finally:
        code = consumer.stop()
        trickle.end()
        counts = proxy.counts()
        proxy.end()
    verdict = follower.finish()
    rows = verdict.pop("rows")
    if not verdict["found"]:
        raise Failed(f"it brought no record to the lake: read {consumer.log_path}")
    compared, differ = differing(rows, truth, reference)
    polls = [each for each in counts if each["operation"] == "GetRecords"]
    first, last = min(each["first"] for each in polls), verdict["last_time"]
    use = consumer.sampler
    found = {
        "column": column, "records": truth.count, "payload_bytes": truth.payload_bytes, **verdict,
        "missing": truth.count - verdict["found"], "values_compared": compared, "values_differ": len(differ),
        "first_differing": differ[:1], "exit_code": code, "seconds": last - first,
        "cpu_seconds": use.cpu_at(last) - use.cpu_at(first), "cpu_seconds_before": use.cpu_at(first),
        "cpu_seconds_whole": use.cpu, "rss_max_bytes": use.rss_max, "requests": counts,
    }  # fmt: skip
    figures = lake.with_name("figures.json")
    if figures.exists():
        found["lambda"] = json.loads(figures.read_text())
        # The driver's part is done by AWS.
        found["lambda"]["share"] = found["lambda"]["handler_cpu_seconds"] / found["cpu_seconds_whole"]
    shutil.rmtree(work / column)
    return found


def good(found):
    """Each record once at least, kinetide's exactly, with its payload or its values; and something was compared."""
    wrong = ["missing", "unexpected", "other_payload", "values_differ", "torn"]
    wrong += ["duplicated"] if found["column"].startswith("kinetide") else []
    return not any(found[name] for name in wrong) and found["payloads"] + found["values_compared"] > 0


def head(chosen, truth):
    level = chosen.gzip_level or "of each's default"
    return (
        f"`benches/peers/run --drain` with `--records {chosen.records} --shards {chosen.shards} --seed {chosen.seed} "
        f"--batch-age {chosen.batch_age} --java-heap {chosen.java_heap}`, gzip level {level}; {truth.payload_bytes:,} B of "
        f"payload; {os.cpu_count()} processors."
    )


def drain(columns, chosen, found):
    """One stream, drained by each of the consumers; answers what was in it."""
    packed = PACKED if "kinetide-kpl" in columns else 0
    progress = Progress(sys.stderr)
    with tempfile.TemporaryDirectory(prefix="kinetide-drain-") as work, Aws(chosen.kinetide_at, chosen.folder, chosen.shards) as aws:
        how = f", up to {packed} in an aggregate" if packed else ""
        print(f"== filling {chosen.shards} shards with {chosen.records:,} records{how}", file=sys.stderr)
        if "kinetide-tidy" in columns:
            tidy.fill(aws.kinesis(), STREAM, chosen.records, chosen.seed)
        else:
            aws.fill(chosen.records, chosen.seed, packed)
        truth = aws.truth(progress)
        if truth.count != chosen.records:
            raise Failed(f"the stream has {truth.count} records instead of {chosen.records}: another try may do")
        for column in columns:
            print(f"== {COLUMNS[column]}", file=sys.stderr)
            try:
                found.append(measure(column, chosen, aws, truth, Path(work), progress))
            except Failed as failed:
                print(f"   NO FIGURES: {failed}", file=sys.stderr)
                continue
            print(f"   {table.line(found[-1])}", file=sys.stderr)
    return truth


def main():
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    found = []
    together = [column for column in chosen.only if column not in APART]
    for columns in (together, *([column] for column in chosen.only if column in APART)):
        if columns:
            truth = drain(columns, chosen, found)
    (chosen.folder / "drain.json").write_text(json.dumps({"head": head(chosen, truth), "columns": found}, indent=1) + "\n")
    text = head(chosen, truth) + "\n\n" + table.drain(found, COLUMNS)
    (chosen.folder / "drain.md").write_text(text)
    print(text)
    bad = [one["column"] for one in found if not good(one)]
    if bad or len(found) < len(chosen.only):
        print(f"not every record of every consumer was as it should be: {', '.join(bad) or 'one gave no figures'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
