"""Deploys templates on ministack, without what that does not have."""

import functools
import json
import os
import re
import subprocess
import sys
import time

import boto3
from cloudformation import ROOT, Stack, load

ACCOUNT, REGION = "000000000000", "eu-north-1"

# Types that ministack 1.5.33 does not have; their properties are checked by templates.py.
PASSED_OVER = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::LakeFormation::PrincipalPermissions",
    "AWS::LakeFormation::Resource",
}
# Types that its CloudFormation does not have, and its API does: lake_deployed.py makes them there.
BY_API = {"AWS::Athena::NamedQuery", "AWS::Glue::Classifier", "AWS::Glue::Workflow"}


@functools.cache
def client(service, url):
    return boto3.client(
        service, endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )


def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def without(template, parameters):
    """The template without what the emulator does not have, and with values in place of parameters that are no texts."""
    stack, template = Stack(template, **parameters), plain(template)
    given = {name: parameters.get(name, one.get("Default")) for name, one in template["Parameters"].items()}
    values = {name: int(given[name]) for name, one in template["Parameters"].items() if one["Type"] == "Number"}
    values |= {name: value == "true" for name, value in given.items() if value in ("true", "false")}
    # Nor alarms on metric math.
    gone = {
        name
        for name, one in template["Resources"].items()
        if one["Type"] in PASSED_OVER | BY_API or one["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in one["Properties"]
    }
    # Others call by their names what the API makes.
    named = {name: stack.ref(name) for name in gone & stack.resources.keys() if stack.resources[name]["Type"] in BY_API}
    values |= named

    def names(value):
        return isinstance(value, dict) and value.get("Ref") in gone - named.keys()

    def clean(value):
        if isinstance(value, dict):
            if value.get("Ref") in values:
                return values[value["Ref"]]
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, str):
            return re.sub(r"\$\{(\w+)\}", lambda found: named.get(found[1], found[0]), value)
        return [clean(item) for item in value if not names(item)] if isinstance(value, list) else value

    resources = {name: clean(one) for name, one in template["Resources"].items() if name not in gone}
    for one in resources.values():
        if one.get("DependsOn") in gone:
            del one["DependsOn"]
    return template | {"Resources": resources}, len(gone)


def create(url, name, parameters):
    """Deploys a template; gives its outputs and the physical names of its resources."""
    cloudformation = client("cloudformation", url)
    template, gone = without(load(f"{name}.yaml"), parameters)
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(template),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": ",".join(value) if isinstance(value, list) else str(value)}
            for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    for _ in range(120):
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            break
        time.sleep(0.25)
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    if stack["StackStatus"] != "CREATE_COMPLETE":
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        failed = [event for event in events if "FAILED" in event["ResourceStatus"]]
        sys.exit(f"{name}: {stack['StackStatus']}\n" + "\n".join(map(str, failed)))
    print(f"{name}: {len(resources)} resources created, {gone} left out that the emulator does not have")
    outputs = {output["OutputKey"]: output.get("OutputValue", "") for output in stack["Outputs"]}
    return outputs, {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in resources}


def verify(url, *more, service="service"):
    """What ecs/verify.py says: the state of each check."""
    of_service = ["--service", service] if service else []
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    run = subprocess.run(
        [sys.executable, ROOT / "ecs" / "verify.py", *of_service, "--region", REGION, "--endpoint-url", url, "--json", *more],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    if run.returncode not in (0, 1) or not run.stdout:
        raise SystemExit(f"verify.py: {run.stderr}")
    found = json.loads(run.stdout)
    assert run.returncode == (0 if all(one["state"] in ("ok", "not used") for one in found) else 1)
    return {one["check"]: one for one in found}
