"""Figures as Markdown."""


def micros(seconds, records):
    return f"{1e6 * seconds / records:.1f}"


def requests(found, service, chosen=lambda operation: True):
    return sum(one["requests"] for one in found["requests"] if one["service"] == service and chosen(one["operation"]))


def received(found):
    return sum(one["received"] for one in found["requests"] if one["operation"] == "GetRecords")


def mib(size):
    return f"{size / 2**20:,.0f} MiB"


def line(found):
    return (
        f"{found['found']:,} of {found['records']:,} records, {found['duplicated']:,} duplicated, "
        f"{found['payloads']:,} payloads and {found['values_compared']:,} values compared, "
        f"{found['other_payload'] + found['values_differ']} differ"
        + "".join(f"; {first}" for first in (found["first_wrong"], *found["first_differing"]) if first)
        + f"; {found['seconds']:.1f} s, CPU {micros(found['cpu_seconds'], found['records'])} µs a record"
    )


def checked(found):
    if found["payloads"]:
        return f"{found['payloads']:,} payloads"
    return f"{found['values_compared']:,} values"


def handler(found):
    if "lambda" not in found:
        return ""
    return micros(found["lambda"]["handler_cpu_seconds"], found["lambda"]["records"])


# A title, and the cell of a column.
ROWS = {
    "missing": lambda found, _: f"{found['missing']:,}",
    "duplicated": lambda found, _: f"{found['duplicated']:,}",
    "compared": lambda found, _: checked(found),
    "… of them differ": lambda found, _: f"{found['other_payload'] + found['values_differ']:,}",
    "wall, first poll to last record": lambda found, _: f"{found['seconds']:.1f} s",
    "records a second": lambda found, _: f"{found['records'] / found['seconds']:,.0f}",
    "**CPU µs a record**": lambda found, _: f"**{micros(found['cpu_seconds'], found['records'])}**",
    "… by kinetide's": lambda found, base: f"{found['cpu_seconds'] / base['cpu_seconds']:.1f}" if base else "",
    "… of the handler alone": lambda found, _: handler(found),
    "CPU before the first poll": lambda found, _: f"{found['cpu_seconds_before']:.1f} s",
    "CPU from start to exit": lambda found, _: f"{found['cpu_seconds_whole']:.1f} s",
    "peak memory": lambda found, _: mib(found["rss_max_bytes"]),
    "GetRecords": lambda found, _: f"{requests(found, 'kinesis', 'GetRecords'.__eq__):,}",
    "other requests to Kinesis": lambda found, _: f"{requests(found, 'kinesis', 'GetRecords'.__ne__):,}",
    "requests to DynamoDB": lambda found, _: f"{requests(found, 'dynamodb'):,}",
    "bytes in, a record": lambda found, _: f"{received(found) / found['records']:,.0f}",
    "bytes out, a record": lambda found, _: f"{found['object_bytes'] / found['records']:,.0f}",
    "files": lambda found, _: f"{found['objects']:,}",
}


