"""Which of a model's weights are trained: all of them, or an adapter (`actors.learning.lora`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter


class TrainedWeights(Protocol):
    """What the learner has to know of what it trains.

    Under ZeRO 3 parameters are gathered by the caller: those of a whole decoder layer before any of
    them is asked for.
    """

    leaves_frozen: bool
    """Whether there are parameters that stay as they are: checkpoints leave them out."""

    def published_name(self, name: str) -> str | None:
        """Return the Hugging Face name of what a parameter is published as; None where it is part
        of another one."""
        ...

    def published(self, name: str, parameter: Parameter) -> Tensor:
        """Return what a parameter with a `published_name` is published as, without gradient."""
        ...

    def as_at_the_start(self) -> AbstractContextManager[None] | None:
        """Return a context in which the model is what it was at the start of the phase; None where
        only a second model is that."""
        ...

    def adapter_parameters(self) -> dict[str, Parameter]:
        """Return the parameters, by name, that a model folder holds a copy of beside the model."""
        ...

    def write_adapter(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write what lies beside the model in its folder, from whole `adapter_parameters`."""
        ...


class AllWeights:
    """Full training: every parameter is trained, and published as it is."""

    leaves_frozen = False

    def published_name(self, name: str) -> str | None:
        """See `TrainedWeights`."""
        return name

    def published(self, name: str, parameter: Parameter) -> Tensor:
        """See `TrainedWeights`."""
        return parameter.detach()

    def as_at_the_start(self) -> AbstractContextManager[None] | None:
        """See `TrainedWeights`."""
        return None

    def adapter_parameters(self) -> dict[str, Parameter]:
        """See `TrainedWeights`."""
        return {}

    def write_adapter(self, folder: Path, state: dict[str, Tensor]) -> None:
        """See `TrainedWeights`."""
