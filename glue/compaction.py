"""Which landing objects become which compacted object, and how long they must stay. Plain Python: no Spark, no files, no clock.

Nothing here asks whether an hour is over: a late object may come at any time. What is compacted is an explicit list of
objects, and an object that comes later is in a later list (docs/adr/0032).
"""

import dataclasses
import gzip
import hashlib
import io
import json
import math
import re

import checks

HOUR_MS = 3_600_000
# Of gzip, in one compacted object.
OBJECT_BYTES = 64 << 20
FORMAT = 1
MANIFESTS = "_manifests"
HOUR = re.compile(r"year=\d{4}/month=\d\d/day=\d\d/hour=\d\d")
NUMBER = re.compile(r"pass-(\d{6})\.(json|ndjson\.gz)")
# From these an object must be restored before it can be read.
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


@dataclasses.dataclass(frozen=True)
class Found:
    """A landing object of one hour: its name in the folder, its size, and when it was written, in ms."""

    name: str
    size: int
    modified: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one compacted object holds. It is written first: from then on its objects belong to no other."""

    landing: str
    # Name to [size, rows].
    objects: dict
    # Of all their lines.
    sha256: str

    @property
    def rows(self):
        return sum(rows for _, rows in self.objects.values())

    def encode(self):
        return json.dumps({"format": FORMAT, "rows": self.rows} | dataclasses.asdict(self), indent=1, sort_keys=True).encode()

    @staticmethod
    def decode(text):
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise RuntimeError(f"a manifest of format {found['format']}: run the newer version")
        return Manifest(found["landing"], found["objects"], found["sha256"])


def manifest_name(hour, number):
    return f"{MANIFESTS}/{hour}/pass-{number:06}.json"


def data_name(hour, number):
    return f"{hour}/pass-{number:06}.ndjson.gz"


def by_hour(listed):
    """Objects of each hour, of (name below landing, size, modified in ms); and names that are in no hour's folder."""
    hours, astray = {}, []
    for path, size, modified in listed:
        if any(part[:1] in ("_", ".") for part in path.split("/")) or path.endswith("/"):
            continue
        hour, _, name = path.rpartition("/")
        if HOUR.fullmatch(hour):
            hours.setdefault(hour, []).append(Found(name, size, modified))
        else:
            astray.append(path)
    return hours, astray


def numbers(paths):
    """The numbers of passes, of the names of their manifests or objects."""
    return sorted(int(match[1]) for path in paths if (match := NUMBER.fullmatch(path.rpartition("/")[2])))


def unclaimed(objects, manifests):
    """Objects that are in no manifest, and the names of those that are but have another size now."""
    claimed = {name: size for manifest in manifests for name, (size, _) in manifest.objects.items()}
    changed = [one.name for one in objects if claimed.get(one.name, one.size) != one.size]
    return [one for one in objects if one.name not in claimed], changed


def settled(objects, now_ms, settle_ms):
    """What was written long enough ago: the rows of an hour come together, and few of them late."""
    return [one for one in objects if one.modified + settle_ms <= now_ms]


def passes(objects, most=OBJECT_BYTES):
    """The objects of each pass, in the order of their names."""
    found, size = [], 0
    for one in sorted(objects, key=lambda one: one.name):
        if not found or size + one.size > most:
            found.append([])
            size = 0
        found[-1].append(one)
        size += one.size
    return found


def packed(bodies):
    """One gzip member with the lines of these objects, byte for byte."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, out, mtime=0) as member:
        for body in bodies:
            last = b"\n"
            for piece in checks.expanded(body):
                member.write(piece)
                last = piece[-1:] or last
            if last != b"\n":
                member.write(b"\n")
    return out.getvalue()


def described(body):
    """How many lines are in an object, and their hash: what is published is read before, and counted by itself."""
    rows, digest = 0, hashlib.sha256()
    for piece in checks.expanded(body):
        rows += piece.count(b"\n")
        digest.update(piece)
    return rows, digest.hexdigest()


def days_needed(retention_hours, settle_hours):
    """How long landing objects must stay: the stream's retention and a day, and until two runs a day had time to fail."""
    return math.ceil(max(retention_hours + 24, settle_hours + 72) / 24)


def too_early(rules, prefix, days):
    """What is wrong with the lifecycle rules of a bucket, as S3 answers them, for objects below a prefix."""
    wrong = []
    for rule in rules:
        scope = rule.get("Filter", {})
        start = scope.get("Prefix", scope.get("And", {}).get("Prefix", rule.get("Prefix", "")))
        # A rule for some tags or sizes only may mean some of the objects.
        if rule["Status"] != "Enabled" or not (prefix.startswith(start) or start.startswith(prefix)):
            continue
        ends = [("deletes", rule.get("Expiration", {}))]
        ends += [("archives", one) for one in rule.get("Transitions", []) if one.get("StorageClass") in ARCHIVES]
        for does, end in ends:
            # A date means objects of any age.
            if "Date" in end or end.get("Days", days) < days:
                at = f"on {end['Date']:%Y-%m-%d}" if "Date" in end else f"after {end['Days']} days"
                wrong.append(f"lifecycle rule {rule.get('ID', '?')} {does} landing objects {at}: they must stay {days} days")
    return wrong
