"""Which models and checkpoints a run keeps, and how much of a disk that takes.

A model of 8 billion parameters has 16 GB, and a checkpoint of it 115 GB: no disk holds all that a
run makes. What the next phase starts from is always kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.cluster import KeepModelsConfig
from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.run.plan import GIB, MASTER_AND_MOMENTS_BYTES, element_bytes, num_trained
from rzero_ray.run.rows import Row
from rzero_ray.run.shape import ModelShape
from rzero_ray.types import Role


def unneeded_models(
    learned: Mapping[Role, Sequence[int]], best: int | None, settings: KeepModelsConfig
) -> list[tuple[Role, int]]:
    """Return the models that may go, as role and iteration, when an iteration is finished.

    `learned` are the iterations in which each role has learned, `best` the one whose Solver answers
    the held-out problems best. The last model of each role stays.
    """
    return [
        (role, iteration)
        for role, iterations in learned.items()
        for iteration in iterations
        if iteration != max(iterations)
        and not (settings.every and iteration % settings.every == 0)
        and not (settings.best and role == "solver" and iteration == best)
    ]


def best_iteration(evaluations: Sequence[Row], k: int) -> int | None:
    """Return the iteration with the highest mean@k on held-out problems; None where there is none.

    The base model does not count: it is not in the run directory. Of equals the later one does.
    """
    rows = [row for row in evaluations if row["iteration"] and row.get("num_problems", 1)]
    best = max(rows, key=lambda row: (row[f"mean@{k}"], row["iteration"]), default=None)
    return None if best is None else best["iteration"]


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """Bytes that a run has on its disk at the most."""

    models: int
    checkpoints: int

    @property
    def total(self) -> int:
        """Both."""
        return self.models + self.checkpoints

    def __str__(self) -> str:
        models, checkpoints = self.models / GIB, self.checkpoints / GIB
        return f"{models:,.1f} GiB of models and {checkpoints:,.1f} GiB of checkpoints"


def plan_disk(config: Config, shape: ModelShape) -> DiskPlan:
    """Return what the models and checkpoints of all iterations take, as they are kept.

    A new checkpoint is whole before the oldest goes, and so are a model of each role and an average
    of Solvers. Rollouts and logs are small beside them and are not counted.
    """
    size = element_bytes(config)
    keep = config.checkpoint.keep_models
    older = max(0, config.num_iterations - 2)
    num_per_role = config.num_iterations - older + (older // keep.every if keep.every else 0)
    num_best = int(keep.best and keep.every != 1 and older > 0)
    num_averages = 2 if config.voting.ema_decay else 0
    num_good = 2 if config.rollback_fall < 1.0 else 0
    num_models = num_per_role * len(_learning_roles(config)) + num_best + num_averages + num_good
    per_checkpoint = num_trained(config, shape) * (MASTER_AND_MOMENTS_BYTES + size)
    return DiskPlan(
        models=num_models * shape.num_parameters * size,
        checkpoints=(config.checkpoint.keep + 1) * per_checkpoint,
    )


def bytes_to_come(plan: DiskPlan, root: Path) -> int:
    """Return how much of a plan is not yet on the disk of a run directory."""
    there = sum(
        path.lstat().st_size
        for name in ("models", "checkpoints")
        for path in (root / name).rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    return max(0, plan.total - there)


def _learning_roles(config: Config) -> list[Role]:
    """Return the roles that learn in this run: each of them writes a model in every iteration."""
    return [
        role.name
        for role in ROLES
        if role.learns is not None and role.takes_part(config) and role.is_taught(config)
    ]
