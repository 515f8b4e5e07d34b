"""`python -m tests.bench [names] [key=value] [--json FILE]`: figures beside their baselines.

A `key=value` goes to those of the named benchmarks that have the key: sizes, or `model=` for a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import asdict
from pathlib import Path

import transformers
from rich.console import Console
from rich.table import Table

from tests.bench.harness import Figure

BENCHMARKS = (
    "answers",
    "votes",
    "driver",
    "fuzz",
    "early_stopping",
    "elastic",
    "evaluation_pitfalls",
    "learner",
    "memory",
    "trl_comparison",
    "trl_steps",
    "pool",
    "sampling",
    "scaling",
    "weights",
)
"""Modules of this folder. Each has `run() -> list[Figure]`, or `SETTINGS`, a dict of what it can be
told with defaults, and `run(settings) -> list[Figure]`."""

ONLY_NAMED = ("gpu", "gpu_learner", "showing")
"""Those that need a GPU, or most of an hour: only run when they are named."""


def main() -> None:
    """Run the named benchmarks, or all, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS + ONLY_NAMED)}"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    given = dict(name.split("=", 1) for name in options.names if "=" in name)
    names = [name for name in options.names if "=" not in name] or list(BENCHMARKS)
    known = BENCHMARKS + ONLY_NAMED
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"no benchmark {min(unknown)}; there are {', '.join(known)}")
    modules = {name: importlib.import_module(f"tests.bench.{name}") for name in names}
    defaults = {name: getattr(module, "SETTINGS", {}) for name, module in modules.items()}
    keys = {key for settings in defaults.values() for key in settings}
    if not given.keys() <= keys:
        wrong = min(given.keys() - keys)
        parser.error(f"no setting {wrong} of {', '.join(names)}; there are {', '.join(keys)}")
    transformers.logging.disable_progress_bar()
    console = Console()
    figures: list[Figure] = []
    for name, module in modules.items():
        console.print(f"{name} ...")
        settings = {key: given.get(key, value) for key, value in defaults[name].items()}
        figures += module.run(settings) if settings else module.run()
    table = Table("figure", "value", "target", "details")
    for figure in figures:
        table.add_row(
            figure.name, f"{figure.value:.3g} {figure.unit}", figure.target, figure.details
        )
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
