"""Writes what the production build is made of: a bill of materials (CycloneDX JSON) and the texts of all licences.

Everything comes from cargo, Cargo.lock and the sources of the crates; the same commit and target give the same bytes. It
fails when a licence is not one that .deny.toml allows, or when the text of a licence is missing. Needs Python only.

Usage: about.py FOLDER [--target TRIPLE]
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As in the Dockerfile.
BUILD = ("--locked", "--no-default-features", "--features", "cli,kafka")

LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)s?([-._].*)?", re.IGNORECASE)

# How the text of a licence is known, by its name in .deny.toml.
KNOWN_BY = {
    "Apache-2.0": "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
    "Apache-2.0 WITH LLVM-exception": "LLVM Exceptions to the Apache 2.0 License",
    "BlueOak-1.0.0": "This license gives everyone as much permission to work with this software as possible",
    "BSD-3-Clause": "used to endorse or promote products derived from this software without specific prior written permission",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any purpose",
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "Unicode-3.0": "UNICODE LICENSE V3",
    "Zlib": "This software is provided 'as-is', without any express or implied warranty",
}

# The text of MIT in the list of SPDX, below the copyright of who forgot to publish it.
MIT = """MIT License

{copyright}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

# This repository's own licence, without the copyright of anybody.
APACHE = (ROOT / "LICENSE").read_text()

PLOTTERS = MIT.format(copyright="Copyright (c) 2019 Hao Hou <haohou302@gmail.com>")

# Crates that are published without the text of a licence that they have: where it is, and the text.
TEXT_ELSEWHERE = {
    "base64-simd 0.8.0": ("LICENSE of github.com/Nugine/simd", MIT.format(copyright="Copyright (c) 2021 Nugine")),
    "dunce 1.0.5": ("has the text of CC0 only; used under Apache-2.0", APACHE),
    "metrics-exporter-prometheus 0.18.3": ("proto/metrics.proto is under Apache-2.0", APACHE),
    "plotters 0.3.7": ("LICENSE of github.com/plotters-rs/plotters", PLOTTERS),
    "plotters-backend 0.3.7": ("LICENSE of github.com/plotters-rs/plotters", PLOTTERS),
    "plotters-svg 0.3.7": ("LICENSE of github.com/plotters-rs/plotters", PLOTTERS),
    "vsimd 0.8.0": ("LICENSE of github.com/Nugine/simd", MIT.format(copyright="Copyright (c) 2021 Nugine")),
}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--target", help="of the build; that of this machine if not given")
    arguments = arguments.parse_args()
    rust = compiler()
    target = arguments.target or rust["host"]
    crates, edges = build(target)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    allowed = tomllib.loads((ROOT / ".deny.toml").read_text())["licenses"]["allow"]
    texts = {crate: licence_texts(crate, package) for crate, package in crates.items() if package["source"]}
    wrong = list(problems(crates, texts, allowed))
    if wrong:
        raise SystemExit("\n".join(wrong))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    bill = json.dumps(bill_of_materials(crates, edges, lock, rust["release"], target), indent=2, ensure_ascii=False)
    (arguments.folder / "sbom.cdx.json").write_text(bill + "\n")
    (arguments.folder / "LICENSES.txt").write_text(licences(texts))
    shutil.copyfile(rust["notices"], arguments.folder / "LICENSES-rust-std.html")
    shutil.copyfile(ROOT / "LICENSE", arguments.folder / "LICENSE")
    print(f"{len(texts)} crates and the Rust standard library {rust['release']} for {target}, all with their licences")


def compiler():
    """Version and host of the compiler, and the notices of the standard library, which is part of every binary."""
    about = run("rustc", "--version", "--verbose")
    found = dict(line.split(": ", 1) for line in about.splitlines() if ": " in line)
    return found | {"notices": Path(run("rustc", "--print", "sysroot").strip(), "share/doc/rust/COPYRIGHT-library.html")}


def build(target):
    """Every crate of the build by "name version", with `linked`; and what each needs. `cargo metadata` counts features of
    tests too, and with them crates that are not built, so `cargo tree` says which ones are."""
    metadata = json.loads(run("cargo", "metadata", *BUILD, "--format-version=1", f"--filter-platform={target}"))
    built, linked = tree(target, "normal,build"), tree(target, "normal,no-proc-macro")
    names = {package["id"]: f"{package['name']} {package['version']}" for package in metadata["packages"]}
    crates = {
        names[package["id"]]: package | {"linked": names[package["id"]] in linked}
        for package in sorted(metadata["packages"], key=lambda package: names[package["id"]])
        if names[package["id"]] in built
    }
    missing = built - set(crates)
    if missing:
        raise SystemExit(f"cargo metadata does not have {missing}")
    edges = {
        names[node["id"]]: sorted(
            {
                names[needed["pkg"]]
                for needed in node["deps"]
                if names[needed["pkg"]] in crates and any(kind["kind"] != "dev" for kind in needed["dep_kinds"])
            }
        )
        for node in metadata["resolve"]["nodes"]
        if names[node["id"]] in crates
    }
    return crates, edges


