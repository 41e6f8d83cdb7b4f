"""Every object that the service delivered lies in a projected folder: Athena reads no other, and reports no error.

Usage: projection.py LAKE
"""

import sys
from pathlib import Path

import ddl


def check(tables, lake):
    seen = 0
    for table in tables.values():
        if not table.projected:
            continue
        keys = ddl.keys_of(lake, table.folder)
        hidden = list(ddl.outside(table, keys))
        if hidden:
            raise ValueError(f"{table.name}: {len(hidden)} of {len(keys)} objects are not seen, such as {hidden[0]}")
        seen += len(keys)
    return seen


def with_fault(tables, name, *drop, **properties):
    return tables | {name: ddl.changed(tables[name], drop=drop, **properties)}


def control(tables, lake):
    """Each of these faults is found."""
    landing, day = "landing_transactions", "projection.day.digits"
    faults = {
        "no digits": with_fault(tables, landing, day),
        "one digit too many": with_fault(tables, landing, **{day: "3"}),
        "a column without projection": with_fault(tables, landing, "projection.hour.type"),
        "a mistyped column": with_fault(tables, landing, **{"projection.hours.type": "integer"}),
        "a year too early": with_fault(tables, landing, **{"projection.year.range": "2024,2025"}),
        "an hour too few": with_fault(tables, landing, **{"projection.hour.range": "4,23"}),
        "a template without a column": with_fault(
            tables, landing, **{"storage.location.template": "s3://BUCKET/landing/transactions/year=${year}/"}
        ),
        "a reason that nobody knows": with_fault(tables, "dead_letters", **{"projection.reason.values": "not_json"}),
    }
    for what, faulty in faults.items():
        try:
            check(faulty, lake)
        except ValueError:
            continue
        raise SystemExit(f"not found: {what}")
    return len(faults)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lake, tables = Path(sys.argv[1]), ddl.tables()
    try:
        seen = check(tables, lake)
    except ValueError as error:
        sys.exit(str(error))
    if seen < 10:
        sys.exit(f"there are only {seen} objects: this shows nothing")
    print(f"{seen} objects, counted once for each table, lie in projected folders; {control(tables, lake)} faults are found")
