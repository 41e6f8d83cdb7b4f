"""Tables, saved queries and loads of athena/*.yaml are those of athena/: this writes them there, and compares one by one.

Usage: catalog.py [--write]
"""

import dataclasses
import difflib
import fnmatch
import functools
import re
import sys
import textwrap
from pathlib import Path

from cloudformation import CASES, ROOT, TEMPLATES, Stack, load

sys.path.append(str(ROOT / ".ci" / "lake"))
import ddl



@dataclasses.dataclass(frozen=True)
class Catalog:
    """A template of tables: where its statements are, and which of its parameters is each database that they name."""

    template: str
    root: Path
    databases: tuple


TRADES = Catalog("catalog.yaml", ddl.ATHENA, (("crypto", "Database"),))
PRICES = Catalog("market-catalog.yaml", ddl.MARKET, (("crypto_data", "Database"), ("crypto", "TradesDatabase")))
MADE = re.compile(r"(?<=; do not edit\n)(.*)(?=  # ---- End of what is made\n)", re.DOTALL)
HUDI = "processed_crypto_txn"

# Input format, output format, and SerDe where the statement names none, by what it is stored as.
FORMATS = {
    "": ("org.apache.hadoop.mapred.TextInputFormat", "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat", None),
    "PARQUET": (
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
    ),
}


def logical(name):
    return "".join(part.capitalize() for part in re.split(r"[/_.]", name))


def comment(text):
    """The first sentence above a statement, or nothing."""
    lines = re.match(r"(?:-- .*\n)*", text)[0].replace("-- ", "").replace("\n", " ")
    return re.split(r"(?<=[.:]) ", lines.strip())[0].rstrip(".:")


# ---- What is written


def place(text):
    """A location with parameters in place of the names that statements have."""
    text = text.replace("${", "${!")
    text = text.replace("s3://BUCKET/", "s3://${LandingBucket}/${Prefix}/").replace("s3://ANALYTICS/", "s3://${LakeBucket}/")
    return "!Sub " + text.replace(f"/{HUDI}/", "/${Table}/")


def named(text, of):
    """A statement with parameters in place of databases and table."""
    text = re.sub(rf"\bcrypto\.{HUDI}\b", "${Database}.${Table}", text)
    for database, parameter in of.databases:
        text = re.sub(rf"\b{database}\.", f"${{{parameter}}}.", text)
    return text


def value(name, text):
    if name.endswith(".location.template"):
        return place(text)
    if name == "projection.year.range":
        return "!Ref ProjectionYears"
    return text if re.fullmatch(r"[A-Za-z]\w*", text) and text not in ("true", "false") else f'"{text}"'


def columns_yaml(key, columns, indent):
    """Several on a line: CloudFormation counts every byte of a template."""
    items = ", ".join(f"{{Name: {name}, Type: {kind if ',' not in kind else repr(kind)}}}" for name, kind in columns)
    # A line ends between two columns, never within one.
    lines = textwrap.wrap(items.replace(": ", ":\0").replace(", Type", ",\0Type"), 118 - indent, break_long_words=False, break_on_hyphens=False)
    space = " " * indent
    return [f"{space}{key}: [", *(f"{space}  {line}".replace("\0", " ") for line in lines), f"{space}]"]


def table_yaml(table, text):
    reads, writes, serde = (table.input, table.output, None) if table.input else FORMATS[table.stored_as]
    lines = [
        f"  {logical(table.name)}:",
        "    Type: AWS::Glue::Table",
        *(["    Condition: WithHudiTable"] if table.name == HUDI else []),
        "    Properties:",
        '      CatalogId: !Ref "AWS::AccountId"',
        "      DatabaseName: !Ref Catalog",
        "      TableInput:",
        f"        Name: {'!Ref Table' if table.name == HUDI else table.name}",
        f"        Description: {comment(text)}",
        "        TableType: EXTERNAL_TABLE",
        "        Parameters:",
        '          EXTERNAL: "TRUE"',
        *(f"          {name}: {value(name, one)}" for name, one in table.properties.items()),
        *columns_yaml("PartitionKeys", table.partitions, 8),
        "        StorageDescriptor:",
        f"          Location: {place(table.location)}",
        f"          InputFormat: {reads}",
        f"          OutputFormat: {writes}",
        "          SerdeInfo:",
        f"            SerializationLibrary: {table.serde or serde}",
        '            Parameters: {serialization.format: "1"}',
        *columns_yaml("Columns", table.columns, 10),
    ]
    return "\n".join(lines) + "\n"


