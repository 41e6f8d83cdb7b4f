"""Draws the Grafana dashboards from scraped data. Not Grafana: the same queries, layout and units, with other means.

Needs matplotlib. CI does not draw: run `scrape.py KINETIDE prometheus --calm 90 --pictures docs/dashboards` after a change of the
dashboards, and look at the pictures.
"""

import io
import json
import math
from datetime import datetime, timezone

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from PIL import Image  # noqa: E402
from scrape import DASHBOARDS, played  # noqa: E402

COLORS = {"green": "#4a9c5d", "yellow": "#e0a100", "red": "#c94141", "blue": "#3b78c2", "text": "#b8bcc4"}
LINES = ["#3b78c2", "#d97a1f", "#4a9c5d", "#8e5bb5", "#c94141", "#2a9d9d", "#97782b", "#6b7280", "#d16ba5", "#94b23c"]
CELL_W, CELL_H = 0.72, 0.42


def shown(value, unit):
    """A value with its unit, short."""
    if math.isnan(value):
        return "unknown"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.0f} ms" if 0 < value < 1 else f"{value:.3g} s"
    if unit == "ms":
        return shown(value / 1000, "s") if value else "0 s"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "Bps"):
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.3g} {name}" + ("/s" if unit == "Bps" else "")
        return f"{value:.0f} B" + ("/s" if unit == "Bps" else "")
    for size, name in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}" + ("/s" if unit == "cps" else "")
    return f"{value:.3g}" + ("/s" if unit == "cps" else "")


def color(value, steps):
    found = steps[0]["color"]
    for step in steps:
        if step["value"] is not None and value >= step["value"]:
            found = step["color"]
    return COLORS[found]


def name(legend, labels):
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend.replace("shardId-00000000", "…")


def draw(prometheus, began, ended, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((DASHBOARDS / "grafana").glob("*.json")):
        dashboard = json.loads(path.read_text())
        drawn = io.BytesIO()
        picture(prometheus, began, ended, dashboard).savefig(drawn, dpi=80)
        plt.close("all")
        # A few colours are enough, and a quarter of the bytes.
        Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(folder / f"{path.stem}.png", optimize=True)


def picture(prometheus, began, ended, dashboard):
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = plt.figure(figsize=(24 * CELL_W, rows * CELL_H), facecolor="#f4f5f7")
    figure.text(0.01, 1 - 0.9 / rows, dashboard["title"], fontsize=16, weight="bold", va="center")
    figure.text(0.99, 1 - 0.9 / rows, dashboard["description"], fontsize=11, color="#555", va="center", ha="right")
    for panel in panels:
        place = panel["gridPos"]
        x, w = place["x"] / 24, place["w"] / 24
        top, h = 1 - (place["y"] + 2) / rows, place["h"] / rows
        if panel["type"] == "row":
            figure.text(x + 0.01, top - h * 0.6, panel["title"], fontsize=12, weight="bold", va="center")
            continue
        figure.add_artist(Rectangle((x + 0.002, top - h + 0.15 / rows), w - 0.004, h - 0.3 / rows, facecolor="white", edgecolor="#d8dade", transform=figure.transFigure, zorder=-1))
        figure.text(x + 0.006, top - 0.65 / rows, panel["title"], fontsize=9.5, weight="bold", va="center")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        axes = figure.add_axes((x + 0.042, top - h + 1.7 / rows, w - 0.052, h - 2.9 / rows))
        kind = {"stat": stat, "table": table, "state-timeline": states, "timeseries": lines}[panel["type"]]
        kind(prometheus, began, ended, panel, unit, steps, axes)
    return figure


def stat(prometheus, began, ended, panel, unit, steps, axes):
    axes.set_axis_off()
    found = prometheus.get("/api/v1/query", query=played(panel["targets"][0]["expr"]), time=ended)["result"]
    value = float(found[0]["value"][1]) if found else math.nan
    box = axes.get_position()
    axes.set_position((box.x0 - 0.034, box.y0 - box.height * 1.1, box.width + 0.038, box.height * 2.1))
    axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=color(value, steps) if found else "#9aa0a8", transform=axes.transAxes))
    axes.text(0.5, 0.5, shown(value, unit), fontsize=17, color="white", weight="bold", ha="center", va="center", transform=axes.transAxes)


