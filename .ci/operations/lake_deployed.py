"""Deploys catalog and jobs beside the other stacks of deploy.py, and looks at what is there.

The tables are those of athena/, rules match the events that they should, ecs/verify.py notices what is broken, and the
commands of the lake's runbooks can be given.
"""

import json
import re
import shlex
import time

import catalog
import runbooks
from cloudformation import ROOT, Stack, load
from emulator import ACCOUNT, REGION, client, create, verify

PAGES = ("lake-compaction.md", "lake-job.md", "lake-late.md", "lake-quarantine.md")
# Clients of the AWS CLI that are no API, and what embedded AWS has: runbooks.py runs that.
NOT_HERE = ("s3", "logs", "cloudformation")


def by_api(url, stack):
    """What the emulator's CloudFormation does not have."""
    glue, athena = client("glue", url), client("athena", url)
    for workflow in stack.of("AWS::Glue::Workflow").values():
        glue.create_workflow(**workflow)
    for classifier in stack.of("AWS::Glue::Classifier").values():
        glue.create_classifier(**classifier)
    for query in stack.of("AWS::Athena::NamedQuery").values():
        athena.create_named_query(**query)


def saved(url, group):
    """Saved queries by name."""
    athena = client("athena", url)
    ids = [one for page in athena.get_paginator("list_named_queries").paginate(WorkGroup=group) for one in page["NamedQueryIds"]]
    found = [athena.get_named_query(NamedQueryId=one)["NamedQuery"] for one in ids]
    return {one["Name"]: one["QueryString"] for one in found}


def new_data(url, bucket, rule):
    """The rule for new data sees rows, and nothing else: a queue beside its workflow gets what it sees."""
    sqs, events, s3 = client("sqs", url), client("events", url), client("s3", url)
    queue = sqs.create_queue(QueueName="seen")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_targets(Rule=rule, Targets=[{"Id": "seen", "Arn": arn}])
    rows = "raw/landing/transactions/year=2026/month=11/day=29/hour=17/a.ndjson.gz"
    for key in ("raw/errors/not_json/a.ndjson.gz", "firehose/rows/a.ndjson.gz", "raw/landing/transactionsx/a", rows):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    seen, deadline = [], time.monotonic() + 30
    while rows not in seen and time.monotonic() < deadline:
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
        seen += [json.loads(one["Body"])["detail"]["object"]["key"] for one in messages]
    if seen != [rows]:
        yield f"the rule for new data sees {seen}"
    events.remove_targets(Rule=rule, Ids=["seen"])


def job_failed(url, rule, job):
    """The rule behind the alarm matches runs of this job that failed, and no others."""
    events = client("events", url)
    pattern = events.describe_rule(Name=rule)["EventPattern"]
    for name, state, expected in [
        (job, "FAILED", True), (job, "TIMEOUT", True), (job, "SUCCEEDED", False), (job, "STOPPED", False), ("other", "FAILED", False),
    ]:  # fmt: skip
        event = {
            "id": "1", "detail-type": "Glue Job State Change", "source": "aws.glue", "account": ACCOUNT,
            "time": "2026-11-29T17:00:00Z", "region": REGION, "resources": [],
            "detail": {"jobName": name, "state": state, "severity": "ERROR", "jobRunId": "jr_1", "message": "x"},
        }  # fmt: skip
        if events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"] != expected:
            yield f"the rule for failed runs: {name} {state}: not {expected}"


def upload(url, bucket):
    """As docs/DEPLOY.md does."""
    s3 = client("s3", url)
    for path in sorted((ROOT / "glue").glob("*.py")):
        s3.put_object(Bucket=bucket, Key=f"code/{path.name}", Body=path.read_bytes())


def states(url):
    return {name: one["state"] for name, one in verify(url, "--catalog", "catalog", "--job", "job").items()}


