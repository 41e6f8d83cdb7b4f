"""The statements of athena/ as data: what every check of tables starts from."""

import dataclasses
import math
import re
from pathlib import Path

import sqlglot
from sqlglot import exp

ATHENA = Path(__file__).resolve().parents[2] / "athena"
# Statements of another database, crypto_data, in folders of the same names.
MARKET = ATHENA / "market"


@dataclasses.dataclass
class Table:
    name: str
    columns: list  # (name, Hive's type)
    partitions: list
    location: str
    serde: str
    properties: dict
    stored_as: str = ""  # PARQUET; lines of text where nothing is said
    input: str = ""  # classes of the formats, where the statement names them
    output: str = ""

    @property
    def folder(self):
        return at_bucket(self.location).rstrip("/")

    @property
    def hudi(self):
        return self.input == "org.apache.hudi.hadoop.HoodieParquetInputFormat"

    @property
    def projected(self):
        return self.properties.get("projection.enabled") == "true"


def at_bucket(text, folder=""):
    """URLs of the statements, below a folder instead of their bucket."""
    return re.sub("s3://[A-Z]+/", folder, text)


def statement(text):
    """The one statement of a file. What sqlglot does not know it keeps as a Command, without an error."""
    found = [tree for tree in sqlglot.parse(text, read="athena") if tree is not None]
    if len(found) != 1 or isinstance(found[0], exp.Command):
        raise ValueError(f"not one statement that is understood: {text[:80]!r}")
    return found[0]


def fields(definitions):
    return [(each.name, each.kind.sql("hive").lower().replace(" ", "").replace("integer", "int")) for each in definitions]


def table(text):
    tree = statement(text)
    found = Table(tree.this.this.name, fields(tree.this.expressions), [], "", "", {})
    for each in tree.args["properties"].expressions:
        match each:
            case exp.PartitionedByProperty():
                found.partitions = fields(each.this.expressions)
            case exp.LocationProperty():
                found.location = each.this.name
            case exp.RowFormatSerdeProperty():
                found.serde = each.this.name
            case exp.FileFormatProperty():
                if isinstance(each.this, exp.InputOutputFormat):
                    found.input, found.output = each.this.args["input_format"].name, each.this.args["output_format"].name
                else:
                    found.stored_as = each.this.name.upper()
            case exp.Property() if type(each) is exp.Property:
                found.properties[each.this.name] = each.args["value"].name
    return found


def files(kind, root=ATHENA):
    return sorted((root / kind).rglob("*.sql"))


def name(path):
    """Of a query its folder and name."""
    root = MARKET if MARKET in path.parents else ATHENA
    return path.relative_to(root / "queries").with_suffix("").as_posix()


def filled(text, month):
    """A query with its parameters: year and month, once or more often."""
    assert text.count("?") in (2, 4, 6), text
    for value in month * (text.count("?") // 2):
        text = text.replace("?", value, 1)
    return text


def tables(root=ATHENA):
    return {path.stem: table(path.read_text()) for path in files("tables", root)}


def projection(table):
    """For each partition column its values as they stand in folders. Refuses what Athena would not take."""
    names = [name for name, _ in table.partitions]
    values = {}
    for column in names:
        of = {key: table.properties.get(f"projection.{column}.{key}") for key in ("type", "range", "values", "digits", "interval")}
        if of["type"] == "enum" and of["values"]:
            values[column] = of["values"].split(",")
        elif of["type"] == "integer" and re.fullmatch(r"\d+,\d+", of["range"] or ""):
            first, last = map(int, of["range"].split(","))
            step = int(of["interval"] or 1)
            values[column] = [str(value).zfill(int(of["digits"] or 0)) for value in range(first, last + 1, step)]
        else:
            raise ValueError(f"{table.name}: the partition column {column} has no projection: {of}")
    for key in table.properties:
        parts = key.split(".")
        if parts[0] == "projection" and len(parts) == 3 and parts[1] not in names:
            raise ValueError(f"{table.name}: {key} is of no partition column")
    template = table.properties.get("storage.location.template", "")
    if set(re.findall(r"\$\{(\w+)\}", template)) != set(names) or not template.startswith(table.location):
        raise ValueError(f"{table.name}: the template {template!r} is not of the columns {names} below {table.location}")
    clash = {column for column, _ in table.columns} & set(names)
    if clash:
        raise ValueError(f"{table.name}: {clash} are columns and partitions")
    return values


def folder_pattern(table):
    """What folders of a template look like: one group for each column."""
    template = at_bucket(table.properties["storage.location.template"])
    parts = re.split(r"\$\{(\w+)\}", template)
    named = [re.escape(part) if at % 2 == 0 else f"(?P<{part}>[^/]+)" for at, part in enumerate(parts)]
    return re.compile("".join(named) + r"[^/]+")


def outside(table, keys):
    """Those of the objects that a projected table does not see."""
    values, pattern = {column: set(of) for column, of in projection(table).items()}, folder_pattern(table)
    for key in keys:
        found = pattern.fullmatch(key)
        if found is None or any(found[column] not in values[column] for column in values):
            yield key


def narrowed(table, keys):
    """The projection of these objects and little more: a query without a condition lists every folder."""
    found = [pattern for pattern in map(folder_pattern(table).fullmatch, keys) if pattern]
    ranges = {}
    for column, of in projection(table).items():
        if table.properties[f"projection.{column}.type"] == "integer" and found:
            seen = [int(each[column]) for each in found]
            ranges[f"projection.{column}.range"] = f"{min(seen)},{max(seen)}"
            ranges[f"projection.{column}.interval"] = str(math.gcd(*(value - min(seen) for value in seen)) or 1)
    return changed(table, **ranges)


def changed(table, columns=None, serde=None, drop=(), **properties):
    """A table with other properties, and perhaps other columns."""
    kept = {key: value for key, value in (table.properties | properties).items() if key not in drop}
    return dataclasses.replace(table, columns=columns or table.columns, serde=serde or table.serde, properties=kept)


def keys_of(lake, folder):
    """Objects of a lake on disk, as keys. Names that begin with _ or . are hidden, as they are in Athena."""
    keys = (path.relative_to(lake) for path in (lake / folder).rglob("*") if path.is_file())
    return sorted(key.as_posix() for key in keys if not any(part[0] in "._" for part in key.parts))
