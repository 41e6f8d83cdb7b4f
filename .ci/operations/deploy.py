"""Deploys the templates on ministack, looks at what is there, and runs a worker with the settings of the task definition.

Every call of the worker goes through a recorder. The deployed task role must allow each of them, no more than a few others,
and every statement must be needed; the bucket policy must allow each write, and deny one that could replace an object.

Usage: deploy.py KINETIDE MINISTACK
"""

import argparse
import fnmatch
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import lake_deployed
import market_deployed
from cloudformation import DATA, SERVICE, load
from emulator import ACCOUNT, REGION, client, create, plain, verify
from processes import free_ports, until

# Actions of the role that this run does not need, and when they are needed.
NOT_PLAYED = {
    "s3:ListBucket": "an object that does not exist: without it S3 answers 403 instead of 404",
    "kms:Decrypt": "Kinesis and S3 use the key in the name of the caller",
    "kms:GenerateDataKey": "S3 uses the key in the name of the caller",
}


def looked_at(url, data, service, names):
    """What is wrong with what was deployed, as far as the emulator keeps it; encryption it does not."""
    kinesis = client("kinesis", url).describe_stream_summary(StreamName=data["StreamName"])["StreamDescriptionSummary"]
    if kinesis["RetentionPeriodHours"] != 48:
        yield f"the stream: {kinesis}"
    table = client("dynamodb", url).describe_table(TableName=data["TableName"])["Table"]
    if table["StreamSpecification"]["StreamViewType"] != "NEW_AND_OLD_IMAGES":
        yield f"the table: {table}"
    leases = client("dynamodb", url).describe_table(TableName=service["LeaseTable"])["Table"]
    indexes = [(one["IndexName"], one["Projection"]["ProjectionType"]) for one in leases["GlobalSecondaryIndexes"]]
    if indexes != [("LeaseOwnerToLeaseKeyIndex", "KEYS_ONLY")]:
        yield f"the lease table: {indexes}"
    s3 = client("s3", url)
    for bucket in (data["LandingBucket"], data["LakeBucket"]):
        block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        if not all(block.values()) or s3.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
            yield f"{bucket}: public access or versioning"
    found = client("cloudwatch", url).describe_alarms()["MetricAlarms"]
    if len(found) < 6:
        yield f"only {len(found)} alarms"
    running = client("ecs", url).describe_services(cluster=names["Cluster"], services=[service["Service"]])["services"]
    if [one["desiredCount"] for one in running] != [2]:
        yield f"the service: {running}"


def lease_table_again(url, name):
    """The index of a table that the emulator's CloudFormation made never becomes active: made by the API it does."""
    dynamodb = client("dynamodb", url)
    dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
    dynamodb.delete_table(TableName=name)
    table = plain(load("service.yaml")["Resources"]["LeaseTable"]["Properties"])
    kept = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
    dynamodb.create_table(TableName=name, **{key: table[key] for key in kept})


