"""The roles of a run that are language models, a row each.

Placement, names of engines, who lends them to whom, and what learns are read off this table: a role
more is a row more here, and a name more in `types.Role`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rzero_ray.config.cluster import SamplerConfig
from rzero_ray.config.config import Config, has_verifier
from rzero_ray.config.method import LearningConfig
from rzero_ray.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """What a role has on a cluster, and what it does with it."""

    name: Role
    engines: Callable[[SamplerConfig], int]
    """How many engines of its own the config gives it, where it has devices of its own."""
    lends_to: tuple[Role, ...] = ()
    """The roles that sample with its engines, too, while they learn, because nothing asks this one
    meanwhile."""
    learns: Callable[[Config], LearningConfig] | None = None
    """The settings by which it learns; None for a role that only samples."""
    is_policy: bool = True
    """Whether it is one of the two that the method trains on each other, which are one model with
    `shared_weights`."""
    takes_part: Callable[[Config], bool] = lambda config: True
    """Whether a run has it."""
    is_taught: Callable[[Config], bool] = lambda config: True
    """Whether a run that has it ever teaches it; if not, it is the base model throughout."""


ROLES = (
    RoleSpec(
        name="challenger",
        engines=lambda sampler: sampler.num_challenger,
        lends_to=("verifier", "solver"),
        learns=lambda config: config.challenger,
        is_taught=lambda config: not (config.labelled.path or config.challenger.frozen),
    ),
    RoleSpec(
        name="verifier",
        engines=lambda sampler: sampler.num_verifier,
        learns=lambda config: config.verifier,
        is_policy=False,
        takes_part=has_verifier,
        is_taught=lambda config: config.verifier.learns != "never",
    ),
    RoleSpec(
        name="referee",
        engines=lambda sampler: sampler.num_referee,
        learns=lambda config: config.referee,
        is_policy=False,
        takes_part=lambda config: config.method == "judged",
        is_taught=lambda config: config.referee.is_taught,
    ),
    RoleSpec(
        name="solver",
        engines=lambda sampler: sampler.num_solver.min,
        learns=lambda config: config.solver,
    ),
)
