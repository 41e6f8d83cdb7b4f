"""Packs and unpacks aggregates by `aws_kinesis_agg`, which shares nothing with kinetide. One JSON document a line.

{"pack": [[key, hash key or null, text], ...]}  →  {"packed": hex}
{"unpack": hex}                                 →  {"records": [[key, hash key or null, hex, index], ...]}
"""

import base64
import datetime
import json
import sys

import aws_kinesis_agg.aggregator
import aws_kinesis_agg.deaggregator


def pack(records):
    aggregator = aws_kinesis_agg.aggregator.RecordAggregator()
    for key, hash_key, text in records:
        full = aggregator.add_user_record(key, text, hash_key)
        assert full is None, "more than one aggregate"
    return aggregator.clear_and_get().get_contents()[2].hex()


def unpack(payload):
    record = {
        "SequenceNumber": "1",
        "ApproximateArrivalTimestamp": datetime.datetime.now(datetime.timezone.utc),
        "Data": payload,
        "PartitionKey": "a",
    }
    for user in aws_kinesis_agg.deaggregator.iter_deaggregate_records([record], "Boto3"):
        kinesis = user["kinesis"]
        data = base64.b64decode(kinesis["data"]).hex() if kinesis.get("aggregated") else kinesis["data"].hex()
        yield [kinesis["partitionKey"], kinesis.get("explicitHashKey"), data, kinesis.get("subSequenceNumber")]


for line in sys.stdin:
    request = json.loads(line)
    if "pack" in request:
        answer = {"packed": pack(request["pack"])}
    else:
        answer = {"records": list(unpack(bytes.fromhex(request["unpack"])))}
    print(json.dumps(answer), flush=True)
