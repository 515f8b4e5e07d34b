"""A run directory to read: what monitors, reports and other commands ask of it.

Nothing here writes, so that a run may be read while its driver is at work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.disk.files import damaged, read_json
from rzero_ray.run.log import RunLog
from rzero_ray.run.manifest import PHASES, Manifest, number_in
from rzero_ray.run.parquet import num_rows, read_columns, read_records
from rzero_ray.run.rows import EvaluationRow, Row, phase_rows
from rzero_ray.types import PhaseName, Role, Standing, Step, iteration_key, standing_key

R = TypeVar("R")


class StoredRun:
    """What a run has finished, sampled and measured."""

    def __init__(self, config: Config, root: Path, base_model: Path) -> None:
        """Read the manifest of `root`; `base_model` is the folder from which both roles start."""
        self.config = config
        self.root = root
        self.base_model = base_model
        self.manifest = Manifest.read(root / "manifest.json")
        self.log = RunLog(root)

    def read(self, key: str, record_type: type[R], rows: Sequence[int] | None = None) -> list[R]:
        """Return the records under `key`, such as `iteration-01/solver/step-001/rollouts`: all, or
        those of `rows`. A type with some of their fields spares reading the others."""
        return read_records(self.root / f"{key}.parquet", record_type, rows)

    def columns(self, key: str, record_type: type) -> dict[str, list[Any]]:
        """Return the same records as {field: its values}."""
        return read_columns(self.root / f"{key}.parquet", record_type)

    def num_rows(self, key: str) -> int:
        """Return how many records there are under `key`."""
        return num_rows(self.root / f"{key}.parquet")

    def read_steps(
        self, phase: PhaseName, iteration: int, name: str, record_type: type[R]
    ) -> list[R]:
        """Return the records `name` of the phase's finished steps, in their order."""
        steps = self.manifest.steps(phase, iteration)
        return [record for step in steps for record in self.read(f"{step.key}/{name}", record_type)]

    def sampled_steps(self, role: Role, iteration: int | None = None) -> list[Step]:
        """Return the finished steps of a role that have rollouts: imitation has none."""
        steps = self.manifest.steps(role, iteration)
        return [s for s in steps if (self.root / s.key / "rollouts.parquet").exists()]

    def candidate_keys(self) -> dict[int, list[str]]:
        """Return, by iteration, the keys of the curriculum's candidates on disk, a key a step."""
        found: dict[int, list[str]] = {}
        for folder in by_number(self.root, "iteration-*"):
            paths = [s / "candidates.parquet" for s in by_number(folder, "curriculum/step-*")]
            there = [path.relative_to(self.root) for path in paths if path.exists()]
            if there:
                found[number_in(folder.name)] = [str(path.with_suffix("")) for path in there]
        return found

    def metrics(self) -> list[Row]:
        """Return the lines of `metrics.jsonl` that are of finished steps."""
        return [row for row in self.log.metrics() if row_key(row) in self.manifest]

    def steps_without_row(self) -> list[str]:
        """Return the keys of finished steps that `metrics.jsonl` says nothing of: a line of it was
        lost. No stop does that, for the line is written before the manifest."""
        told = {row_key(row) for row in self.log.metrics()}
        steps = [step for phase in PHASES for step in self.manifest.steps(phase)]
        steps.sort(key=lambda step: (step.iteration, PHASES.index(step.phase), step.index))
        return [step.key for step in steps if step.key not in told]

    def figures(self, iteration: int, phase: PhaseName) -> Row | None:
        """Return the last line of `metrics.jsonl` of a phase, or None before there is one."""
        rows = phase_rows(self.metrics(), phase, iteration)
        return rows[-1] if rows else None

    def evaluations(self) -> list[Row]:
        """Return the evaluation of the base and of each finished iteration; one whose file is gone
        is left out."""
        rows = evaluations_in(self.root, self.config.eval.num_samples)
        return [row for row in rows if iteration_key(row["iteration"]) in self.manifest]

    def current_model(self, role: Role) -> Path:
        """Return the folder of the policy that the role has now: where its next phase starts, and
        what its engines sample from while nothing is learned.

        It is the role's last finished policy; with shared weights, that of whichever role learned
        last; before, the base model. After an iteration whose models do not stand
        (`rollback_fall`) it is the last one that does.
        """
        learners: tuple[Role, ...] = tuple(spec.name for spec in ROLES if spec.is_policy)
        is_shared = self.config.shared_weights and role in learners
        last = self.manifest.last_learned(learners if is_shared else (role,))
        if last is None:
            return self.base_model
        learned_by, iteration = last
        if role in learners:
            iteration = self._gone_back(role, iteration)
        return self.model_path(learned_by, iteration)

    def _gone_back(self, role: Role, last: int) -> int:
        """Return the iteration whose policy a role has that has learned last in `last`; 0 is the
        base model."""
        standings = self.standings(self.config.num_iterations)
        if not standings or standings[-1].iteration < last:
            return last
        good = standings[-1].good
        return max((of for of in self.manifest.learned(role) if of <= good), default=0)

    def standings(self, until: int) -> list[Standing]:
        """Return the standings of the finished iterations up to `until`, the base model's first;
        nothing in a run that never goes back."""
        if self.config.rollback_fall == 1.0:
            return []
        keys = [standing_key(of) for of in range(until + 1) if iteration_key(of) in self.manifest]
        there = [key for key in keys if (self.root / f"{key}.parquet").exists()]
        return [standing for key in there for standing in self.read(key, Standing)]

    def initial_model(self, role: Role) -> Path:
        """Return the folder of the policy from which the role's next phase starts: the one it has,
        unless `challenger.start_from` names another."""
        if role == "challenger" and self.config.challenger.start_from == "base":
            return self.base_model
        if role == "challenger" and self.config.challenger.start_from == "solver":
            return self.current_model("solver")
        return self.current_model(role)

    def voter(self) -> Path:
        """Return the folder of the model that votes: the Solver, or the average of Solvers."""
        if self.config.voting.ema_decay == 0:
            return self.current_model("solver")
        return self.average_path(max(0, self.manifest.num_evaluated() - 1))

    def average_path(self, iteration: int) -> Path:
        """Return the folder of the average of Solvers after an iteration; 0 is the base model."""
        if iteration == 0:
            return self.base_model
        return self.root / "models" / f"solver-average-{iteration_key(iteration)}"

    def averages(self) -> list[Path]:
        """Return the folders of the averages of Solvers that are on disk."""
        return by_number(self.root, "models/solver-average-*")

    def checkpoint_path(self, step: Step) -> Path:
        """Return the folder of the policy in training after a step."""
        return self.root / "checkpoints" / step.key

    def anchor(self, role: Role) -> Path | None:
        """Return the folder that the role's KL term holds to, where that is the base model."""
        (learns,) = (spec.learns for spec in ROLES if spec.name == role)
        assert learns is not None, f"{role} does not learn"
        return self.base_model if learns(self.config).loss.anchor == "base" else None

    def model_path(self, role: Role, iteration: int) -> Path:
        """Return the folder of a role's policy after an iteration; 0 is the base model."""
        if iteration == 0:
            return self.base_model
        return self.root / "models" / f"{role}-{iteration_key(iteration)}"


