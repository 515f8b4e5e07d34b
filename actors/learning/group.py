"""The learner as the driver sees it: all its ranks as one."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from actors.fleet.life import Whereabouts
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.learning.options import PhaseOptions
from actors.learning.rollouts import pack_rollouts
from actors.sampling.pool import PooledSampler
from actors.waiting import within
from actors.weights.delivery import Publication
from rzero_ray.config.cluster import DeadlineConfig, RecoveryConfig
from rzero_ray.disk.files import attempt_folder, keep_folder
from rzero_ray.types import (
    Activity,
    LearnerLostError,
    LearningReport,
    Phase,
    Role,
    Rollout,
    Weights,
)

logger = logging.getLogger(__name__)

_OF_A_GROUP = ("gloo/transport", "NCCL", "ProcessGroup")
"""What torch's errors of a collective name, whose class says nothing."""

ReasonToRegroup = Callable[[Sequence[Member]], Awaitable[str]]
"""Says why these ranks should be made anew between phases; nothing where they need not."""
MakeRanks = Callable[[int], Awaitable[list[Member]]]
"""Makes the ranks of the learner's n-th attempt, counted from 1, in their places."""


class LearnerGroup:
    """Every call goes to all ranks, and ends when the last has answered or its deadline is over.

    Ranks work together (gradients, partitions): they get the same calls in the same order, and a
    call must not overlap another. Whoever calls has them to himself (`alone`).

    A rank that dies takes the others with it: what they hold is of no use without its part, and a
    process that has been in a group cannot join another one. All are made anew.
    """

    def __init__(
        self,
        ranks: Sequence[Member],
        deadlines: DeadlineConfig,
        make: MakeRanks | None = None,
        watch: Watch | None = None,
        reason_to_regroup: ReasonToRegroup | None = None,
    ) -> None:
        """Without `make` a rank that dies is not replaced, without `reason_to_regroup` none goes
        elsewhere between phases."""
        self.ranks = list(ranks)
        self.attempt = 1
        """How many learners there have been; what one of them holds the next one does not."""
        self.check_writer: Callable[[], None] = lambda: None
        """Raises where the driver may not write into the run any more: another one has taken it
        over."""
        self._deadlines = deadlines
        self._make = make
        self._reason_to_regroup = reason_to_regroup
        self._watch = watch or Watch(RecoveryConfig())
        self._busy = asyncio.Lock()
        self._role: Role | None = None
        """For whom it works, or did last."""
        self._saving: asyncio.Task[None] | None = None
        self._writer = uuid.uuid4().hex[:8]
        """Tells what this start of the run writes from what an earlier one may still be writing."""

    async def join(self) -> None:
        """Have the ranks meet at rank 0, once, before everything else."""
        address, port = await within(
            self._deadlines.start,
            "the learner to name a meeting point",
            self._actors()[0].address.remote(),
        )
        found: list[Whereabouts] = await self._all_ranks(
            "to join",
            "loading",
            self._deadlines.start,
            [rank.join.remote(address, port) for rank in self._actors()],
        )
        for rank, where in zip(self.ranks, found, strict=True):
            rank.found_at(where)

    async def is_whole(self, reason: str) -> bool:
        """Return whether all ranks are alive, after something has failed for a `reason`."""
        return all([await self._watch.is_alive(rank, reason) for rank in self.ranks])

    @asynccontextmanager
    async def alone(
        self, role: Role | None = None, *, in_passing: bool = False
    ) -> AsyncIterator[None]:
        """Have the learner to oneself in the block, for the sake of `role`.

        What fails of a checkpoint that is being written is raised here, but not where the learner
        is used `in_passing`, by somebody who is not its trainer.

        Raises LearnerLostError where a rank has died, in the block or before, once there is a new
        learner. Raises RunError where that is not allowed any more, or does not succeed.
        """
        async with self._busy:
            try:
                if any(not rank.is_up for rank in self.ranks):
                    raise LearnerLostError("a rank of the learner has died")
                await self._saved(in_passing)
                self._role = role
                yield
            except Exception as error:
                if await self.is_whole(str(error)):
                    if not _parted(error):
                        raise
                    for rank in self.ranks:
                        self._watch.condemn(rank, f"the ranks have lost each other: {error}")
                await self._renew()
                raise LearnerLostError(
                    "the learner has died and was made anew; it holds nothing yet"
                ) from error

    async def regroup(self) -> None:
        """Make all ranks anew where that is better for the phase that is about to begin: elsewhere,
        or more of them. Within a phase their number never changes but by a death."""
        reason = (
            "" if self._reason_to_regroup is None else await self._reason_to_regroup(self.ranks)
        )
        if reason:
            logger.info("the learner is made anew: %s", reason)
            await self._renew(reason)

    async def _renew(self, reason: str = "all ranks are made anew") -> None:
        """Make all ranks anew, until they have met."""
        assert self._make is not None, "a learner that is watched can be made anew"
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        while True:
            lost = [rank.name for rank in self.ranks if not self._watch.may_restart(rank.name)]
            for rank in self.ranks:
                self._watch.retire(rank, reason)
            if lost:
                raise self._watch.lost(lost[0])
            self.attempt += 1
            self.ranks = await self._make(self.attempt)
            for rank in self.ranks:
                rank.state = State.RESTARTING
                self._watch.enter(rank)
            try:
                await self.join()
            except Exception as error:
                for rank in self.ranks:
                    self._watch.bury(rank, f"the new learner failed: {error}")
                continue
            for rank in self.ranks:
                self._watch.set(rank, State.HEALTHY, "a new learner")
            return

    def _actors(self) -> list[Any]:
        return [rank.actor for rank in self.ranks]

    async def start_phase(self, phase: Phase, options: PhaseOptions) -> None:
        """Load a phase's policy in place of the one before."""
        # A checkpoint of another number of ranks is put together first (`other_ranks`).
        convert_s = 0.0 if phase.checkpoint is None else self._deadlines.update
        await self._all_ranks(
            "to load the policy",
            "loading",
            self._deadlines.start + convert_s,
            [rank.start_phase.remote(phase, options) for rank in self._actors()],
        )

    async def load_model(self, path: Path) -> None:
        """Load a model to be published and scored, in place of the phase's policy."""
        await self._all_ranks(
            "to load a model",
            "loading",
            self._deadlines.start,
            [rank.load_model.remote(path) for rank in self._actors()],
        )

    async def update(
        self, rollouts: Sequence[Rollout], allowed_tokens: NDArray[np.int32] | None = None
    ) -> LearningReport:
        """Learn from one step's rollouts, which were drawn from `allowed_tokens`."""
        shared = await asyncio.to_thread(_share, rollouts)
        reports = await self._all_ranks(
            "to update",
            "learning",
            self._deadlines.update,
            [rank.update.remote(shared, allowed_tokens) for rank in self._actors()],
        )
        return reports[0]

    async def imitate(self, demonstrations: Sequence[Rollout]) -> LearningReport:
        """Learn from one step's demonstrations."""
        shared = await asyncio.to_thread(_share, demonstrations)
        reports = await self._all_ranks(
            "to imitate",
            "learning",
            self._deadlines.update,
            [rank.imitate.remote(shared) for rank in self._actors()],
        )
        return reports[0]

    async def publish(self, version: Weights, samplers: Sequence[PooledSampler]) -> Publication:
        """Load the weights into `samplers`, which sample with them from then on."""
        actors = [sampler.actor for sampler in samplers]
        reports = await self._all_ranks(
            f"to publish weights {version.name}",
            "weight sync",
            self._deadlines.sync,
            [rank.publish.remote(version, actors) for rank in self._actors()],
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
            "weight sync",
            self._deadlines.sync,
            [rank.prompt_logprobs.remote(prompts) for rank in self._actors()],
        )
        return scores[0]

    async def leave_device(self, *, keep_parameters: bool) -> None:
        """Move what the phase holds to the host's memory, except for its parameters if so told."""
        await self._all_ranks(
            "to make room for weights" if keep_parameters else "to leave its devices",
            "moving",
            self._deadlines.sync,
            [rank.leave_device.remote(keep_parameters) for rank in self._actors()],
        )

    async def return_to_device(self) -> None:
        """Move back whatever is away."""
        await self._all_ranks(
            "to return to its devices",
            "moving",
            self._deadlines.sync,
            [rank.return_to_device.remote() for rank in self._actors()],
        )

    async def save_checkpoint(self, path: Path) -> None:
        """Write what `start_phase` needs to go on from here."""
        await self._write(
            path,
            "to save a checkpoint",
            lambda folder: [rank.save_checkpoint.remote(folder) for rank in self._actors()],
        )

    def meanwhile(self, saving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin to save what the learner holds, and return; whoever has the learner next waits
        until that is done. A failure is raised there."""
        self._saving = asyncio.create_task(saving)
        return self._saving

    async def _saved(self, in_passing: bool) -> None:
        """Wait for what is being written."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
            if not in_passing:
                saving, self._saving = self._saving, None
                await saving

    async def save_model(self, path: Path) -> None:
        """Write the policy in Hugging Face format."""
        await self._write(
            path,
            "to save the model",
            lambda folder: [rank.save_model.remote(folder) for rank in self._actors()],
        )

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        """Have rank 0 write an average of two models."""
        await self._write(
            folder,
            f"to write {folder.name}",
            lambda to: [self._actors()[0].average.remote(older, newer, decay, to)],
        )

    async def _write(
        self, path: Path, what: str, write: Callable[[Path], Sequence[ray.ObjectRef]]
    ) -> None:
        """Have ranks write a folder, which gets its name here, once it is whole.

        Ranks of a learner that is cut off and has been replaced go on writing, for minutes: into a
        folder that has its name, which nobody reads.
        """
        written = attempt_folder(path, f"{self._writer}-{self.attempt}")
        listings = await self._all_ranks(what, "saving", self._deadlines.update, write(written))
        files = {name: size for listing in listings for name, size in listing.items()}
        self.check_writer()
        await asyncio.to_thread(keep_folder, written, path, files)

    async def _all_ranks(
        self, what: str, activity: Activity, deadline_s: float, refs: Sequence[ray.ObjectRef]
    ) -> list[Any]:
        """Return what each rank returned; `what` completes 'waited for the learner ...'.

        `refs` are of the first ranks in their order: of all, or of rank 0 alone.
        """
        role = self._role

        async def answer(rank: Member, ref: ray.ObjectRef) -> Any:
            with rank.work.at(activity, role):
                return await ref

        answers = asyncio.gather(*map(answer, self.ranks, refs))
        return await within(deadline_s, f"the learner {what}", answers)


def _share(rollouts: Sequence[Rollout]) -> ray.ObjectRef:
    """Put rollouts where the ranks of a node read them in place: in a thread, for a step of a large
    model has a hundred megabytes."""
    return ray.put(pack_rollouts(rollouts))


def _parted(error: Exception) -> bool:
    """Return whether ranks that live have lost each other: their group is of no use any more."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, RuntimeError) and any(word in str(cause) for word in _OF_A_GROUP)
