"""Plays each CloudWatch alarm of the templates: well, in trouble, well again, without data, and at the edges.

CloudWatch cannot be had here, and the emulators do not evaluate M of N periods, dimensions and missing data. So this has the
rules of its documentation: an alarm looks at the last N periods; missing ones count as breaching or as not breaching; M
breaching ones make ALARM. What each alarm must do stands here a second time, apart from the template.

Usage: alarms.py
"""

import re
import sys

from cloudformation import CASES, Stack, load

MISSING = None

# Alarm: values while all is well, values in trouble, minutes of trouble until it fires, what missing data means, who acts.
# A value of several metrics is by their ids.
SERVICE = {
    "CatchUpAlarm": (60_000, 400_000, 3, "OK", "scale"),
    "IteratorAge": (60_000, 1_000_000, 8, "ALARM", "page"),
    "ReadThrottled": (0, 0.5, 15, "OK", "ticket"),
    "WriteThrottled": (0, 3, 10, "OK", "ticket"),
    "ReplicationAge": (100, 400_000, 10, "OK", "page"),
    "ReplicationFailed": (0, 1, 5, "OK", "page"),
    "TasksMissing": ({"desired": 3, "running": 3}, {"desired": 3, "running": 2}, 12, "ALARM", "page"),
    "MemoryHigh": (60, 95, 12, "OK", "ticket"),
    "LeaseTableThrottled": ({"reads": 0, "writes": 0}, {"reads": 0, "writes": 2}, 3, "OK", "ticket"),
    "FirehoseFreshness": (400, 2_000, 10, "OK", "page"),
    "DeliveredAge": (300, 1_000, 8, "ALARM", "page"),
    "ShardsNotRead": (0, 400, 5, "OK", "page"),
    "LeaderOverdue": (0, 100, 3, "OK", "page"),
    "CoordinatorTrouble": (0, 150, 3, "OK", "page"),
    "NoRoom": (0, 1, 10, "OK", "ticket"),
    "CheckpointsTrimmed": (0, 1, 1, "OK", "page"),
    "DeliverFailures": (0, 20, 10, "OK", "page"),
    "DeadLetters": (0, 1, 1, "OK", "ticket"),
}
JOB = {
    "JobFailed": (0, 1, 5, "OK", "ticket"),
    "NoRun": (120, MISSING, 30, "ALARM", "page"),
    "Latency": (600, 1_000, 30, "OK", "page"),
    "Behind": (0, 10, 60, "OK", "ticket"),
    "Quarantine": ({"lines": 0, "objects": 0}, {"lines": 1, "objects": 0}, 5, "OK", "ticket"),
}
COMPACTION = {
    "CompactionFailed": (0, 1, 5, "OK", "ticket"),
    "CompactionRefused": (0, 1, 60, "OK", "ticket"),
    "CompactionLate": (50_000, 200_000, 2 * 24 * 60, "ALARM", "ticket"),
}
ASSETS = {
    "AssetsFailed": (0, 1, 5, "OK", "ticket"),
    "AssetsNoRun": (120, MISSING, 180, "ALARM", "ticket"),
    "AssetsQuality": (0, 1, 60, "OK", "ticket"),
}
MARKET = {
    "DeadLetterAlarm": (0, 1, 1, "OK", "topic"),
    "PollErrors": (0, 1, 15, "OK", "topic"),
    "HourMissing": (0, 1, 60, "OK", "topic"),
    "NoLoad": (0, MISSING, 120, "ALARM", "topic"),
    "LoaderErrors": (0, 1, 5, "OK", "topic"),
}


def value(alarm, point):
    """What an alarm compares with its threshold: a value, or what its expression makes of several."""
    if not isinstance(point, dict):
        return point
    (expression,) = [one["Expression"] for one in alarm["Metrics"] if one.get("ReturnData", True)]
    if expression == "SUM(METRICS())":
        return sum(point.values())
    left, right = re.fullmatch(r"(\w+) - (\w+)", expression).groups()
    return point[left] - point[right]


