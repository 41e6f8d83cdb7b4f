#!/usr/bin/env python3
"""Looks at a deployed environment, item by item, and says what is not as the templates want it. Changes nothing.

Needs boto3 and permissions to read. Exit code: 0 all is well, 1 something is not or could not be read, 2 wrong arguments.
"""

import argparse
import datetime
import json
import sys

import boto3
import botocore.exceptions


class Wrong(Exception):
    """What is wrong, and what to do."""


def need(condition, what):
    if not condition:
        raise Wrong(what)


class Environment:
    """A stack: its outputs and parameters, and clients for what it made."""

    def __init__(self, stack, region, endpoint):
        self.session = boto3.Session(region_name=region)
        self.endpoint = endpoint
        self.name = stack
        self.outputs, self.parameters = self.stack(stack)

    def client(self, name):
        return self.session.client(name, endpoint_url=self.endpoint)

    def stack(self, name):
        """Outputs and parameters of a stack."""
        stack = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        return (
            {one["OutputKey"]: one.get("OutputValue", "") for one in stack.get("Outputs", [])},
            {one["ParameterKey"]: one.get("ParameterValue", "") for one in stack.get("Parameters", [])},
        )

    def parameter(self, name):
        return self.parameters.get(name, "")

    def made(self, kind):
        """Names of the resources of a type."""
        found = self.client("cloudformation").describe_stack_resources(StackName=self.name)["StackResources"]
        return [one["PhysicalResourceId"] for one in found if one["ResourceType"] == kind]

    def bucket(self):
        return self.parameter("LandingBucket")

    def of_table(self):
        """Whether the workers read the stream of a table, and none of Kinesis."""
        return self.parameter("Source") == "dynamodb-streams"

    def table(self):
        return self.client("dynamodb").describe_table(TableName=self.parameter("TableName"))["Table"]


def stream(env):
    if env.of_table():
        table = env.table()
        on = table.get("StreamSpecification", {}).get("StreamEnabled")
        need(on, "the table's stream is off, and changes are in no stream: turn it on (docs/DYNAMODB-STREAMS.md)")
        return table["LatestStreamArn"]
    name = env.parameter("StreamName")
    found = env.client("kinesis").describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    need(found["StreamStatus"] in ("ACTIVE", "UPDATING"), f"its status is {found['StreamStatus']}: wait until it is ACTIVE")
    need(found["RetentionPeriodHours"] >= 24, "its retention is below a day")
    shards = found["OpenShardCount"]
    tasks = int(env.parameter("MaxTasks") or 0)
    need(tasks <= shards, f"MaxTasks is {tasks} and there are {shards} shards: the other tasks get no lease")
    return f"{name}, {shards} shards, {found['RetentionPeriodHours']} hours"


def stream_encryption(env):
    if env.of_table():
        return None
    found = env.client("kinesis").describe_stream_summary(StreamName=env.parameter("StreamName"))["StreamDescriptionSummary"]
    need(found.get("EncryptionType") == "KMS", "it is not encrypted: update the stack of data.yaml")
    return "KMS"


def record_distribution(env):
    if env.of_table():
        return None
    found = env.client("kinesis").describe_stream_summary(StreamName=env.parameter("StreamName"))["StreamDescriptionSummary"]
    strategy = found.get("RecordDistributionStrategy", "not AUTO")
    need(strategy != "AUTO", "AUTO ignores partition keys: records of one key are in several shards, without an order")
    return strategy


def table_view(env):
    name = env.parameter("TableName")
    if not name:
        return None
    view = env.table().get("StreamSpecification", {}).get("StreamViewType")
    need(view in ("NEW_AND_OLD_IMAGES", "NEW_IMAGE", None), f"its stream view is {view}: rows need new images")
    return view or "no DynamoDB stream, which Kinesis does not need"


def table_destination(env):
    name = env.parameter("TableName")
    if not name or env.of_table():
        return None
    found = env.client("dynamodb").describe_kinesis_streaming_destination(TableName=name)["KinesisDataStreamDestinations"]
    active = [one["StreamArn"] for one in found if one["DestinationStatus"] == "ACTIVE"]
    right = [arn for arn in active if arn.endswith(f"stream/{env.parameter('StreamName')}")]
    need(right, f"no active destination to the stream ({found}): enable it")
    return "ACTIVE"