class Recorder:
    """Forwards requests to the emulator, and remembers action, resource, status and whether a write may replace."""

    def __init__(self, url):
        self.calls, self.target = [], urllib.parse.urlsplit(url).netloc
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                try:
                    self.forwarded()
                except OSError:
                    # The worker has gone, or has given up waiting.
                    self.close_connection = True

            def forwarded(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection(recorder.target, timeout=60)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                recorder.calls += called(self.command, self.path, self.headers, body, answer.status)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
                self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                upstream.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def called(method, path, headers, body, status):
    """The actions that a request needs, with what they are about: (action, resource, guarded, creates)."""
    target = headers.get("X-Amz-Target")
    if headers.get("smithy-protocol") == "rpc-v2-cbor":
        _, _, service, _, operation = path.split("/")
        assert service == "GraniteServiceVersion20100801", path
        return [(f"cloudwatch:{operation}", "*", False, False)]
    if not target:
        return [of_s3(method, path, headers)]
    service, operation = target.split("_")[0].lower(), target.split(".")[1]
    request = json.loads(body)
    if service == "kinesis":
        # GetRecords names its stream in the iterator only.
        name = request.get("StreamName") or "/".join(request.get("StreamARN", "").split("/")[1:]) or "*"
        return [(f"kinesis:{operation}", f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{name}", False, False)]
    if service == "firehose":
        arn = f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{request['DeliveryStreamName']}"
        return [(f"firehose:{operation}", arn, False, False)]
    assert service == "dynamodb", target
    index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
    arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{request['TableName']}{index}"
    return [(f"dynamodb:{operation}", arn, False, False)]


def of_s3(method, path, headers):
    url = urllib.parse.urlsplit(path)
    query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    if not key:
        return "s3:ListBucket", arn, False, False
    if method in ("GET", "HEAD"):
        return "s3:GetObject", arn, False, False
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", arn, False, False
    creates = not ("uploads" in query or "partNumber" in query)
    return "s3:PutObject", arn, "If-None-Match" in headers, creates


def allows(statements, call):
    action, resource = call[:2]

    def one(values, value):
        values = values if isinstance(values, list) else [values]
        return any(fnmatch.fnmatchcase(value, pattern) or (value.endswith("/*") and pattern == value) for pattern in values)

    # An iterator does not say which stream it is of.
    def about(values):
        return one(values, resource) or resource.endswith("stream/*")

    return any(one(each["Action"], action) and about(each["Resource"]) for each in statements if each["Effect"] == "Allow")


def denies(policy, call):
    """Whether the statement OnlyNewObjects of a bucket policy denies a call."""
    action, resource, guarded, creates = call
    (rule,) = [each for each in policy["Statement"] if each["Sid"] == "OnlyNewObjects"]
    about = action == rule["Action"] and any(fnmatch.fnmatchcase(resource, one) for one in rule["Resource"])
    assert rule["Condition"] == {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}, rule
    return about and not guarded and creates


def judged(statements, policy, calls, bucket):
    for call in sorted(calls):
        if not allows(statements, call):
            yield f"the role does not allow {call[0]} on {call[1]}"
        if denies(policy, call):
            yield f"the bucket policy denies {call}"
    used = {call[0] for call in calls}
    granted = {action for each in statements for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])}
    for action in sorted(granted - used - set(NOT_PLAYED)):
        yield f"the role allows {action}, and nothing needed it"
    for action in sorted(used & set(NOT_PLAYED)):
        yield f"{action} was needed: take it from the list NOT_PLAYED"
    for each in statements:
        others = [other for other in statements if other is not each]
        played = not set([each["Action"]] if isinstance(each["Action"], str) else each["Action"]) <= set(NOT_PLAYED)
        if played and all(allows(others, call) for call in calls):
            yield f"nothing is denied without the statement {each['Sid']}"
    plain_put = ("s3:PutObject", f"arn:aws:s3:::{bucket}/raw/landing/x", False, True)
    elsewhere = ("s3:PutObject", f"arn:aws:s3:::{bucket}/firehose/rows/x", False, True)
    if not denies(policy, plain_put) or denies(policy, elsewhere):
        yield "the bucket policy lets objects be replaced, or keeps Firehose from writing"


# What CloudFormation of the emulator leaves out, so that verify.py says so. What can be done by an API is done then.
NOT_KEPT = {"stream encryption", "bucket encryption", "bucket lifecycle", "table destination", "alarms"}


def verified(url, data):
    """What verify.py says of what was deployed, after what is missing is done, and after things are broken."""
    found = verify(url)
    for name, one in found.items():
        if (one["state"] in ("ok", "not used")) == (name in NOT_KEPT):
            yield f"verify.py of what was just deployed: {one}"
    s3, bucket = client("s3", url), data["LandingBucket"]
    dynamodb, kinesis = client("dynamodb", url), client("kinesis", url)
    kinesis.start_stream_encryption(StreamName=data["StreamName"], EncryptionType="KMS", KeyId=data["KeyArn"])
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": data["KeyArn"]}
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
    )
    lifecycle(s3, bucket, 30)
    arn = kinesis.describe_stream_summary(StreamName=data["StreamName"])["StreamDescriptionSummary"]["StreamARN"]
    dynamodb.enable_kinesis_streaming_destination(TableName=data["TableName"], StreamArn=arn)
    until("the destination is active", lambda: verify(url)["table destination"]["state"] == "ok", 60)
    found = verify(url)
    for name, one in found.items():
        if one["state"] not in ("ok", "not used") and name != "alarms":
            yield f"verify.py when all is done: {one}"
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    weaker = policy | {"Statement": [one for one in policy["Statement"] if one["Sid"] != "OnlyNewObjects"]}
    breaks = {
        "bucket versions": lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        "bucket access": lambda: s3.delete_public_access_block(Bucket=bucket),
        "bucket policy": lambda: s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(weaker)),
        "bucket lifecycle": lambda: lifecycle(s3, bucket, 2),
        "lease table": lambda: dynamodb.update_table(TableName="kinetide", DeletionProtectionEnabled=False),
    }
    for breaks_it in breaks.values():
        breaks_it()
    found = verify(url)
    for name in breaks:
        if found[name]["state"] == "ok":
            yield f"verify.py does not notice what was done to: {name}"
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def lifecycle(s3, bucket, days):
    rules = [
        {"ID": "landing", "Status": "Enabled", "Filter": {"Prefix": "raw/landing/"}, "Expiration": {"Days": days}},
        {
            "ID": "unfinished", "Status": "Enabled", "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
    ]  # fmt: skip
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def objects(s3, bucket, prefix):
    return [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def work(kinetide, url, task, bucket, folder, firehose):
    """Runs a worker with the settings of the task until rows and dead letters are there; gives its calls."""
    recorder = Recorder(url)
    settings = {one["name"]: one["value"] for one in task["containerDefinitions"][0]["environment"]}
    assert settings["KINETIDE_LAKE"] == f"s3://{bucket}/raw", settings
    if not firehose:
        settings.pop("KINETIDE_FIREHOSE")
    # What the task has from ECS, and shorter waits.
    settings |= {"KINETIDE_BATCH_AGE": "2s", "KINETIDE_FAILOVER_TIME": "3s", "KINETIDE_SHUTDOWN_BUDGET": "20s"}
    settings |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": recorder.url}
    settings |= {"AWS_EC2_METADATA_DISABLED": "true", "KINETIDE_HTTP": "127.0.0.1:0", "PATH": os.environ["PATH"]}
    s3 = client("s3", url)
    prefix = "raw/errors/" if firehose else "raw/landing/"
    before = len(objects(s3, bucket, prefix))
    log = folder / f"worker-{firehose}.log"
    with log.open("wb") as out:
        worker = subprocess.Popen([kinetide, "run"], env=settings, stdout=out, stderr=out)
        try:
            generate = [kinetide, "generate", "--stream", settings["KINETIDE_STREAM"], "--region", REGION]
            generate += ["--kinesis-endpoint", url, "--records", "300", "--bad-rate", "0.1", "--seed", str(7 + firehose)]
            environment = {key: settings[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")}
            subprocess.run(generate, env=environment, check=True, capture_output=True, timeout=60)
            until(f"objects below {prefix}", lambda: len(objects(s3, bucket, prefix)) > before or worker.poll() is not None, 60)
            until("dead letters", lambda: objects(s3, bucket, "raw/errors/") or worker.poll() is not None, 60)
            time.sleep(3)
            worker.terminate()
            if worker.wait(timeout=60) != 0:
                raise SystemExit(f"the worker ended with {worker.returncode}")
        except BaseException:
            worker.kill()
            worker.wait()
            print(log.read_text()[-5000:], file=sys.stderr)
            raise
    recorder.server.shutdown()
    return set(recorder.calls)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kinetide")
    arguments.add_argument("ministack")
    arguments = arguments.parse_args()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="kinetide-deploy-") as folder:
        folder = Path(folder)
        environment = os.environ | {
            "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0",
        }  # fmt: skip
        with (folder / "ministack.log").open("wb") as log:
            server = subprocess.Popen([arguments.ministack], env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            until("ministack answers", lambda: answers(port), 60)
            play(str(Path(arguments.kinetide).resolve()), url, folder)
        finally:
            server.kill()
            server.wait()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def play(kinetide, url, folder):
    data, _ = create(url, "data", DATA["whole"])
    handed = {key: data[key] for key in ("StreamName", "KeyArn", "LandingBucket", "Prefix", "TableName", "FirehoseName")}
    service, names = create(url, "service", SERVICE["whole"] | handed | {"MaxTasks": 2})
    wrong = list(looked_at(url, data, service, names))
    wrong += verified(url, data)
    wrong += lake_deployed.faults(url, data, service)
    wrong += market_deployed.faults(url, data, kinetide)
    lease_table_again(url, service["LeaseTable"])
    task = client("ecs", url).describe_task_definition(taskDefinition=names["TaskDefinition"])["taskDefinition"]
    bucket = data["LandingBucket"]
    calls = work(kinetide, url, task, bucket, folder, False) | work(kinetide, url, task, bucket, folder, True)
    iam = client("iam", url)
    role = re.sub(r".*/", "", service["TaskRoleArn"])
    statements = iam.get_role_policy(RoleName=role, PolicyName="work")["PolicyDocument"]["Statement"]
    policy = json.loads(client("s3", url).get_bucket_policy(Bucket=bucket)["Policy"])
    wrong += judged(statements, policy, calls, bucket)
    if wrong:
        sys.exit("\n".join(wrong))
    actions = sorted({call[0] for call in calls})
    print(f"{len(statements)} statements of the task role cover the {len(actions)} actions of two runs, and each is needed")


if __name__ == "__main__":
    main()
