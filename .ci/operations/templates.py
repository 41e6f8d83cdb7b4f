"""Checks the templates in ecs/: cfn-lint, cfn-guard, the models of the APIs they end in, and what ties them together.

Usage: templates.py
"""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import botocore.exceptions
import botocore.session
import cfn_guard_rs
from botocore import xform_name
from botocore.validate import ParamValidator
from cloudformation import DATA, FAULTS, ROOT, SERVICE, TEMPLATES, stacks

HERE = Path(__file__).parent
RUNBOOKS = "https://github.com/kinetide/kinetide/blob/main/"

# Metrics of AWS that alarms may use, with their dimensions.
AWS_METRICS = {
    ("AWS/Kinesis", "GetRecords.IteratorAgeMilliseconds"): {"StreamName"},
    ("AWS/Kinesis", "ReadProvisionedThroughputExceeded"): {"StreamName"},
    ("AWS/Kinesis", "WriteProvisionedThroughputExceeded"): {"StreamName"},
    ("AWS/Kinesis", "IncomingRecords"): {"StreamName"},
    ("AWS/Kinesis", "GetRecords.Records"): {"StreamName"},
    ("AWS/DynamoDB", "ConsumedReadCapacityUnits"): {"TableName"},
    ("AWS/DynamoDB", "ConsumedWriteCapacityUnits"): {"TableName"},
    ("AWS/DynamoDB", "ReadThrottleEvents"): {"TableName"},
    ("AWS/DynamoDB", "WriteThrottleEvents"): {"TableName"},
    ("AWS/ECS", "CPUUtilization"): {"ClusterName", "ServiceName"},
    ("AWS/ECS", "MemoryUtilization"): {"ClusterName", "ServiceName"},
    ("AWS/Firehose", "DeliveryToS3.DataFreshness"): {"DeliveryStreamName"},
    ("ECS/ContainerInsights", "DesiredTaskCount"): {"ClusterName", "ServiceName"},
    ("ECS/ContainerInsights", "RunningTaskCount"): {"ClusterName", "ServiceName"},
}
# Metrics Insights, over every value of DelegatedOperation.
AWS_QUERIES = {"AgeOfOldestUnreplicatedRecord", "FailedToReplicateRecordCount"}
# Metrics of the workers that alarms, scaling and dashboard use, with their dimensions.
OWN_METRICS = dict.fromkeys(
    [
        "CheckpointsTrimmed", "CoordinatorTroubleSeconds", "DeadLetters", "DeliveredAge", "DeliverFailures",
        "LeaderOverdueSeconds", "LeasesHeld", "RecordsDelivered", "ShardsNotReadSeconds",
    ],
    set(),
) | dict.fromkeys(["LeaseSpillover", "NumWorkers"], {"Operation"})  # fmt: skip

MODELS = botocore.session.Session()


def shape_of(service, operation):
    return MODELS.get_service_model(service).operation_model(operation).input_shape