def table(prometheus, began, ended, panel, unit, steps, axes):
    axes.set_axis_off()
    found = prometheus.get("/api/v1/query", query=played(panel["targets"][0]["expr"]), time=ended)["result"]
    labels = [label for label in ("stream", "shard", "reason", "instance") if any(label in one["metric"] for one in found)]
    cells = [[one["metric"].get(label, "") for label in labels] + [shown(float(one["value"][1]), unit)] for one in found]
    if cells:
        drawn = axes.table(cells, colLabels=[*labels, "Value"], loc="upper center", edges="horizontal", cellLoc="left")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8.5)
    else:
        axes.text(0.5, 0.5, "No data", ha="center", color="#888", transform=axes.transAxes)


def series(prometheus, began, ended, panel):
    for target in panel["targets"]:
        for one in prometheus.range(played(target["expr"]), began, ended):
            times = [datetime.fromtimestamp(at, timezone.utc) for at, _ in one["values"]]
            values = [float(value) for _, value in one["values"]]
            # A gap in the data is a gap in the line.
            for gap in reversed([i for i in range(1, len(times)) if (times[i] - times[i - 1]).total_seconds() > 1.5]):
                times.insert(gap, times[gap - 1])
                values.insert(gap, math.nan)
            yield name(target["legendFormat"], one["metric"]), times, values


def clock(axes, began, ended):
    axes.set_xlim(datetime.fromtimestamp(began, timezone.utc), datetime.fromtimestamp(ended, timezone.utc))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=2, maxticks=6))
    axes.tick_params(labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def states(prometheus, began, ended, panel, unit, steps, axes):
    names = []
    for label, times, values in sorted(series(prometheus, began, ended, panel)):
        for at, value in zip(times, values):
            if not math.isnan(value):
                axes.broken_barh([(mdates.date2num(at), 1.1 / 86400)], (len(names) - 0.4, 0.8), facecolors=color(value, steps))
        names.append(label)
    axes.set_yticks(range(len(names)), [label.split(":")[-1] for label in names])
    clock(axes, began, ended)


def dot(times):
    """What is there for a moment only is no line."""
    return "o" if len(times) < 4 else None


def lines(prometheus, began, ended, panel, unit, steps, axes):
    stacked = "stacking" in panel["fieldConfig"]["defaults"]["custom"]
    found = sorted(series(prometheus, began, ended, panel))
    whole = sorted({at for _, times, _ in found for at in times})
    below = dict.fromkeys(whole, 0.0)
    for (label, times, values), shade in zip(found, LINES * 10):
        if stacked:
            known = {at: value for at, value in zip(times, values) if not math.isnan(value)}
            above = [below[at] + known.get(at, 0.0) for at in whole]
            axes.fill_between(whole, [below[at] for at in whole], above, color=shade, alpha=0.35, step="post", linewidth=0, label=label)
            axes.step(whole, above, color=shade, linewidth=0.8, where="post", marker=dot(times))
            below = dict(zip(whole, above))
        else:
            axes.plot(times, values, color=shade, linewidth=1.1, label=label, marker=dot(times))
    highest = axes.get_ylim()[1]
    for step in steps:
        if step["value"] and step["value"] <= highest:
            axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=0.8, linestyle="--")
    axes.set_ylim(0, highest if any(value > 0 for _, _, values in found for value in values) else 1)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.grid(axis="y", color="#eceef1")
    clock(axes, began, ended)
    if found:
        axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=4, frameon=False, handlelength=1, columnspacing=1)
    else:
        axes.text(0.5, 0.5, "No data", ha="center", color="#888", transform=axes.transAxes)
