"""The flags that all measurements have."""

import argparse
from pathlib import Path


def parser(measurement, about, right, *, shards, batch_age, patience, built):
    """A parser with them. `right`: what ends with 0. `built`: programs that benches/peers/run has built, and passes on."""
    found = argparse.ArgumentParser(
        prog=f"benches/peers/run --{measurement} FOLDER", description=about, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Exit code: 0 when every record was found {right}, 1 otherwise, 2 for wrong flags.",
    )  # fmt: skip
    found.add_argument("folder", type=Path, help=argparse.SUPPRESS)
    found.add_argument("--shards", type=int, default=shards, help="shards of the stream [%(default)s]")
    found.add_argument("--seed", type=int, default=7, help="seed of the records [%(default)s]")
    found.add_argument("--batch-age", type=int, default=batch_age, metavar="SECONDS", help="oldest batch of each [%(default)s]")
    found.add_argument("--patience", type=int, default=patience, metavar="SECONDS",
                       help="give a consumer up when no more records have come for so long [%(default)s]")  # fmt: skip
    for name in built:
        found.add_argument(f"--{name}-at", type=Path, help=argparse.SUPPRESS)
    return found


def add_only(parser, known, what):
    parser.add_argument("--only", default=",".join(known), help=f"{what}s, with commas [%(default)s]")


def chosen(parser, known, what):
    """The flags given, of which `only` is a list of known ones."""
    found = parser.parse_args()
    found.only = found.only.split(",")
    unknown = [name for name in found.only if name not in known]
    if unknown:
        parser.error(f"no such {what}: {', '.join(unknown)}; choose from {', '.join(known)}")
    return found