def verified(url, stack, outputs):
    """verify.py notices what is not there yet, what is there, and what was broken."""
    glue, athena, s3 = client("glue", url), client("athena", url), client("s3", url)
    landing, lake = stack.parameters["LandingBucket"], stack.parameters["LakeBucket"]
    job, group = outputs["Job"], stack.parameters["Name"]
    ours = {"tables", "workgroup", "job", "job code", "job schedule", "job on new data", "job's last run", "hudi table", "crawler"}
    found = states(url)
    early = {"job code", "job's last run", "hudi table"}
    for name in ours:
        if (found[name] == "ok") == (name in early):
            yield f"verify.py of what was just deployed: {name} is {found[name]}"
    upload(url, lake)
    glue.start_job_run(JobName=job)
    s3.put_object(Bucket=lake, Key=f"lake/{stack.parameters['Table']}/.hoodie/hoodie.properties", Body=b"x")
    yield from (f"verify.py when all is done: {name} is {one}" for name, one in states(url).items() if name in ours and one != "ok")

    kept = glue.get_job(JobName=job)["Job"]
    kept = {name: kept[name] for name in ("Role", "Command", "DefaultArguments", "NumberOfWorkers", "WorkerType")}
    moved = glue.get_table(DatabaseName=stack.parameters["Database"], Name=stack.parameters["Table"])["Table"]
    moved = {name: moved[name] for name in ("Name", "StorageDescriptor", "PartitionKeys", "TableType", "Parameters")}
    moved["StorageDescriptor"] |= {"Location": "s3://elsewhere/"}
    breaks = {
        "tables": lambda: glue.update_table(DatabaseName=stack.parameters["Database"], TableInput=moved),
        "workgroup": lambda: athena.update_work_group(WorkGroup=group, ConfigurationUpdates={"EnforceWorkGroupConfiguration": False}),
        "job": lambda: glue.update_job(JobName=job, JobUpdate=kept | {"GlueVersion": "5.1"}),
        "job code": lambda: s3.delete_object(Bucket=lake, Key="code/table.py"),
        "job schedule": lambda: glue.stop_trigger(Name=outputs["Schedule"]),
        "job on new data": lambda: s3.put_bucket_notification_configuration(Bucket=landing, NotificationConfiguration={}),
        "hudi table": lambda: s3.delete_object(Bucket=lake, Key=f"lake/{stack.parameters['Table']}/.hoodie/hoodie.properties"),
    }
    for breaks_it in breaks.values():
        breaks_it()
    found = states(url)
    yield from (f"verify.py does not notice what was done to: {name}" for name in breaks if found[name] != "wrong")


def commands(url):
    """Commands of the AWS CLI on the lake's pages, on what was deployed."""
    count = 0
    for name in PAGES:
        text = (ROOT / "docs" / "runbooks" / name).read_text()
        for language, block in runbooks.blocks(text):
            for command in runbooks.commands(block) if language == "sh" else []:
                words = shlex.split(command)
                if words[0] == "aws" and words[1] not in NOT_HERE:
                    runbooks.call(client(words[1], url), words)
                    count += 1
    assert count > 4, count
    print(f"{count} commands of {len(PAGES)} pages run")


def faults(url, data, service):
    shared = {name: data[name] for name in ("LandingBucket", "LakeBucket", "KeyArn", "Prefix")}
    given = shared | {"ProjectionYears": "2026,2027"}
    stack = Stack(load("catalog.yaml"), **given)
    create(url, "catalog", given)
    by_api(url, stack)
    tables = client("glue", url).get_tables(DatabaseName=stack.parameters["Database"])["TableList"]
    yield from catalog.differences(stack, tables)
    yield from catalog.queries(stack, saved(url, stack.parameters["Name"]))

    topics = {name: service[name] for name in ("PageTopicArn", "TicketTopicArn")}
    given = shared | topics | {"OnNewData": "yes", "CrawlFolder": "market/coincap", "CrawlJsonPath": "$[*]"}
    stack = Stack(load("job.yaml"), **given)
    by_api(url, stack)
    outputs, names = create(url, "job", given)
    yield from new_data(url, data["LandingBucket"], re.sub(r".*/", "", names["NewDataRule"]))
    yield from job_failed(url, re.sub(r".*/", "", names["JobFailedRule"]), outputs["Job"])
    given = shared | {"StreamName": data["StreamName"], "TicketTopicArn": topics["TicketTopicArn"]}
    compaction, names = create(url, "compaction", given)
    yield from job_failed(url, re.sub(r".*/", "", names["CompactionFailedRule"]), compaction["Job"])
    yield from verified(url, stack, outputs)
    commands(url)
