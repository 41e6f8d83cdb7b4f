"""Made-up answers of a worker for states of a fleet that take too long to play, or that no test can play."""

import copy
import math
from datetime import datetime, timedelta, timezone

STEP = 30


def utc(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now():
    return datetime.now(timezone.utc)


def lease(number, owner, age, **others):
    """A shard that is read, `age` seconds behind."""
    shard = f"shardId-{number:012}"
    until = None if age is None else utc(now() - timedelta(seconds=age))
    made = {
        "lease": shard, "stream": None, "shard": shard, "state": "read", "reason": None, "why": None, "next_step": None,
        "for_seconds": 0.4, "at_least": False, "owner": owner, "next_owner": None, "counter": 4321 + number,
        "checkpoint": f"4966001795957331581390000000000{number:04}00000000000000000{364 + number:04}", "checkpoint_sub": 0,
        "checkpoint_age_ms": None, "millis_behind_latest": None, "trimmed": False, "lag_problem": None,
        "delivered_until": until, "delivered_age_ms": None if age is None else int(age * 1000), "pending": None,
        "last_prepared": None, "parents": [], "children": [], "owner_switches": 1, "throughput_kbps": 410.5,
    }  # fmt: skip
    return made | others


def worker(name, leases, **others):
    made = {
        "worker": name, "leader": False, "active": True, "streams": None, "leases": leases, "fan_out": 0, "cpu_percent": 38.0,
        "throughput_percent": 92.0, "seen_seconds_ago": 1.2, "has_row": True,
    }  # fmt: skip
    return made | others


def points(hours, age, records=lambda share: 900 + 250 * math.sin(share * 19), dead=lambda index: 0, gap=(2, 2)):
    """`age(share)` is seconds at that share of the time; nothing is known of the shards between the two of `gap`."""
    count = int(hours * 3600 / STEP)
    end = now()
    made = []
    for index in range(count):
        share = index / (count - 1)
        blind = gap[0] <= share <= gap[1]
        seconds = None if blind else age(share)
        made.append({
            "time": utc(end - timedelta(seconds=STEP * (count - 1 - index))),
            "millis_behind": None if blind else int(seconds * 620), "delivered_age_seconds": seconds,
            "records_per_second": 0.0 if blind else records(share), "bytes_per_second": 0.0 if blind else records(share) * 640,
            "dead_letters": dead(index),
        })  # fmt: skip
    return made


class State:
    """What the three sources answer: JSON, `(status, JSON)`, or None for no answer at all."""

    def __init__(self, leases, status, history):
        self.leases, self.status, self.history = leases, status, history

    def copy(self):
        return copy.deepcopy(self)


def healthy(shards=12, workers=3, hours=3):
    names = [f"kinetide-{letter}7f2" for letter in "abcdefghijklmnopqrstuvwxyz"[:workers]]
    owners = [names[number % workers] for number in range(shards)]
    leases = [lease(number, owner, 2.0 + number % 7) for number, owner in enumerate(owners)]
    fleet = {
        "application": "kinetide-trades", "stream": "trades", "watched_seconds": 42.0,
        "leader": {"worker": names[0], "lease_seconds": 15.0, "unmoved_seconds": 1.1, "at_least": False, "released": False, "expired": False},
        "leases": leases,
        "workers": [worker(name, owners.count(name), cpu_percent=31.0 + 9 * (index % 7), throughput_percent=88.0 + 6 * (index % 5)) for index, name in enumerate(names)],
        "odd_rows": [], "notes": [],
    }  # fmt: skip
    fleet["workers"][0]["leader"] = True
    own = [one for one in leases if one["owner"] == names[0]]
    status = {
        "worker": names[0], "application": "kinetide-trades", "delivery": "exactly once", "warnings": [], "streams": ["trades"],
        "table_streams": [], "settings_problem": None, "version": "0.1.0", "uptime_seconds": int(hours * 3600), "ready": True, "not_ready": [],
        "draining": False, "healthy": True, "millis_behind_latest": 300, "delivered_age_ms": 8000, "troubles": [],
        "cloudwatch": None, "fleet": {"leader": None, "worker_id_collision_ms_ago": None},
        "shards": [
            {"stream": "trades", "shard": one["shard"], "state": "reading", "state_for_ms": 1, "stalled_for_ms": None,
             "delivered_age_ms": one["delivered_age_ms"], "last_error": None} for one in own
        ],
    }  # fmt: skip
    seen = points(hours, lambda share: 6 + 3 * math.sin(share * 61), gap=(0.42, 0.46))
    history = {"since": seen[0]["time"], "step_seconds": STEP, "points": seen, "streams": []}
    return State(fleet, status, history)


def stuck():
    """One shard whose owner died, and that nobody takes."""
    state = healthy()
    gone = state.leases["workers"][2]
    gone.update(active=False, cpu_percent=None, throughput_percent=None, seen_seconds_ago=803.0, leases=1)
    for one in state.leases["leases"]:
        if one["owner"] == gone["worker"]:
            one["owner"] = state.leases["workers"][0]["worker"]
    number = 5
    one = state.leases["leases"].pop(number)
    state.leases["leases"].insert(0, one)
    one.update(
        state="not_read", reason="no_room", owner=None, for_seconds=794.0, at_least=False,
        why="it has no owner, and the leader finds no worker with room",
        next_step="start another worker, or raise --leases-max or --throughput-max; the leader's log says why it does not "
                  "assign the lease", delivered_until=utc(now() - timedelta(seconds=803)), delivered_age_ms=803000,
    )  # fmt: skip
    state.history["points"] = points(3, lambda share: 6 + 3 * math.sin(share * 61), dead=lambda index: 3 if index in (120, 121, 290) else 0)
    return state


def catching_up():
    """After an outage: every shard is read, and the age falls."""
    state = healthy()
    for number, one in enumerate(state.leases["leases"]):
        age = 2400.0 + 90 * (number % 4)
        one.update(delivered_until=utc(now() - timedelta(seconds=age)), delivered_age_ms=int(age * 1000))
    for shard in state.status["shards"]:
        shard["delivered_age_ms"] = 2580000
    state.history["points"] = points(
        3, lambda share: 6 if share < 0.4 else 5400 * (share - 0.4) / 0.3 if share < 0.7 else 5400 - 2820 * (share - 0.7) / 0.3,
        records=lambda share: 900 if share < 0.4 else 0 if share < 0.7 else 3100 + 200 * math.sin(share * 80),
    )  # fmt: skip
    return state


def no_leader():
    state = healthy(shards=6, workers=2)
    state.leases["leader"].update(expired=True, unmoved_seconds=334.0, at_least=True)
    for number, one in enumerate(state.leases["leases"][:2]):
        one.update(
            state="not_read", reason="no_leader", owner=None, for_seconds=212.0 - number, at_least=True,
            why=f"it has no owner, and the lock of the leader {state.leases['leader']['worker']} has expired",
            next_step="start a worker, or read the workers' logs: one of them becomes leader when the old lock expires",
            delivered_until=utc(now() - timedelta(seconds=218)), delivered_age_ms=218000,
        )  # fmt: skip
    own = [one["shard"] for one in state.leases["leases"] if one["owner"] == state.status["worker"]]
    state.status["shards"] = [shard for shard in state.status["shards"] if shard["shard"] in own]
    return state


def many(shards=1000):
    """Many shards, several streams, a bit of everything."""
    state = healthy(shards, workers=24)
    streams = ["111122223333:trades:1751328000", "111122223333:orders:1751328001", "111122223333:fills:1751328002"]
    state.leases["stream"] = "trades, orders, fills"
    for number, one in enumerate(state.leases["leases"]):
        one["stream"] = streams[number % 3]
        one["lease"] = f"{one['stream']}:{one['shard']}"
        if number % 97 == 13:
            gone = 200.0 + number
            one.update(state="not_read", reason="owner_silent", for_seconds=gone, delivered_until=utc(now() - timedelta(seconds=gone + 9)),
                       delivered_age_ms=int(gone * 1000) + 9000, why=f"its owner {one['owner']} is silent",
                       next_step="the leader assigns it to another worker within two failover times; if not, read the leader's log, "
                                 "or remove the owner with `kinetide leases evict`")  # fmt: skip
        elif number % 50 == 7:
            one.update(state="finished", reason="due", why="deleted at the next shard sync", owner=None, delivered_until=None, delivered_age_ms=None)
    order = {"not_read": 0, "read": 1, "finished": 2}
    state.leases["leases"].sort(key=lambda one: order[one["state"]])
    return state


HOSTILE = '<img src=x onerror="window.hurt=1"></td><script>window.hurt=1</script>\u202e&amp;\'";alert(1)'


def hostile():
    """Names and texts that want to be more than text."""
    state = stuck()
    for one in state.leases["leases"]:
        one["owner"] = one["owner"] and HOSTILE
        one["shard"] += HOSTILE
        one["lease"] += HOSTILE
        one["checkpoint"] = HOSTILE
        if one["state"] == "not_read":
            one.update(why=HOSTILE, next_step=HOSTILE, reason=HOSTILE)
    for one in state.leases["workers"]:
        one["worker"] += HOSTILE
    state.leases.update(application=HOSTILE, stream=HOSTILE, notes=[HOSTILE], odd_rows=[{"key": HOSTILE, "problem": HOSTILE}])
    state.status.update(worker=HOSTILE, version=HOSTILE, warnings=[HOSTILE], settings_problem=HOSTILE, delivery=HOSTILE)
    return state