def tree(target, edges):
    lines = run("cargo", "tree", *BUILD, "--target", target, "--edges", edges, "--prefix=none", "--format={p}")
    return {" ".join(line.split()[:2]).replace(" v", " ") for line in lines.splitlines()}


def licence_texts(crate, package):
    """The licences and notices of a crate, by their place in it."""
    folder = Path(package["manifest_path"]).parent
    named = {folder / package["license_file"]} if package["license_file"] else set()
    # Some have a folder of texts, each named after its licence.
    found = {
        path
        for path in folder.rglob("*")
        if any(LICENCE_FILE.fullmatch(name) for name in (path.name, path.parent.name)) and path.suffix != ".rs"
    }
    files = sorted(path for path in found | named if path.is_file())
    return {str(path.relative_to(folder)): tidy(path.read_text()) for path in files}


def tidy(text):
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def words(text):
    """To compare texts: without line breaks, and without the signs of a comment."""
    return " ".join(re.sub(r"^\s*//", "", text, flags=re.MULTILINE).split()).lower()


def problems(crates, texts, allowed):
    for name in sorted(set(allowed) - set(KNOWN_BY)):
        yield f"{name}: say in KNOWN_BY how its text is known"
    for crate in sorted(set(TEXT_ELSEWHERE) - set(texts)):
        yield f"{crate}: not in the build any more, take it from TEXT_ELSEWHERE"
    for crate, found in texts.items():
        expression = crates[crate]["license"] or "no licence"
        more = [TEXT_ELSEWHERE[crate][1]] if crate in TEXT_ELSEWHERE else []
        if not holds(expression, set(allowed)):
            yield f"{crate}: {expression} is not allowed by .deny.toml"
        elif not holds(expression, shown([*found.values(), *more])):
            yield f"{crate}: no text of {expression}, only {sorted(found) or 'no file'}; see TEXT_ELSEWHERE"
        elif more and holds(expression, shown(found.values())):
            yield f"{crate}: has its licence now, take it from TEXT_ELSEWHERE"


def shown(texts):
    """The licences whose texts these are."""
    texts = [words(text) for text in texts]
    return {name for name, known_by in KNOWN_BY.items() if any(words(known_by) in text for text in texts)}


def spdx(expression):
    """An older way to write OR."""
    return re.sub(r"\s*/\s*", " OR ", expression)


def holds(expression, accepted):
    """Whether an SPDX expression can be met by the accepted licences."""
    tokens = re.findall(r"[()]|[^\s()]+", spdx(expression))

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = either()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            token = f"{token} {tokens.pop(0)} {tokens.pop(0)}"
        return token in accepted

    def both():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def either():
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = both() or met
        return met

    met = either()
    return met and not tokens


def licences(texts):
    """Each text once, with the crates that have it."""
    same = {}
    for crate, found in texts.items():
        for place, text in [*found.items(), *([TEXT_ELSEWHERE[crate]] if crate in TEXT_ELSEWHERE else [])]:
            same.setdefault(words(text), (text, []))[1].append(f"{crate} ({place})")
    head = (
        "kinetide is made of the crates below, under the licences below. sbom.cdx.json names the licence of each crate;\n"
        "LICENSES-rust-std.html has those of the Rust standard library. kinetide itself: LICENSE.\n"
    )
    parts = (f"{'=' * 100}\n" + "\n".join(users) + f"\n{'-' * 100}\n{text}\n" for text, users in same.values())
    return head + "\n" + "\n".join(parts)


def bill_of_materials(crates, edges, lock, rust, target):
    checksums = {f"{one['name']} {one['version']}": one.get("checksum") for one in lock["package"]}
    (root,) = [crate for crate, package in crates.items() if package["name"] == "kinetide"]
    standard_library = {
        "type": "library",
        "bom-ref": f"pkg:github/rust-lang/rust@{rust}",
        "name": "std",
        "version": rust,
        "description": "The Rust standard library",
        "scope": "required",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": f"pkg:github/rust-lang/rust@{rust}",
    }
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": component(root, crates[root], None) | {"type": "application"},
            "properties": [{"name": "kinetide:target", "value": target}],
        },
        "components": [
            *(component(crate, package, checksums[crate]) for crate, package in crates.items() if crate != root),
            standard_library,
        ],
        "dependencies": [
            {"ref": purl(crate), "dependsOn": [purl(needed) for needed in edges[crate]]} for crate in crates
        ]
        + [{"ref": standard_library["bom-ref"]}],
    }
    bill["dependencies"][list(crates).index(root)]["dependsOn"].append(standard_library["bom-ref"])
    # The number of this document follows from what it says, so that it is the same for the same build.
    digest = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).hexdigest()
    return bill | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}"}


def component(crate, package, checksum):
    found = {
        "type": "library",
        "bom-ref": purl(crate),
        "name": package["name"],
        "version": package["version"],
        # Build scripts and macros run when kinetide is compiled, and are not in the binary.
        "scope": "required" if package["linked"] else "excluded",
        "licenses": [{"expression": spdx(package["license"])}],
        "purl": purl(crate),
    }
    if package["description"]:
        found["description"] = " ".join(package["description"].split())
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def purl(crate):
    # A plus sign of a version is written as %2B.
    return f"pkg:cargo/{crate.replace(' ', '@').replace('+', '%2B')}"


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
