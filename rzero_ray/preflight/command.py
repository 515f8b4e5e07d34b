"""Rehearse a run on the user's own model: `rzero preflight conf=NAME [key.path=value ...]`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from rzero_ray import driver
from rzero_ray.config.command import run_command
from rzero_ray.config.config import resolve_run_dir
from rzero_ray.config.load import load_config
from rzero_ray.preflight.estimate import estimate
from rzero_ray.preflight.findings import findings, obstacles, solver_answers
from rzero_ray.preflight.growth import growth
from rzero_ray.preflight.rehearsal import rehearsal_settings
from rzero_ray.preflight.tables import print_costs, print_findings
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.base_model import find_model
from rzero_ray.types import RunError, UserError

USAGE: Final = "rzero preflight conf=NAME [key.path=value ...]"
HELP: Final = f"""usage: {USAGE}

Makes one iteration of the run on its own model and cluster, with a few steps a phase: of the run's
own size where they are small, else of 64 questions. Says what the base model is like as a
Challenger and as a Solver (well-formed questions, answered votes, agreement, share in the band,
texts that are cut), and how many tokens and hours the whole run would take. It takes minutes. It is
a run of its own, in runs/preflight-NAME-DIGEST or in run_dir=DIR.

exit codes: 0 the loop can start, 1 it cannot (and why), 2 the command is wrong, 130 stopped
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: HELP, _preflight, "the same command goes on")


def _preflight(arguments: list[str]) -> None:
    config = load_config(arguments)
    if config.method != "coevolution":
        raise UserError(f"method={config.method}: a preflight is of method=coevolution")
    text = yaml.safe_dump(rehearsal_settings(config), sort_keys=False)
    given = [argument for argument in arguments if argument.startswith("run_dir=")]
    # Another configuration is another rehearsal.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    folder = given or [f"run_dir=runs/preflight-{config.name}-{digest}"]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "rehearsal.yaml"
        path.write_text(text)
        rehearsal = [f"conf={path}", *folder]
        driver.check_and_run(rehearsal)
        root = resolve_run_dir(load_config(rehearsal))
    rehearsed = load_stored_config(root)
    base = find_model(config.model) or Path(config.model.path)
    run = StoredRun(rehearsed, root, base)
    found = findings(rehearsed, run)
    print_findings(rehearsed, found)
    lengths = growth(solver_answers(run), config.num_iterations)
    print_costs(estimate(config, rehearsed, run, _unseen_seconds(run), lengths), lengths[-1])
    reasons = obstacles(config, found)
    if reasons:
        raise RunError(f"this model cannot start the loop: {'; '.join(reasons)}")


def _unseen_seconds(run: StoredRun) -> float:
    """Return the seconds from the start to the end of the rehearsal that no row has."""
    events = run.log.events()
    times = [event["time"] for event in events if event["event"] in ("start", "end")]
    rows: list[Any] = [*run.metrics(), *run.evaluations()]
    worked = sum(row.get("seconds", {}).get("wall", 0.0) for row in rows)
    return max(0.0, times[-1] - times[0] - worked) if len(times) > 1 else 0.0
