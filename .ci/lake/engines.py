"""The two engines that run what Athena will: Trino, from which Athena comes, and DuckDB, which shares nothing with it."""

import dataclasses
import gzip
import io
import json
import re
import subprocess
from pathlib import Path

import ddl
import duckdb
import pyarrow
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet
import sqlglot
from hudi import HudiTableBuilder
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
    replaced by a folder. 483 reads the Hudi table itself, as Athena does: its connector takes the place of Hive's for tables of
    that input format. 411 has no such connector, and gets the rows as Parquet from the other reader."""

    def __init__(self, home, folder, schemas):
        """`home`: what install_lake made. `schemas`: by schema name the tables, each with the folder of its lake."""
        home, jars = Path(home), Path(home, "jars")
        self.version = next(int(found[1]) for path in jars.iterdir() if (found := re.fullmatch(r"trino-main-(\d+)\.jar", path.name)))
        self.has_hudi = any(jars.glob("trino-hudi-*.jar"))
        self.scheme = "local" if self.has_hudi else "file"
        self.log = open(folder / "trino.log", "w")
        catalogs, catalog = folder / "catalogs", folder / "catalog"
        for name, tables in schemas.items():
            self.describe(catalog / f".{name}.trinoSchema", {"ownerName": "user", "ownerType": "USER", "parameters": {}})
            for lake, table in tables:
                if table.hudi and not self.has_hudi:
                    lake, table = as_parquet(lake, table, folder / "parquet" / name)
                self.describe(catalog / name / table.name / ".trinoSchema", self.description(table, lake))
                if table.hudi:
                    for path in (lake / table.folder).glob("*=*"):
                        self.describe(catalog / name / table.name / path.name / ".trinoSchema", self.partition(table, path))
        self.write_catalogs(catalogs, catalog)
        # Compiled little, and a heap that need not grow: it runs for seconds.
        options = ["-Xms1g", "-Xmx1500m", "-XX:MetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += ["--add-modules", "jdk.incubator.vector"] if self.has_hudi else []
        java = [home / "java", *options, "-cp", f"{home}:{jars}/*", "Lake", catalogs]
        self.process = subprocess.Popen(java, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=folder)

    def write_catalogs(self, folder, metadata):
        """What a server has in etc/catalog."""
        shared = {"hive.metastore": "file", "hive.metastore.catalog.dir": f"{self.scheme}://{metadata}"}
        hive = {
            "connector.name": "hive",
            "hive.security": "allow-all",
            "hive.partition-projection-enabled": "true",
            "hive.table-statistics-enabled": "false",
            "hive.ignore-absent-partitions": "true",
            # INSERT, as Athena takes it for any table.
            "hive.non-managed-table-writes-enabled": "true",
            "hive.collect-column-statistics-on-write": "false",
        }
        catalogs = {"hive": shared | hive}
        if self.has_hudi:
            shared |= {"fs.local.enabled": "true", "local.location": "/"}
            catalogs = {"hive": shared | hive | {"hive.hudi-catalog-name": "hudi"}, "hudi": shared | {"connector.name": "hudi"}}
        folder.mkdir()
        for name, properties in catalogs.items():
            (folder / f"{name}.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))

    @staticmethod
    def describe(path, description):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"writerVersion": "testversion"} | description))

    def description(self, table, lake):
        def at_lake(text):
            return ddl.at_bucket(text, f"{self.scheme}://{lake}/")

        if table.hudi:
            classes = {"serde": table.serde, "inputFormat": table.input, "outputFormat": table.output}
            stored = {"originalStorageFormat": classes}
        else:
            stored = {"storageFormat": FORMATS[table.serde]}
        return {
            "owner": "user",
            "tableType": "EXTERNAL_TABLE",
            "dataColumns": named(table.columns),
            "partitionColumns": named(table.partitions),
            "parameters": {key: at_lake(value) for key, value in table.properties.items()} | {"EXTERNAL": "TRUE"},
            "serdeParameters": {},
            # The reader of Hudi refuses a slash at the end.
            "externalLocation": at_lake(table.location).rstrip("/"),
            "columnStatistics": {},
        } | stored

    def partition(self, table, path):
        """As the job registers each: the connector asks for the names, and reads the folder."""
        return {
            "columns": [column | {"properties": {}} for column in named(table.columns)],
            "parameters": {},
            "storageFormat": "PARQUET",
            "serdeParameters": {},
            "externalLocation": f"{self.scheme}://{path}",
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


def named(pairs):
    return [{"name": name, "type": kind} for name, kind in pairs]


def hudi_rows(lake, table):
    """A Hudi table for a reader that shares nothing with Spark or Trino."""
    batches = [pyarrow.record_batch(batch) for batch in HudiTableBuilder.from_base_uri(str(lake / table.folder)).build().read()]
    columns = table.columns + table.partitions
    return pyarrow.Table.from_batches(batches).select([name for name, _ in columns]).cast(arrow_schema(columns))


def parquet_rows(lake, table):
    schema = pyarrow.schema([*arrow_schema(table.columns + table.partitions)])
    parts = pyarrow.dataset.partitioning(arrow_schema(table.partitions), flavor="hive")
    return pyarrow.dataset.dataset(lake / table.folder, schema=schema, partitioning=parts).to_table()


def as_parquet(lake, table, folder):
    """The same table with its rows in one file of Parquet, in a lake of its own."""
    at = folder / table.folder
    at.mkdir(parents=True)
    pyarrow.parquet.write_table(hudi_rows(lake, table), at / "rows.parquet")
    return folder, dataclasses.replace(table, columns=table.columns + table.partitions, partitions=[], serde="", input="", properties={})


def arrow_type(kind):
    plain = {
        "string": pyarrow.string(),
        "bigint": pyarrow.int64(),
        "int": pyarrow.int32(),
        "double": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "timestamp": pyarrow.timestamp("us"),
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

    def __init__(self, lake, tables, database="crypto"):
        self.connection, self.database = duckdb.connect(), database
        self.known, self.translations = None, {}
        # A missing table must not be found among the variables of this script.
        self.connection.execute(f"SET python_enable_replacements = false; SET TimeZone = 'UTC'; CREATE SCHEMA {database}")
        for table in tables:
            self.add(table.name, arrow_table(table, lake))

    def add(self, name, content):
        self.connection.register(f"{name}_arrow", content)
        self.connection.execute(f"CREATE TABLE {self.database}.{name} AS SELECT * FROM {name}_arrow")
        self.known = None

    def columns(self):
        """By table the types of its columns, so that 7 / 2 becomes a division of integers where it is one."""
        if self.known:
            return self.known
        rows = self.connection.execute(
            f"SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = '{self.database}'"
        )
        found = {}
        for table, column, kind in rows.fetchall():
            found.setdefault(table, {})[column] = kind
        self.known = {self.database: found}
        return self.known

    def translated(self, statement):
        schema = self.columns()
        key = statement, str(schema)
        if key not in self.translations:
            self.translations[key] = self.translation(statement, schema)
        return self.translations[key]

    @staticmethod
    def translation(statement, schema):
        tree = ddl.statement(statement)
        query = tree.expression if isinstance(tree, (exp.Create, exp.Insert)) else tree
        query = annotate_types(qualify(query, schema=schema, dialect="athena"), schema=schema, dialect="athena")
        if isinstance(tree, exp.Create):
            return f"CREATE OR REPLACE VIEW {tree.this.db}.{tree.this.name} AS {query.sql('duckdb')}"
        if isinstance(tree, exp.Insert):
            return f"INSERT INTO {tree.this.db}.{tree.this.name} {query.sql('duckdb')}"
        return query.sql("duckdb")

    def run(self, statement, parameters=()):
        """`parameters`: values of its question marks."""
        try:
            text = self.translated(statement)
            if text.startswith("CREATE"):
                self.known = None
            done = self.connection.execute(text, parameters)
        except (duckdb.Error, sqlglot.errors.SqlglotError) as error:
            raise Failed(str(error)) from None
        return {each[0]: str(each[1]) for each in done.description or []}, done.fetchall()


