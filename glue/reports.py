"""What a run says at its end: one line of JSON in the log, and metrics. Plain Python: no Spark."""

import json
import sys


def send(line, metrics, namespace, cloudwatch=None):
    """`metrics` gives the data of the metrics. CloudWatch that does not answer is no reason to fail: what the run wrote is there."""
    print(json.dumps(line), flush=True)
    if namespace:
        try:
            if cloudwatch is None:
                import boto3

                cloudwatch = boto3.client("cloudwatch")
            cloudwatch.put_metric_data(Namespace=namespace, MetricData=metrics())
        except Exception as error:
            print(f"metrics are not in CloudWatch: {type(error).__name__}: {error}", file=sys.stderr)
