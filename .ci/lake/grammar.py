"""Every statement of athena/ is grammar: for sqlfluff in Athena's dialect, for sqlglot, and for the parsers that Athena comes
from: Hive's for tables, Trino's for the rest.

Usage: grammar.py FOLDER_OF_TRINO_PARSER_JARS FOLDER_OF_HIVE_JARS
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import ddl
import sqlfluff

# Its dialect has no STORED AS PARQUET, which Athena's guide uses; Hive's parser takes it.
NOT_FOR_SQLFLUFF = {"hourly_trades.sql", "analytics_prices.sql", "coincap_assets.sql", "coincap_assets_by_hour.sql"}

# What must be refused: planted in a statement that is right.
BAD_TABLES = {
    "an unknown type": (" bigint", " biginteger"),
    "a missing comma": ("` string,", "` string"),
    "a reserved word without quotes": ("`timestamp`", "timestamp"),
    "a property without a value": ("'projection.enabled'='true'", "'projection.enabled'="),
}
# What newer versions of Trino take.
NEWER_QUERIES = ["WITH FUNCTION f() RETURNS int RETURN 1 SELECT f()"]
BAD_QUERIES = ["SELECT FROM x", "SELECT a b c FROM x", "SELECT a FROM x GROUP 1", "SELECT count(* FROM x"]


def by_engines(jars, hive, trino):
    """What the two parsers refuse, with their words."""
    with tempfile.TemporaryDirectory() as folder:
        for parser, statements in (("hive", hive), ("trino", trino)):
            Path(folder, parser).mkdir()
            for name, text in statements.items():
                Path(folder, parser, name).write_text(text)
        # Trino's first: its libraries are the newer ones. The class path of Spark has Hive's parser and what it needs.
        path = ":".join(f"{one}/*" for one in jars)
        source = Path(__file__).with_name("Parse.java")
        java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", path, str(source), folder]
        run = subprocess.run(java, capture_output=True, text=True)
    *refused, taken = run.stdout.splitlines() or [""]
    if taken != f"taken: {len(hive) + len(trino) - len(refused)}":
        raise SystemExit(f"the parsers did not run:\n{run.stdout}{run.stderr[-2000:]}")
    return dict(line.split(": ", 1) for line in refused)


def by_others(text, sqlfluff_too=True):
    """What sqlglot or sqlfluff say against it."""
    try:
        ddl.statement(text)
    except Exception as error:
        return f"sqlglot: {error}"
    if sqlfluff_too:
        found = [each for each in sqlfluff.lint(text, dialect="athena", rules=["RF04"]) if each["code"] == "PRS"]
        return "".join(f"sqlfluff, line {each['start_line_no']}: {each['description']}" for each in found)
    return ""


def main(*jars):
    tables = {path.name: path.read_text() for path in ddl.files("tables") + ddl.files("tables", ddl.MARKET)}
    rest = {"-".join(path.parts[-2:]): path.read_text() for path in ddl.files("views") + ddl.files("queries")}
    market = [path for kind in ("views", "queries", "load") for path in ddl.files(kind, ddl.MARKET)]
    rest |= {"market-" + "-".join(path.parts[-2:]): path.read_text() for path in market}
    wrong = [f"{name}: {said}" for name, text in rest.items() if (said := by_others(text))]
    wrong += [f"{name}: {said}" for name, text in tables.items() if (said := by_others(text, name not in NOT_FOR_SQLFLUFF))]
    landing = tables["landing_transactions.sql"]
    bad_tables = {f"{what}.sql": landing.replace(old, new, 1) for what, (old, new) in BAD_TABLES.items()}
    assert landing not in bad_tables.values(), "a fault that is not planted"
    bad_queries = {f"{number}.sql": text for number, text in enumerate(BAD_QUERIES + NEWER_QUERIES)}
    refused = by_engines(jars, tables | bad_tables, rest | bad_queries)
    planted = {f"hive/{name}" for name in bad_tables} | {f"trino/{name}" for name in bad_queries}
    wrong += [f"{name}: {said}" for name, said in refused.items() if name not in planted]
    wrong += [f"taken: {name}" for name in planted - refused.keys()]
    wrong += [f"taken by sqlglot and sqlfluff: {text}" for text in BAD_QUERIES if not by_others(text)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(tables)} tables, {len(rest)} views and queries are grammar; {len(planted)} faults are found")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
