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

from rzero_ray.types import SyncReport


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
    def connect(self, engines: Sequence[ActorHandle]) -> None:
        """Set which samplers the next publications go to; idempotent."""

    @abstractmethod
    def add_engine(self, engine: ActorHandle) -> None:
        """Add a sampler, which may have started late."""

    @abstractmethod
    def publish(self, source: WeightSource, version: str) -> SyncReport | None:
        """Load the weights into every connected engine; a report on rank 0, None elsewhere."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything held."""
