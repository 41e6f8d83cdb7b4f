"""Makes the image's bill of materials and licences from what the Dockerfile copies, and checks them.

The same bytes at each run, valid by the schema of CycloneDX, and every crate that the binary names is in it. Every file
that the compiler has read is copied by the Dockerfile. What must be noticed is played: a licence that is not allowed, a
licence without its text, a document that the schema refuses, a file that is not copied.

Usage: sbom.py KINETIDE (production build)
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "image"))
import about  # noqa: E402

# SPDX expressions, and whether they can be met by MIT and Apache-2.0 alone.
MET = {
    "MIT": True,
    "GPL-3.0-only": False,
    "MIT/GPL-3.0-only": True,
    "MIT AND GPL-3.0-only": False,
    "GPL-3.0-only OR MIT AND Apache-2.0": True,
    "(GPL-3.0-only OR MIT) AND ISC": False,
    "Apache-2.0 WITH LLVM-exception": False,
    "Apache-2.0 WITH LLVM-exception OR Apache-2.0": True,
    "MIT Apache-2.0": False,
}


def made(context, folder, seed):
    """What about.py writes there; the seed would show an order that is not fixed."""
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, context / "image" / "about.py", folder], check=True, env=environment, stdout=sys.stderr)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copied(context):
    """What the build of the image sees."""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, context / target)


def not_copied(context, read):
    """Files of this repository that the compiler has read, and that are not there when the image is built."""
    files = [path.relative_to(ROOT) for path in read if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "target")]
    if len(files) < 100:
        yield f"the compiler has read only {len(files)} files of this repository"
    for path in files:
        if not (context / path).is_file():
            yield f"{path} is compiled in, and the Dockerfile does not copy it"


def refused(bill):
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    return f"the schema refuses the bill of materials: {error}" if error else None


def disagrees(bill, binary):
    """References that lead nowhere, and crates that the binary names in its panic messages but the bill does not have."""
    components = {one["bom-ref"]: one for one in [bill["metadata"]["component"], *bill["components"]]}
    if len(components) != 1 + len(bill["components"]):
        yield "two components have the same reference"
    for one in bill["dependencies"]:
        for reference in {one["ref"], *one.get("dependsOn", [])} - set(components):
            yield f"a dependency on {reference}, which is no component"
    linked = {f"{one['name']}-{one['version']}" for one in components.values() if one["scope"] == "required"}
    named = {name.decode() for name in re.findall(rb"/registry/src/[\w.-]+/([\w.+-]+-\d[\w.+-]*)/", binary)}
    if len(named) < 30:
        yield f"only {len(named)} crates are named in the binary: is it the production build?"
    for name in sorted(named - linked):
        yield f"{name} is in the binary and not in the bill of materials"


def unnoticed(bill, binary):
    """Faults that must be noticed."""
    for expression, met in MET.items():
        if about.holds(expression, {"MIT", "Apache-2.0"}) != met:
            yield f"{expression}: met should be {met}"
    texts = {crate: {"LICENSE": text} for crate, (_, text) in about.TEXT_ELSEWHERE.items()}
    crates = {crate: {"license": "MIT"} for crate in texts} | {"bad 1.0.0": {"license": "MIT"}}
    played = {
        "bad 1.0.0: no text of MIT": ("MIT", {"LICENSE": "All rights reserved."}),
        "bad 1.0.0: no text of MIT AND ISC": ("MIT AND ISC", {"LICENSE": about.MIT}),
        "bad 1.0.0: GPL-3.0-only is not allowed": ("GPL-3.0-only", {"LICENSE": about.MIT}),
        "bad 1.0.0: no licence is not allowed": (None, {}),
    }
    for problem, (expression, found) in played.items():
        crates["bad 1.0.0"]["license"] = expression
        told = list(about.problems(crates, texts | {"bad 1.0.0": found}, list(about.KNOWN_BY)))
        if not any(one.startswith(problem) for one in told):
            yield f"{problem}: not noticed, only {told}"
    gone = [one for one in about.problems({}, {}, list(about.KNOWN_BY)) if "not in the build any more" in one]
    if len(gone) != len(about.TEXT_ELSEWHERE):
        yield "a text for a crate that is gone"
    if not refused(bill | {"components": [{"type": "library"}]}) or not refused(bill | {"colour": "green"}):
        yield "the schema takes anything"
    for name in ("tokio", "rustls"):
        less = bill | {"components": [one for one in bill["components"] if one["name"] != name]}
        if not any(f"{name}-" in one for one in disagrees(less, binary)):
            yield f"a bill without {name}"


def main():
    binary = Path(sys.argv[1]).read_bytes()
    # Written by cargo beside it.
    read = [Path(one) for one in Path(sys.argv[1]).with_suffix(".d").read_text().split(": ", 1)[1].split()]
    with tempfile.TemporaryDirectory(prefix="kinetide-sbom-") as folder:
        folder = Path(folder)
        (folder / "context").mkdir()
        copied(folder / "context")
        files = made(folder / "context", folder / "first", "1")
        again = made(ROOT, folder / "second", "2")
        wrong = list(not_copied(folder / "context", read))
        if not any("README.md" in one for one in not_copied(folder / "context", [*read, ROOT / "README.md"])):
            wrong.append("a file that is not copied is not noticed")
    bill = json.loads(files["sbom.cdx.json"])
    wrong += [f"{name} differs from run to run" for name in files if files[name] != again.get(name)]
    wrong += filter(None, [refused(bill)])
    wrong += disagrees(bill, binary)
    wrong += [f"not noticed: {one}" for one in unnoticed(bill, binary)]
    if wrong:
        sys.exit("\n".join(wrong))
    count = sum(one["scope"] == "required" for one in bill["components"])
    sizes = ", ".join(f"{name} {len(content) // 1024} KiB" for name, content in files.items())
    print(f"{len(bill['components'])} components, {count} of them in the binary, valid by CycloneDX 1.6; {sizes}")


if __name__ == "__main__":
    main()
