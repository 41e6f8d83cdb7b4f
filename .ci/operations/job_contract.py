"""What glue/job.yaml and the code of glue/ must agree on: arguments, files, metrics, the table, the price.

The code is imported without Spark and Glue: only its plain parts are used.
"""

import ast
import functools
import importlib
import re
import sys
from unittest import mock

import catalog
from cloudformation import ROOT

GLUE = ROOT / "glue"
# Arguments that Glue itself reads.
OF_GLUE = {"--datalake-formats", "--enable-glue-datacatalog", "--job-bookmark-option", "--conf", "--extra-py-files"}
# What only Glue and Spark have, and our files that need them.
ABSENT = [
    "awsglue", "awsglue.context", "awsglue.job", "awsglue.utils", "pyspark", "pyspark.context", "pyspark.sql", "transform", "lake",
]  # fmt: skip

# As docs/DEPLOY.md says where they are from.
DPU_HOUR, HOURS, RUN_MINUTES = 0.44, 730, 2
DPUS = {"G.1X": 1, "G.2X": 2}


def imported():
    """glue/job.py as a module."""
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ABSENT}), mock.patch.object(sys, "path", [str(GLUE), *sys.path]):
        return importlib.import_module("job")


JOB = imported()


class Everything(dict):
    """What a run has counted that counted everything there is."""

    def __contains__(self, _):
        return True

    def __missing__(self, _):
        return "2026-01-01T00:00:00+00:00"

    def get(self, name):
        return self[name]


@functools.cache
def metrics():
    """Names and dimensions of the metrics that runs publish."""
    found = JOB.metric_data(Everything(), "t", 1.0)
    return {one["MetricName"]: {each["Name"] for each in one["Dimensions"]} for one in found}


@functools.cache
def modules(name="job"):
    """Files beside job.py that it needs, directly or not."""
    found = set()
    for node in ast.walk(ast.parse((GLUE / f"{name}.py").read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in getattr(node, "names", [])]
        found |= {one for one in names if one and (GLUE / f"{one}.py").is_file()} if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
    return found.union(*(modules(one) for one in found))


def cost(parameters):
    """Dollars a month, when a run takes RUN_MINUTES."""
    runs = HOURS * 60 / int(parameters["EveryMinutes"])
    return runs * int(parameters["Workers"]) * DPUS[parameters["WorkerType"]] * RUN_MINUTES / 60 * DPU_HOUR


def faults(place, stack):
    for name, job in stack.of("AWS::Glue::Job").items():
        where = f"{place} {name}"
        given = job["DefaultArguments"]
        own = {one.removeprefix("--") for one in given.keys() - OF_GLUE}
        parsed = {*JOB.NEEDED, *JOB.OPTIONAL} - {"JOB_NAME"}
        if own != parsed:
            yield f"{where}: arguments that job.py does not parse, or are not given: {sorted(own ^ parsed)}"
        code = job["Command"]["ScriptLocation"].rsplit("/", 1)[0]
        files = {one.removeprefix(f"{code}/").removesuffix(".py") for one in given["--extra-py-files"].split(",")}
        if files != modules():
            yield f"{where}: files that job.py does not import, or are not given: {sorted(files ^ modules())}"
        partitions = [column for column, _ in catalog.tables()[catalog.HUDI].partitions]
        if partitions != [f"{given.get('--partition_by')}_part"]:
            yield f"{where}: the table is partitioned by {partitions}"
        if given.get("--table") != stack.parameters["Table"] or given.get("--metrics_namespace") != stack.parameters["Name"]:
            yield f"{where}: other names than the alarms have"
        for alarm, one in stack.of("AWS::CloudWatch::Alarm").items():
            values = set(re.findall(r"'Name': 'Table', 'Value': '([^']*)'", str(one)))
            if values - {given.get("--table")}:
                yield f"{place} {alarm}: is about the table {sorted(values)}"
        for argument, end in {"--landing": "landing/transactions", "--errors": "errors"}.items():
            folder = given.get(argument)
            if folder != f"s3://{stack.parameters['LandingBucket']}/{stack.parameters['Prefix']}/{end}":
                yield f"{where}: {folder} is not where the service writes"
    rules = {rule["Name"] for rule in stack.of("AWS::Events::Rule").values()}
    for alarm, one in stack.of("AWS::CloudWatch::Alarm").items():
        watched = {each["Value"] for each in one.get("Dimensions", []) if each["Name"] == "RuleName"}
        if watched - rules:
            yield f"{place} {alarm}: there is no rule {sorted(watched)}"
    if "EveryMinutes" in stack.parameters:
        defaults = {name: one.get("Default") for name, one in stack.template["Parameters"].items()}
        dollars = f"{cost(defaults):.0f}"
        said = {
            "EveryMinutes": (stack.template["Parameters"]["EveryMinutes"]["Description"], f"${dollars} a month"),
            "glue/README.md": ((GLUE / "README.md").read_text(), f"**${dollars} a month**"),
            "docs/DEPLOY.md": ((ROOT / "docs" / "DEPLOY.md").read_text(), f"| {dollars} |"),
        }
        for where, (text, price) in said.items():
            if price not in text:
                yield f"{place}: {where} does not say that it costs {price}"
