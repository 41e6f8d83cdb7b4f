"""Checks dashboards/prometheus: syntax, a unit test for each alert, and that each test would notice a wrong rule.

Usage: rules.py PROMTOOL
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "dashboards" / "prometheus"
RUNBOOKS = "https://github.com/kinetide/kinetide/blob/main/"
PROMTOOL = sys.argv[1]


def promtool(*arguments, folder=FOLDER):
    return subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def must(run):
    if run.returncode != 0:
        sys.exit(run.stdout + run.stderr)


def alerts(text):
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def groups(file):
    return yaml.safe_load((FOLDER / file).read_text())["groups"]


def complete(rules, tests):
    """What is missing: a label, a runbook, a test or one of its four times."""
    wrong = []
    for name, rule in rules.items():
        if rule["labels"].get("severity") not in ("page", "ticket"):
            wrong.append(f"{name}: severity is neither page nor ticket")
        for annotation in ("summary", "description", "runbook_url"):
            if not rule["annotations"].get(annotation):
                wrong.append(f"{name}: no {annotation}")
        url = rule["annotations"].get("runbook_url", "")
        if not url.startswith(RUNBOOKS) or not (ROOT / url.removeprefix(RUNBOOKS)).is_file():
            wrong.append(f"{name}: no runbook at {url}")
        found = [test for test in tests if test["name"] == name]
        if len(found) != 1:
            wrong.append(f"{name}: {len(found)} tests")
            continue
        fires = [bool(case["exp_alerts"]) for case in found[0]["alert_rule_test"]]
        if fires != [False, True, False, False]:
            wrong.append(f"{name}: tested as {fires}, not before, during, after, no data")
    for test in tests:
        # Named in words: a story of several alerts, beside the tests of each.
        story = " " in test["name"] and any(case["exp_alerts"] for case in test["alert_rule_test"])
        if test["name"] not in rules and not story:
            wrong.append(f"{test['name']}: a test without an alert")
    return wrong


def mutants(expression):
    """Wrong rules that the test of an alert must notice."""
    yield "never fires", f"({expression}) and on () vector(1) > 1"
    yield "always fires", f"({expression}) or on () vector(1)"
    for match in re.finditer(r"(>|==) (\d+(?:\.\d+)?)", expression):
        number = float(match[2])
        other = {">": "-1" if number == 0 else number * 1000, "==": number + 1}[match[1]]
        yield f"{match[0]} becomes {match[1]} {other}", f"{expression[: match.start()]}{match[1]} {other}{expression[match.end() :]}"


def group(name, rules):
    return {"groups": [{"name": name, "rules": rules}]}


def judged(suite, rules):
    """Whether the test of each of these rules passes, each alone with the recording rules."""
    recordings = groups("recording.yml")[0]["rules"]
    with tempfile.TemporaryDirectory() as folder:
        for number, rule in enumerate(rules):
            place = Path(folder) / str(number)
            place.mkdir()
            # YAML reads JSON, and JSON is written faster. Only the recordings that the rule uses: they take the time.
            used = [one for one in recordings if one["record"] in rule["expr"]]
            (place / "recording.yml").write_text(json.dumps(group("kinetide-recording", used)))
            (place / "alerts.yml").write_text(json.dumps(group("one", [rule])))
            only = [test for test in suite["tests"] if test["name"] == rule["alert"]]
            (place / "test.yml").write_text(json.dumps(dict(suite, tests=only, group_eval_order=["kinetide-recording", "one"])))
        run = promtool("test", "rules", *(f"{number}/test.yml" for number in range(len(rules))), folder=folder)
        parts = re.split(r"Unit Testing:  (\d+)/test.yml\n", run.stdout + run.stderr)[1:]
    found = {int(number): "SUCCESS" in result for number, result in zip(parts[::2], parts[1::2])}
    assert len(found) == len(rules), run.stdout + run.stderr
    return [found[number] for number in range(len(rules))]


def main():
    must(promtool("check", "rules", "recording.yml", "alerts.yml"))
    must(promtool("test", "rules", "alerts_test.yml", "recording_test.yml"))
    rules = alerts((FOLDER / "alerts.yml").read_text())
    suite = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())
    wrong = complete(rules, suite["tests"])
    if suite["group_eval_order"] != [group["name"] for file in suite["rule_files"] for group in groups(file)]:
        wrong.append("alerts_test.yml: group_eval_order does not name every group, the recordings first")
    if wrong:
        sys.exit("\n".join(wrong))
    planted = [(rule, what, text) for rule in rules.values() for what, text in mutants(rule["expr"])]
    passed = judged(suite, [dict(rule, expr=text) for rule, _, text in planted] + list(rules.values()))
    assert all(passed[len(planted) :]), "a right rule passes alone"
    blind = [f"{rule['alert']}: {what}" for (rule, what, _), passes in zip(planted, passed) if passes]
    if blind:
        sys.exit("tests that do not notice a wrong rule:\n" + "\n".join(blind))
    print(f"{len(rules)} alerts tested before, during, after, without data; {len(planted)} wrong rules noticed")


if __name__ == "__main__":
    main()
