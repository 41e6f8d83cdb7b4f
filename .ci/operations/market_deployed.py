"""Deploys the stacks of market prices beside those of deploy.py, and plays what happens there.

The poller runs with command and settings of the deployed tasks against a scripted provider: the deployed role must allow each
call, and the bucket policy too. One whose provider is down fails, and what ECS would say of it ends in the queue.
Tables and the load are those of athena/. A poll that fails, a task that does not start and a run of the loader that fails end in
the queue, and others do not; alarms on the queue and on errors turn to ALARM, and the topic says so. The commands of the runbooks
can be given.
"""

import http.server
import io
import json
import os
import re
import shlex
import subprocess
import threading
import time
import zipfile
from datetime import datetime, timedelta, timezone

import catalog
import lake_deployed
import runbooks
from cloudformation import MARKET, PSEUDO, ROOT, Stack, load
from emulator import ACCOUNT, REGION, client, create, verify
from processes import until

PAGES = ("market-api-down.md", "market-dead-letters.md", "market-hour-missing.md")
# Clients of the AWS CLI that are no API.
NOT_HERE = ("s3", "logs")


def uploaded(url, bucket):
    """As docs/MARKET-LAKE.md does."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(ROOT / "athena/load_hour.py", "load_hour.py")
    client("s3", url).put_object(Bucket=bucket, Key="code/load_hour.zip", Body=packed.getvalue())


def received(url, queue):
    """Bodies of what is in a queue, which is empty then."""
    sqs, found = client("sqs", url), []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return found


def stopped_task(cluster, **detail):
    of = {"clusterArn": cluster, "lastStatus": "STOPPED", "containers": [{"name": "kinetide", "exitCode": 1}]} | detail
    return {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": of}


def sent(events, event):
    """Nobody but AWS sends events of AWS: this one is from somebody else."""
    entry = {"Source": "played.ecs", "DetailType": event["detail-type"], "Detail": json.dumps(event["detail"])}
    assert not events.put_events(Entries=[entry])["FailedEntryCount"]


def failures(url, outputs, name):
    """Which ends of tasks become messages."""
    events, queue = client("events", url), outputs["DeadLettersUrl"]
    cluster = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{name}"
    patterns = {}
    for rule in (f"{name}-poll-failed", f"{name}-poll-not-started"):
        patterns[rule] = events.describe_rule(Name=rule)["EventPattern"]
        events.put_rule(Name=rule, EventPattern=json.dumps(json.loads(patterns[rule]) | {"source": ["played.ecs"]}))
    cases = [
        ("a poll that failed", stopped_task(cluster), True),
        ("one that was killed", stopped_task(cluster, containers=[{"name": "kinetide", "exitCode": 137}]), True),
        ("one that did not start", stopped_task(cluster, stopCode="TaskFailedToStart", containers=[{"name": "kinetide"}]), True),
        ("one that did its work", stopped_task(cluster, containers=[{"name": "kinetide", "exitCode": 0}]), False),
        ("one that still runs", stopped_task(cluster, lastStatus="RUNNING"), False),
        ("one of another cluster", stopped_task(cluster + "-other"), False),
    ]
    for what, event, expected in cases:
        whole = event | {"id": "1", "account": ACCOUNT, "time": "2026-11-29T17:00:00Z", "region": REGION, "resources": []}
        seen = [events.test_event_pattern(EventPattern=one, Event=json.dumps(whole))["Result"] for one in patterns.values()]
        sent(events, event)
        found = received(url, queue)
        if any(seen) != expected or bool(found) != expected:
            yield f"{what}: rules see it {seen}, in the queue are {found}"
        elif expected and found[0]["detail"]["clusterArn"] != cluster:
            yield f"{what}: {found}"
    for rule, pattern in patterns.items():
        events.put_rule(Name=rule, EventPattern=pattern)


class Provider:
    """A provider that answers, or is down."""

    def __init__(self):
        self.down = False
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                coingecko = [{"id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "current_price": 1.5, "market_cap": 2, "market_cap_rank": 1}]
                body = json.dumps(coingecko if "coins" in self.path else {"timestamp": 1767582002000, "data": [{"id": "bitcoin", "rank": "1"}]}).encode()
                self.send_response(503 if provider.down else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"down" if provider.down else body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


# The emulator keeps no secrets of a task.
KEY = "KINETIDE_MARKET_API_KEY"


def poll(kinetide, url, endpoint, family, provider):
    """Runs the container of a deployed task once, with this endpoint for S3; gives its exit code and what it said."""
    task = client("ecs", url).describe_task_definition(taskDefinition=family)["taskDefinition"]
    (container,) = task["containerDefinitions"]
    command = [word for word in container["command"] if word not in ("--every", "10s", "--once")]
    settings = {one["name"]: one["value"] for one in container["environment"]} | {KEY: "a-key"}
    settings |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true", "PATH": os.environ["PATH"]}
    settings |= {"KINETIDE_S3_ENDPOINT": endpoint, "KINETIDE_MARKET_ENDPOINT": provider}
    run = subprocess.run([kinetide, *command, "--once"], env=settings, capture_output=True, text=True, timeout=120)
    return run.returncode, run.stdout + run.stderr


def polled(kinetide, url, name, bucket, queue):
    import deploy

    recorder, provider, s3 = deploy.Recorder(url), Provider(), client("s3", url)
    for family, folder in ((f"{name}-coingecko", "coingecko"), (f"{name}-coincap", "coincap")):
        code, said = poll(kinetide, url, recorder.url, family, provider.url)
        zones = {key.split("/")[3] for key in deploy.objects(s3, bucket, f"raw/market/{folder}/")}
        if code != 0 or zones != {"raw", "processed"}:
            yield f"the poller of {folder} ends with {code}, and has written {zones}: {said}"
    iam = client("iam", url)
    (role,) = [one["RoleName"] for one in iam.list_roles()["Roles"] if "PollerRole" in one["RoleName"]]
    statements = iam.get_role_policy(RoleName=role, PolicyName="poll")["PolicyDocument"]["Statement"]
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    for call in sorted(set(recorder.calls)):
        if not deploy.allows(statements, call):
            yield f"the role of pollers does not allow {call}"
        if deploy.denies(policy, call):
            yield f"the bucket policy denies {call}"
    if not any(call[0] == "s3:PutObject" for call in recorder.calls):
        yield f"the poller wrote nothing: {recorder.calls}"
    replacing = ("s3:PutObject", f"arn:aws:s3:::{bucket}/raw/market/coingecko/raw/x", False, True)
    if not deploy.denies(policy, replacing):
        yield "a snapshot can be replaced"
    provider.down = True
    # In an interval that has no snapshot yet.
    time.sleep(10.2 - time.time() % 10)
    code, said = poll(kinetide, url, url, f"{name}-coincap", provider.url)
    event = stopped_task(f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{name}", containers=[{"name": "kinetide", "exitCode": code}])
    events = client("events", url)
    rule = f"{name}-poll-failed"
    pattern = events.describe_rule(Name=rule)["EventPattern"]
    events.put_rule(Name=rule, EventPattern=json.dumps(json.loads(pattern) | {"source": ["played.ecs"]}))
    sent(events, event)
    if code != 1 or not received(url, queue):
        yield f"a poller whose provider is down ends with {code}, and is not in the queue: {said}"
    events.put_rule(Name=rule, EventPattern=pattern)
    print(f"{len(set(recorder.calls))} calls of the pollers are allowed; one whose provider is down ends in the queue")


def states(url, prefix):
    return {one["AlarmName"]: one["StateValue"] for one in client("cloudwatch", url).describe_alarms(AlarmNamePrefix=prefix)["MetricAlarms"]}


def alarmed(url, name, topic):
    """Alarms that turn to ALARM and back, and what the topic says. The emulator has no metrics of its own services: they are put."""
    cloudwatch, sqs = client("cloudwatch", url), client("sqs", url)
    queue = sqs.create_queue(QueueName="told")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client("sns", url).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    series = {
        f"{name}-dead-letters": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", f"{name}-dead-letters"),
        f"{name}-loader-errors": ("AWS/Lambda", "Errors", "FunctionName", f"{name}-loader"),
        f"{name}-hour-missing": (name, "HoursWithoutPrices", "Database", "crypto_data"),
    }

    def put(value, at):
        for namespace, metric, dimension, of in series.values():
            data = {"MetricName": metric, "Dimensions": [{"Name": dimension, "Value": of}], "Value": value, "Timestamp": at}
            cloudwatch.put_metric_data(Namespace=namespace, MetricData=[data])

    put(0, datetime.now(timezone.utc))
    if any(states(url, name).get(alarm) == "ALARM" for alarm in series):
        yield f"alarms where nothing has happened: {states(url, name)}"
    put(2, datetime.now(timezone.utc))
    until("alarms", lambda: all(states(url, name).get(alarm) == "ALARM" for alarm in series), 30)
    told = [json.loads(one["Message"]) for one in received(url, queue)]
    missing = series.keys() - {one["AlarmName"] for one in told if one["NewStateValue"] == "ALARM"}
    if missing:
        yield f"the topic does not tell of {sorted(missing)}"


def invoked(url, name, event):
    """The answer of the loader as it is deployed, and whether it failed."""
    answer = client("lambda", url).invoke(FunctionName=f"{name}-loader", Payload=json.dumps(event).encode())
    return json.loads(answer["Payload"].read()), "FunctionError" in answer


def loaded(url, name, data, parameter):
    """The loader with the settings of its stack: it finds an hour, runs the statement of the parameter, and says what became of it."""
    s3, ssm = client("s3", url), client("ssm", url)
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    key = f"raw/market/coingecko/processed/year={hour:%Y}/month={hour:%m}/day={hour:%d}/hour={hour:%H}/1.ndjson.gz"
    s3.put_object(Bucket=data["LandingBucket"], Key=key, Body=b"x")
    # The engine of the emulator has neither INSERT nor parameters: Athena's answer to the real statement is a failure.
    answer, failed = invoked(url, name, {})
    if not failed or "FAILED" not in json.dumps(answer):
        yield f"the loader does not tell of a query that fails: {answer}"
    ssm.put_parameter(Name=parameter, Value="SELECT 1", Type="String", Overwrite=True)
    answer, failed = invoked(url, name, {})
    wanted = f"{hour:%Y-%m-%dT%H}:00:00Z"
    if failed or answer.get("loaded_hour_utc") != wanted or not answer.get("ok"):
        yield f"the loader: {answer}"
        return
    note = json.loads(s3.get_object(Bucket=data["LakeBucket"], Key=f"query-results/loaded/{hour:%Y-%m-%dT%H}.json")["Body"].read())
    query = client("athena", url).get_query_execution(QueryExecutionId=note["query_id"])["QueryExecution"]
    if query["WorkGroup"] != "kinetide-market" or "query-results/" not in query["ResultConfiguration"]["OutputLocation"]:
        yield f"the query of the loader: {query}"
    again, failed = invoked(url, name, {})
    if failed or again["loads"]:
        yield f"the loader loads an hour twice: {again}"


def commands(url):
    """Commands of the AWS CLI on the pages, on what was deployed."""
    count = 0
    for page in PAGES:
        text = (ROOT / "docs" / "runbooks" / page).read_text().replace("111122223333", ACCOUNT)
        for language, block in runbooks.blocks(text):
            for command in runbooks.commands(block) if language == "sh" else []:
                words = shlex.split(command)
                if words[0] == "aws" and words[1] not in NOT_HERE:
                    runbooks.call(client(words[1], url), words)
                    count += 1
    assert count > 12, count
    print(f"{count} commands of {len(PAGES)} pages run")


STACKS = ("--market", "market", "--market-catalog", "market-catalog")


def said(url):
    return {name: one for name, one in verify(url, *STACKS).items() if name.startswith("market") or name == "load statement"}


def verified(url, data, stack, outputs):
    """What verify.py says of these stacks: what is not done yet, when all is done, and after things are broken."""
    glue, events, sqs, ssm = (client(service, url) for service in ("glue", "events", "sqs", "ssm"))
    functions, secrets = client("lambda", url), client("secretsmanager", url)
    name, found = stack.parameters["Name"], said(url)
    # Views are created by hand, and CloudFormation of the emulator sets no limit on runs of a function. What loaded() put in the
    # place of the statement is seen too, and what alarmed() let fire.
    early = {"market views", "market loader", "load statement", "market alarms"}
    for check, one in found.items():
        if (one["state"] == "ok") == (check in early):
            yield f"verify.py of what was just deployed: {one}"
    database, statement = stack.parameters["Database"], stack.parameters["LoadParameter"]
    views = [path.stem for path in (ROOT / "athena/market/views").glob("*.sql")]
    yield from (f"verify.py does not look for the view {view}" for view in views if view not in found["market views"]["text"])
    for view in views:
        glue.create_table(DatabaseName=database, TableInput={"Name": view, "TableType": "VIRTUAL_VIEW"})
    functions.put_function_concurrency(FunctionName=f"{name}-loader", ReservedConcurrentExecutions=1)
    text = (ROOT / "athena/market/load/insert_last_hour.sql").read_text()
    ssm.put_parameter(Name=statement, Value=text, Type="String", Overwrite=True)
    for check, one in said(url).items():
        if one["state"] != "ok" and check != "market alarms":
            yield f"verify.py when all is done: {one}"
    table = glue.get_table(DatabaseName=database, Name="analytics_prices")["Table"]
    table = {key: table[key] for key in ("Name", "StorageDescriptor", "PartitionKeys", "TableType", "Parameters")}
    table["StorageDescriptor"] |= {"Location": "s3://elsewhere/"}
    target = events.list_targets_by_rule(Rule=f"{name}-poll-failed")["Targets"][0]["Id"]
    sns = client("sns", url)
    subscribed = [one["SubscriptionArn"] for one in sns.list_subscriptions_by_topic(TopicArn=outputs["TopicArn"])["Subscriptions"]]
    prices = [one["Key"] for one in client("s3", url).list_objects_v2(Bucket=data["LandingBucket"], Prefix="raw/market/coingecko/")["Contents"]]
    breaks = {
        "market tables": lambda: glue.update_table(DatabaseName=database, TableInput=table),
        "market views": lambda: glue.delete_table(DatabaseName=database, Name="v_top_100"),
        "market workgroup": lambda: client("athena", url).update_work_group(
            WorkGroup=stack.parameters["WorkGroup"], ConfigurationUpdates={"EnforceWorkGroupConfiguration": False}
        ),
        "load statement": lambda: ssm.put_parameter(Name=statement, Value=text.replace("?", "1", 1), Type="String", Overwrite=True),
        "market poller": lambda: client("ecs", url).register_task_definition(
            family=f"{name}-coingecko", containerDefinitions=[{"name": "kinetide", "image": "x", "command": ["run"]}]
        ),
        "market schedule": lambda: events.disable_rule(Name=f"{name}-poll"),
        "market keys": lambda: secrets.delete_secret(SecretId="coincap-key", RecoveryWindowInDays=7),
        "market failures": lambda: events.remove_targets(Rule=f"{name}-poll-failed", Ids=[target]),
        "market dead letters": lambda: sqs.send_message(QueueUrl=outputs["DeadLettersUrl"], MessageBody="{}"),
        "market snapshots": lambda: [client("s3", url).delete_object(Bucket=data["LandingBucket"], Key=key) for key in prices],
        "market loader": lambda: functions.put_function_concurrency(FunctionName=f"{name}-loader", ReservedConcurrentExecutions=2),
        "market pages": lambda: [sns.unsubscribe(SubscriptionArn=one) for one in subscribed if one.startswith("arn:")],
        "market load schedule": lambda: events.disable_rule(Name=f"{name}-load"),
    }
    for breaks_it in breaks.values():
        breaks_it()
    found = said(url)
    for check in breaks:
        if found[check]["state"] != "wrong":
            yield f"verify.py does not notice what was done to: {check}: {found[check]}"
    # Without the name of a service that is not looked at.
    if "stream" in verify(url, *STACKS, service=None):
        yield "verify.py looks at workers where only stacks of market prices are named"
    print(f"verify.py: {len(found)} checks of market prices; {len(breaks)} things that were broken are noticed")


def faults(url, data, kinetide):
    shared = {name: data[name] for name in ("LandingBucket", "LakeBucket", "KeyArn", "Prefix")}
    stack = Stack(load("market-catalog.yaml"), **shared)
    outputs, _ = create(url, "market-catalog", shared)
    tables = client("glue", url).get_tables(DatabaseName=stack.parameters["Database"])["TableList"]
    yield from catalog.differences(stack, tables, catalog.PRICES)
    parameter = outputs["LoadParameter"]
    value = client("ssm", url).get_parameter(Name=parameter)["Parameter"]["Value"]
    yield from catalog.parameters(stack, {parameter: value}, catalog.PRICES)

    uploaded(url, data["LakeBucket"])
    secrets = client("secretsmanager", url)
    keys = {f"{name}KeySecret": secrets.create_secret(Name=f"{name.lower()}-key", SecretString="x")["ARN"] for name in ("CoinGecko", "CoinCap")}
    given = MARKET["whole"] | shared | keys
    outputs, _ = create(url, "market", given)
    stack = Stack(load("market.yaml"), **given)
    name = stack.parameters["Name"]
    # First of all: the emulator counts runs of the loader that fail.
    yield from alarmed(url, name, outputs["TopicArn"])
    yield from failures(url, outputs, name)
    yield from polled(kinetide, url, name, data["LandingBucket"], outputs["DeadLettersUrl"])
    yield from loaded(url, name, data, parameter)
    # As a schedule runs it: it fails, fails once more, and ends in the queue, of which CloudFormation of the emulator knows nothing.
    function = stack.of("AWS::Lambda::Function")["Loader"]
    target = function["DeadLetterConfig"]["TargetArn"].replace(PSEUDO["AWS::AccountId"], ACCOUNT)
    client("lambda", url).update_function_configuration(FunctionName=f"{name}-loader", DeadLetterConfig={"TargetArn": target})
    client("lambda", url).invoke(FunctionName=f"{name}-loader", InvocationType="Event", Payload=b'{"hour": "yesterday"}')
    until("a failed run in the queue", lambda: "yesterday" in json.dumps(received(url, outputs["DeadLettersUrl"])), 30)
    job, names = create(url, "coincap", shared | {"TicketTopicArn": outputs["TopicArn"]})
    yield from lake_deployed.job_failed(url, re.sub(r".*/", "", names["AssetsFailedRule"]), job["Job"])
    commands(url)
    yield from verified(url, data, stack, outputs)