def drain(columns, names):
    base = next((one for one in columns if one["column"] == "kinetide"), None)
    lines = ["| | " + " | ".join(names[one["column"]] for one in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for title, cell in ROWS.items():
        cells = [cell(one, base) for one in columns]
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def caught_up_line(found):
    return (
        f"{found['found']:,} of {found['records']:,} records, {found['duplicated']} duplicated; {found['seconds']:.1f} s, "
        f"{megabytes_a_second(found):.0f} MB/s, CPU {micros(found['cpu_seconds'], found['records'])} µs a record"
        + (f"; {found['first_wrong']}" if found["first_wrong"] else "")
    )


def megabytes_a_second(found):
    return found["payload_bytes"] / 1e6 / found["seconds"]


def spread(numbers):
    """Least and most."""
    numbers = list(numbers)
    return f"{min(numbers):,.0f} to {max(numbers):,.0f}" if len(numbers) > 1 else f"{sum(numbers):,.0f}"


def span(times, start, end):
    return f"{times[end] - times[start]:.1f} s" if start in times and end in times else "not seen"


def by_worker(found, name):
    """What the workers of the start had when half was read."""
    at = found["hand_over"].get(name, {})
    return [at.get(f"worker-{number}", 0) for number in range(1, found["workers"] + 1)]


def rates(found):
    """MB/s of bodies before the hand-over, and after it."""
    times, samples = found["hand_over"], found["bytes_by_time"]
    reading = [(now, sum(read.values())) for now, read in samples]
    started = next((at for at, (_, total) in enumerate(reading) if total), None)
    if started is None or "gone" not in times:
        return "", ""
    # From the sample before the first bytes, and up to the first sample that has all but the last of some shards.
    done = next(at for at, (_, total) in enumerate(reading) if total >= 0.99 * reading[-1][1])
    before = [one for one in reading[max(started - 1, 0) :] if one[0] <= times["began"]]
    after = [one for one in reading[: done + 1] if one[0] >= times["gone"]]

    def rate(some):
        return f"{(some[-1][1] - some[0][1]) / 1e6 / (some[-1][0] - some[0][0]):,.0f}" if len(some) > 1 else ""

    return rate(before), rate(after)


def catch_up(runs, processors):
    first = runs[0]

    def used(found, name):
        return f"{found[name] / found['seconds']:.2f}"

    def all_used(found):
        names = ("cpu_seconds", "server_cpu_seconds", "proxy_cpu_seconds")
        return f"{100 * sum(found[name] for name in names) / found['seconds'] / processors:.0f} %"

    rows = {
        "missing": lambda found: f"{found['missing']:,}",
        "duplicated": lambda found: f"{found['duplicated']:,}",
        "values compared, differing": lambda found: f"{found['values_compared']:,}, {found['values_differ']}",
        "wall, first poll to last record": lambda found: f"{found['seconds']:.1f} s",
        "… to last byte read": lambda found: f"{found['read_seconds']:.1f} s",
        "MB of payload a second, to the last record": lambda found: f"{megabytes_a_second(found):,.0f}",
        f"… by that with {first['workers']}": lambda found: f"{first['seconds'] / found['seconds']:.2f}",
        "MB of bodies a second before the hand-over": lambda found: rates(found)[0],
        "… after it": lambda found: rates(found)[1],
        "CPU µs a record, workers": lambda found: micros(found["cpu_seconds"], found["records"]),
        "processors used by workers": lambda found: used(found, "cpu_seconds"),
        "… by Kinesis and DynamoDB": lambda found: used(found, "server_cpu_seconds"),
        "… by proxies": lambda found: used(found, "proxy_cpu_seconds"),
        "… of all processors": all_used,
        "peak memory of a worker": lambda found: mib(max(found["rss_max_bytes"].values())),
        "… of all workers together, at most": lambda found: mib(sum(found["rss_max_bytes"].values())),
        "leases of a worker at half": lambda found: spread(by_worker(found, "leases")),
        "MB read by a worker at half": lambda found: spread(size / 1e6 for size in by_worker(found, "read")),
        "start of a worker to its first lease": lambda found: span(found["hand_over"], "joined", "first_lease"),
        "SIGTERM to exit": lambda found: span(found["hand_over"], "left", "gone"),
        "longest time without a byte read": lambda found: f"{found['longest_pause']:.1f} s",
        "read twice": lambda found: f"{100 * (sum(found['read_bytes'].values()) / found['body_bytes'] - 1):.1f} %",
        "requests to Kinesis": lambda found: f"{fleet_requests(found, 'kinesis'):,}",
        "requests to DynamoDB": lambda found: f"{fleet_requests(found, 'dynamodb'):,}",
    }
    lines = ["| workers | " + " | ".join(str(found["workers"]) for found in runs) + " |", "| --- |" + " ---: |" * len(runs)]
    lines += [f"| {title} | {' | '.join(cell(found) for found in runs)} |" for title, cell in rows.items()]
    return "\n".join(lines) + "\n"


def fleet_requests(found, service):
    return sum(one["requests"] for each in found["requests"].values() for one in each if one["service"] == service)


def uploaded_line(found):
    return (
        f"{found['found']:,} of {found['records']:,} records, {found['duplicated']} duplicated, in {found['objects']:,} objects; "
        f"{found['seconds']:.1f} s, CPU {micros(found['cpu_seconds'], found['records'])} µs a record"
        + (f"; {found['first_wrong']}" if found["first_wrong"] else "")
    )


def uploads(runs, names):
    """A line for each lake: what a record costs with large objects, and what an object more costs."""
    lines = [
        "| | missing, duplicated | objects, large | CPU µs a record | objects, small | CPU µs a record | CPU ms for an object more "
        "| upload, large | upload, small | peak memory |",
        "| --- |" + " ---: |" * 9,
    ]
    for name, title in names.items():
        pair = {one["small"]: one for one in runs if one["lake"] == name}
        if len(pair) < 2:
            continue
        large, small = pair[False], pair[True]
        more = small["objects"] - large["objects"]
        each = f"{1e3 * (small['cpu_seconds'] - large['cpu_seconds']) / more:.2f}" if more > 0 else ""
        cells = [
            f"{large['missing'] + small['missing']:,}, {large['duplicated'] + small['duplicated']:,}",
            f"{large['objects']:,}",
            f"**{micros(large['cpu_seconds'], large['records'])}**",
            f"{small['objects']:,}",
            micros(small["cpu_seconds"], small["records"]),
            each,
            upload(large),
            upload(small),
            mib(max(large["rss_max_bytes"], small["rss_max_bytes"])),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def upload(found):
    """The mean time of an upload, as the worker's metrics have it."""
    return f"{1e3 * found['upload_seconds'] / found['uploads']:.1f} ms" if found.get("uploads") else ""
