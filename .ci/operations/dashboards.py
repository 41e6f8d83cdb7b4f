"""Checks the Grafana dashboards: types, layout, texts, runbooks, variables, and that each panel asks something.

Usage: dashboards.py FOLDER, which has the npm packages @grafana/schema and typescript.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "dashboards" / "grafana"
RUNBOOKS = "https://github.com/kinetide/kinetide/blob/main/"
PACKAGES = Path(sys.argv[1]).resolve()

TSC = ["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext", "--target", "es2022"]


# In JSON an enum is its text.
WIRE = """import type { Dashboard as Typed } from "@grafana/schema";
type Wire<T> = T extends string ? `${T}` : T extends (infer U)[] ? Wire<U>[] : T extends object ? { [K in keyof T]: Wire<T[K]> } : T;
export type Dashboard = Wire<Typed>;
"""


def type_check(files):
    """What TypeScript says of each dashboard as a constant of Grafana's own type."""
    with tempfile.TemporaryDirectory(dir=PACKAGES) as folder:
        (Path(folder) / "wire.ts").write_text(WIRE)
        for path in files:
            text = path if isinstance(path, str) else path.read_text()
            name = "wrong" if isinstance(path, str) else path.stem
            source = f'import type {{ Dashboard }} from "./wire";\nexport const dashboard: Dashboard = {text};\n'
            (Path(folder) / f"{name}.ts").write_text(source)
        sources = sorted(path.name for path in Path(folder).glob("*.ts"))
        tsc = PACKAGES / "node_modules" / "typescript" / "bin" / "tsc"
        run = subprocess.run(["node", tsc, *TSC, *sources], cwd=folder, capture_output=True, text=True, timeout=300)
        return run.stdout + run.stderr


def cells(panel):
    place = panel["gridPos"]
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def faults(name, dashboard):
    """What a type cannot say."""
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used, taken, ids = set(), {}, set()
    if not dashboard["description"].rstrip().endswith("?"):
        yield f"{name}: says no question"
    for panel in dashboard["panels"]:
        title = f"{name}: {panel['title']}"
        if panel["id"] in ids:
            yield f"{title}: id {panel['id']} is taken"
        ids.add(panel["id"])
        for cell in cells(panel):
            if cell in taken or cell[0] >= 24:
                yield f"{title}: overlaps {taken.get(cell, 'the edge')}"
                break
            taken[cell] = panel["title"]
        if panel["type"] == "row":
            continue
        if "?" not in panel.get("description", ""):
            yield f"{title}: its description asks nothing"
        defaults = panel["fieldConfig"]["defaults"]
        if not defaults.get("unit"):
            yield f"{title}: has no unit"
        if not defaults.get("thresholds", {}).get("steps"):
            yield f"{title}: has no thresholds"
        if panel["type"] == "stat" and defaults.get("noValue") != "unknown":
            yield f"{title}: shows what is unknown as something else"
        if not panel["targets"]:
            yield f"{title}: has no query"
        for target in panel["targets"]:
            found = {variable.strip("{}") for variable in re.findall(r"\$(\w+|\{\w+\})", target["expr"])}
            found = {variable for variable in found if not variable.startswith("__")}
            used |= found
            if found - variables:
                yield f"{title}: unknown variables {sorted(found - variables)}"
            for function in re.findall(r"\[(\d+\w)\]", target["expr"]):
                if function not in ("5m", "1h"):
                    yield f"{title}: a range of its own, {function}"
        for link in panel.get("links", []):
            page = ROOT / link["url"].removeprefix(RUNBOOKS)
            if not link["url"].startswith(RUNBOOKS) or not page.is_file():
                yield f"{title}: no page at {link['url']}"
    for variable in sorted(variables - used - {"datasource"}):
        yield f"{name}: the variable {variable} is used by no panel"


def main():
    files = sorted(GRAFANA.glob("*.json"))
    found = {path.stem: json.loads(path.read_text()) for path in files}
    uids = [dashboard["uid"] for dashboard in found.values()]
    wrong = [fault for name, dashboard in found.items() for fault in faults(name, dashboard)]
    if len(set(uids)) != len(uids):
        wrong.append(f"one uid twice: {uids}")
    # One more with a mistyped mode: the check itself must work.
    planted = files[0].read_text().replace('"mode": "absolute"', '"mode": "absolut"', 1)
    said = type_check([*files, planted])
    errors = [line for line in said.splitlines() if "error TS" in line]
    if not any("wrong.ts" in line for line in errors):
        wrong.append(f"the type check does not notice a mistyped mode: {said}")
    wrong += [line for line in errors if "wrong.ts" not in line]
    if wrong:
        sys.exit("\n".join(wrong))
    panels = sum(len(dashboard["panels"]) for dashboard in found.values())
    print(f"{len(files)} dashboards with {panels} panels and rows have Grafana's types")


if __name__ == "__main__":
    main()
