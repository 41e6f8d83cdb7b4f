"""The Glue job for CoinCap on messages of every shape: the rows that plain Python makes of them, once, whatever dies or comes again."""

import contextlib
import gzip
import io
import json
import sys
from pathlib import Path

import session

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lake"))
import assets_made  # noqa: E402

import coincap  # noqa: E402

DDL = session.ROOT / "athena/market/tables/coincap_assets.sql"


def run(landing, lake, **more):
    arguments = {"JOB_NAME": "assets", "landing": landing, "lake": lake} | more
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        coincap.main(["coincap.py", *(part for name, value in arguments.items() for part in (f"--{name}", str(value)))])
    return json.loads(out.getvalue())


def read(spark, lake):
    """Every row that a reader of the folder sees, in order."""
    rows = spark.read.schema(coincap.SCHEMA).parquet(f"{lake}/analytics/coincap_assets").orderBy("event_time", "id")
    return [[row[name] for name in assets_made.COLUMNS] for row in rows.collect()]


def same(found, made, what):
    wanted = made.cells()
    assert len(found) == len(wanted), f"{what}: {len(found)} rows, not {len(wanted)}"
    for row, right in zip(found, wanted):
        assert row == right, f"{what}: {row}, not {right}"


def total(runs, name):
    return sum(one[name] for one in runs)


def for_athena(spark, landing, lake, made):
    """In two runs, then with all counts as they must be."""
    runs = [run(landing, lake, objects_max=3), run(landing, lake)]
    same(read(spark, lake), made, "two runs")
    for name, count in made.counts.items():
        assert total(runs, name) == count, f"{name}: {total(runs, name)}, not {count}"
    assert total(runs, "rows") == len(made.rows) < total(runs, "assets"), runs
    reasons = {name: sum(one["reasons"].get(name, 0) for one in runs) for name in made.reasons}
    assert reasons == made.reasons, reasons
    nothing = run(landing, lake)
    assert nothing["objects"] == 0 and "records" not in nothing, nothing
    set_aside = [json.loads(line) for path in Path(lake).glob("quarantine/coincap_assets/**/*.gz") for line in gzip.open(path, "rt")]
    assert len(set_aside) == sum(made.reasons.values()) and {one["reason"] for one in set_aside} == set(made.reasons), set_aside


def columns():
    """Those of the statement for Athena."""
    shipped = DDL.read_text().split(")\nPARTITIONED")[0]
    declared = [tuple(line.strip(" ,").replace("`", "").split()) for line in shipped.splitlines() if line.startswith("  `")]
    written = [(field.name, field.dataType.simpleString()) for field in coincap.SCHEMA]
    assert declared == written, f"the table has {declared}, the job writes {written}"


def doubled_by_others(spark, landing, lake, made):
    """The control: the usual job, which appends and has no bookmark, doubles everything."""
    lines = spark.read.text(f"{landing}/*/*/*/*").withColumnRenamed("value", "line").selectExpr("'x' AS object", "line")
    rows = coincap.typed(coincap.exploded(coincap.parsed(lines))).where("good").select(*coincap.COLUMNS).cache()
    for _ in range(2):
        coincap.with_parts(rows, coincap.PARTS["day"]).write.mode("append").partitionBy("year", "month", "day").parquet(f"{lake}-usual/analytics/coincap_assets")
    rows.unpersist()
    found = len(read(spark, f"{lake}-usual"))
    assert found == 2 * made.counts["assets"] > 2 * len(made.rows), f"the control has {found} rows"


class Died(Exception):
    pass


@contextlib.contextmanager
def dying(step):
    """A run that ends behind one of its steps."""
    right = getattr(coincap.Assets, step)

    def dies(self, *given):
        right(self, *given)
        raise Died

    setattr(coincap.Assets, step, dies)
    try:
        yield
        raise SystemExit(f"it did not die behind {step}")
    except Died:
        pass
    finally:
        setattr(coincap.Assets, step, right)


def died(spark, landing, lake, made):
    """Runs that die, and the next ones, which have no bookmark and read everything again: nothing is there twice in the end."""
    folder = Path(lake) / "analytics/coincap_assets"
    (folder / "_state.json").unlink()
    days = sorted(folder.rglob("*.parquet"))
    # A day is lost, by somebody's mistake: there is something to write.
    days[0].unlink()
    with dying("add"):
        run(landing, lake)
    assert len(read(spark, lake)) > len(made.rows), "what it replaces is still there"
    with dying("remove"):
        run(landing, lake)
    same(read(spark, lake), made, "the table of runs that died")
    again = run(landing, lake)
    assert again["records"] == made.counts["records"] and again["rows"] == 0, again
    same(read(spark, lake), made, "the same once more")
    assert len(list(folder.rglob("*.parquet"))) == len(days)


def by_hour(spark, landing, lake, made):
    """With hours as folders, and with an object that nobody can read."""
    cut = Path(landing) / "year=2026/month=01/day=07/hour=00/cut.ndjson.gz"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(gzip.compress(b'{"value": "x"}\n')[:-9])
    counts = run(landing, f"{lake}-hours", partition_by="hour")
    assert counts["quarantined_objects"] == 1 and counts["rows"] == len(made.rows), counts
    same(read(spark, f"{lake}-hours"), made, "by hour")
    folders = {path.parent.relative_to(f"{lake}-hours/analytics/coincap_assets").as_posix() for path in Path(f"{lake}-hours/analytics").rglob("*.parquet")}
    assert "year=2026/month=1/day=5/hour=3" in folders and len(folders) == len({(row[0].date(), row[0].hour) for row in made.cells()}), folders
    try:
        run(landing, f"{lake}-hours")
        raise SystemExit("folders of days and of hours are mixed")
    except SystemExit as error:
        assert "partitioned by hour" in str(error), error
    cut.unlink()


def job(spark, folder):
    """`folder`: for Athena's statements the table is in folder/lake."""
    made, landing, lake = assets_made.Made(), folder / "landing", str(folder / "lake")
    made.write(landing)
    columns()
    for_athena(spark, landing, lake, made)
    doubled_by_others(spark, landing, lake, made)
    died(spark, landing, lake, made)
    by_hour(spark, landing, lake, made)
    print(f"CoinCap: {made.counts['records']} messages, {len(made.rows)} rows, each once: in two runs, after deaths, read again, by hour; the usual job doubles them")