def lease_table(env):
    name = env.outputs["LeaseTable"]
    table = env.client("dynamodb").describe_table(TableName=name)["Table"]
    need([one["AttributeName"] for one in table["KeySchema"]] == ["leaseKey"], "its key is not leaseKey: it is another table")
    indexes = {one["IndexName"] for one in table.get("GlobalSecondaryIndexes", [])}
    need("LeaseOwnerToLeaseKeyIndex" in indexes, "it has no index LeaseOwnerToLeaseKeyIndex: update the stack")
    need(table.get("DeletionProtectionEnabled"), "it can be deleted: set DeletionProtection=true")
    return name


def bucket_access(env):
    s3, bucket = env.client("s3"), env.bucket()
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    need(all(block.values()), "public access is not blocked")
    return bucket


def bucket_versions(env):
    status = env.client("s3").get_bucket_versioning(Bucket=env.bucket()).get("Status")
    need(status == "Enabled", "it keeps no versions: enable versioning")
    return status


def bucket_encryption(env):
    rules = env.client("s3").get_bucket_encryption(Bucket=env.bucket())["ServerSideEncryptionConfiguration"]["Rules"]
    algorithm = rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
    need(algorithm.startswith("aws:kms"), f"objects are encrypted with {algorithm}")
    return algorithm


def bucket_lifecycle(env):
    rules = env.client("s3").get_bucket_lifecycle_configuration(Bucket=env.bucket())["Rules"]
    rules = [rule for rule in rules if rule["Status"] == "Enabled"]
    need(any("AbortIncompleteMultipartUpload" in rule for rule in rules), "no rule aborts unfinished uploads")
    hours = 24
    if not env.of_table():
        summary = env.client("kinesis").describe_stream_summary(StreamName=env.parameter("StreamName"))["StreamDescriptionSummary"]
        hours = summary["RetentionPeriodHours"]
    days = hours / 24 + 1
    for rule in rules:
        prefix = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
        expires = rule.get("Expiration", {}).get("Days")
        if expires and f"{env.parameter('Prefix')}/landing/".startswith(prefix):
            need(expires >= days, f"landing objects are deleted after {expires} days; they must stay {days:g} (docs/DELIVERY.md)")
    return f"{len(rules)} rules"


def bucket_policy(env):
    policy = json.loads(env.client("s3").get_bucket_policy(Bucket=env.bucket())["Policy"])
    denies = [one for one in policy["Statement"] if one["Effect"] == "Deny"]
    new = [one for one in denies if one.get("Condition", {}).get("Null", {}).get("s3:if-none-match") == "true"]
    need(new, "objects can be replaced: no statement demands If-None-Match (docs/AWS-ACCESS.md)")
    resources = [resource for one in new for resource in ([one["Resource"]] if isinstance(one["Resource"], str) else one["Resource"])]
    for folder in ("landing", "errors", "alerts"):
        wanted = f"{env.parameter('Prefix')}/{folder}/"
        covered = any((wanted + "*").startswith(one.split(":::", 1)[1].partition("/")[2].rstrip("*")) for one in resources)
        need(covered, f"objects below {wanted} can be replaced")
    need(any("aws:SecureTransport" in json.dumps(one) for one in denies), "plain HTTP is not denied")
    return "no object can be replaced"


def firehose(env):
    name = env.parameter("FirehoseName")
    if not name:
        return None
    found = env.client("firehose").describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
    need(found["DeliveryStreamStatus"] == "ACTIVE", f"its status is {found['DeliveryStreamStatus']}")
    need(found["DeliveryStreamType"] == "DirectPut", "its source is not Direct PUT")
    return name


def tasks(env):
    cluster, service = env.outputs["Cluster"], env.outputs["Service"]
    (found,) = env.client("ecs").describe_services(cluster=cluster, services=[service])["services"]
    events = "; ".join(event["message"] for event in found.get("events", [])[:2])
    running, desired = found["runningCount"], found["desiredCount"]
    need(running >= desired > 0, f"{running} of {desired} tasks run. {events} (docs/runbooks/tasks-missing.md)")
    return f"{running} tasks"


def task_role(env):
    role = env.outputs["TaskRoleArn"].rsplit("/", 1)[1]
    policies = env.client("iam").list_role_policies(RoleName=role)["PolicyNames"]
    need(policies, "it has no policy: update the stack")
    return role


