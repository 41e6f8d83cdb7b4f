"""Change records as the benchmark of the per-record path has them (`benches/per_record.rs`): scalars only, 80 % INSERT."""

import base64
import random
import uuid

# Of one `PutRecords` call.
AT_ONCE = 500
START_US = 1_768_467_600_000_000
# An hour has room for 720,000.
STEP_US = 5_000


def item(rng, key, at_us):
    seconds, fraction = divmod(at_us, 1_000_000)
    return (
        f'{{"transaction_id":{{"S":"{key}"}},'
        f'"timestamp":{{"S":"2026-01-15T09:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"}},'
        f'"exchange":{{"S":"{rng.choice(("Binance", "Coinbase", "Kraken", "FTX", "OKX", "Bitfinex"))}"}},'
        f'"trading_pair":{{"S":"{rng.choice(("BTC/USD", "ETH/USDT", "SOL/USD", "ADA/USDT", "XRP/USD"))}"}},'
        f'"order_type":{{"S":"{rng.choice(("BUY", "SELL"))}"}},'
        f'"price":{{"N":"{rng.randrange(100, 70_000)}.{rng.randrange(100):02}"}},'
        f'"quantity":{{"N":"{rng.randrange(5)}.{rng.randrange(1_000_000):06}"}},'
        f'"trade_fee":{{"N":"0.{rng.randrange(100, 10_000):04}"}},'
        f'"trade_status":{{"S":"{rng.choice(("SUCCESS", "SUCCESS", "SUCCESS", "PENDING", "FAILED"))}"}},'
        f'"user_id":{{"S":"{uuid.UUID(int=rng.getrandbits(128), version=4)}"}},'
        f'"wallet_address":{{"S":"GB{rng.randrange(10, 99)}TEST{rng.randrange(10**14):014}"}},'
        f'"order_source":{{"S":"{rng.choice(("Web", "Mobile", "API"))}"}}}}'
    )


def change(rng, at_us):
    key = uuid.UUID(int=rng.getrandbits(128), version=4)
    new, old = f'"NewImage":{item(rng, key, at_us)}', f'"OldImage":{item(rng, key, at_us)}'
    name, images = rng.choices([("INSERT", new), ("MODIFY", f"{new},{old}"), ("REMOVE", old)], (80, 15, 5))[0]
    return (
        f'{{"awsRegion":"eu-north-1","eventID":"{uuid.UUID(int=rng.getrandbits(128), version=4)}","eventName":"{name}",'
        '"userIdentity":null,"recordFormat":"application/json","tableName":"CryptoTransactions","dynamodb":{'
        f'"ApproximateCreationDateTime":{at_us},"Keys":{{"transaction_id":{{"S":"{key}"}}}},{images},'
        '"SizeBytes":341,"ApproximateCreationDateTimePrecision":"MICROSECOND"},"eventSource":"aws:dynamodb"}'
    )


def fill(kinesis, stream, records, seed):
    """Writes so many, but for those that the stream refuses: who counts them afterwards knows."""
    rng = random.Random(seed)
    for start in range(0, records, AT_ONCE):
        entries = [
            {
                "Data": base64.b64encode(change(rng, START_US + number * STEP_US).encode()).decode(),
                "PartitionKey": f"{rng.getrandbits(128):032X}",
            }
            for number in range(start, min(start + AT_ONCE, records))
        ]
        kinesis.call("PutRecords", StreamName=stream, Records=entries)
