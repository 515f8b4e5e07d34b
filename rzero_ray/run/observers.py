"""How to tell several observers of a run's progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rzero_ray.protocols import Observer
from rzero_ray.types import BusySpan


class Observers(Observer):
    """Tells several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.start_phase(iteration, phase, num_steps, num_done)

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.finish_step(row)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.finish_iteration(row)

    def see_event(self, event: str, details: Mapping[str, Any]) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.see_event(event, details)

    def see_work(self, span: BusySpan) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.see_work(span)

    def note(self, text: str) -> None:
        """See `protocols.Observer`."""
        for observer in self._observers:
            observer.note(text)
