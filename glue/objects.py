"""Objects of a folder, on disk or in S3, which are created and never replaced. Nothing here deletes one."""

import functools
import os
import tempfile
import time
from pathlib import Path

import boto3
from botocore.exceptions import ClientError


class Folder:
    """A folder on disk."""

    def __init__(self, root):
        self.root = Path(root)

    def listed(self, prefix=""):
        """(name, size, modified in ms) of the objects below."""
        for path in (self.root / prefix).rglob("*"):
            if path.is_file():
                stat = path.stat()
                yield path.relative_to(self.root).as_posix(), stat.st_size, int(stat.st_mtime * 1000)

    def read(self, name):
        """The whole object, or None."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name, body):
        """Creates an object as a whole; False if there is one."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readers skip names that begin with a dot.
        handle, staged = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(body)
            os.link(staged, path)
            return True
        except FileExistsError:
            return False
        finally:
            os.unlink(staged)


class Bucket:
    """A folder in S3."""

    def __init__(self, url):
        self.bucket, _, folder = url.partition("/")
        self.prefix = f"{folder}/" if folder else ""
        self.s3 = boto3.client("s3")
        if "IfNoneMatch" not in self.s3.meta.service_model.operation_model("PutObject").input_shape.members:
            raise SystemExit("this boto3 cannot create objects under a condition: --additional-python-modules boto3==1.44.8")

    def listed(self, prefix=""):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        for page in pages:
            for one in page.get("Contents", []):
                yield one["Key"][len(self.prefix) :], one["Size"], int(one["LastModified"].timestamp() * 1000)

    def read(self, name):
        try:
            return self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None

    def create(self, name, body):
        while True:
            try:
                self.s3.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body, IfNoneMatch="*")
                return True
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:
                    return False
                # 409: another put is under way; the next answer says how it ended.
                if status != 409:
                    raise
                time.sleep(0.2)

    def lifecycle(self):
        """The rules of the whole bucket."""
        try:
            return self.s3.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
                return []
            raise


@functools.cache
def opened(url):
    return Bucket(url[len("s3://") :]) if url.startswith("s3://") else Folder(url)


def retention_hours(stream):
    """How long a stream, by name or ARN, keeps records."""
    named = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}
    return boto3.client("kinesis").describe_stream_summary(**named)["StreamDescriptionSummary"]["RetentionPeriodHours"]