def row_key(row: Row) -> str:
    """Return the step that a line of `metrics.jsonl` is of, as the manifest names it."""
    return Step(iteration=row["iteration"], phase=row["phase"], index=row["step"]).key


def evaluations_in(root: Path, k: int) -> list[Row]:
    """Return the evaluations in a run directory, finished or not, the base model's first.

    `k` is the number of sampled answers to a problem, which the names of some figures hold.
    """
    paths = [folder / "evaluation.json" for folder in by_number(root, "iteration-*")]
    return [_read_evaluation(path, k) for path in paths if os.path.lexists(path)]


def _read_evaluation(path: Path, k: int) -> Row:
    row = read_json(path, EvaluationRow)
    if row["iteration"] != number_in(path.parent.name):
        raise damaged(path, f"it is of iteration {row['iteration']}")
    kinds = {f"mean@{k}": float | int, f"mean@{k}_ci95": list, f"maj@{k}": float | int}
    for name, kind in kinds.items():
        if row.get("num_problems", 1) and not isinstance(row.get(name), kind):
            raise damaged(path, f"it has no {name}")
    return row


def by_number(folder: Path, pattern: str) -> list[Path]:
    """Return the paths that match `pattern` and end in a number, sorted by it."""
    paths = [path for path in folder.glob(pattern) if path.name.rpartition("-")[2].isdecimal()]
    return sorted(paths, key=lambda path: number_in(path.name))