def query_yaml(name, text, of):
    described = comment(text)
    lines = [
        f"  {logical('query/' + name)}:",
        "    Type: AWS::Athena::NamedQuery",
        "    Properties:",
        f"      Name: {name}",
        *([f'      Description: "{described}"'] if described else []),
        "      Database: !Ref Catalog",
        "      WorkGroup: !Ref WorkGroup",
        "      QueryString: !Sub |-",
        *(f"        {line}" for line in named(text, of).strip().splitlines()),
    ]
    return "\n".join(lines) + "\n"


def load_yaml(name, text, of):
    lines = [
        f"  {logical('load/' + name)}:",
        "    Type: AWS::SSM::Parameter",
        "    Properties:",
        f'      Name: !Sub "/${{ParameterFolder}}/{name}"',
        "      Type: String",
        f'      Description: "{comment(text)}"',
        "      Value: !Sub |-",
        *(f"        {line}" for line in named(text, of).strip().removesuffix(";").splitlines()),
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def tables(of=TRADES):
    """The statements of tables, by name."""
    return ddl.tables(of.root)


@functools.cache
def statements(of=TRADES):
    """Views and queries by the name under which they are saved."""
    found = {f"views/{path.stem}": path.read_text() for path in ddl.files("views", of.root)}
    return found | {ddl.name(path): path.read_text() for path in ddl.files("queries", of.root)}


@functools.cache
def loads(of=TRADES):
    """Statements that are run by the clock."""
    return {path.stem: path.read_text() for path in ddl.files("load", of.root)}


def section(of):
    texts = [path.read_text() for path in ddl.files("tables", of.root)]
    parts = [table_yaml(ddl.table(text), text) for text in texts]
    parts += [load_yaml(name, text, of) for name, text in loads(of).items()]
    return "\n".join(["", *parts, *(query_yaml(name, text, of) for name, text in statements(of).items())]) + "\n"


# ---- What is compared


def of_catalog(stack, found):
    """A table of the catalog as the statements have it."""
    storage = found["StorageDescriptor"]
    formats = {(reads, writes): name for name, (reads, writes, _) in FORMATS.items()}
    parameters = stack.parameters
    hudi = parameters.get("Table", HUDI)
    folders = {
        f"s3://{parameters['LandingBucket']}/{parameters['Prefix']}/": "s3://BUCKET/",
        f"s3://{parameters['LakeBucket']}/": "s3://ANALYTICS/",
    }

    def plain(text):
        for folder, bucket in folders.items():
            text = text.replace(folder, bucket)
        return text.replace(f"/{hudi}/", f"/{HUDI}/")

    classes = (storage["InputFormat"], storage["OutputFormat"])
    stored_as = formats.get(classes)
    serde = storage["SerdeInfo"]["SerializationLibrary"]
    properties = {name: plain(one) for name, one in found["Parameters"].items() if name != "EXTERNAL"}
    return ddl.Table(
        HUDI if found["Name"] == hudi else found["Name"],
        [(one["Name"], one["Type"]) for one in storage["Columns"]],
        [(one["Name"], one["Type"]) for one in found["PartitionKeys"]],
        plain(storage["Location"]),
        "" if stored_as and FORMATS[stored_as][2] == serde else serde,
        properties,
        stored_as or "",
        *(("", "") if stored_as is not None else classes),
    )


def differences(stack, found, of=TRADES):
    """What tables of a catalog have otherwise than the statements of athena/."""
    wanted = {name: one for name, one in tables(of).items() if name != HUDI or stack.parameters["HudiTable"] == "yes"}
    found = {one.name: one for one in (of_catalog(stack, each) for each in found)}
    for name in sorted(wanted.keys() ^ found.keys()):
        yield f"the table {name} is {'not in the catalog' if name in wanted else 'no statement of athena/tables'}"
    years = stack.parameters["ProjectionYears"]
    for name in sorted(wanted.keys() & found.keys()):
        want = wanted[name]
        if "projection.year.range" in want.properties:
            want = ddl.changed(want, **{"projection.year.range": years})
        for field in dataclasses.fields(ddl.Table):
            left, right = getattr(want, field.name), getattr(found[name], field.name)
            if left != right:
                parts = sorted(set(left) ^ set(right)) if isinstance(left, list) else (left, right)
                yield f"the table {name}: its {field.name} differ from athena/: {parts or 'their order'}"


def plain_named(stack, text, of):
    """A statement with the names of a stack."""
    text = text.strip()
    if "Table" in stack.parameters:
        text = text.replace(f"crypto.{HUDI}", f"crypto.{stack.parameters['Table']}")
    for database, parameter in of.databases:
        text = re.sub(rf"\b{database}\.", f"{stack.parameters[parameter]}.", text)
    return text


def queries(stack, saved, of=TRADES):
    """What saved queries, by name, have otherwise than the files of athena/."""
    wanted = statements(of)
    for name in sorted(wanted.keys() ^ saved.keys()):
        yield f"the query {name} is {'not saved' if name in wanted else 'no file of athena/'}"
    for name in sorted(wanted.keys() & saved.keys()):
        if plain_named(stack, wanted[name], of) != saved[name]:
            yield f"the query {name} is not what its file says"


# A parameter of Systems Manager of the standard tier has no more.
PARAMETER_BYTES = 4096


def parameters(stack, found, of):
    """What parameters, by name, have otherwise than the loads."""
    wanted = {f"/{stack.parameters.get('ParameterFolder')}/{name}": text for name, text in loads(of).items()}
    for name in sorted(wanted.keys() ^ found.keys()):
        yield f"the parameter {name} is {'not there' if name in wanted else 'no load of athena/'}"
    for name in sorted(wanted.keys() & found.keys()):
        if plain_named(stack, wanted[name], of).removesuffix(";") != found[name]:
            yield f"the parameter {name} is not what its file says"
        if len(found[name].encode()) > PARAMETER_BYTES:
            yield f"the parameter {name} is too long"


def unreadable(stack, found):
    """Tables whose files the policy for readers leaves out."""
    for policy in stack.of("AWS::IAM::ManagedPolicy").values():
        (allowed,) = [one["Resource"] for one in policy["PolicyDocument"]["Statement"] if one["Sid"] == "ReadTables"]
        for table in found:
            files = f"arn:aws:s3:::{table['StorageDescriptor']['Location'].removeprefix('s3://')}x"
            if not any(fnmatch.fnmatchcase(files, one) for one in allowed):
                yield f"the table {table['Name']}: its files are none that readers may read"


def faults(_, stack):
    """For templates.py."""
    found = [one["TableInput"] for one in stack.of("AWS::Glue::Table").values()]
    saved = {one["Name"]: one["QueryString"] for one in stack.of("AWS::Athena::NamedQuery").values()}
    given = {one["Name"]: one["Value"] for one in stack.of("AWS::SSM::Parameter").values()}
    if found or saved:
        of = PRICES if "TradesDatabase" in stack.parameters else TRADES
        yield from differences(stack, found, of)
        yield from queries(stack, saved, of)
        yield from parameters(stack, given, of)
        yield from unreadable(stack, found)


def check(of, write):
    path = TEMPLATES[of.template]
    text = path.read_text()
    wanted = MADE.sub(lambda _: section(of), text)
    if wanted == text:
        stack = Stack(load(of.template), **CASES[of.template]["whole"])
        found, saved = stack.of("AWS::Glue::Table"), stack.of("AWS::Athena::NamedQuery")
        print(f"{of.template}: {len(found)} tables and {len(saved)} saved queries are those of athena/")
    elif write:
        path.write_text(wanted)
        print(f"written: athena/{of.template}")
    else:
        lines = difflib.unified_diff(text.splitlines(), wanted.splitlines(), f"athena/{of.template}", "athena/", "", "", 1, "")
        sys.exit("\n".join([*lines, "not what athena/ says: run .ci/operations/catalog.py --write"]))


def main(write):
    for of in (TRADES, PRICES):
        check(of, write)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main(write=False)
        case ["--write"]:
            main(write=True)
        case _:
            sys.exit(__doc__)
