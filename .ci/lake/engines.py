"""The two engines that run what Athena will: Trino, from which Athena comes, and DuckDB, which shares nothing with it."""

import gzip
import io
import json
import re
import subprocess
from pathlib import Path

import ddl
import duckdb
import pyarrow
import pyarrow.json
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

# What Trino calls the formats of these classes.
FORMATS = {
    "org.apache.hive.hcatalog.data.JsonSerDe": "JSON",
    "org.openx.data.jsonserde.JsonSerDe": "OPENX_JSON",
    "": "PARQUET",
}


class Failed(Exception):
    """A statement that the engine refuses, with its message."""


class Trino:
    """Trino in a process of its own. Each table has the columns, SerDe and properties of its statement; only the bucket is
    replaced by a folder."""

    def __init__(self, jars, folder, schemas):
        """`schemas`: by schema name the tables, each with the folder of its lake."""
        self.log = open(folder / "trino.log", "w")
        catalog = folder / "catalog"
        for name, tables in schemas.items():
            self.describe(catalog / f".{name}.trinoSchema", {"ownerName": "user", "ownerType": "USER", "parameters": {}})
            for lake, table in tables:
                self.describe(catalog / name / table.name / ".trinoSchema", self.description(table, lake))
        # Compiled little: it runs for seconds.
        options = ["-Xmx1500m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        java = ["java", *options, "-cp", f"{jars}/*", str(Path(__file__).parent / "trino" / "Lake.java"), str(catalog)]
        self.process = subprocess.Popen(java, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=folder)

    @staticmethod
    def describe(path, description):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"writerVersion": "testversion"} | description))

    @staticmethod
    def description(table, lake):
        def at_lake(text):
            return ddl.at_bucket(text, f"file://{lake}/")

        def named(pairs):
            return [{"name": name, "type": kind} for name, kind in pairs]

        return {
            "owner": "user",
            "tableType": "EXTERNAL_TABLE",
            "dataColumns": named(table.columns),
            "partitionColumns": named(table.partitions),
            "parameters": {key: at_lake(value) for key, value in table.properties.items()} | {"EXTERNAL": "TRUE"},
            "storageFormat": FORMATS[table.serde],
            "serdeParameters": {},
            "externalLocation": at_lake(table.location),
            "columnStatistics": {},
        }

    def run(self, statement):
        """Column types by name, and rows of text."""
        self.ask(statement)
        return self.answer(statement)

    def ask(self, statement):
        text = statement.strip().removesuffix(";")
        self.process.stdin.write(text.replace("\\", "\\\\").replace("\n", "\\n") + "\n")
        self.process.stdin.flush()

    def answer(self, statement):
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"Trino is gone:\n{Path(self.log.name).read_text()[-3000:]}")
        answer = json.loads(answer)
        if "error" in answer:
            raise Failed(f"{answer['error']}, of {statement[:200]!r}")
        return answer["columns"], answer["rows"]

    def stop(self):
        # It keeps nothing, and takes seconds to end by itself.
        self.process.kill()
        self.process.wait()
        self.log.close()


def arrow_type(kind):
    plain = {
        "string": pyarrow.string(),
        "bigint": pyarrow.int64(),
        "int": pyarrow.int32(),
        "double": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
    }
    if kind in plain:
        return plain[kind]
    precision, scale = re.fullmatch(r"decimal\((\d+),(\d+)\)", kind).groups()
    return pyarrow.decimal128(int(precision), int(scale))


def arrow_schema(columns):
    return pyarrow.schema([(name, arrow_type(kind)) for name, kind in columns])


def arrow_table(table, lake):
    """What is in the objects, exactly: DuckDB itself would read decimals through doubles."""
    schema, pattern, parts = arrow_schema(table.columns), ddl.folder_pattern(table), []
    read = pyarrow.json.ReadOptions(block_size=64 << 20)
    # Athena ignores the case of names.
    for key in ddl.keys_of(lake, table.folder):
        lines = [json.loads(line, parse_int=Number, parse_float=Number) for line in gzip.open(lake / key, "rt", encoding="utf-8")]
        text = "".join(dumped({name.lower(): value for name, value in line.items()}) + "\n" for line in lines)
        parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        part = pyarrow.json.read_json(io.BytesIO(text.encode()), read, parse) if lines else schema.empty_table()
        folder = pattern.fullmatch(key)
        for name, kind in table.partitions:
            value = int(folder[name]) if kind == "int" else folder[name]
            part = part.append_column(name, pyarrow.array([value] * len(part), arrow_type(kind)))
        parts.append(part)
    return pyarrow.concat_tables(parts)


class Number(str):
    """A number as it is written."""


def dumped(row):
    cells = (json.dumps(name) + ":" + (value if isinstance(value, Number) else json.dumps(value)) for name, value in row.items())
    return "{" + ",".join(cells) + "}"


class Duck:
    """DuckDB with the same tables, and Athena's SQL translated."""

    def __init__(self, lake, tables):
        self.connection = duckdb.connect()
        # A missing table must not be found among the variables of this script.
        self.connection.execute("SET python_enable_replacements = false; SET TimeZone = 'UTC'; CREATE SCHEMA crypto")
        for table in tables:
            self.add(table.name, arrow_table(table, lake))

    def add(self, name, content):
        self.connection.register(f"{name}_arrow", content)
        self.connection.execute(f"CREATE TABLE crypto.{name} AS SELECT * FROM {name}_arrow")

    def columns(self):
        """By table the types of its columns, so that 7 / 2 becomes a division of integers where it is one."""
        rows = self.connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'crypto'"
        )
        found = {}
        for table, column, kind in rows.fetchall():
            found.setdefault(table, {})[column] = kind
        return {"crypto": found}

    def translated(self, statement):
        tree = ddl.statement(statement)
        query = tree.expression if isinstance(tree, exp.Create) else tree
        schema = self.columns()
        query = annotate_types(qualify(query, schema=schema, dialect="athena"), schema=schema, dialect="athena")
        if isinstance(tree, exp.Create):
            return f"CREATE OR REPLACE VIEW crypto.{tree.this.name} AS {query.sql('duckdb')}"
        return query.sql("duckdb")

    def run(self, statement):
        try:
            done = self.connection.execute(self.translated(statement))
        except (duckdb.Error, sqlglot.errors.SqlglotError) as error:
            raise Failed(str(error)) from None
        return {each[0]: str(each[1]) for each in done.description or []}, done.fetchall()


