"""Reads lakes as strict readers do: DuckDB, pyarrow and Spark must take every object whole.

readers.py objects TRANSFORM FOLDER [TRANSFORM FOLDER]...   every object below the folders, rows and dead letters
readers.py control                                          objects that must be refused are refused
readers.py guide FILE LAKE                                  the commands of docs/READING.md, on the lake of a demo

KINETIDE is the binary whose `schema` command says the types.
"""

import collections
import decimal
import gzip
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import duckdb
import pyarrow
import pyarrow.json

KINETIDE = os.environ.get("KINETIDE", "kinetide")
BLOCK = pyarrow.json.ReadOptions(block_size=64 << 20)
# Plans grow with the columns. Of an object with thousands so many are looked at; all are parsed.
COLUMNS_MAX = 300
# The amounts whose digits are compared with the text of the rows.
AMOUNTS = ("price", "quantity", "trade_fee", "trade_value")


class Refused(Exception):
    pass


def schema(transform, form, *more):
    command = [KINETIDE, "schema", "--transform", transform, "--format", form, *more]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Types:
    """The types of one kind of object, for each reader."""

    def __init__(self, transform, dead):
        more = ["--dead-letters"] if dead else []
        scope = {}
        exec(schema(transform, "pyarrow", *more), scope)
        self.pyarrow = scope["schema"]
        self.spark = schema(transform, "spark", *more).strip()
        query = schema(transform, "duckdb", *more)
        self.duckdb = dict(re.findall(r'^ *"(\w+)": \'(.*)\',?$', query, re.MULTILINE))
        self.number = "sequenceNumber" if dead else "sequence_number"
        self.amounts = [name for name in AMOUNTS if self.duckdb.get(name, "").startswith("DECIMAL")]
        self.facts = [self.number, *self.amounts]
        assert list(self.duckdb) == self.pyarrow.names


def members(pairs):
    """An object whose names differ by more than case."""
    names = [name.lower() for name, _ in pairs]
    if len(set(names)) < len(names):
        raise Refused(f"names that are the same for readers that fold case: {sorted(names)}")
    return dict(pairs)


def constant(text):
    raise Refused(f"{text} is no JSON")


def rows_of(body):
    """The rows as the strictest reading of JSON has them."""
    text = gzip.decompress(body).decode("utf-8")
    if text and not text.endswith("\n"):
        raise Refused("the last line has no end")
    lines = text.split("\n")[:-1]
    decode = json.JSONDecoder(object_pairs_hook=members, parse_float=decimal.Decimal, parse_constant=constant).decode
    rows = [decode(line) for line in lines]
    for line in lines:
        # Python takes half surrogates; they cannot be written again.
        if "\\ud" in line.lower():
            json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8")
    return lines, rows


def facts(row, types):
    amounts = [row.get(name) for name in types.amounts]
    return (row[types.number], *(None if amount is None else decimal.Decimal(amount) for amount in amounts))


def facts_of(columns, types):
    return list(zip(*(columns[name] for name in types.facts)))


def by_pyarrow(body, lines, types):
    parse = pyarrow.json.ParseOptions(explicit_schema=types.pyarrow, unexpected_field_behavior="ignore")
    table = pyarrow.json.read_json(io.BytesIO(gzip.decompress(body)), read_options=BLOCK, parse_options=parse)
    # Without a schema, where that does not take for ever.
    for line in lines if len(lines) <= 10 else []:
        try:
            pyarrow.json.read_json(io.BytesIO(line.encode()), read_options=BLOCK)
        except pyarrow.ArrowInvalid as error:
            # A list whose members are of several types: legal in DynamoDB, and said so in READING.md.
            if "changed from" not in str(error):
                raise
    return facts_of(table.select(types.facts).to_pydict(), types)


def by_duckdb(path, rows, types):
    others = sorted({name for row in rows for name in row} - set(types.duckdb))[:COLUMNS_MAX]
    columns = types.duckdb | dict.fromkeys(others, "JSON")
    listed = ", ".join(f"\"{name}\": '{kind}'" for name, kind in columns.items())
    query = f"SELECT * FROM read_json('{path}', format = 'newline_delimited', columns = {{{listed}}})"
    return facts_of(duckdb.sql(query).to_arrow_table().select(types.facts).to_pydict(), types)


def same(reader, found, expected, where):
    if collections.Counter(found) != collections.Counter(expected):
        raise Refused(f"{reader} reads {len(found)} rows that differ from the {len(expected)} of {where}")


def check_object(path, body, types):
    """What is in the object, where all but Spark take it."""
    lines, rows = rows_of(body)
    expected = [facts(row, types) for row in rows]
    if rows:
        same("pyarrow", by_pyarrow(body, lines, types), expected, path)
    same("DuckDB", by_duckdb(path, rows, types), expected, path)
    return {name for row in rows for name in row}, expected


def spark_session():
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1200m",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        # Compiling takes longer than small objects do.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.files.openCostInBytes": "65536",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


