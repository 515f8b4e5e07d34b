"""Weights from the learner to the samplers: what a source of them and a transport promise.

Weights never pass through RPC arguments or a checkpoint on disk. A publication carries a version;
the caller then verifies it with a log-probability probe (`actors.weights.probe`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from ray.actor import ActorHandle

from actors.weights.delivery import Publication
from rzero_ray.types import Weights


class WeightSource(Protocol):
    """Yields the whole model, tensor by tensor, in layer order, under Hugging Face names.

    Gathering partitions is a collective: every learner rank must walk it to the end. Tensors stay
    valid after the walk has moved on, until the next update.
    """

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return names and full shapes in the same order, without gathering anything."""
        ...


class WeightTransport(ABC):
    """Learner side; every rank owns one and makes the same calls in the same order."""

    @abstractmethod
    def publish(
        self, source: WeightSource, version: Weights, samplers: Sequence[ActorHandle]
    ) -> Publication | None:
        """Load the weights into the engines of `samplers`; says what on rank 0, None elsewhere.

        They may be others than the time before; what a transport keeps of those it knows is its
        own affair.
        """