def alarms(env):
    prefix = env.parameter("Application") or env.parameter("Name")
    found = env.client("cloudwatch").describe_alarms(AlarmNamePrefix=prefix, AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    composite = " ".join(alarm["AlarmRule"] for alarm in found.get("CompositeAlarms", []))
    every = found["MetricAlarms"] + found.get("CompositeAlarms", [])
    need(every, "there are none: update the stack")
    silent = [one["AlarmName"] for one in every if not one["AlarmActions"] and f'"{one["AlarmName"]}"' not in composite]
    need(not silent, f"nobody is told of {', '.join(silent)}")
    off = [one["AlarmName"] for one in every if not one["ActionsEnabled"]]
    need(not off, f"actions are switched off: {', '.join(off)}")
    firing = [one["AlarmName"] for one in every if one["StateValue"] == "ALARM"]
    need(not firing, f"firing now: {', '.join(firing)}")
    return f"{len(every)} alarms"


def pages(env):
    topic = env.outputs.get("PageTopicArn") or env.outputs["TopicArn"]
    found = env.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    confirmed = [one for one in found if one["SubscriptionArn"].startswith("arn:")]
    need(confirmed, "nobody gets pages: subscribe to the topic, or confirm the subscription")
    return f"{len(confirmed)} subscriptions"


def tables(env):
    glue, database = env.client("glue"), env.outputs["Database"]
    places = [f"s3://{env.parameter('LandingBucket')}/{env.parameter('Prefix')}/", f"s3://{env.parameter('LakeBucket')}/"]
    names = env.made("AWS::Glue::Table")
    need(names, "there are none: update the stack of the catalog")
    for name in names:
        # A name may come with its database in front.
        name = name.rpartition("|")[2]
        storage = glue.get_table(DatabaseName=database, Name=name)["Table"]["StorageDescriptor"]
        place = storage["Location"]
        need(any(place.startswith(one) for one in places), f"{name} is at {place}: update the stack of the catalog")
    return f"{len(names)} in {database}"


def workgroup(env, results="results"):
    name = env.outputs["WorkGroup"]
    found = env.client("athena").get_work_group(WorkGroup=name)["WorkGroup"]
    config = found["Configuration"]
    need(found["State"] == "ENABLED", f"it is {found['State']}")
    need(config.get("EnforceWorkGroupConfiguration"), "callers can choose other settings: update the stack of the catalog")
    need(config.get("BytesScannedCutoffPerQuery"), "queries have no limit: update the stack of the catalog")
    place = config.get("ResultConfiguration", {}).get("OutputLocation", "")
    need(place.startswith(f"s3://{env.parameter('LakeBucket')}/{results}/"), f"results go to {place or 'nowhere'}")
    return name


def job(env):
    name = env.outputs["Job"]
    found = env.client("glue").get_job(JobName=name)["Job"]
    need(found["GlueVersion"] == "5.0", f"Glue {found['GlueVersion']} writes a table that Athena may not read: 5.0 is right")
    need(found.get("ExecutionProperty", {"MaxConcurrentRuns": 1})["MaxConcurrentRuns"] == 1, "two runs could write at once: set MaxConcurrentRuns to 1")
    env.client("iam").get_role(RoleName=found["Role"].rpartition("/")[2])
    return f"{name}, {found['NumberOfWorkers']} workers {found['WorkerType']}"


def job_code(env):
    s3 = env.client("s3")
    found = env.client("glue").get_job(JobName=env.outputs["Job"])["Job"]
    files = [found["Command"]["ScriptLocation"], *found["DefaultArguments"]["--extra-py-files"].split(",")]
    missing = []
    for file in files:
        bucket, _, key = file.removeprefix("s3://").partition("/")
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise
            missing.append(key)
    need(not missing, f"{', '.join(missing)} not in the bucket: copy glue/*.py there (docs/DEPLOY.md)")
    return f"{len(files)} files"


def schedule(env):
    name = env.outputs["Schedule"]
    found = env.client("glue").get_trigger(Name=name)["Trigger"]
    need(found["State"] == "ACTIVATED", f"it is {found['State']}: aws glue start-trigger --name {name}")
    return found["Schedule"]


def new_data(env):
    name = env.outputs.get("NewDataRule")
    if not name:
        return None
    rule = env.client("events").describe_rule(Name=name.rpartition("/")[2])
    need(rule["State"] == "ENABLED", f"the rule {rule['Name']} is {rule['State']}")
    sent = env.client("s3").get_bucket_notification_configuration(Bucket=env.bucket())
    need("EventBridgeConfiguration" in sent, "the landing bucket sends nothing to EventBridge: update the stack of data.yaml")
    return rule["Name"]


def last_run(env):
    found = env.client("glue").get_job_runs(JobName=env.outputs["Job"], MaxResults=1)["JobRuns"]
    need(found, "no run yet: wait for the schedule, or start one")
    state, said = found[0]["JobRunState"], found[0].get("ErrorMessage", "")
    need(state in ("STARTING", "RUNNING", "STOPPING", "SUCCEEDED"), f"{state}: {said} (docs/runbooks/lake-job.md)")
    return state


def hudi_table(env):
    key = f"lake/{env.parameter('Table')}/.hoodie/hoodie.properties"
    try:
        env.client("s3").head_object(Bucket=env.parameter("LakeBucket"), Key=key)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        raise Wrong("no run has written it yet (docs/runbooks/lake-job.md)") from None
    return env.parameter("Table")


def crawler(env):
    name = env.outputs.get("Crawler")
    if not name:
        return None
    last = env.client("glue").get_crawler(Name=name)["Crawler"].get("LastCrawl", {})
    need(last.get("Status") != "FAILED", f"its last crawl failed: {last.get('ErrorMessage')}")
    return name


# ---- Market prices

# As athena/market/views has them.
VIEWS = (
    "recent_prices", "v_latest_partition", "v_latest_snapshot", "v_market_cap", "v_top_100", "v_top_gainers", "v_total_market_cap",
    "v_trending", "v_trendline_core", "v_volume_24h", "v_bitcoin_24h",
)  # fmt: skip
# A snapshot every five minutes; a task takes some time to start.
SNAPSHOT_AGE = datetime.timedelta(minutes=15)
# A load ends some minutes after each hour, and catches up by itself.
LOADED_HOURS = 3


def of_coingecko(env):
    """Whether the stack polls CoinGecko and loads its prices."""
    return env.parameter("CoinGecko") != "no"


def queue(env):
    """The ARN of the queue with what failed."""
    found = env.client("sqs").get_queue_attributes(QueueUrl=env.outputs["DeadLettersUrl"], AttributeNames=["All"])["Attributes"]
    return found["QueueArn"], found


def rule(env, ending, arn, schedule):
    """A rule of the stack that is on and ends where it should."""
    name, events = f"{env.parameter('Name')}-{ending}", env.client("events")
    found = events.describe_rule(Name=name)
    need(found["State"] == "ENABLED", f"the rule {name} is {found['State']}: aws events enable-rule --name {name}")
    need(bool(found.get("ScheduleExpression")) == schedule, f"the rule {name} has another kind: update the stack of market.yaml")
    targets = [one["Arn"] for one in events.list_targets_by_rule(Rule=name)["Targets"]]
    need(arn in targets, f"the rule {name} has the targets {targets}, not {arn}: update the stack of market.yaml")
    return found.get("ScheduleExpression") or name


def cluster(env):
    name = env.outputs["Cluster"]
    (found,) = env.client("ecs").describe_clusters(clusters=[name])["clusters"]
    return found["clusterArn"]


def market_poller(env):
    if not of_coingecko(env):
        return None
    family = f"{env.parameter('Name')}-coingecko"
    task = env.client("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]
    (container,) = task["containerDefinitions"]
    place = f"s3://{env.parameter('LandingBucket')}/{env.parameter('Prefix')}"
    command = container["command"]
    right = command[:1] == ["snapshot"] and "--once" in command and place in command
    need(task["status"] == "ACTIVE" and right, f"{family} is {task['status']} and runs {command}: update the stack of market.yaml")
    for role in ("taskRoleArn", "executionRoleArn"):
        env.client("iam").get_role(RoleName=task[role].rpartition("/")[2])
    return container["image"]


def market_service(env):
    if not env.parameter("CoinCapKeySecret"):
        return None
    names = env.made("AWS::ECS::Service")
    need(names, "CoinCap has no service: update the stack of market.yaml")
    (found,) = env.client("ecs").describe_services(cluster=env.outputs["Cluster"], services=names)["services"]
    running, desired = found["runningCount"], found["desiredCount"]
    need(running >= desired > 0, f"{running} of {desired} pollers of CoinCap run (docs/runbooks/market-api-down.md)")
    return f"{running} tasks"


def market_keys(env):
    secrets = [env.parameter(name) for name in ("CoinGeckoKeySecret", "CoinCapKeySecret") if env.parameter(name)]
    for secret in secrets:
        gone = env.client("secretsmanager").describe_secret(SecretId=secret).get("DeletedDate")
        need(not gone, f"{secret} is deleted: aws secretsmanager restore-secret --secret-id {secret}")
    return f"{len(secrets)} secrets" if secrets else None


def market_schedule(env):
    return rule(env, "poll", cluster(env), True) if of_coingecko(env) else None


def market_failures(env):
    arn = queue(env)[0]
    return f"{rule(env, 'poll-failed', arn, False)}, {rule(env, 'poll-not-started', arn, False)}"


def market_dead_letters(env):
    _, found = queue(env)
    count = int(found["ApproximateNumberOfMessages"])
    need(count == 0, f"{count} messages of what failed (docs/runbooks/market-dead-letters.md)")
    days = int(found["MessageRetentionPeriod"]) // 86400
    need(days >= 14, f"messages are kept for {days} days: update the stack of market.yaml")
    return "empty"


def market_loader(env):
    name = env.outputs.get("Loader")
    if not name:
        return None
    functions = env.client("lambda")
    found = functions.get_function_configuration(FunctionName=name)
    need(found.get("State", "Active") == "Active", f"it is {found.get('State')}: {found.get('StateReason', '')}")
    settings = found.get("Environment", {}).get("Variables", {})
    wanted = {"DATABASE": env.parameter("Database"), "WORK_GROUP": env.parameter("WorkGroup"), "SQL_PARAMETER": env.parameter("LoadParameter")}
    other = [key for key, value in wanted.items() if settings.get(key) != value]
    need(not other, f"{', '.join(other)} of the loader are not those of the stack: update the stack of market.yaml")
    limit = functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
    need(limit == 1, "two loads could run at once, and load an hour twice: set its reserved concurrency to 1")
    return name


def market_load_schedule(env):
    name = env.outputs.get("Loader")
    if not name:
        return None
    arn = env.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]
    return rule(env, "load", arn, True)


def market_snapshots(env):
    if not of_coingecko(env):
        return None
    now, s3, found = datetime.datetime.now(datetime.timezone.utc), env.client("s3"), []
    for hour in (now, now - datetime.timedelta(hours=1)):
        prefix = f"{env.parameter('Prefix')}/market/coingecko/processed/year={hour:%Y}/month={hour:%m}/day={hour:%d}/hour={hour:%H}/"
        pages_of = s3.get_paginator("list_objects_v2").paginate(Bucket=env.bucket(), Prefix=prefix)
        found += [one["LastModified"] for page in pages_of for one in page.get("Contents", [])]
    fresh = [at for at in found if now - at < SNAPSHOT_AGE]
    need(fresh, f"no snapshot in the last {SNAPSHOT_AGE.seconds // 60} minutes (docs/runbooks/market-api-down.md)")
    return f"{len(found)} of this hour and the last"


def market_loads(env):
    if not env.outputs.get("Loader"):
        return None
    now, s3 = datetime.datetime.now(datetime.timezone.utc), env.client("s3")
    for ago in range(1, LOADED_HOURS + 1):
        hour = now - datetime.timedelta(hours=ago)
        prefix = f"query-results/loaded/{hour:%Y-%m-%dT%H}.json"
        if s3.list_objects_v2(Bucket=env.parameter("LakeBucket"), Prefix=prefix).get("Contents"):
            return f"{hour:%Y-%m-%d %H}:00 UTC"
    raise Wrong(f"none of the last {LOADED_HOURS} hours is loaded (docs/runbooks/market-hour-missing.md)")


def market_database(env):
    return env.client("glue").get_database(Name=env.outputs["Database"])["Database"]["Name"]


def market_workgroup(env):
    return workgroup(env, "query-results")


def market_views(env):
    found = env.client("glue").get_paginator("get_tables").paginate(DatabaseName=env.outputs["Database"])
    names = {one["Name"] for page in found for one in page["TableList"]}
    missing = [name for name in VIEWS if name not in names]
    need(not missing, f"there is no {', '.join(missing)}: create the views (docs/MARKET-LAKE.md)")
    return f"{len(VIEWS)} views"


def load_statement(env):
    name = env.outputs["LoadParameter"]
    text = env.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    right = lines and lines[0] == f"INSERT INTO {env.outputs['Database']}.analytics_prices" and text.count("?") == 8
    need(right, f"{name} is another statement: update the stack of market-catalog.yaml")
    return name


CHECKS = {
    "stream": stream,
    "stream encryption": stream_encryption,
    "record distribution": record_distribution,
    "table view": table_view,
    "table destination": table_destination,
    "lease table": lease_table,
    "bucket access": bucket_access,
    "bucket versions": bucket_versions,
    "bucket encryption": bucket_encryption,
    "bucket lifecycle": bucket_lifecycle,
    "bucket policy": bucket_policy,
    "firehose": firehose,
    "tasks": tasks,
    "task role": task_role,
    "alarms": alarms,
    "pages": pages,
}
CATALOG_CHECKS = {"tables": tables, "workgroup": workgroup}
JOB_CHECKS = {
    "job": job,
    "job code": job_code,
    "job schedule": schedule,
    "job on new data": new_data,
    "job's last run": last_run,
    "hudi table": hudi_table,
    "crawler": crawler,
    "job alarms": alarms,
}
MARKET_CATALOG_CHECKS = {
    "market database": market_database,
    "market tables": tables,
    "market views": market_views,
    "market workgroup": market_workgroup,
    "load statement": load_statement,
}
MARKET_CHECKS = {
    "market poller": market_poller,
    "market schedule": market_schedule,
    "market keys": market_keys,
    "market service": market_service,
    "market failures": market_failures,
    "market dead letters": market_dead_letters,
    "market snapshots": market_snapshots,
    "market loader": market_loader,
    "market load schedule": market_load_schedule,
    "market loads": market_loads,
    "market alarms": alarms,
    "market pages": pages,
}


def checked(env, checks):
    for name, check in checks.items():
        try:
            said = check(env)
            yield {"check": name, "state": "not used" if said is None else "ok", "text": said or ""}
        except Wrong as wrong:
            yield {"check": name, "state": "wrong", "text": str(wrong)}
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            yield {"check": name, "state": "unknown", "text": f"could not be read: {error}"}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--service", help="name of the stack of service.yaml [default: kinetide, without stacks of market prices]")
    arguments.add_argument("--catalog", help="name of the stack of catalog.yaml [default: not looked at]")
    arguments.add_argument("--job", help="name of the stack of job.yaml [default: not looked at]")
    arguments.add_argument("--market", help="name of the stack of market.yaml [default: not looked at]")
    arguments.add_argument("--market-catalog", help="name of the stack of market-catalog.yaml [default: not looked at]")
    arguments.add_argument("--region", help="AWS region [default: from the environment]")
    arguments.add_argument("--endpoint-url", help="endpoint of all services [default: AWS]")
    arguments.add_argument("--json", action="store_true", help="print an array of objects: check, state, text")
    arguments = arguments.parse_args()
    # Market prices need no workers.
    service = arguments.service or (None if arguments.market or arguments.market_catalog else "kinetide")
    stacks = [
        (service, CHECKS), (arguments.catalog, CATALOG_CHECKS), (arguments.job, JOB_CHECKS),
        (arguments.market_catalog, MARKET_CATALOG_CHECKS), (arguments.market, MARKET_CHECKS),
    ]  # fmt: skip
    found = []
    for stack, checks in stacks:
        if stack is None:
            continue
        try:
            env = Environment(stack, arguments.region, arguments.endpoint_url)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            print(f"error: the stack {stack} could not be read: {error}", file=sys.stderr)
            sys.exit(1)
        found += checked(env, checks)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for one in found:
            print(f"{one['state']:8}  {one['check']:20}  {one['text']}")
    sys.exit(0 if all(one["state"] in ("ok", "not used") for one in found) else 1)


if __name__ == "__main__":
    main()