def strict(shape, value, place):
    """What the model of an API forbids: also enumerations, patterns and limits, which botocore alone passes over."""
    if shape.type_name == "structure":
        for key, item in value.items():
            if key in shape.members:
                yield from strict(shape.members[key], item, f"{place}.{key}")
    elif shape.type_name == "list":
        yield from limits(shape, len(value), place)
        for number, item in enumerate(value):
            yield from strict(shape.member, item, f"{place}[{number}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from strict(shape.value, item, f"{place}.{key}")
    elif shape.type_name == "string":
        if getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{place}: {value!r} is none of {shape.enum}"
        pattern = shape.metadata.get("pattern")
        if pattern and not matches(pattern, value):
            yield f"{place}: {value!r} does not match {pattern}"
        yield from limits(shape, len(value), place)
    elif shape.type_name in ("integer", "long", "double", "float"):
        yield from limits(shape, value, place)


def matches(pattern, value):
    """Patterns of Java that Python does not have pass."""
    try:
        return re.search(f"^(?:{pattern})$", value)
    except re.error:
        return True


def limits(shape, size, place):
    if size < shape.metadata.get("min", size) or size > shape.metadata.get("max", size):
        yield f"{place}: {size} is out of range"


def against_model(place, service, operation, value):
    shape = shape_of(service, operation)
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        yield f"{place}: {report.generate_report()}"
    else:
        yield from strict(shape, value, place)


def like_api(value):
    """Property names of CloudFormation as names of the ECS API."""
    if isinstance(value, list):
        return [like_api(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key if key == "Options" else key[0].lower() + key[1:]: like_api(item) for key, item in value.items()}


def numbers(value, *names):
    return value | {name: float(value[name]) for name in names if name in value}


def models(place, stack):
    """Each document as the request that CloudFormation makes of it."""
    for name, alarm in stack.of("AWS::CloudWatch::Alarm").items():
        alarm = json.loads(json.dumps(numbers(alarm, "Threshold")))
        yield from against_model(f"{place} {name}", "cloudwatch", "PutMetricAlarm", alarm)
    for name, alarm in stack.of("AWS::CloudWatch::CompositeAlarm").items():
        yield from against_model(f"{place} {name}", "cloudwatch", "PutCompositeAlarm", alarm)
    for name, policy in stack.of("AWS::ApplicationAutoScaling::ScalingPolicy").items():
        target = stack.of("AWS::ApplicationAutoScaling::ScalableTarget")["ScalableTarget"]
        policy = {key: item for key, item in policy.items() if key != "ScalingTargetId"}
        policy |= {key: target[key] for key in ("ServiceNamespace", "ScalableDimension", "ResourceId")}
        yield from against_model(f"{place} {name}", "application-autoscaling", "PutScalingPolicy", policy)
    for name, task in stack.of("AWS::ECS::TaskDefinition").items():
        task = like_api(task)
        for container in task["containerDefinitions"]:
            log = container["logConfiguration"]
            log["options"] = log["options"] if "options" in log else log.pop("Options")
            log["options"] = {key: str(item) for key, item in log["options"].items()}
            container["healthCheck"]["command"] = [str(word) for word in container["healthCheck"]["command"]]
        yield from against_model(f"{place} {name}", "ecs", "RegisterTaskDefinition", task)
    for name, stream in stack.of("AWS::KinesisFirehose::DeliveryStream").items():
        yield from against_model(f"{place} {name}", "firehose", "CreateDeliveryStream", stream)
    for name, template in stack.of("AWS::FIS::ExperimentTemplate").items():
        template = {key[0].lower() + key[1:]: item for key, item in template.items()}
        template["targets"] = {key: like_api(item) for key, item in template["targets"].items()}
        template["actions"] = {
            key: like_api(item) | {"targets": item["Targets"]} for key, item in template["actions"].items()
        }
        template["stopConditions"] = like_api(template["stopConditions"])
        yield from against_model(f"{place} {name}", "fis", "CreateExperimentTemplate", template | {"clientToken": "once"})
    for name, table in stack.of("AWS::DynamoDB::Table").items():
        table = {key: item for key, item in table.items() if key not in ("KinesisStreamSpecification", "PointInTimeRecoverySpecification")}
        sse = table["SSESpecification"]
        table["SSESpecification"] = {{"SSEEnabled": "Enabled"}.get(key, key): item for key, item in sse.items()}
        if "StreamSpecification" in table:
            table["StreamSpecification"] = table["StreamSpecification"] | {"StreamEnabled": True}
        table["DeletionProtectionEnabled"] = str(table["DeletionProtectionEnabled"]).lower() == "true"
        yield from against_model(f"{place} {name}", "dynamodb", "CreateTable", table)


def metrics(alarm):
    """Namespace, name and dimensions of each metric of an alarm; a query of Metrics Insights by its text."""
    if "MetricName" in alarm:
        yield alarm["Namespace"], alarm["MetricName"], {one["Name"] for one in alarm.get("Dimensions", [])}
    for metric in alarm.get("Metrics", []):
        if "MetricStat" in metric:
            found = metric["MetricStat"]["Metric"]
            yield found["Namespace"], found["MetricName"], {one["Name"] for one in found.get("Dimensions", [])}
        elif "SELECT" in metric["Expression"]:
            yield "query", metric["Expression"], set()


def alarms(place, stack):
    application = stack.parameters.get("Application")
    found = stack.of("AWS::CloudWatch::Alarm")
    composite = stack.of("AWS::CloudWatch::CompositeAlarm")
    named = {alarm["AlarmName"]: name for name, alarm in found.items()}
    below = set(re.findall(r'ALARM\("([^"]+)"\)', " ".join(one["AlarmRule"] for one in composite.values())))
    for name in sorted(below - set(named)):
        yield f"{place}: the composite alarm names {name}, which is not there"
    for name, alarm in (found | composite).items():
        where = f"{place} {name}"
        pages = re.findall(rf"{re.escape(RUNBOOKS)}(docs/runbooks/[a-z-]+\.md|docs/runbooks/README\.md)", alarm["AlarmDescription"])
        if len(pages) != 1 or not (ROOT / pages[0]).is_file():
            yield f"{where}: has no runbook in its description"
        acts = bool(alarm.get("AlarmActions"))
        if acts == (alarm["AlarmName"] in below):
            yield f"{where}: acts by itself or through the composite alarm, not both and not neither"
    for name, alarm in found.items():
        if alarm["DatapointsToAlarm"] > alarm["EvaluationPeriods"]:
            yield f"{place} {name}: never fires"
        returned = [one for one in alarm.get("Metrics", []) if one.get("ReturnData", True)]
        if "Metrics" in alarm and len(returned) != 1:
            yield f"{place} {name}: returns {len(returned)} series"
        ids = {one["Id"] for one in alarm.get("Metrics", [])}
        for one in alarm.get("Metrics", []):
            used = set(re.findall(r"\b[a-z]\w*\b", one.get("Expression", ""))) if "SELECT" not in one.get("Expression", "") else set()
            if used - ids:
                yield f"{place} {name}: its expression uses {sorted(used - ids)}"
        for namespace, metric, dimensions in metrics(alarm):
            own = namespace == application and OWN_METRICS.get(metric) == dimensions
            query = namespace == "query" and any(f"({one})" in metric for one in AWS_QUERIES)
            if not own and not query and AWS_METRICS.get((namespace, metric)) != dimensions:
                yield f"{place} {name}: {namespace} has no {metric} by {sorted(dimensions)}"
            if own and stack.parameters["OwnMetrics"] != "yes":
                yield f"{place} {name}: waits for a metric that nobody publishes"


# What a dashboard of CloudWatch may have; AWS publishes no schema.
WIDGET = {"type", "x", "y", "width", "height", "properties"}
PROPERTIES = {
    "text": {"markdown"},
    "metric": {"title", "view", "stacked", "region", "stat", "period", "metrics", "yAxis", "annotations"},
}


def dashboards(place, stack):
    for name, dashboard in stack.of("AWS::CloudWatch::Dashboard").items():
        where = f"{place} {name}"
        shipped = (ROOT / "dashboards" / "cloudwatch" / "kinetide.json").read_text()
        if json.loads(dashboard["DashboardBody"]) != json.loads(stack.substituted(shipped)):
            yield f"{where}: is not dashboards/cloudwatch/kinetide.json"
        taken = set()
        for widget in json.loads(dashboard["DashboardBody"])["widgets"]:
            known = PROPERTIES.get(widget.get("type"), set())
            if set(widget) != WIDGET or set(widget["properties"]) - known:
                yield f"{where}: unknown keys of {widget}"
                continue
            cells = {
                (x, y)
                for x in range(widget["x"], widget["x"] + widget["width"])
                for y in range(widget["y"], widget["y"] + widget["height"])
            }
            if cells & taken or any(x >= 24 for x, _ in cells):
                yield f"{where}: {widget['properties'].get('title')} overlaps"
            taken |= cells
            if widget["type"] == "metric" and not widget["properties"]["title"].endswith("?"):
                yield f"{where}: {widget['properties']['title']} is no question"
            for namespace, metric, *rest in widget["properties"].get("metrics", []):
                dimensions = {one for one in rest[:-1:2]} if isinstance(rest[-1], dict) else set(rest[::2])
                own = namespace == stack.parameters["Application"] and OWN_METRICS.get(metric) == dimensions
                if not own and AWS_METRICS.get((namespace, metric)) != dimensions:
                    yield f"{where}: {namespace} has no {metric} by {sorted(dimensions)}"


def published():
    """Metrics that templates and dashboard use, and no worker sends."""
    source = (ROOT / "src" / "telemetry" / "cloudwatch" / "series.rs").read_text()
    for name in OWN_METRICS:
        if f'("{name}", ' not in source:
            yield f"series.rs does not have {name}"


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def service(place, stack):
    for task in stack.of("AWS::ECS::TaskDefinition").values():
        for container in task["ContainerDefinitions"]:
            environment = {one["Name"]: str(one["Value"]) for one in container["Environment"]}
            if container["StopTimeout"] - seconds(environment["KINETIDE_SHUTDOWN_BUDGET"]) < 10:
                yield f"{place}: the drain may take longer than ECS waits"
    for target in stack.of("AWS::ApplicationAutoScaling::ScalableTarget").values():
        for policy in stack.of("AWS::ApplicationAutoScaling::ScalingPolicy").values():
            inner = policy.get("StepScalingPolicyConfiguration") or policy["TargetTrackingScalingPolicyConfiguration"]
            cooldowns = [value for key, value in inner.items() if "Cooldown" in key]
            failover = seconds(stack.parameters["FailoverTime"])
            if not cooldowns or min(cooldowns) < 3 * failover:
                yield f"{place}: a cooldown of {policy['PolicyName']} is below three failover times"
        if int(target["MinCapacity"]) > int(target["MaxCapacity"]):
            yield f"{place}: scales between nothing"


def data(place, stack):
    buckets = stack.of("AWS::S3::Bucket")
    policies = stack.of("AWS::S3::BucketPolicy")
    for name in buckets:
        if not any(policy["Bucket"] == stack.ref(name) for policy in policies.values()):
            yield f"{place}: {name} has no policy"
    for rule in buckets.get("LandingBucket", {}).get("LifecycleConfiguration", {}).get("Rules", []):
        if "ExpirationInDays" in rule:
            hours = int(stack.parameters["RetentionHours"])
            if int(rule["ExpirationInDays"]) * 24 < hours + 24:
                yield f"{place}: landing objects are deleted before the stream forgets their records"


def explained(name):
    """Each statement of a role has a line that says what it is for."""
    lines = TEMPLATES[name].read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("- Sid:") and not lines[number - 1].strip().startswith("#"):
            yield f"{name}, line {number + 1}: {line.strip()} is not explained"


# Commands of the AWS CLI that are not operations of an API.
CUSTOM = {"s3 ls", "logs tail", "cloudformation deploy", "ecr get-login-password"}
CLI_OPTIONS = {"query", "output", "region", "profile"}


def typed():
    """Commands of the AWS CLI in documents that nobody could type."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "quicksight" / "README.md"]:
        text = path.read_text().replace("\\\n", " ")
        for command in re.findall(r"^aws [^\n]+", text, re.MULTILINE) + re.findall(r"`(aws [a-z]+ [a-z-]+)[^`]*`", text):
            words = command.split(" | ")[0].split()
            service, operation = words[1:3]
            if f"{service} {operation}" in CUSTOM or path.name == "AWS-ACCESS.md" and service in ("sso", "configure"):
                continue
            try:
                model = MODELS.get_service_model(service)
                names = {xform_name(name, "-"): name for name in model.operation_names}
                shape = model.operation_model(names[operation]).input_shape
            except (KeyError, botocore.exceptions.UnknownServiceError):
                yield f"{path.name}: {command}: there is no such command"
                continue
            known = {xform_name(name, "-") for name in shape.members} | CLI_OPTIONS
            unknown = {word[2:] for word in words if word.startswith("--")} - known
            if unknown:
                yield f"{path.name}: {command}: there is no {sorted(unknown)}"


# CloudFormation takes no longer template without a bucket.
BODY_BYTES = 51_200


def sizes():
    for path in sorted((ROOT / "ecs").glob("*.yaml")):
        if path.stat().st_size > BODY_BYTES:
            yield f"{path.name}: {path.stat().st_size} bytes are too many for a request"


def lint(*arguments):
    tool = Path(sys.executable).with_name("cfn-lint")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=300)


def guard(place, stack):
    report = cfn_guard_rs.run_checks(
        {"Resources": json.loads(json.dumps(stack.resources))}, (HERE / "templates.guard").read_text()
    )
    if not report.compliant and not place.startswith("faults.yaml"):
        yield f"{place}: no rule of templates.guard applies"
    for rule in report.not_compliant:
        yield f"{place}: {rule}"


def change(stack, value, *path):
    """Sets what lies at the path below the resources."""
    *path, last = path
    place = stack.resources
    for step in path:
        place = place[step]
    place[last] = value


CONTAINER = ("TaskDefinition", "Properties", "ContainerDefinitions", 0)
# Faults that the checks must notice: what is said of them, and how they are made.
PLANTED = [
    ("StopTimeout", lambda stack: change(stack, 300, *CONTAINER, "StopTimeout")),
    ("drain", lambda stack: change(stack, 115, *CONTAINER, "StopTimeout")),
    ("User", lambda stack: change(stack, "0:0", *CONTAINER, "User")),
    ("ReadonlyRootFilesystem", lambda stack: change(stack, False, *CONTAINER, "ReadonlyRootFilesystem")),
    ("networkMode", lambda stack: change(stack, "vpc", "TaskDefinition", "Properties", "NetworkMode")),
    ("cooldown", lambda stack: change(stack, 20, "CatchUp", "Properties", "StepScalingPolicyConfiguration", "Cooldown")),
    ("runbook", lambda stack: change(stack, "Trouble.", "ReadThrottled", "Properties", "AlarmDescription")),
    ("has no ReadThrottled", lambda stack: change(stack, "ReadThrottled", "ReadThrottled", "Properties", "MetricName")),
    ("by ['Stream']", lambda stack: change(stack, "Stream", "ReadThrottled", "Properties", "Dimensions", 0, "Name")),
    ("'Mean' is none of", lambda stack: change(stack, "Mean", "ReadThrottled", "Properties", "Statistic")),
    ("'Above' is none of", lambda stack: change(stack, "Above", "ReadThrottled", "Properties", "ComparisonOperator")),
    ("has no DeliveredAges", lambda stack: change(stack, "DeliveredAges", "DeliveredAge", "Properties", "MetricName")),
    ("has no LeaseSpillover by []", lambda stack: change(stack, [], "NoRoom", "Properties", "Dimensions")),
    ("its expression uses", lambda stack: change(stack, "desired - runing", "TasksMissing", "Properties", "Metrics", 2, "Expression")),
    ("returns 2 series", lambda stack: change(stack, True, "TasksMissing", "Properties", "Metrics", 1, "ReturnData")),
    ("never fires", lambda stack: change(stack, 16, "TasksMissing", "Properties", "DatapointsToAlarm")),
    ("acts by itself", lambda stack: change(stack, [], "ReadThrottled", "Properties", "AlarmActions")),
    ("which is not there", lambda stack: stack.resources.pop("TasksMissing")),
    ("has no policy", lambda stack: stack.resources.pop("LakePolicy")),
    ("is not dashboards/cloudwatch", lambda stack: change(stack, '{"widgets": []}', "Dashboard", "Properties", "DashboardBody")),
    ("parameter roleArn", lambda stack: change(stack, "PT", "Experiment", "Properties", "RoleArn")),
    ("BlockPublicPolicy", lambda stack: change(stack, False, "LakeBucket", "Properties", "PublicAccessBlockConfiguration", "BlockPublicPolicy")),
    ("forgets their records", lambda stack: stack.parameters.update(RetentionHours=1000)),
    ("'UNZIP' is none of", lambda stack: change(stack, "UNZIP", "Firehose", "Properties", "ExtendedS3DestinationConfiguration", "CompressionFormat")),
]  # fmt: skip


def faults(place, stack):
    return [fault for check in (guard, models, alarms, dashboards, service, data) for fault in check(place, stack)]


def blind():
    """Planted faults that no check notices."""
    whole = {name: stack for name, case, stack in stacks() if case == "whole"}
    for said, plant in PLANTED:
        found = []
        for name, stack in whole.items():
            ill = copy.deepcopy(stack)
            try:
                plant(ill)
            except KeyError:
                continue
            found += faults(name, ill)
        if not any(said in fault for fault in found):
            yield f"nothing says {said!r} of a planted fault: {found}"


def main():
    files = [str(path) for path in sorted((ROOT / "ecs").glob("*.yaml"))]
    run = lint("--include-checks", "W", "--custom-rules", str(HERE / "templates.rules"), "--", *files)
    wrong = [run.stdout + run.stderr] if run.returncode else []
    count = 0
    for name, case, stack in stacks():
        place = f"{name} ({case})"
        count += len(stack.resources)
        wrong += faults(place, stack)
    wrong += blind()
    wrong += [*typed(), *sizes(), *published()]
    wrong += [fault for path in files for fault in explained(Path(path).name)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(files)} templates, {count} resources in {len(DATA) + len(SERVICE) + len(FAULTS)} cases; {len(PLANTED)} planted faults noticed")


if __name__ == "__main__":
    main()
