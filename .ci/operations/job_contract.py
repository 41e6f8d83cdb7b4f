"""What the templates of Glue jobs and the code of glue/ must agree on: arguments, files, metrics, rights, the table, the price.

The code is imported without Spark and Glue: only its plain parts are used.
"""

import ast
import dataclasses
import fnmatch
import functools
import importlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from unittest import mock

import catalog
from cloudformation import ROOT

GLUE = ROOT / "glue"
# Arguments that Glue itself reads.
OF_GLUE = {
    "--datalake-formats", "--enable-glue-datacatalog", "--job-bookmark-option", "--conf", "--extra-py-files",
    "--additional-python-modules",
}  # fmt: skip
# What only Glue and Spark have, and our files that need them.
ABSENT = ["awsglue", "awsglue.context", "awsglue.job", "awsglue.utils", "pyspark", "pyspark.context", "pyspark.sql", "transform"]

# As docs/DEPLOY.md says where they are from.
DPU_HOUR, HOURS, RUN_MINUTES = 0.44, 730, 2
DPUS = {"G.1X": 1, "G.2X": 2}


def imported(*names):
    """Files of glue/ as modules."""
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ABSENT}), mock.patch.object(sys, "path", [str(GLUE), *sys.path]):
        return [importlib.import_module(name) for name in names]


JOB, LAKE, COMPACT, COINCAP = imported("job", "lake", "compact", "coincap")


class Paths(LAKE.Lake):
    """Where the job writes, without looking there."""

    def read_timeline(self):
        return None


class Everything(dict):
    """What a run has counted that counted everything there is."""

    def __contains__(self, _):
        return True

    def __missing__(self, name):
        return {"refused": {}}.get(name, "2026-01-01T00:00:00+00:00")

    def get(self, name):
        return self[name]


def written(given):
    """Folders in which the job reads, writes and deletes."""
    paths = Paths(None, given["--lake"], given["--table"], given["--partition_by"])
    return [paths.path, paths.quarantine_path, paths.hourly_path]


def curated(given):
    """The same of the job for CoinCap."""
    return [f"{given['--lake']}/{folder}/{COINCAP.TABLE}" for folder in ("analytics", "quarantine")]


@dataclasses.dataclass
class Contract:
    """A job of a template: its code, what it does with objects where, and what its metrics are by."""

    code: ModuleType
    writes: Callable
    actions: list
    metrics: list
    dimension: str
    # Of the dimension, where no argument says it.
    value: str = ""
    landing: str = "landing/transactions"

    @property
    def parsed(self):
        return {*self.code.NEEDED, *self.code.OPTIONAL} - {"JOB_NAME"}


# By the name of its resource.
JOBS = {
    "Job": Contract(JOB, written, ["GetObject", "PutObject", "DeleteObject"], JOB.metric_data(Everything(), "t", 1), "--table"),
    "Compaction": Contract(
        COMPACT, lambda given: [given["--compacted"]], ["GetObject", "PutObject"], COMPACT.metric_data(Everything(), [], "t", 1), "--compacted"
    ),
    "Assets": Contract(
        COINCAP, curated, ["GetObject", "PutObject", "DeleteObject"], COINCAP.metric_data(Everything(), 1), "--table", COINCAP.TABLE,
        "landing/assets",
    ),
}


