"""Write a run's `summary.json` and `report.html` again: `rzero report run_dir=DIR`.

The run may be finished, stopped, or at work: nothing else in its directory is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rzero_ray.config.arguments import ReportArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import resolve_folder
from rzero_ray.config.sources import nearest, split_pairs
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.inspection import check_places, lost_rows
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.base_model import find_model
from rzero_ray.types import UserError

USAGE = "python -m rzero_ray report run_dir=DIR"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: f"usage: {USAGE}\n\n{__doc__}", _report)


def _report(arguments: list[str]) -> None:
    pairs = split_pairs(arguments)
    for key, _ in pairs:
        if key != "run_dir":
            raise UserError(f"unknown key {key}{nearest(key, ['run_dir'])}; usage: {USAGE}")
    own, _ = load_own(ReportArguments, pairs, USAGE)
    root = resolve_folder(own.run_dir)
    config = load_stored_config(root)
    run = StoredRun(config, root, find_model(config.model) or Path(config.model.path))
    check_places(root)
    for text in lost_rows(run):
        print(f"rzero_ray: warning: {text}", file=sys.stderr)
    _, page = write_report(run)
    print(f"summary {root / 'summary.json'}\nreport  {page}")
