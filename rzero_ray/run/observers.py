"""Who is told of a run's progress, and how to tell several."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Who is told of progress: the terminal display, TensorBoard."""

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """A phase begins or goes on."""
        ...

    def finish_step(self, row: dict[str, Any]) -> None:
        """A step is finished; `row` is its line of `metrics.jsonl`."""
        ...

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """An evaluation is finished; `row` is its entry in `summary.json`'s `heldout`."""
        ...

    def note(self, text: str) -> None:
        """Something a user should read."""
        ...


class Observers:
    """Tells several observers, in order; an `Observer`."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """A phase begins or goes on."""
        for observer in self._observers:
            observer.start_phase(iteration, phase, num_steps, num_done)

    def finish_step(self, row: dict[str, Any]) -> None:
        """A step is finished."""
        for observer in self._observers:
            observer.finish_step(row)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """An evaluation is finished."""
        for observer in self._observers:
            observer.finish_iteration(row)

    def note(self, text: str) -> None:
        """Something a user should read."""
        for observer in self._observers:
            observer.note(text)
