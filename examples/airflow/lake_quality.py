"""Whether the figures of a run are good. Plain Python: no Airflow, no AWS.

A figure that is missing is unknown, and unknown is not good.
"""

# Of the Glue job (glue/README.md), summed over one run.
COUNTED = ("Objects", "Records", "Rows", "DeadLetters", "QuarantinedLines", "QuarantinedObjects")


class Unknown(Exception):
    """Nothing can be said yet: CloudWatch shows a figure a minute or two after it was sent."""


def quality(sums, dead_letters_max):
    """What is wrong with the counts of a run, and what is right with them."""
    if "Objects" not in sums:
        raise Unknown("the job sent no figures: is --metrics_namespace set?")
    if sums["Objects"] == 0:
        return [], "no new objects"
    if missing := [name for name in COUNTED if name not in sums]:
        raise Unknown(f"no figures of {', '.join(missing)}")
    records, rows, dead, lines, objects = (int(sums[name]) for name in COUNTED[1:])
    wrong = []
    if records != rows + dead + lines:
        wrong.append(f"{records} records, but {rows} rows + {dead} dead letters + {lines} quarantined lines")
    if lines or objects:
        wrong.append(f"{lines} lines and {objects} objects are in quarantine: see their reasons in the lake")
    if dead > dead_letters_max * records:
        wrong.append(f"{dead} of {records} records are dead letters: kinetide dead-letters list")
    return wrong, f"{records} records: {rows} rows, {dead} dead letters"


def freshness(maxima, seconds_max):
    """What is too old, and how old things are. Ages are those of the oldest."""
    if "DeliveredAge" not in maxima:
        raise Unknown("the service sent no DeliveredAge: is it running, with --cloudwatch summary?")
    ages = {"in the stream": maxima["DeliveredAge"]}
    # A run without new objects has none.
    if "Latency" in maxima:
        ages["on the way to the table"] = maxima["Latency"]
    wrong = [f"records {where} are {age:.0f} s old, {seconds_max} s are allowed" for where, age in ages.items() if age > seconds_max]
    return wrong, ", ".join(f"{age:.0f} s {where}" for where, age in ages.items())
