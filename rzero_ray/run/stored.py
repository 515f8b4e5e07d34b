"""A run directory to read: what monitors, reports and other commands ask of it.

Nothing here writes, so that a run may be read while its driver is at work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.run.log import RunLog
from rzero_ray.run.manifest import Manifest, number_in
from rzero_ray.run.parquet import read_records
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.types import Candidate, PhaseName, Role, Step, iteration_key

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

    def read(self, key: str, record_type: type[R]) -> list[R]:
        """Return the records under `key`, such as `iteration-01/solver/step-001/rollouts`."""
        return read_records(self.root / f"{key}.parquet", record_type)

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

    def candidates(self) -> dict[int, list[Candidate]]:
        """Return the curriculum's candidates by iteration, of the steps that are on disk."""
        found: dict[int, list[Candidate]] = {}
        for folder in by_number(self.root, "iteration-*"):
            steps = by_number(folder, "curriculum/step-*")
            paths = [step / "candidates.parquet" for step in steps]
            read = [c for path in paths if path.exists() for c in read_records(path, Candidate)]
            if read:
                found[number_in(folder.name)] = read
        return found

    def metrics(self) -> list[Row]:
        """Return the lines of `metrics.jsonl`."""
        return self.log.metrics()

    def figures(self, iteration: int, phase: PhaseName) -> Row | None:
        """Return the last line of `metrics.jsonl` of a phase, or None before there is one."""
        rows = phase_rows(self.metrics(), phase, iteration)
        return rows[-1] if rows else None

    def evaluations(self) -> list[Row]:
        """Return the evaluation of the base and of each finished iteration."""
        rows = evaluations_in(self.root)
        return [row for row in rows if iteration_key(row["iteration"]) in self.manifest]

    def current_model(self, role: Role) -> Path:
        """Return the folder of the policy that the role has now: where its next phase starts, and
        what its engines sample from while nothing is learned.

        It is the role's last finished policy; with shared weights, that of whichever role learned
        last; before, the base model.
        """
        learners: tuple[Role, ...] = tuple(spec.name for spec in ROLES if spec.learns is not None)
        last = self.manifest.last_learned(learners if self.config.shared_weights else (role,))
        return self.base_model if last is None else self.model_path(*last)

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


def evaluations_in(root: Path) -> list[Row]:
    """Return the evaluations in a run directory, finished or not, the base model's first."""
    paths = [folder / "evaluation.json" for folder in by_number(root, "iteration-*")]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def by_number(folder: Path, pattern: str) -> list[Path]:
    """Return the paths that match `pattern` and end in a number, sorted by it."""
    paths = [path for path in folder.glob(pattern) if path.name.rpartition("-")[2].isdecimal()]
    return sorted(paths, key=lambda path: number_in(path.name))
