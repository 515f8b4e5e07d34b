"""A run that is watched from outside, many times a second, while it is disturbed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults import evidence
from tests.faults.evidence import Event, FinishedSteps, Life
from tests.faults.runs import ShortRun, shared_memory

_LOOK_S = 0.02
_LOOK_AT_MEMORY_S = 2.0


class WatchedRun:
    """A run whose driver is started, and started again; its errors go to `log`."""

    def __init__(self, run: ShortRun, log: Path) -> None:
        self.run = run
        self.log = log
        self.steps = FinishedSteps(run.root)
        self.driver: subprocess.Popen[str] | None = None
        self._segments: set[Path] = set()
        self._next_look = 0.0

    def start(self) -> None:
        """Start or resume the run."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as stderr:
            self.driver = self.run.start(stderr=stderr)

    def wait(self, is_reached: Callable[[], bool], within_s: float) -> bool:
        """Wait until something is reached; False where the driver ends or the time is over before
        it is."""
        assert self.driver is not None, "start() comes first"
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            has_ended = self.driver.poll() is not None
            self._look()
            if is_reached():
                return True
            if has_ended:
                return False
            time.sleep(_LOOK_S)
        return False

    def await_end(self, within_s: float) -> int | None:
        """Return the driver's exit code; None where it is still at work when the time is over."""
        assert self.driver is not None, "start() comes first"
        self.wait(lambda: False, within_s)
        return self.driver.poll()

    def _look(self) -> None:
        self.steps.look()
        if time.monotonic() > self._next_look:
            self._segments |= set(shared_memory(self.run.processes()))
            self._next_look = time.monotonic() + _LOOK_AT_MEMORY_S

    def events(self) -> list[Event]:
        """Return what the run has told."""
        return evidence.events(self.run.root)

    def lives(self) -> dict[str, Life]:
        """Return the processes that serve as actors, by name."""
        return evidence.lives(self.events())

    def left_behind(self) -> list[str]:
        """Return the processes and the shared memory that are there after a driver's end."""
        return self.run.left_behind(self._segments)

    def end(self) -> None:
        """Kill what is left of the run."""
        for process in self.run.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.driver is not None:
            self.driver.wait()

    def last_words(self, count: int = 15) -> str:
        """Return the last events and the last lines that the drivers said, for a row that fails."""
        told = [str(event)[:300] for event in self.events()[-count:]]
        said = self.log.read_text().splitlines()[-count:] if self.log.exists() else []
        return "\n".join([f"-- {self.run.root}, last events:", *told, "-- last words:", *said])


def strike(pids: Sequence[int], sent: signal.Signals) -> float:
    """Send a signal to processes that are alive; return when, in seconds since 1970."""
    found = [psutil.Process(pid) for pid in pids]
    at = time.time()
    for process in found:
        process.send_signal(sent)
    return at
