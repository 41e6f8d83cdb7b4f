"""Another client of Kafka, by librdkafka: it makes topics, produces, and says what it reads itself.

One request a line on stdin, one answer a line on stdout, both JSON. Values are base64, null is a tombstone.
    peer.py BOOTSTRAP [NAME=VALUE of librdkafka ...]
"""

import base64
import json
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

COMMON = {"bootstrap.servers": sys.argv[1], **dict(pair.split("=", 1) for pair in sys.argv[2:])}
LARGEST = {"message.max.bytes": 64 << 20}
producers = {}
admin = AdminClient(COMMON)


def data(text):
    return None if text is None else base64.b64decode(text)


def text(value):
    return None if value is None else base64.b64encode(value).decode()


def wait(futures):
    for future in futures.values():
        future.result(60)


def create(topic, partitions, config, replicas=1):
    wait(admin.create_topics([NewTopic(topic, partitions, replicas, config=config)], request_timeout=30))
    # The broker that is asked next may not know it yet.
    for _ in range(100):
        found = admin.list_topics(topic, timeout=30).topics[topic]
        if len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{topic} has no leaders")


def delete(topic):
    wait(admin.delete_topics([topic]))
    while topic in admin.list_topics(timeout=30).topics:
        time.sleep(0.05)


def partitions(topic, count):
    wait(admin.create_partitions([NewPartitions(topic, count)]))


def forget(topic, partition, offset):
    """Drops all records before an offset, as retention does."""
    wait(admin.delete_records([TopicPartition(topic, partition, offset)]))


def leader(topic, partition):
    return admin.list_topics(topic, timeout=30).topics[topic].partitions[partition].leader


def replica(topic, other):
    """The replica of partition 0 that is not this one."""
    return next(r for r in admin.list_topics(topic, timeout=30).topics[topic].partitions[0].replicas if r != other)


def in_step(topic, count):
    """Waits until so many replicas of partition 0 are in step."""
    for _ in range(600):
        if len(admin.list_topics(topic, timeout=30).topics[topic].partitions[0].isrs) == count:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{topic} never has {count} replicas in step")


def sent(producer, topic, records):
    """Each record is [partition, key, value, time in ms or 0]; answers their offsets."""
    offsets, errors = {}, []

    def told(index):
        def tell(error, message):
            if error is None:
                offsets[index] = message.offset()
            else:
                errors.append(str(error))

        return tell

    for index, (partition, key, value, ms) in enumerate(records):
        while True:
            try:
                producer.produce(topic, data(value), data(key), partition, told(index), timestamp=ms)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(60)
    if errors:
        raise RuntimeError(errors[0])
    return [offsets[index] for index in range(len(records))]


def produce(topic, records, codec="none"):
    if codec not in producers:
        settings = {**COMMON, **LARGEST, "compression.type": codec, "linger.ms": 5, "acks": "all"}
        settings["enable.idempotence"] = True
        producers[codec] = Producer(settings)
    try:
        return sent(producers[codec], topic, records)
    except KafkaException:
        # It does not look for partitions that came lately.
        del producers[codec]
        return produce(topic, records, codec)


def transaction(topic, name, records, end):
    """`end`: commit, abort, or open, which leaves it so."""
    key = ("transaction", name)
    if key not in producers:
        producers[key] = Producer({**COMMON, "transactional.id": name})
        producers[key].init_transactions(60)
    producer = producers[key]
    if not getattr(transaction, name, False):
        producer.begin_transaction()
    offsets = sent(producer, topic, records)
    setattr(transaction, name, end == "open")
    if end == "commit":
        producer.commit_transaction(60)
    elif end == "abort":
        producer.abort_transaction(60)
    return offsets


def read(topic, partition):
    """All committed records of a partition: [offset, key, value, ms]."""
    settings = {
        "group.id": "peer",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    }
    consumer = Consumer({**COMMON, **settings})
    consumer.assign([TopicPartition(topic, partition, 0)])
    found = []
    while True:
        message = consumer.poll(60)
        if message is None:
            raise RuntimeError("no answer")
        if message.error():
            break
        found.append([message.offset(), text(message.key()), text(message.value()), message.timestamp()[1]])
    consumer.close()
    return found


DO = {
    f.__name__: f
    for f in (create, delete, partitions, forget, leader, replica, in_step, produce, transaction, read)
}

for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        answer = {"ok": DO[name](*arguments)}
    except Exception as error:
        answer = {"error": f"{name}: {error}"}
    print(json.dumps(answer), flush=True)
