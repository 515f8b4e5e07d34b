"""Ten interruptions of one run at random moments: the same updates as without, each one once.

Any actor is killed, or the driver, which is then started again. What is left of the run at its end
must be the work of a run that was left alone: each update has a row, and the stored rollouts, taken
once each, give the weights that it has left, bit for bit.
"""

from __future__ import annotations

import random
import signal
import sys
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.account import settle
from tests.faults.kills import ONE_ITERATION
from tests.faults.runs import ShortRun
from tests.faults.table import Outcome
from tests.faults.watched import WatchedRun, strike

SETTINGS = {"times": "10", "seed": "0", "iterations": "2", "folder": "/tmp/rzero-faults"}
_DRIVER = "driver"
_STEPS = ("challenger.num_steps=3", "solver.num_steps=3")
_AT_WORK_S, _RECOVERING_S = 4.0, 20.0
"""The latest moment of an interruption after the run has gone on, and after the one before."""
_GOES_ON_S = 300.0
"""Until a run that was interrupted has finished a step or a phase."""
_END_S = 400.0
"""Until a run that was interrupted for the last time has ended."""


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Interrupt one run many times, and say what each time and all of them came to."""
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    times = int(settings["times"])
    more = (f"num_iterations={settings['iterations']}", f"recovery.max_restarts={times}")
    watched = WatchedRun(
        ShortRun(folder / "run", (*ONE_ITERATION, *_STEPS, *more)), folder / "run.log"
    )
    chance = random.Random(int(settings["seed"]))
    num_sent = 0
    try:
        watched.start()
        while num_sent < times:
            outcome = _interrupt(watched, draw(chance))
            yield outcome
            if not outcome.good:
                break
            num_sent += 1
        yield _finish(watched, num_sent)
    finally:
        watched.end()


@dataclass(frozen=True)
class Interruption:
    """When a run is interrupted, and who of those that are there is killed."""

    seconds: float
    at_work: bool
    """Whether the seconds count from the first step or phase that is finished after the
    interruption before, or from that one itself."""
    choice: float
    """In [0, 1): of all that are there."""

    def target(self, actors: Collection[str]) -> str:
        """Return one of the actors, or the driver, all equally likely."""
        there = [*sorted(actors), _DRIVER]
        return there[int(self.choice * len(there))]

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s after {'a step' if self.at_work else 'the last'}"


def draw(chance: random.Random) -> Interruption:
    """Return an interruption: one in three while the run recovers, the others while it works."""
    at_work = chance.random() >= 1 / 3
    seconds = chance.uniform(0.0, _AT_WORK_S if at_work else _RECOVERING_S)
    return Interruption(seconds, at_work, chance.random())


def _interrupt(watched: WatchedRun, drawn: Interruption) -> Outcome:
    """Wait for the moment of an interruption, and kill somebody."""
    before = len(watched.run.finished())
    if drawn.at_work:
        watched.wait(lambda: len(watched.run.finished()) > before, _GOES_ON_S)
    watched.wait(lambda: False, drawn.seconds)
    done = watched.run.finished()
    assert watched.driver is not None
    if watched.driver.poll() is not None:
        said = f"it had ended with {watched.driver.returncode}, {len(done)} keys finished"
        return Outcome("kill nobody", str(drawn), False, said)
    there = {a: life for a, life in watched.lives().items() if psutil.pid_exists(life.pid)}
    target = drawn.target(there)
    if target == _DRIVER:
        strike([watched.driver.pid], signal.SIGKILL)
        watched.driver.wait()
        watched.start()
    else:
        strike([there[target].pid], signal.SIGKILL)
    last = done[-1] if done else "nothing"
    return Outcome(f"kill {target}", str(drawn), True, f"{len(done)} keys finished, last {last}")


def _finish(watched: WatchedRun, num_sent: int) -> Outcome:
    """Wait for the end of the run, and hold it against one that was left alone."""
    account = settle(watched, watched.await_end(_END_S))
    if not account.is_whole:
        print(watched.last_words(), file=sys.stderr)
    return Outcome(f"after {num_sent} interruptions", None, account.is_whole, str(account))
