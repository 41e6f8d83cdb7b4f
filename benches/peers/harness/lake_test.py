"""The judge of the lake must see what is wrong: `python3 -m unittest harness.lake_test` in benches/peers."""

import base64
import gzip
import json
import sys
import unittest
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from handler import row as reference  # noqa: E402

from harness.aws import Truth  # noqa: E402
from harness.lake import Verdict, differing  # noqa: E402

SHARD = "shardId-000000000000"
CHANGE = {
    "eventID": "e", "eventName": "INSERT", "tableName": "CryptoTransactions",
    "dynamodb": {"ApproximateCreationDateTime": 5, "NewImage": {"price": {"N": "0.10000000000000000001"}, "exchange": {"S": "OKX"}}},
}  # fmt: skip
PAYLOAD = json.dumps(CHANGE).encode()


def verdict(*rows, cut=0, raw=b""):
    truth = Truth()
    truth.records[SHARD], truth.last[SHARD] = {}, 0
    for number in (11, 12):
        truth.add(SHARD, str(number), PAYLOAD)
    found = Verdict(truth)
    content = gzip.compress(raw or b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    complete = found.take(content[: len(content) - cut], 1.0)
    return found, complete


def line(number, payload=PAYLOAD, **more):
    return {"shard_id": SHARD, "sequence_number": str(number), "data": base64.b64encode(payload).decode()} | more


class Judge(unittest.TestCase):
    def test_all_is_well(self):
        found, complete = verdict(line(11), line(12))
        self.assertTrue(complete)
        self.assertEqual((found.found, found.payloads, found.first_wrong), (2, 2, None))

    def test_missing_and_duplicated(self):
        found, _ = verdict(line(11), line(11))
        self.assertEqual((found.found, found.duplicated), (1, 1))

    def test_records_behind_the_others_do_not_count(self):
        found, _ = verdict(line(11), line(13))
        self.assertEqual((found.found, found.later, found.unexpected), (1, 1, 0))

    def test_unexpected(self):
        found, _ = verdict(line(10), line(11, shard_id="shardId-000000000009"))
        self.assertEqual((found.found, found.unexpected), (0, 2))

    def test_records_of_an_aggregate(self):
        # A key, and two records: field and length, index of the key, data.
        text = b"x" * 200
        message = b"\x0a\x01k" + b"\x1a\x06\x08\x00\x1a\x02{}" + b"\x1a\xcd\x01\x08\x00\x1a\xc8\x01" + text
        truth = Truth()
        truth.records[SHARD], truth.last[SHARD] = {}, 0
        truth.add(SHARD, "11", bytes.fromhex("f3899ac2") + message + bytes(16))
        self.assertEqual((truth.count, truth.payload_bytes), (2, 202))
        found = Verdict(truth)
        for index, payload in ((0, b"{}"), (1, text), (1, text), (2, text)):
            found.line(json.dumps(line(11, payload, sub_sequence_number=index)).encode())
        self.assertEqual((found.found, found.duplicated, found.unexpected, found.other_payload), (2, 1, 1, 0))

    def test_another_payload(self):
        text = PAYLOAD.replace(b"OKX", b"OKY")
        at = f'{{"shard_id":"{SHARD}","sequence_number":"12","data":'.encode()
        for found, _ in (verdict(line(12, text)), verdict(raw=at + text + b"}\n")):
            self.assertEqual((found.found, found.other_payload), (1, 1))
        self.assertEqual(verdict(raw=at + PAYLOAD + b"}\n")[0].other_payload, 0)

    def test_a_file_that_is_not_complete(self):
        found, complete = verdict(line(11), cut=4)
        self.assertEqual((complete, found.found, found.objects), (False, 0, 0))

    def test_values(self):
        truth = Truth()
        truth.records[SHARD], truth.last[SHARD] = {}, 0
        truth.add(SHARD, "11", PAYLOAD)
        row = reference(CHANGE, SHARD, "11")
        self.assertEqual(differing({(SHARD, "11"): row}, truth, reference), (len(row), []))
        # What a float would make of it.
        for wrong in ({"price": Decimal("0.1")}, {"exchange": None}, {"cdc_ts_us": 5}):
            _, differ = differing({(SHARD, "11"): row | wrong}, truth, reference)
            self.assertEqual(len(differ), 1, wrong)


if __name__ == "__main__":
    unittest.main()
