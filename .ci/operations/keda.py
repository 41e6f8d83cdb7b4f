"""Checks dashboards/keda against the schema of KEDA's own resource definition, and that wrong files are noticed.

Fields that the schema does not know are refused: the API server would drop them without a word. The query of each trigger is
run by scrape.py. What a trigger may say in its metadata the schema leaves open, so the names are looked up in the source of
KEDA's Prometheus scaler.

Usage: keda.py FOLDER_OF_THE_KEDA_MODULE
"""

import copy
import re
import sys
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
KEDA = Path(sys.argv[1])


def closed(schema):
    """The same schema, without room for fields that it does not name."""
    if isinstance(schema, dict):
        schema = {name: closed(part) for name, part in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [closed(part) for part in schema]
    return schema


def definition():
    text = (KEDA / "config" / "crd" / "bases" / "keda.sh_scaledobjects.yaml").read_text()
    (version,) = [one for one in yaml.safe_load(text)["spec"]["versions"] if one["name"] == "v1alpha1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    # What every Kubernetes object has, the definition does not spell out.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def scaler():
    """Names that the metadata of a trigger of type prometheus may have."""
    text = (KEDA / "pkg" / "scalers" / "prometheus_scaler.go").read_text()
    names = set(re.findall(r'keda:"name=(\w+)', text))
    assert {"serverAddress", "query", "threshold", "ignoreNullValues"} <= names, names
    return names


def problems(scaled, schema, names):
    wrong = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(scaled)]
    for trigger in scaled.get("spec", {}).get("triggers", []):
        wrong += [f"{name}: not a name of the prometheus scaler" for name in set(trigger["metadata"]) - names]
        # KEDA takes no result for 0 by default, and its fallback works for this kind of metric only.
        if trigger["metadata"].get("ignoreNullValues") != "false":
            wrong.append("no result counts as 0")
        if trigger.get("metricType") != "AverageValue":
            wrong.append("a fallback needs the metric type AverageValue")
    if "fallback" not in scaled.get("spec", {}):
        wrong.append("no fallback")
    return wrong


def planted(scaled):
    """Wrong files that must be noticed."""
    for where, value in (
        (("spec", "maxReplicaCount"), "8"),
        (("spec", "maxReplicas"), 8),
        (("spec", "fallback", "behavior"), "stay"),
        (("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "policies", 0, "type"), 1),
        (("spec", "advanced", "horizontalPodAutoscalerConfig", "behaviour"), {}),
        (("spec", "triggers", 0, "metadata", "ignoreNullValues"), "true"),
        (("spec", "triggers", 0, "metadata", "treshold"), "1"),
        (("spec", "triggers", 0, "metadata", "threshold"), 1),
        (("spec", "triggers", 0, "metricType"), "Value"),
    ):
        wrong = copy.deepcopy(scaled)
        place = wrong
        for name in where[:-1]:
            place = place[name]
        place[where[-1]] = value
        yield f"{'.'.join(map(str, where))} = {value!r}", wrong
    for name in ("scaleTargetRef", "triggers", "fallback"):
        wrong = copy.deepcopy(scaled)
        del wrong["spec"][name]
        yield f"without {name}", wrong


def main():
    schema, names = definition(), scaler()
    files = sorted((ROOT / "dashboards" / "keda").glob("*.yaml"))
    assert files
    count = 0
    for path in files:
        scaled = yaml.safe_load(path.read_text())
        wrong = problems(scaled, schema, names)
        if wrong:
            sys.exit("\n".join(f"{path.name}: {problem}" for problem in wrong))
        for what, mutant in planted(scaled):
            count += 1
            if not problems(mutant, schema, names):
                sys.exit(f"{path.name}: nobody notices {what}")
    print(f"{len(files)} ScaledObject fits KEDA's schema; {count} wrong ones noticed")


if __name__ == "__main__":
    main()
