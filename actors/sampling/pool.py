"""All engines, which role each one holds, and where a request goes.

How an engine gets its weights:

- It starts from a folder: the model that its home role has when the driver starts.
- In a phase of learning the learner publishes into the engines of the role that learns: at the
  start and after every update. A role may have another's engines for its phase (`config.roles`).
- Outside, `ClusterPolicy.hold` sends every engine home and publishes a finished model into those of
  the role that hold another one: borrowed engines of a frozen Challenger, or the Solver's when both
  roles are one model, which the Challenger's phase has changed.

`Engine.model` is what this comes to: the folder whose weights an engine holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.sampling.packing import unpack
from actors.waiting import DeadlineError, within
from rzero_ray.config.roles import ROLES
from rzero_ray.types import Completion, Role, SampleRequest

_LENDS_TO = {role.name: role.lends_to for role in ROLES}


@dataclass(slots=True)
class Engine:
    """A sampler actor as the driver sees it."""

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
    """Routes each request to the engine of the role with the fewest outstanding tokens."""

    def __init__(self, engines: list[Engine], deadline_s: float) -> None:
        self.engines = engines
        self._deadline_s = deadline_s

    def engines_of(self, role: Role) -> list[Engine]:
        """Return the engines that sample for the role."""
        return [engine for engine in self.engines if engine.role == role]

    def assign(self, training: Role) -> list[Engine]:
        """Give engines their roles for a learning phase; return those that need its weights.

        Every engine is in its home role, unless that lends its engines to the role that learns
        (`RoleSpec.lends_to`): while the Solver learns, nothing asks the Challenger.
        """
        self.send_home()
        for engine in self.engines:
            if training in _LENDS_TO[engine.home]:
                engine.role = training
        return self.engines_of(training)

    def send_home(self) -> None:
        """Give every engine its home role; what it holds may be another role's weights."""
        for engine in self.engines:
            engine.role = engine.home

    async def sample(self, role: Role, request: SampleRequest) -> list[Completion]:
        """Have one engine of the role answer the request, all its samples together.

        Nothing waits for its turn here: an engine gets every request at once and keeps its own
        queue. When the caller is cancelled, or out of time, the engine ends the request.
        """
        engine = min(self.engines_of(role), key=lambda engine: engine.outstanding_tokens)
        cost = request.num_samples * request.sampling.max_tokens
        engine.outstanding_tokens += cost
        answer: Any = engine.actor.sample.remote(request)
        try:
            return unpack(await within(self._deadline_s, f"{engine.name} to sample", answer))
        except (asyncio.CancelledError, DeadlineError):
            ray.cancel(answer)
            raise
        finally:
            engine.outstanding_tokens -= cost