@functools.cache
def modules(name):
    """Files of glue/ that a file needs, directly or not."""
    found = set()
    for node in ast.walk(ast.parse((GLUE / f"{name}.py").read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            found |= {one for one in names if (GLUE / f"{one}.py").is_file()}
    return found.union(*map(modules, found))


def metrics(stack):
    """Names and dimensions of the metrics that the jobs of a stack publish."""
    published = [one for name in stack.of("AWS::Glue::Job") for one in JOBS[name].metrics]
    return {one["MetricName"]: {each["Name"] for each in one["Dimensions"]} for one in published}


def cost(parameters):
    """Dollars a month, when a run takes RUN_MINUTES."""
    runs = HOURS * 60 / int(parameters["EveryMinutes"])
    return runs * int(parameters["Workers"]) * DPUS[parameters["WorkerType"]] * RUN_MINUTES / 60 * DPU_HOUR


def allows(stack, role, action, file):
    (policy,) = stack.of("AWS::IAM::Role")[role]["Policies"]
    arn = file.replace("s3://", "arn:aws:s3:::")

    def about(one):
        actions, resources = ([value] if isinstance(value, str) else value for value in (one["Action"], one["Resource"]))
        return action in actions and any(fnmatch.fnmatchcase(arn, each) for each in resources)

    return {one["Effect"] for one in policy["PolicyDocument"]["Statement"] if about(one)} == {"Allow"}


def agreed(stack, name, job):
    """What a job and its code do not agree on."""
    contract, given = JOBS[name], job["DefaultArguments"]
    own = {one.removeprefix("--") for one in given.keys() - OF_GLUE}
    if own != contract.parsed:
        yield f"arguments that the code does not parse, or are not given: {sorted(own ^ contract.parsed)}"
        return
    script = job["Command"]["ScriptLocation"]
    files, needed = given["--extra-py-files"].split(","), modules(contract.code.__name__)
    others = {one.rsplit("/", 1)[1].removesuffix(".py") for one in files}
    if others != needed or not script.endswith(f"/{contract.code.__name__}.py"):
        yield f"files that the code does not import, or are not given: {sorted(others ^ needed)}"
    if given["--metrics_namespace"] != stack.parameters["Name"]:
        yield "another namespace than the alarms have"
    for alarm, one in stack.of("AWS::CloudWatch::Alarm").items():
        by = contract.dimension.removeprefix("--").capitalize()
        about = set(re.findall(rf"'Name': '{by}', 'Value': '([^']*)'", str(one)))
        if about - {contract.value or given[contract.dimension]}:
            yield f"{alarm} is about {sorted(about)}"
    zone = f"s3://{stack.parameters['LandingBucket']}/{stack.parameters['Prefix']}"
    for argument, end in {"--landing": contract.landing, "--errors": "errors"}.items():
        if given.get(argument, f"{zone}/{end}") != f"{zone}/{end}":
            yield f"{given[argument]} is not where the service writes"
    reads = [script, *files, *(f"{given[one]}/x" for one in ("--landing", "--errors") if one in given)]
    calls = [("s3:GetObject", one) for one in reads]
    calls += [(f"s3:{action}", f"{folder}/x") for folder in contract.writes(given) for action in contract.actions]
    for action, file in calls:
        if not allows(stack, f"{name}Role", action, file):
            yield f"its role does not allow {action} on {file}"


def table(given):
    """What the table of the catalog has otherwise."""
    partitions = [column for column, _ in catalog.tables()[catalog.HUDI].partitions]
    if "--table" in given and partitions != [f"{given['--partition_by']}_part"]:
        yield f"the table is partitioned by {partitions}"


def prices(stack):
    parameters = stack.template["Parameters"]
    if "EveryMinutes" not in parameters:
        return
    dollars = f"{cost({name: one.get('Default') for name, one in parameters.items()}):.0f}"
    said = {
        "EveryMinutes": (parameters["EveryMinutes"]["Description"], f"${dollars} a month"),
        "glue/README.md": ((GLUE / "README.md").read_text(), f"**${dollars} a month**"),
        "docs/DEPLOY.md": ((ROOT / "docs" / "DEPLOY.md").read_text(), f"| {dollars} |"),
    }
    yield from (f"{where} does not say that it costs {price}" for where, (text, price) in said.items() if price not in text)


def rules(stack):
    """Alarms on rules that are not there."""
    names = {rule["Name"] for rule in stack.of("AWS::Events::Rule").values()}
    for alarm, one in stack.of("AWS::CloudWatch::Alarm").items():
        watched = {each["Value"] for each in one.get("Dimensions", []) if each["Name"] == "RuleName"}
        if watched - names:
            yield f"{alarm}: there is no rule {sorted(watched)}"


def faults(place, stack):
    """For templates.py."""
    for name, job in stack.of("AWS::Glue::Job").items():
        found = [*agreed(stack, name, job), *table(job["DefaultArguments"]), *prices(stack), *rules(stack)]
        yield from (f"{place} {name}: {fault}" for fault in found)