def state(alarm, points):
    """Of an alarm that has seen these points, the newest last."""
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    seen = ([MISSING] * alarm["EvaluationPeriods"] + points)[-alarm["EvaluationPeriods"] :]
    missing = alarm["TreatMissingData"] == "breaching"
    breaching = [missing if point is MISSING else value(alarm, point) > float(alarm["Threshold"]) for point in seen]
    return "ALARM" if sum(breaching) >= alarm["DatapointsToAlarm"] else "OK"


def period(alarm):
    """Seconds. One period for all metrics of an alarm."""
    metrics = [alarm, *alarm.get("Metrics", []), *(one.get("MetricStat", {}) for one in alarm.get("Metrics", []))]
    (found,) = {one["Period"] for one in metrics if "Period" in one}
    return found


def played(name, alarm, well, trouble, minutes, without):
    """What an alarm does otherwise than expected."""
    needed, periods = alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]
    calm = [well] * periods
    stories = {
        "before": (calm, "OK"),
        "too short": (calm + [trouble] * (needed - 1), "OK"),
        "during": (calm + [trouble] * needed, "ALARM"),
        "one good point among bad ones": (calm + [trouble] * needed + [well], "ALARM" if periods > needed else "OK"),
        "after": (calm + [trouble] * periods + calm, "OK"),
        "no data": (calm + [MISSING] * periods, without),
    }
    for story, (points, expected) in stories.items():
        if state(alarm, points) != expected:
            yield f"{name}: {story}: {state(alarm, points)}, not {expected}"
    if needed * period(alarm) != minutes * 60:
        yield f"{name}: fires after {needed * period(alarm) / 60:g} minutes, not {minutes}"


def acts(name, alarm, stack):
    """Who is told: the composite alarm pages."""
    if "Page" in stack.resources and f'ALARM("{alarm["AlarmName"]}")' in stack.resources["Page"]["Properties"]["AlarmRule"]:
        return "page"
    (action,) = alarm["AlarmActions"]
    if "Topic" in stack.resources:
        return {stack.ref("Topic"): "topic"}.get(action, action)
    if "Page" not in stack.resources:
        return {stack.parameters.get("PageTopicArn"): "page", stack.parameters["TicketTopicArn"]: "ticket"}.get(action, action)
    return {stack.ref("TicketTopic"): "ticket", stack.ref("CatchUp"): "scale"}.get(action, action)


def pages(rule, states):
    """Whether the rule of a composite alarm is true."""
    text = re.sub(r'ALARM\("([^"]+)"\)', lambda match: str(states[match[1]] == "ALARM"), rule)
    assert re.fullmatch(r"(True|False)( OR (True|False))*", text), text
    return "True" in text


def judged(template, expected):
    """What the alarms of a template do otherwise than expected."""
    stack = Stack(load(template), **CASES[template]["whole"])
    found = stack.of("AWS::CloudWatch::Alarm")
    yield from (f"{name}: has no test" for name in sorted(set(found) - set(expected)))
    yield from (f"{name}: a test without an alarm" for name in sorted(set(expected) - set(found)))
    rule = stack.resources["Page"]["Properties"]["AlarmRule"] if "Page" in stack.resources else None
    for name, (well, trouble, minutes, without, who) in expected.items():
        alarm = found.get(name)
        if alarm is None:
            continue
        yield from played(name, alarm, well, trouble, minutes, without)
        if acts(name, alarm, stack) != who:
            yield f"{name}: {acts(name, alarm, stack)}, not {who}"
        calm = {one["AlarmName"]: "OK" for one in found.values()}
        if rule and (pages(rule, calm) or pages(rule, calm | {alarm["AlarmName"]: "ALARM"}) != (who == "page")):
            yield f"{name}: the composite alarm does not follow"


def main():
    wrong = [*judged("service.yaml", SERVICE), *judged("job.yaml", JOB), *judged("compaction.yaml", COMPACTION), *judged("market.yaml", MARKET), *judged("coincap.yaml", ASSETS)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(SERVICE | JOB | COMPACTION | MARKET | ASSETS)} alarms played, and the one that pages follows those of the service")


if __name__ == "__main__":
    main()
