"""What ecs/market.yaml and what it starts must agree on: settings of the loader, rights of roles, folders, commands of pollers."""

import ast
import fnmatch
import inspect
import sys

from cloudformation import ROOT

sys.path.append(str(ROOT / "athena"))
import load_hour


def metrics():
    """Names and dimensions of what the loader publishes."""
    return dict.fromkeys(load_hour.METRICS, {"Database"})


def allows(stack, role, action, file):
    """Whether a role may do something with an object, whatever conditions there are."""
    (policy,) = stack.of("AWS::IAM::Role")[role]["Policies"]
    arn = file.replace("s3://", "arn:aws:s3:::")
    for one in policy["PolicyDocument"]["Statement"]:
        actions, resources = ([value] if isinstance(value, str) else value for value in (one["Action"], one["Resource"]))
        if one["Effect"] == "Allow" and action in actions and any(fnmatch.fnmatchcase(arn, each) for each in resources):
            return True
    return False


# Calls whose permission has another name.
ACTIONS = {"s3:ListObjectsV2": "s3:ListBucket"}


def calls():
    """The permissions that the loader's own calls need, from its code: self.SERVICE.OPERATION(…)."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(load_hour))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=service), attr="get_paginator"), args=[ast.Constant(value=name)]):
                pass
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=service), attr=name)) if service in SERVICES:
                pass
            case _:
                continue
        operation = "".join(part.capitalize() for part in name.split("_"))
        found.add(ACTIONS.get(f"{service}:{operation}", f"{service}:{operation}"))
    return found


SERVICES = ("athena", "s3", "ssm", "cloudwatch")


def of_loader(stack, function):
    given = {name.lower(): value for name, value in function["Environment"]["Variables"].items()}
    known = set(inspect.signature(load_hour.Settings).parameters)
    if unknown := sorted(given.keys() - known):
        yield f"settings that the loader does not have: {unknown}"
    settings = load_hour.Settings.read(given)
    (policy,) = stack.of("AWS::IAM::Role")["LoaderRole"]["Policies"]
    given = [one["Action"] for one in policy["PolicyDocument"]["Statement"] if one["Effect"] == "Allow"]
    allowed = {action for one in given for action in ([one] if isinstance(one, str) else one)}
    if missing := sorted(calls() - allowed):
        yield f"its role does not allow {missing}"
    module, name = function["Handler"].split(".")
    if module != load_hour.__name__ or not callable(getattr(load_hour, name, None)):
        yield f"there is no {function['Handler']}"
    if function["Timeout"] < load_hour.ATTEMPTS * load_hour.GIVE_UP_SECONDS:
        yield "a load may take longer than the function has"
    for action, file in [
        ("s3:GetObject", f"{settings.prices}/year=2026/x"),
        ("s3:PutObject", f"{settings.results}/loaded/x"),
        ("s3:PutObject", f"s3://{stack.parameters['LakeBucket']}/analytics/market_prices/x"),
    ]:
        if not allows(stack, "LoaderRole", action, file):
            yield f"its role does not allow {action} on {file}"
    if settings.metrics_namespace != stack.parameters["Name"]:
        yield "another namespace than the alarms have"


def of_poller(stack, task):
    (container,) = task["ContainerDefinitions"]
    command = list(container["Command"])
    if command[:2] != ["snapshot", "--provider"] or not {"--once", "--every"} & set(command) or command[3:4] == ["--every"] and command[4:5] == ["--lake"]:
        yield f"{command} takes no snapshot"
    lake = command[command.index("--lake") + 1]
    if not allows(stack, "PollerRole", "s3:PutObject", f"{lake}/market/{command[2]}/raw/x"):
        yield f"its role does not allow what it does: it writes to {lake}"


def faults(place, stack):
    """For templates.py."""
    for name, function in stack.of("AWS::Lambda::Function").items():
        yield from (f"{place} {name}: {fault}" for fault in of_loader(stack, function))
    for name, task in stack.of("AWS::ECS::TaskDefinition").items():
        if "Command" in task["ContainerDefinitions"][0]:
            yield from (f"{place} {name}: {fault}" for fault in of_poller(stack, task))
    queues = {stack.attribute(name, "Arn") for name in stack.of("AWS::SQS::Queue")}
    for name, rule in stack.of("AWS::Events::Rule").items():
        for target in rule.get("Targets", []):
            if ":sqs:" in target["Arn"] and target["Arn"] not in queues:
                yield f"{place} {name}: sends to no queue of this stack"
