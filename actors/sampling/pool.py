"""All samplers, which role each one holds, and where a request goes.

A sampler is an actor, an engine what runs in it: vLLM with one set of weights.

How an engine gets its weights:

- It starts from a folder: the model that its home role has when the driver starts.
- In a phase of learning the learner publishes into the engines of the role that learns: at the
  start and after every update. A role may have another's engines for its phase (`config.roles`).
- Outside, `ClusterPolicy.hold` sends every engine home and publishes a finished model into those of
  the role that hold another one: borrowed engines of a frozen Challenger, or the Solver's when both
  roles are one model, which the Challenger's phase has changed.

`PooledSampler.model` is what this comes to: the folder whose weights an engine holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray.actor import ActorHandle

from actors.sampling.gathering import RequestGatherer
from actors.sampling.packing import unpack
from rzero_ray.config.roles import ROLES
from rzero_ray.types import Completion, Role, SampleRequest

_LENDS_TO = {role.name: role.lends_to for role in ROLES}


@dataclass(slots=True)
class PooledSampler:
    """A sampler as the driver knows it."""

    name: str
    actor: ActorHandle
    home: Role
    """The role it was started for."""
    role: Role
    """The role that it samples for now."""
    model: Path | None
    """The folder of the weights it holds; None while they are in training."""
    outstanding_tokens: int = 0
    """Upper bound on the tokens it still has to sample."""


class SamplerPool:
    """Routes each request to the sampler of the role with the fewest outstanding tokens."""

    def __init__(
        self, samplers: list[PooledSampler], deadline_s: float, *, lends: bool = True
    ) -> None:
        """With `lends` off only a role without engines of its own gets those of others."""
        self.samplers = samplers
        self._lends = lends
        self._requests = RequestGatherer(deadline_s)

    def samplers_of(self, role: Role) -> list[PooledSampler]:
        """Return those that sample for the role."""
        return [sampler for sampler in self.samplers if sampler.role == role]

    def assign(self, training: Role) -> list[PooledSampler]:
        """Give samplers their roles for a learning phase; return those that need its weights.

        Each is in its home role, unless that lends its engines to the role that learns
        (`RoleSpec.lends_to`): while the Solver learns, nothing asks the Challenger.
        """
        self.send_home()
        if self._lends or not self.samplers_of(training):
            for sampler in self.samplers:
                if training in _LENDS_TO[sampler.home]:
                    sampler.role = training
        return self.samplers_of(training)

    def call_home(self, role: Role) -> list[PooledSampler]:
        """Send all home; return the role's own, or, where it has none, those that it borrows."""
        self.send_home()
        return self.samplers_of(role) or self.assign(role)

    def send_home(self) -> None:
        """Give each its home role; what it holds may be another role's weights."""
        for sampler in self.samplers:
            sampler.role = sampler.home

    async def sample(self, role: Role, request: SampleRequest) -> list[Completion]:
        """Have one sampler of the role answer the request, all its samples together.

        Nothing waits for its turn here: a sampler gets every request at once and keeps its own
        queue. How requests travel, and what ends them early, is in `gathering`.
        """
        sampler = min(self.samplers_of(role), key=lambda sampler: sampler.outstanding_tokens)
        cost = request.num_samples * request.sampling.max_tokens
        sampler.outstanding_tokens += cost
        try:
            return unpack(await self._requests.ask(sampler.name, sampler.actor, request))
        finally:
            sampler.outstanding_tokens -= cost
