"""What a run has come to, by iteration and phase, and whether a driver is at work on it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.disk.folder import LOCK
from rzero_ray.run.manifest import PHASES, phase_key
from rzero_ray.run.report.serving.questions import iterations
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import PhaseName, Step, iteration_key

AT_WORK, STOPPED, FINISHED = "at work", "stopped", "finished"
_FIGURES: dict[PhaseName, tuple[str, ...]] = {
    "challenger": ("reward", "agreement", "well_formed", "repetition_share"),
    "curriculum": ("kept_share", "agreement", "label_accuracy"),
    "verifier": ("loss",),
    "audit": ("accuracy",),
    "referee": ("loss",),
    "solver": ("reward", "label_accuracy", "mismatch_kl"),
    "drift": ("kl_solver", "kl_challenger"),
}
"""What is told of a phase, from its last step."""
_RECENT_SECONDS = 60.0
"""A run whose logs were written within it is at work, on another machine if not on this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLine:
    """A phase of an iteration."""

    phase: PhaseName
    num_steps: int
    """Finished ones."""
    is_finished: bool
    """Whether a later phase has begun, or the iteration is finished."""
    figures: dict[str, float]
    answered: Step | None
    """The last step whose answers are stored, of the Solver's phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationLine:
    """An iteration, with the evaluation of its Solver; 0 is the base model."""

    iteration: int
    is_finished: bool
    phases: list[PhaseLine]
    evaluation: dict[str, float]
    """Greedy, mean@k and maj@k; empty before there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the first page shows."""

    state: str
    num_iterations: int
    lines: list[IterationLine]
    last_write: float | None
    """When the logs were written last, in seconds since 1970."""


def look_over(run: StoredRun, problems: Problems) -> Overview:
    """Return what a run has come to; what cannot be read is noted."""
    metrics: list[Row] = []
    evaluations: dict[int, Row] = {}
    with problems.noted():
        metrics = run.metrics()
    with problems.noted():
        evaluations = {row["iteration"]: row for row in run.evaluations()}
    numbers = sorted({*iterations(run.root), *evaluations})
    written = _last_write(run.root)
    return Overview(
        state=_state(run, written),
        num_iterations=run.config.num_iterations,
        lines=[_line(run, number, metrics, evaluations.get(number)) for number in numbers],
        last_write=written,
    )


def _line(
    run: StoredRun, iteration: int, metrics: Sequence[Row], evaluation: Row | None
) -> IterationLine:
    is_finished = iteration_key(iteration) in run.manifest
    begun: list[PhaseName] = [
        phase
        for phase in PHASES
        if run.manifest.steps(phase, iteration) or (run.root / phase_key(iteration, phase)).is_dir()
    ]
    return IterationLine(
        iteration=iteration,
        is_finished=is_finished,
        phases=[
            PhaseLine(
                phase=phase,
                num_steps=len(run.manifest.steps(phase, iteration)),
                is_finished=is_finished or phase != begun[-1],
                figures=_figures(phase_rows(metrics, phase, iteration), _FIGURES[phase]),
                answered=_last_answered(run, iteration) if phase == "solver" else None,
            )
            for phase in begun
        ],
        evaluation=_evaluation(evaluation, run.config.eval.num_samples),
    )


def _last_answered(run: StoredRun, iteration: int) -> Step | None:
    steps = run.sampled_steps("solver", iteration)
    return steps[-1] if steps else None


def _figures(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    last = rows[-1] if rows else {}
    return {name: last[name] for name in names if isinstance(last.get(name), int | float)}


def _evaluation(row: Row | None, k: int) -> dict[str, float]:
    names = ("greedy", f"mean@{k}", f"maj@{k}")
    return {} if row is None else {name: row[name] for name in names if name in row}


# Whether somebody is at work.


def _state(run: StoredRun, written: float | None) -> str:
    wanted = range(run.config.num_iterations + 1)
    if all(iteration_key(iteration) in run.manifest for iteration in wanted):
        return FINISHED
    if _is_locked(run.root / LOCK):
        return AT_WORK
    is_recent = written is not None and time.time() - written < _RECENT_SECONDS
    return AT_WORK if is_recent else STOPPED


def _is_locked(path: Path) -> bool:
    """Return whether a process of this machine holds a file's lock. To try the lock would, for a
    moment, keep a driver from taking it."""
    try:
        inode = os.stat(path).st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    return any(f":{inode} " in line for line in locks.splitlines())


def _last_write(root: Path) -> float | None:
    times = []
    for name in ("metrics.jsonl", "events.jsonl", "manifest.json"):
        path = root / name
        if path.exists():
            times.append(path.stat().st_mtime)
    return max(times, default=None)
