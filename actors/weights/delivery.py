"""Weights on their way from Ray's object store into samplers.

The learner sends them as it publishes; the driver sends what was published last, or what lies in a
model's folder, to an engine that comes later. Nothing here imports torch, for the driver's sake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.waiting import within
from actors.weights.buckets import BucketLayout
from actors.weights.staging import NUM_SLOTS
from rzero_ray.types import TransferReport, Weights


class Bucket(NamedTuple):
    """Some whole layers of a model in Ray's object store."""

    layout: BucketLayout
    tensors: ray.ObjectRef
    """Flat bytes of each tensor, in the order of the layout."""


class Publication(NamedTuple):
    """What rank 0 has published."""

    report: TransferReport
    buckets: Sequence[Bucket]
    """The whole model; nothing where it did not pass through the object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWeights:
    """What the learner has published last. It stays in the object store until the next publication,
    so that an engine that comes in between needs no turn of the learner."""

    version: Weights
    attempt: int
    """The learner that has published it."""
    buckets: Sequence[Bucket]
    expected: Sequence[NDArray[np.float32]]
    """The learner's log-probabilities of the probe under it."""
    model: Path | None = None
    """The folder in which it was saved since; None while it is in training."""

    async def each(self) -> AsyncIterator[Bucket]:
        """Yield the buckets."""
        for bucket in self.buckets:
            yield bucket


class Delivery:
    """The buckets of one publication to the samplers of one node.

    A call is an argument of the calls that must come after it: a sampler's calls overlap otherwise.
    """

    def __init__(self, samplers: Sequence[ActorHandle], attempt: int) -> None:
        """`attempt` is the learner's from which the weights are (`LearnerOptions.attempt`)."""
        self._samplers = samplers
        self._attempt = attempt
        self._loads: list[list[ray.ObjectRef]] = []
        """[buckets][samplers]"""

    def send(self, bucket: Bucket) -> None:
        """Have a bucket staged and loaded."""
        slot = len(self._loads) % NUM_SLOTS
        staged = self._samplers[0].stage_bucket.remote(slot, bucket.layout, bucket.tensors)
        if self._loads:
            before = self._loads[-1]
        else:
            before = [
                sampler.start_weight_update.remote(self._attempt, staged)
                for sampler in self._samplers
            ]
        loads: list[ray.ObjectRef] = [
            sampler.update_weights.remote(staged, last)
            for sampler, last in zip(self._samplers, before, strict=True)
        ]
        self._loads.append(loads)

    def loads_of_next_slot(self) -> list[ray.ObjectRef]:
        """Return the loads of the bucket whose place the next one takes."""
        return self._loads[-NUM_SLOTS] if len(self._loads) >= NUM_SLOTS else []

    async def settled(self, deadline_s: float) -> None:
        """Wait until no load is under way, however each has ended."""
        last = [ref for loads in self._loads[-NUM_SLOTS:] for ref in loads]
        if last:
            ends = [asyncio.wrap_future(ref.future()) for ref in last]
            await asyncio.wait(ends, timeout=deadline_s)

    def finish(self, version: Weights) -> list[ray.ObjectRef]:
        """Return, per sampler, the seconds that it stood still, once it samples `version`."""
        return [
            sampler.finish_weight_update.remote(version, last)
            for sampler, last in zip(self._samplers, self._loads[-1], strict=True)
        ]


async def deliver(
    buckets: AsyncIterable[Bucket],
    version: Weights,
    sampler: ActorHandle,
    attempt: int,
    each_s: float,
) -> None:
    """Load a whole model into one sampler, which samples `version` from then on.

    Each bucket has `each_s` seconds. A failure is raised when nothing is under way any more.
    """
    delivery = Delivery([sampler], attempt)
    what = f"an engine to load weights {version.name}"
    try:
        async for bucket in buckets:
            await within(each_s, what, asyncio.gather(*delivery.loads_of_next_slot()))
            delivery.send(bucket)
        await within(each_s, what, asyncio.gather(*delivery.finish(version)))
    except BaseException:
        await delivery.settled(each_s)
        raise
