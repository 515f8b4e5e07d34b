"""The learner as the driver sees it: all its ranks as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.learning.options import PhaseOptions
from actors.learning.rollouts import pack_rollouts
from actors.sampling.pool import PooledSampler
from actors.waiting import within
from rzero_ray.config.cluster import DeadlineConfig
from rzero_ray.types import LearningReport, Phase, Rollout, TransferReport, Weights


class LearnerGroup:
    """Every call goes to all ranks, and ends when the last has answered or its deadline is over.

    Ranks work together (gradients, partitions): they get the same calls in the same order, and a
    call must not overlap another.
    """

    def __init__(self, ranks: Sequence[ActorHandle], deadlines: DeadlineConfig) -> None:
        self.ranks = list(ranks)
        self._deadlines = deadlines

    async def join(self) -> None:
        """Have the ranks meet at rank 0, once, before everything else."""
        address, port = await within(
            self._deadlines.start,
            "the learner to name a meeting point",
            self.ranks[0].address.remote(),
        )
        await self._all_ranks(
            "to join",
            self._deadlines.start,
            [rank.join.remote(address, port) for rank in self.ranks],
        )

    async def start_phase(self, phase: Phase, options: PhaseOptions) -> None:
        """Load a phase's policy in place of the one before."""
        await self._all_ranks(
            "to load the policy",
            self._deadlines.start,
            [rank.start_phase.remote(phase, options) for rank in self.ranks],
        )

    async def load_model(self, path: Path) -> None:
        """Load a model to be published and scored, in place of the phase's policy."""
        await self._all_ranks(
            "to load a model",
            self._deadlines.start,
            [rank.load_model.remote(path) for rank in self.ranks],
        )

    async def update(
        self, rollouts: Sequence[Rollout], allowed_tokens: NDArray[np.int32] | None = None
    ) -> LearningReport:
        """Learn from one step's rollouts, which were drawn from `allowed_tokens`."""
        shared = await asyncio.to_thread(_share, rollouts)
        reports = await self._all_ranks(
            "to update",
            self._deadlines.update,
            [rank.update.remote(shared, allowed_tokens) for rank in self.ranks],
        )
        return reports[0]

    async def imitate(self, demonstrations: Sequence[Rollout]) -> LearningReport:
        """Learn from one step's demonstrations."""
        shared = await asyncio.to_thread(_share, demonstrations)
        reports = await self._all_ranks(
            "to imitate",
            self._deadlines.update,
            [rank.imitate.remote(shared) for rank in self.ranks],
        )
        return reports[0]

    async def publish(self, version: Weights, samplers: Sequence[PooledSampler]) -> TransferReport:
        """Load the weights into `samplers`, which sample with them from then on."""
        actors = [sampler.actor for sampler in samplers]
        reports = await self._all_ranks(
            f"to publish weights {version.name}",
            self._deadlines.sync,
            [rank.publish.remote(version, actors) for rank in self.ranks],
        )
        return reports[0]

    async def prompt_logprobs(
        self, version: Weights, prompts: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]]:
        """Return the log-probabilities of each prompt's tokens after the first.

        They are those of the weights that the learner holds; `version` is for the error.
        """
        scores = await self._all_ranks(
            f"to score the probe of weights {version.name}",
            self._deadlines.sync,
            [rank.prompt_logprobs.remote(prompts) for rank in self.ranks],
        )
        return scores[0]

    async def leave_device(self, *, keep_parameters: bool) -> None:
        """Move what the phase holds to the host's memory, except for its parameters if so told."""
        await self._all_ranks(
            "to make room for weights" if keep_parameters else "to leave its devices",
            self._deadlines.sync,
            [rank.leave_device.remote(keep_parameters) for rank in self.ranks],
        )

    async def return_to_device(self) -> None:
        """Move back whatever is away."""
        await self._all_ranks(
            "to return to its devices",
            self._deadlines.sync,
            [rank.return_to_device.remote() for rank in self.ranks],
        )

    async def save_checkpoint(self, path: Path) -> None:
        """Write what `start_phase` needs to go on from here."""
        await self._all_ranks(
            "to save a checkpoint",
            self._deadlines.update,
            [rank.save_checkpoint.remote(path) for rank in self.ranks],
        )

    async def save_model(self, path: Path) -> None:
        """Write the policy in Hugging Face format."""
        await self._all_ranks(
            "to save the model",
            self._deadlines.update,
            [rank.save_model.remote(path) for rank in self.ranks],
        )

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        """Have rank 0 write an average of two models."""
        await within(
            self._deadlines.update,
            f"the learner to write {folder.name}",
            self.ranks[0].average.remote(older, newer, decay, folder),
        )

    async def _all_ranks(
        self, what: str, deadline_s: float, refs: Sequence[ray.ObjectRef]
    ) -> list[Any]:
        """Return what each rank returned; `what` completes 'waited for the learner ...'."""
        return await within(deadline_s, f"the learner {what}", asyncio.gather(*refs))


def _share(rollouts: Sequence[Rollout]) -> ray.ObjectRef:
    """Put rollouts where the ranks of a node read them in place: in a thread, for a step of a large
    model has a hundred megabytes."""
    return ray.put(pack_rollouts(rollouts))
