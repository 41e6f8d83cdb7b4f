"""What a message of CoinCap says of assets. Plain Python, for one line of landing at a time; no message is an error here."""

import base64
import binascii
import datetime
import json
import re

# By the column the members that may have it: the reply of the API, and the flat assets that some producers send.
MEMBERS = {
    "id": ["id"],
    "symbol": ["symbol"],
    "name": ["name"],
    "rank": ["rank"],
    "price_usd": ["priceUsd"],
    "change_percent_24hr": ["changePercent24Hr"],
    "volume_usd_24hr": ["volumeUsd24Hr"],
    "market_cap_usd": ["marketCapUsd"],
    "supply": ["supply"],
    "logo": ["logo"],
    "max_supply": ["maxSupply"],
    "vwap_usd_24hr": ["vwap24Hr", "vwapUsd24Hr"],
}
TEXTS = ["id", "symbol", "name", "logo"]
# A time below is in seconds, up to the next one in ms.
SECONDS_BELOW, MS_BELOW = 1e11, 1e14
TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Number(str):
    """A number as its digits."""


def decoded(text):
    return json.loads(text, parse_int=Number, parse_float=Number)


def text(value):
    """A value as text: a column of numbers finds out later whether it is one."""
    return str(value) if isinstance(value, str) else json.dumps(value)


def whole(value):
    """Whether it is a text, and one that can be written: half of a pair is no character."""
    try:
        return isinstance(value, str) and not isinstance(value, Number) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def time_ms(value):
    """ms since the epoch of a time as producers write it, or None."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
        number = float(value)
        factor = 1000 if number < SECONDS_BELOW else 1 if number < MS_BELOW else 1e-3
        return int(number * factor) if 0 < number < 1e17 else None
    found = TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    zone = "+00:00" if zone in (None, "Z") else zone
    try:
        at = datetime.datetime.fromisoformat(f"{day}T{clock}{zone}")
    except ValueError:
        return None
    # Cut, as the service does.
    return (at - EPOCH) // datetime.timedelta(milliseconds=1) + int(((fraction or ".0")[1:] + "00")[:3])


def message_of(line):
    """The bytes of the record that a row of the transform `raw` has, as text; or what is wrong: (text, arrival, reason)."""
    try:
        row = json.loads(line)
        arrival = time_ms(row["ingestion_time"])
        if row.get("value_base64") is not None:
            return base64.b64decode(row["value_base64"], validate=True).decode(), arrival, None
        if not isinstance(row["value"], str) or arrival is None:
            return None, None, "broken_line"
        return row["value"], arrival, None
    except UnicodeDecodeError:
        return None, None, "not_utf8"
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return None, None, "broken_line"


def unwrapped(message):
    """(content, time) of a message: a poller sends the reply as a string beside its own time."""
    if isinstance(message, dict) and "provider" in message:
        if message["provider"] != "coincap" or not isinstance(message.get("body"), str):
            return None, None
        content, _ = unwrapped(decoded(message["body"])) if message["body"].strip() else (None, None)
        return content, message.get("fetched_at_ms") or (content.get("timestamp") if isinstance(content, dict) else None)
    return message, message.get("timestamp") if isinstance(message, dict) and "data" in message else None


def entries(content):
    """The assets of a reply, a list of flat ones, or a single one."""
    if isinstance(content, dict):
        content = content["data"] if "data" in content else [content] if "id" in content else None
    return content if isinstance(content, list) else []


def snapshot(line):
    """(reason, assets): what a line says of assets, or why nothing. An asset has its `problem`, or None."""
    message, arrival, reason = message_of(line)
    if reason:
        return reason, []
    try:
        content, of_all = unwrapped(decoded(message))
    except (ValueError, RecursionError):
        return "not_json", []
    assets = [asset(one, of_all, arrival) for one in entries(content)]
    return (None, assets) if assets else ("no_snapshot", [])


def asset(one, of_all, arrival):
    """Its members as texts. `lost`: how many members of text have something else."""
    if not isinstance(one, dict):
        return {"problem": "no_object", "lost": 0}
    given = of_all if of_all is not None else one.get("timestamp")
    at = arrival if given is None else time_ms(given)
    row, lost = {}, 0
    for column, names in MEMBERS.items():
        value = next((one[name] for name in names if one.get(name) is not None), None)
        if column in TEXTS and value is not None and value != "" and not whole(value):
            value, lost = None, lost + 1
        row[column] = None if value is None else text(value)
    problem = "bad_time" if at is None else "no_id" if not row["id"] else None
    return row | {"event_ms": at, "problem": problem, "lost": 0 if problem else lost}