def by_spark(spark, paths, names, types):
    others = sorted(names - set(types.duckdb))[:COLUMNS_MAX]
    ddl = ", ".join([types.spark, *(f"`{name}` STRING" for name in others)])
    frame = spark.read.schema(ddl).option("mode", "FAILFAST").json(paths)
    # The hash looks at all columns, so that all are parsed.
    from pyspark.sql.functions import xxhash64

    return [tuple(row)[:-1] for row in frame.select(*types.facts, xxhash64("*")).collect()]


def alike(named):
    """Paths in groups that together have few columns, with these. `named` are paths with the names in them."""
    group, together = [], set()
    for path, names in named:
        if group and len(together | names) > COLUMNS_MAX:
            yield group, together
            group, together = [], set()
        group.append(path)
        together |= names
    if group:
        yield group, together


def check_folders(spark, pairs):
    checked = 0
    for transform, folder in pairs:
        kinds = collections.defaultdict(list)
        for path in sorted(pathlib.Path(folder).rglob("*.ndjson.gz")):
            kinds["errors" in path.relative_to(folder).parts].append(path)
        for dead, paths in kinds.items():
            types, named, expected, failed = Types(transform, dead), [], [], 0
            for path in paths:
                try:
                    found, rows = check_object(str(path), path.read_bytes(), types)
                    named.append((str(path), found))
                    expected += rows
                except Exception as error:
                    failed += 1
                    print(f"{path}: {type(error).__name__}: {error}"[:500], file=sys.stderr)
            if failed:
                raise SystemExit(f"{failed} of {len(paths)} objects of {transform} are refused")
            found = [row for group, names in alike(named) for row in by_spark(spark, group, names, types)]
            same("Spark", found, expected, folder)
            checked += len(paths)
            what = "dead letters" if dead else "rows"
            print(f"{transform}: {len(expected)} {what} in {len(paths)} objects, the same in every reader")
    if checked == 0:
        raise SystemExit("there are no objects: nothing was checked")


def control(spark):
    """A judge that refuses nothing proves nothing."""
    good = '{"ordering_key":"k-1","shard_id":"s","sequence_number":"1","ingestion_time":"t","a":%s}\n'
    types = Types("json", False)
    takes = lambda value: [gzip.compress((good % value).encode("utf-8", "surrogatepass"))]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/object.ndjson.gz"

        def refused(body, by):
            pathlib.Path(path).write_bytes(body)
            try:
                by(body)
                return False
            except Exception:
                return True

        def all_readers(body):
            names, expected = check_object(path, body, types)
            same("Spark", by_spark(spark, [path], names, types), expected, path)

        assert not refused(takes('[1,"x"]')[0], all_readers), "a good object is refused"
        bad = {
            "half a surrogate pair": '"\\ud83d"',
            "a name twice": '{"x":1,"x":2}',
            "names that differ by case": '{"ID":1,"id":2}',
            "a number out of range": "1e400",
            "no JSON": "NaN",
            "half a row": '{"x":',
        }
        for what, value in bad.items():
            body = takes(value)[0]
            assert refused(body, all_readers), f"{what} is not refused"
        whole = takes("1")[0]
        assert refused(whole[:-9], all_readers), "half an object is not refused"
        # Each reader by itself, so that no other stands in for it.
        lines = [good % bad["half a surrogate pair"]]
        assert refused(takes(bad["half a surrogate pair"])[0], lambda body: by_pyarrow(body, lines, types))
        assert refused(takes(bad["half a surrogate pair"])[0], lambda _: by_duckdb(path, [], types))
        assert refused(takes(bad["half a row"])[0], lambda _: by_spark(spark, [path], {"a"}, types))
    print(f"{len(bad) + 1} bad objects are refused")


def guide(document, lake):
    """Runs the code of the document in one folder, block by block. A block that prints a number prints that of the rows
    or of the dead letters."""
    def count(folder):
        return sum(len(rows_of(path.read_bytes())[1]) for path in pathlib.Path(lake, folder).rglob("*.ndjson.gz"))

    counts = {str(count("landing/transactions")), str(count("errors"))}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", pathlib.Path(document).read_text(), re.MULTILINE | re.DOTALL)
    bin_folders = [str(pathlib.Path(KINETIDE).resolve().parent), str(pathlib.Path(sys.executable).parent)]
    env = os.environ | {"LAKE": str(pathlib.Path(lake).resolve()), "PATH": ":".join([*bin_folders, os.environ["PATH"]])}
    with tempfile.TemporaryDirectory() as folder:
        for language, code in blocks:
            command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
            run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
            first = next((line for line in code.splitlines() if "import" not in line and line), "")
            if run.returncode:
                raise SystemExit(f"{document}, the block with {first!r} fails:\n{run.stderr[-3000:]}")
            printed = set(re.findall(r"^\d+$", run.stdout, re.MULTILINE))
            if language == "python" and (not printed or not printed <= counts):
                raise SystemExit(f"{document}, the block with {first!r} prints {run.stdout!r}, not one of {counts}")
    print(f"{len(blocks)} blocks of {document} work, on {sorted(counts)} rows and dead letters")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["objects", *pairs] if pairs and len(pairs) % 2 == 0:
            check_folders(spark_session(), list(zip(pairs[::2], pairs[1::2])))
        case ["control"]:
            control(spark_session())
        case ["guide", document, lake]:
            guide(document, lake)
        case _:
            sys.exit(__doc__)
