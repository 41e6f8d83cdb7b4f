"""Every statement of athena/ is grammar: for sqlfluff in Athena's dialect, for sqlglot, and tables for Hive's own parser too.

Trino's parser takes views and queries when results.py runs them.

Usage: grammar.py FOLDER_OF_HIVE_JARS
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import ddl
import sqlfluff

# Its dialect has no STORED AS PARQUET, which Athena's guide uses; Hive's parser takes it.
NOT_FOR_SQLFLUFF = {"hourly_trades.sql"}

# What must be refused: planted in a statement that is right.
BAD_TABLES = {
    "an unknown type": (" bigint", " biginteger"),
    "a missing comma": ("` string,", "` string"),
    "a reserved word without quotes": ("`timestamp`", "timestamp"),
    "a property without a value": ("'projection.enabled'='true'", "'projection.enabled'="),
}
BAD_QUERIES = ["SELECT FROM x", "SELECT a b c FROM x", "SELECT a FROM x GROUP 1", "SELECT count(* FROM x"]


def by_hive(jars, folder, statements):
    """Which of the statements Hive refuses."""
    paths = []
    for name, text in statements.items():
        paths.append(folder / name)
        paths[-1].write_text(text)
    # The class path of Spark has Hive's parser and what it needs.
    source = Path(__file__).with_name("HiveParse.java")
    java = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", str(source), *map(str, paths)]
    run = subprocess.run(java, capture_output=True, text=True)
    if "taken: " not in run.stdout:
        raise SystemExit(f"Hive's parser did not run:\n{run.stderr[-2000:]}")
    refused = {line.split(": ")[0]: line for line in run.stdout.splitlines() if not line.startswith("taken: ")}
    return {path.name: refused[str(path)] for path in paths if str(path) in refused}


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


def main(jars):
    tables = {path.name: path.read_text() for path in ddl.files("tables")}
    rest = {str(path): path.read_text() for path in ddl.files("views") + ddl.files("queries")}
    wrong = [f"{name}: {said}" for name, text in rest.items() if (said := by_others(text))]
    wrong += [f"{name}: {said}" for name, text in tables.items() if (said := by_others(text, name not in NOT_FOR_SQLFLUFF))]
    landing = tables["landing_transactions.sql"]
    planted = {f"{what}.sql": landing.replace(old, new, 1) for what, (old, new) in BAD_TABLES.items()}
    assert landing not in planted.values(), "a fault that is not planted"
    with tempfile.TemporaryDirectory() as folder:
        refused = by_hive(jars, Path(folder), tables | planted)
    wrong += [said for name, said in refused.items() if name in tables]
    wrong += [f"Hive takes {name}" for name in planted if name not in refused]
    wrong += [f"taken: {text}" for text in BAD_QUERIES if not by_others(text)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(tables)} tables, {len(rest)} views and queries are grammar; {len(planted) + len(BAD_QUERIES)} faults are found")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
