"""A Firehose that does what a script says, and delivers as the real one: gzip objects of what it accepted, some of it twice.

Delivery streams by name: `lines` compresses what it gets, `members` stores it as it is.
"""

import base64
import collections
import gzip
import http.server
import itertools
import json
import threading
import uuid
from pathlib import Path

# What it does with one call after another: accept and say nothing, accept all but the first record, accept. The sender's next
# calls are the answer to the first two, so all are played whatever comes.
MOODS = ("lose the answer", "refuse the first", "accept", "accept")
COMPRESSION = {"lines": "GZIP", "members": "UNCOMPRESSED"}
FOLDER = "landing/transactions/year=2026/month=01/day=05/hour=03"


def description(name):
    destination = {
        "RoleARN": "arn:aws:iam::1:role/r", "BucketARN": "arn:aws:s3:::b", "CompressionFormat": COMPRESSION[name],
        "BufferingHints": {}, "EncryptionConfiguration": {},
    }  # fmt: skip
    return {
        "DeliveryStreamName": name, "DeliveryStreamARN": f"arn:aws:firehose:eu-north-1:1:deliverystream/{name}",
        "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut", "VersionId": "1", "HasMoreDestinations": False,
        "Destinations": [{"DestinationId": "d-1", "ExtendedS3DestinationDescription": destination}],
    }  # fmt: skip


class Firehose:
    def __init__(self, lake):
        self.lake, self.lock = Path(lake), threading.Lock()
        self.buffers, self.delivered, self.played = collections.defaultdict(list), [], collections.Counter()
        self.moods = itertools.cycle(MOODS)
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = owner.answer(self.headers["x-amz-target"].split(".")[1], request)
                if answer is None:
                    self.close_connection = True
                    return
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/x-amz-json-1.1")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, operation, request):
        """A response, or None for a connection that breaks."""
        name = request["DeliveryStreamName"]
        if operation == "DescribeDeliveryStream":
            return {"DeliveryStreamDescription": description(name)}
        records = [base64.b64decode(record["Data"]) for record in request["Records"]]
        with self.lock:
            mood = next(self.moods)
            self.played[mood] += 1
            refused = 1 if mood == "refuse the first" else 0
            self.buffers[name] += records[refused:]
        if mood == "lose the answer":
            return None
        no = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
        entries = [no] * refused + [{"RecordId": "id"} for _ in records[refused:]]
        return {"FailedPutCount": refused, "Encrypted": False, "RequestResponses": entries}

    def stored(self):
        """Every line that was accepted and is not delivered yet."""
        with self.lock:
            records = [record for buffer in self.buffers.values() for record in buffer]
        for record in records:
            yield from (gzip.decompress(record) if record[:2] == b"\x1f\x8b" else record).splitlines()

    def deliver(self, select, twice=0):
        """Objects of those buffered records that `select` takes by their number; of so many objects a copy too."""
        with self.lock:
            for name, records in self.buffers.items():
                chosen = [record for number, record in enumerate(records) if select(number)]
                self.buffers[name] = [record for number, record in enumerate(records) if not select(number)]
                at = range(0, len(chosen), max(1, len(chosen) // 4))
                bodies = [b"".join(chosen[start : start + at.step]) for start in at]
                for body in bodies + bodies[:twice]:
                    self.write(name, body if COMPRESSION[name] == "UNCOMPRESSED" else gzip.compress(body))

    def write(self, name, body):
        path = self.lake / FOLDER / f"{name}-1-2026-01-05-03-10-{len(self.delivered) % 60:02}-{uuid.uuid4()}.ndjson.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.delivered.append(path)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
