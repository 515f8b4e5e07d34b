"""The numbers of a run's rows under names, for trackers that draw curves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from rzero_ray.protocols import Observer


class ScalarObserver(Observer):
    """Writes every number of a run's rows somewhere.

    Names are `PHASE/metric` over the steps of that phase in the whole run, and `heldout/metric`
    over iterations; iteration 0 is the base model.
    """

    def __init__(self) -> None:
        self._num_steps: dict[str, int] = {}
        """By phase; its curve goes on where that of the iteration before ends."""

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """See `protocols.Observer`."""
        self._num_steps[phase] = num_steps

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        phase, iteration = row["phase"], row["iteration"]
        step = (iteration - 1) * self._num_steps.get(phase, 0) + row["step"]
        self.write(phase, dict(_scalars(phase, row)), step)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        self.write("heldout", dict(_scalars("heldout", row)), row["iteration"])

    @abstractmethod
    def write(self, group: str, numbers: dict[str, float], step: int) -> None:
        """Write the numbers of a row; all names begin with `group` and a slash."""


def _scalars(group: str, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number of a row under `group/key`, and under `group/key/inner` where it has
    objects in it."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _scalars(f"{group}/{name}", value)
        elif isinstance(value, int | float) and name not in ("iteration", "step"):
            yield f"{group}/{name}", value
