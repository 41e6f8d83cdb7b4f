"""All that needs Spark, in one session: the readers of the lake, the Glue job on what a worker writes, on other lakes, and on
real trades.

Usage: spark.py KINETIDE HUDI_BUNDLE WORK

In WORK: readers/TRANSFORM has the objects of the fuzz tests, loadtest/lake that of a load test; lake is what make.py made; sample
has files of trades and trades/lake what a demo made of them, where there are trades. For the checks of Athena's statements the
jobs write to lake/analytics, lake/assets and trades/tables.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import chain as glue
import coincap_job
import session
import trades
from lakes import Delivery, chaos, of_firehose

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def timed(name, step, *arguments):
    at = time.time()
    step(*arguments)
    print(f"  [{name}: {time.time() - at:.0f} s]", flush=True)


def for_athena(chain, folder):
    """results.py compares the tables with the records of this lake."""
    lake, made = folder / "lake", json.loads((folder / "made.json").read_text())
    folders = {"landing": lake / "landing/transactions", "lake": folder / "analytics"}
    # Twice, so that the table has files that are not the newest any more.
    half = len(list(folders["landing"].rglob("*.ndjson.gz"))) // 2
    first, second = chain.run(**folders, objects_max=half), chain.run(**folders, errors=lake / "errors")
    total = lambda name: first[name] + second[name]
    assert first["rows"] and second["rows"] and second["objects_waiting"] == 0, (first, second)
    # One item is of a table with another key.
    assert total("quarantined") == 1 and total("rows") == made["rows"] - 1, (first, second)
    assert total("dead_letters") == sum(made["dead_letters"].values()), (first, second)


def main(kinetide, jar, work):
    os.environ["KINETIDE"] = kinetide
    import readers

    began, load_test, real = time.time(), work / "loadtest/lake", work / "trades"
    lakes = [(path.name, path) for path in sorted((work / "readers").iterdir())] + [("crypto-transactions", load_test)]
    if real.exists():
        lakes.append(("crypto-transactions", real / "lake"))
    with tempfile.TemporaryDirectory() as folder:
        chain = glue.Chain(kinetide, jar, Path(folder))
        try:
            delivery = Delivery(chain.scene)
            chain.scene.generate("--records", "3000", "--live-keys", "600", "--ttl-rate", "0.05")
            timed("landed", chain.scene.landed)
            delivery.killed()
            timed("killed", glue.first_run_killed, chain)
            chain.spark = session.spark_session(jar)
            for step in glue.BEFORE_BAD_INPUT:
                timed(step.__name__, step, chain)
            timed("Firehose", of_firehose, chain, delivery)
            for step in glue.FROM_BAD_INPUT:
                timed(step.__name__, step, chain)
            timed("load test", chaos, chain, load_test)
            timed("lake of make.py", for_athena, chain, work / "lake")
            timed("CoinCap", coincap_job.job, chain.spark, work / "lake/assets")
            if real.exists():
                timed("trades", trades.job, chain, work / "sample", real / "lake", real / "tables")
            timed("bad objects for readers", readers.control, chain.spark)
            timed("readers", readers.check_folders, chain.spark, lakes)
        except BaseException:
            for log in chain.scene.processes.logs():
                print(log, file=sys.stderr)
            raise
        finally:
            chain.scene.stop()
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:3], Path(sys.argv[3]))
