"""Checks the CloudFormation templates: cfn-lint, cfn-guard, the models of the APIs they end in, and what ties them together.

Usage: templates.py
"""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import botocore.exceptions
import catalog
import cfn_guard_rs
import job_contract
import loader_contract
from botocore import xform_name
from cloudformation import CASES, FOLDERS, ROOT, TEMPLATES, stacks
from models import MODELS, models

HERE = Path(__file__).parent
RUNBOOKS = "https://github.com/kinetide/kinetide/blob/main/"

# Metrics of AWS that alarms may use, with their dimensions.
AWS_METRICS = {
    ("AWS/Kinesis", "GetRecords.IteratorAgeMilliseconds"): {"StreamName"},
    ("AWS/Kinesis", "SubscribeToShardEvent.MillisBehindLatest"): {"StreamName", "ConsumerName"},
    ("AWS/Kinesis", "ReadProvisionedThroughputExceeded"): {"StreamName"},
    ("AWS/Kinesis", "WriteProvisionedThroughputExceeded"): {"StreamName"},
    ("AWS/Kinesis", "IncomingRecords"): {"StreamName"},
    ("AWS/Kinesis", "GetRecords.Records"): {"StreamName"},
    ("AWS/Kinesis", "SubscribeToShardEvent.Records"): {"StreamName", "ConsumerName"},
    ("AWS/Kinesis", "SubscribeToShard.RateExceeded"): {"StreamName", "ConsumerName"},
    ("AWS/DynamoDB", "ConsumedReadCapacityUnits"): {"TableName"},
    ("AWS/DynamoDB", "ConsumedWriteCapacityUnits"): {"TableName"},
    ("AWS/DynamoDB", "ReadThrottleEvents"): {"TableName"},
    ("AWS/DynamoDB", "WriteThrottleEvents"): {"TableName"},
    ("AWS/ECS", "CPUUtilization"): {"ClusterName", "ServiceName"},
    ("AWS/ECS", "MemoryUtilization"): {"ClusterName", "ServiceName"},
    ("AWS/Firehose", "DeliveryToS3.DataFreshness"): {"DeliveryStreamName"},
    ("AWS/Events", "TriggeredRules"): {"RuleName"},
    ("AWS/Lambda", "Errors"): {"FunctionName"},
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {"QueueName"},
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


def own_metrics(stack):
    """Namespace and name to dimensions of what a stack's own processes publish: workers, Glue jobs, the loader."""
    if "Application" in stack.parameters:
        return {(stack.parameters["Application"], name): dimensions for name, dimensions in OWN_METRICS.items()}
    published = job_contract.metrics(stack) | (loader_contract.metrics() if stack.of("AWS::Lambda::Function") else {})
    return {(stack.parameters.get("Name"), name): dimensions for name, dimensions in published.items()}


def alarms(place, stack):
    own = own_metrics(stack)
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
            query = namespace == "query" and any(f"({one})" in metric for one in AWS_QUERIES)
            if not query and (own | AWS_METRICS).get((namespace, metric)) != dimensions:
                yield f"{place} {name}: {namespace} has no {metric} by {sorted(dimensions)}"
            if (namespace, metric) in own and stack.parameters.get("OwnMetrics", "yes") != "yes":
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
                if (own_metrics(stack) | AWS_METRICS).get((namespace, metric)) != dimensions:
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


# What a worker may do to what it reads, and no more.
READING = {
    "kinesis": {"kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords"},
    "fan-out": {"kinesis:RegisterStreamConsumer", "kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"},
    "dynamodb-streams": {"dynamodb:DescribeStream", "dynamodb:GetShardIterator", "dynamodb:GetRecords"},
}


def several(value):
    return value if isinstance(value, list) else [value]


def reading(place, stack):
    if "Source" not in stack.parameters:
        return
    source, table = stack.parameters["Source"], stack.parameters["TableName"]
    of_table = source == "dynamodb-streams"
    where = f"arn:aws:dynamodb:eu-north-1:111122223333:table/{table}/stream/*" if of_table else f"stream/{stack.parameters['StreamName']}"
    needed = READING[source] | (READING["fan-out"] if stack.parameters["Retrieval"] == "fan-out" else set())
    allowed = {
        (action, resource)
        for policy in stack.resources["TaskRole"]["Properties"]["Policies"]
        for one in policy["PolicyDocument"]["Statement"]
        for action in several(one["Action"])
        for resource in several(one["Resource"])
    }
    granted = {action for action, resource in allowed if resource.endswith(where)}
    if granted != needed:
        yield f"{place}: may {sorted(granted)} on {where}, and needs {sorted(needed)}"
    for action, resource in sorted(allowed):
        service = action.partition(":")[0]
        if of_table and (service == "kinesis" or resource.endswith(f":table/{table}")):
            yield f"{place}: {action} on {resource} is not for reading the table's stream"
        if service in ("kinesis", "dynamodb") and resource == "*" and (action != "dynamodb:ListStreams" or not of_table):
            yield f"{place}: {action} is not for everything"
    if of_table and ("dynamodb:ListStreams", "*") not in allowed:
        yield f"{place}: cannot find the streams of the table"
    for container in stack.resources["TaskDefinition"]["Properties"]["ContainerDefinitions"]:
        environment = {one["Name"]: str(one["Value"]) for one in container["Environment"]}
        name = {True: ("KINETIDE_TABLE", table), False: ("KINETIDE_STREAM", stack.parameters["StreamName"])}[of_table]
        told = {key: value for key, value in environment.items() if key in ("KINETIDE_SOURCE", "KINETIDE_TABLE", "KINETIDE_STREAM")}
        if told != {"KINETIDE_SOURCE": source, name[0]: name[1]}:
            yield f"{place}: the workers are told to read {told}"


def service(place, stack):
    for task in stack.of("AWS::ECS::TaskDefinition").values():
        for container in task["ContainerDefinitions"]:
            environment = {one["Name"]: str(one["Value"]) for one in container["Environment"]}
            # A poller has nothing to drain.
            budget = environment.get("KINETIDE_SHUTDOWN_BUDGET", "0s")
            if container["StopTimeout"] - seconds(budget) < 10:
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
CUSTOM = {"s3 ls", "s3 cp", "s3 rm", "logs tail", "cloudformation deploy", "ecr get-login-password"}
CLI_OPTIONS = {"query", "output", "region", "profile", "cli-binary-format"}


def typed():
    """Commands of the AWS CLI in documents that nobody could type."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / folder / "README.md" for folder in FOLDERS if folder != "ecs")]:
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
    for path in (TEMPLATES[name] for name in CASES):
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


def default(stack, name, value):
    parameters = stack.template["Parameters"]
    stack.template = stack.template | {"Parameters": parameters | {name: parameters[name] | {"Default": value}}}


JOB = ("Job", "Properties")
ROLE = ("JobRole", "Properties", "Policies", 0, "PolicyDocument", "Statement")
TABLE = ("LandingTransactions", "Properties", "TableInput")
WORK = ("TaskRole", "Properties", "Policies", 0, "PolicyDocument", "Statement")
TABLE_ARN = "arn:aws:dynamodb:eu-north-1:111122223333:table/CryptoTransactions"
CONTAINER = ("TaskDefinition", "Properties", "ContainerDefinitions", 0)
POLLER = ("CoinGeckoTask", "Properties", "ContainerDefinitions", 0)
LOADER = ("LoaderRole", "Properties", "Policies", 0, "PolicyDocument", "Statement")
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
    ("may ['dynamodb:DescribeStream', 'dynamodb:GetRecords'] on", lambda stack: change(stack, ["dynamodb:DescribeStream", "dynamodb:GetRecords"], *WORK, 0, "Action")),
    ("may [] on arn:aws:dynamodb", lambda stack: change(stack, TABLE_ARN, *WORK, 0, "Resource")),
    ("is not for reading the table's stream", lambda stack: change(stack, TABLE_ARN, *WORK, 0, "Resource")),
    ("cannot find the streams of the table", lambda stack: change(stack, TABLE_ARN + "/stream/*", *WORK, 1, "Resource")),
    ("dynamodb:GetRecords is not for everything", lambda stack: change(stack, ["dynamodb:ListStreams", "dynamodb:GetRecords"], *WORK, 1, "Action")),
    ("are told to read {'KINETIDE_SOURCE': 'kinesis'", lambda stack: change(stack, "kinesis", *CONTAINER, "Environment", 0, "Value")),
    ("are told to read {'KINETIDE_SOURCE': 'dynamodb-streams', 'KINETIDE_STREAM'", lambda stack: change(stack, "KINETIDE_STREAM", *CONTAINER, "Environment", 1, "Name")),
    ("is not dashboards/cloudwatch", lambda stack: change(stack, '{"widgets": []}', "Dashboard", "Properties", "DashboardBody")),
    ("parameter roleArn", lambda stack: change(stack, "PT", "Experiment", "Properties", "RoleArn")),
    ("BlockPublicPolicy", lambda stack: change(stack, False, "LakeBucket", "Properties", "PublicAccessBlockConfiguration", "BlockPublicPolicy")),
    ("forgets their records", lambda stack: stack.parameters.update(RetentionHours=1000)),
    ("'UNZIP' is none of", lambda stack: change(stack, "UNZIP", "Firehose", "Properties", "ExtendedS3DestinationConfiguration", "CompressionFormat")),
    ("named, one by one", lambda stack: change(stack, "s3:*", *ROLE, 0, "Action")),
    ("MaxConcurrentRuns", lambda stack: change(stack, 2, *JOB, "ExecutionProperty", "MaxConcurrentRuns")),
    ("'HOURLY' is none of", lambda stack: change(stack, "HOURLY", "Schedule", "Properties", "Type")),
    ("does not parse, or are not given: ['errors']", lambda stack: stack.resources["Job"]["Properties"]["DefaultArguments"].pop("--errors")),
    ("does not parse, or are not given: ['pace']", lambda stack: change(stack, "1", *JOB, "DefaultArguments", "--pace")),
    ("does not import, or are not given", lambda stack: change(stack, "s3://lakebucket/code/lake.py", *JOB, "DefaultArguments", "--extra-py-files")),
    ("is not where the service writes", lambda stack: change(stack, "s3://landingbucket/landing", *JOB, "DefaultArguments", "--landing")),
    ("partitioned by", lambda stack: change(stack, "trade_date", *JOB, "DefaultArguments", "--partition_by")),
    ("does not allow s3:DeleteObject", lambda stack: change(stack, ["s3:GetObject", "s3:PutObject"], *ROLE, 4, "Action")),
    ("does not allow s3:GetObject", lambda stack: change(stack, "Deny", *ROLE, 1, "Effect")),
    ("another namespace than the alarms", lambda stack: change(stack, "kinetide", *JOB, "DefaultArguments", "--metrics_namespace")),
    ("there is no rule", lambda stack: change(stack, "failed", "JobFailedRule", "Properties", "Name")),
    ("has no RunTimes", lambda stack: change(stack, "RunTimes", "NoRun", "Properties", "MetricName")),
    ("is about ['crypto']", lambda stack: change(stack, "crypto", "Latency", "Properties", "Dimensions", 0, "Value")),
    ("does not say that it costs", lambda stack: default(stack, "Workers", 3)),
    ("UpdateBehavior", lambda stack: change(stack, "UPDATE_IN_DATABASE", "Crawler", "Properties", "SchemaChangePolicy", "UpdateBehavior")),
    ("a query has a limit", lambda stack: stack.resources["WorkGroup"]["Properties"]["WorkGroupConfiguration"].pop("BytesScannedCutoffPerQuery")),
    ("landing_transactions: its columns differ", lambda stack: change(stack, "string", *TABLE, "StorageDescriptor", "Columns", 3, "Type")),
    ("landing_transactions: its partitions differ", lambda stack: stack.resources["LandingTransactions"]["Properties"]["TableInput"]["PartitionKeys"].pop()),
    ("landing_transactions: its serde differ", lambda stack: change(stack, "org.openx.data.jsonserde.JsonSerDe", *TABLE, "StorageDescriptor", "SerdeInfo", "SerializationLibrary")),
    ("landing_transactions: its location differ", lambda stack: change(stack, "s3://landingbucket/landing/", *TABLE, "StorageDescriptor", "Location")),
    ("landing_transactions: its properties differ", lambda stack: change(stack, "1", *TABLE, "Parameters", "projection.hour.digits")),
    ("processed_crypto_txn: its input differ", lambda stack: change(stack, "org.apache.hadoop.mapred.TextInputFormat", "ProcessedCryptoTxn", "Properties", "TableInput", "StorageDescriptor", "InputFormat")),
    ("hourly_trades: its files are none", lambda stack: change(stack, "s3://lakebucket/hours/", "HourlyTrades", "Properties", "TableInput", "StorageDescriptor", "Location")),
    ("dead_letters is not in the catalog", lambda stack: stack.resources.pop("DeadLetters")),
    ("operators/duplicates is not saved", lambda stack: stack.resources.pop("QueryOperatorsDuplicates")),
    ("does not allow s3:DeleteObject on s3://lakebucket/analytics/coincap_assets", lambda stack: change(stack, ["s3:GetObject", "s3:PutObject"], "AssetsRole", "Properties", "Policies", 0, "PolicyDocument", "Statement", 4, "Action")),
    ("is about ['assets']", lambda stack: change(stack, "assets", "AssetsNoRun", "Properties", "Dimensions", 0, "Value")),
    ("analytics_prices: its columns differ", lambda stack: change(stack, "double", "AnalyticsPrices", "Properties", "TableInput", "StorageDescriptor", "Columns", 4, "Type")),
    ("insert_last_hour is not what its file says", lambda stack: change(stack, "INSERT", "LoadInsertLastHour", "Properties", "Value")),
    ("insert_last_hour is not there", lambda stack: stack.resources.pop("LoadInsertLastHour")),
    ("analytics_prices: its files are none", lambda stack: change(stack, "s3://lakebucket/prices/", "AnalyticsPrices", "Properties", "TableInput", "StorageDescriptor", "Location")),
    ("a secret is none that everybody can read", lambda stack: change(stack, "KINETIDE_MARKET_API_KEY", *POLLER, "Environment", 0, "Name")),
    ("ValueFrom", lambda stack: change(stack, "CG-my-key", *POLLER, "Secrets", 0, "ValueFrom")),
    ("takes no snapshot", lambda stack: change(stack, "--every", *POLLER, "Command", 3)),
    ("writes to s3://landingbucket", lambda stack: change(stack, "s3://landingbucket", *POLLER, "Command", 5)),
    ("one load at a time", lambda stack: change(stack, 2, "Loader", "Properties", "ReservedConcurrentExecutions")),
    ("SqsManagedSseEnabled", lambda stack: change(stack, False, "DeadLetters", "Properties", "SqsManagedSseEnabled")),
    ("settings that the loader does not have: ['price']", lambda stack: change(stack, "x", "Loader", "Properties", "Environment", "Variables", "PRICE")),
    ("does not allow s3:PutObject on s3://lakebucket/query-results", lambda stack: change(stack, "arn:aws:s3:::lakebucket/analytics/*", *LOADER, 4, "Resource")),
    ("does not allow s3:GetObject on s3://landingbucket", lambda stack: change(stack, "arn:aws:s3:::landingbucket/raw/landing/*", *LOADER, 3, "Resource")),
    ("does not allow ['athena:StopQueryExecution']", lambda stack: change(stack, ["athena:StartQueryExecution", "athena:GetQueryExecution"], *LOADER, 0, "Action")),
    ("a load may take longer", lambda stack: change(stack, 60, "Loader", "Properties", "Timeout")),
    ("sends to no queue", lambda stack: change(stack, "arn:aws:sqs:eu-north-1:111122223333:other", "PollFailed", "Properties", "Targets", 0, "Arn")),
    ("has no HourWithoutPrices", lambda stack: change(stack, "HourWithoutPrices", "HourMissing", "Properties", "MetricName")),
    ("samples/first_rows is not what its file says", lambda stack: change(stack, "select 1", "QuerySamplesFirstRows", "Properties", "QueryString")),
]  # fmt: skip


def faults(place, stack):
    return [fault for check in (guard, models, alarms, dashboards, reading, service, data, catalog.faults, job_contract.faults, loader_contract.faults) for fault in check(place, stack)]


def blind():
    """Planted faults that no check notices."""
    whole = {f"{name} ({case})": stack for name, case, stack in stacks() if case in ("whole", "table")}
    for said, plant in PLANTED:
        found = []
        for name, stack in whole.items():
            ill = copy.copy(stack)
            ill.resources, ill.parameters = copy.deepcopy(stack.resources), dict(stack.parameters)
            try:
                plant(ill)
            except KeyError:
                continue
            found += faults(name, ill)
        if not any(said in fault for fault in found):
            yield f"nothing says {said!r} of a planted fault: {found}"


def main():
    files = [TEMPLATES[name] for name in CASES]
    run = lint("--include-checks", "W", "--custom-rules", str(HERE / "templates.rules"), "--", *map(str, files))
    wrong = [run.stdout + run.stderr] if run.returncode else []
    # quicksight.py looks at its own.
    ours = {name for name, path in TEMPLATES.items() if path.parent.name != "quicksight"}
    wrong += [f"{name}: is not checked" for name in sorted(ours ^ CASES.keys())]
    count = 0
    for name, case, stack in stacks():
        place = f"{name} ({case})"
        count += len(stack.resources)
        wrong += faults(place, stack)
    wrong += blind()
    wrong += [*typed(), *sizes(), *published()]
    wrong += [fault for name in CASES for fault in explained(name)]
    if wrong:
        sys.exit("\n".join(wrong))
    cases = sum(map(len, CASES.values()))
    print(f"{len(files)} templates, {count} resources in {cases} cases; {len(PLANTED)} planted faults noticed")


if __name__ == "__main__":
    main()
