"""A long run of `conf=tiny` with a kill every few minutes: does it grow, and what stays?

Memory of each role over time and its slope, of the processes that served as it one after the other.
Nothing of the run may be left after SIGTERM, after a crash of the driver, and after the end.
"""

from __future__ import annotations

import math
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults.growth import Memory, daemons
from tests.faults.runs import ShortRun
from tests.faults.table import Outcome
from tests.faults.watched import WatchedRun, strike

SETTINGS = {"minutes": "60", "every": "180", "seed": "0", "folder": "/tmp/rzero-faults"}
_LOOK_S = 5.0
_BACK_S = 300.0
"""Until an actor that was killed serves again."""
_STEP_S = 300.0
"""Until a run that was started has finished a step."""
_END_S = 30.0
"""Until a driver has ended that was asked to."""
_LAST_S = 900.0
"""Until the run has ended that is to have one more iteration."""
_MANY = ("conf=tiny", "recovery.max_restarts=1000")


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Go through the time, then end the run in each of the three ways."""
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    short = ShortRun(folder / "run", (*_MANY, "num_iterations=999"))
    watched = WatchedRun(short, folder / "run.log")
    memory, chance = Memory(), random.Random(int(settings["seed"]))
    try:
        watched.start()
        end = time.monotonic() + 60 * float(settings["minutes"])
        every = float(settings["every"]) or math.inf
        while time.monotonic() < end:
            _measure(watched, memory, min(every, end - time.monotonic()))
            if every == math.inf:
                break
            outcome = _kill_somebody(watched, chance)
            yield outcome
            if not outcome.good:
                break
        for role, growth in memory.growth().items():
            yield Outcome(f"memory of {role}", None, True, str(growth))
        yield _ask_to_end(watched)
        yield _crash(watched)
        yield _finish(watched)
    finally:
        watched.end()


def _measure(watched: WatchedRun, memory: Memory, seconds: float) -> None:
    """Look at the memory of each process every few seconds, for so long."""
    assert watched.driver is not None
    end = time.monotonic() + seconds
    while time.monotonic() < end and watched.driver.poll() is None:
        roles = {life.pid: life.actor for life in watched.lives().values()}
        roles |= daemons(watched.run.processes()) | {watched.driver.pid: "driver"}
        memory.look(roles)
        watched.wait(lambda: False, _LOOK_S)


def _kill_somebody(watched: WatchedRun, chance: random.Random) -> Outcome:
    """Kill a random actor; good when another process serves in its place within `_BACK_S`."""
    assert watched.driver is not None
    there = [life for life in watched.lives().values() if psutil.pid_exists(life.pid)]
    if watched.driver.poll() is not None or not there:
        return _outcome(watched, "kill nobody", f"driver's code {watched.driver.poll()}", False)
    victim = chance.choice(sorted(there, key=lambda life: life.actor))
    at = strike([victim.pid], signal.SIGKILL)

    def is_back() -> bool:
        life = watched.lives().get(victim.actor)
        return life is not None and life.pid != victim.pid

    back = watched.wait(is_back, _BACK_S)
    done = watched.run.finished()[-1]
    told = f"{'back' if back else 'NOT back'} after {time.time() - at:.1f} s, last finished {done}"
    return _outcome(watched, f"kill {victim.actor}", told, back)


def _ask_to_end(watched: WatchedRun) -> Outcome:
    """Send SIGTERM to the driver."""
    assert watched.driver is not None
    watched.driver.send_signal(signal.SIGTERM)
    code = watched.await_end(_END_S)
    left = watched.left_behind()
    told = "; ".join([f"code {code}, {len(left)} left", *left])
    return _outcome(watched, "SIGTERM", told, code == 130 and not left)


def _crash(watched: WatchedRun) -> Outcome:
    """Resume the run, and kill its driver once it has gone on."""
    if not _goes_on(watched):
        return _outcome(watched, "SIGKILL of the driver", "it did not go on", False)
    assert watched.driver is not None
    strike([watched.driver.pid], signal.SIGKILL)
    watched.driver.wait()
    left = watched.left_behind()
    told = "; ".join([f"{len(left)} left", *left])
    return _outcome(watched, "SIGKILL of the driver", told, not left)


def _finish(watched: WatchedRun) -> Outcome:
    """Resume the run and have it end with the iteration that it is in."""
    iterations = {key.partition("/")[0] for key in watched.run.finished()}
    # A short one may be killed before its first iteration has a finished step.
    last = max([1, *(int(name.rpartition("-")[2]) for name in iterations)])
    watched.run.settings = (*_MANY, f"num_iterations={last}")
    watched.start()
    code = watched.await_end(_LAST_S)
    left = watched.left_behind()
    complete = watched.run.is_complete()
    told = f"code {code}, {last} iterations, {len(left)} left"
    good = code == 0 and complete and not left
    return _outcome(watched, "the end", "; ".join([told, *left]), good)


def _goes_on(watched: WatchedRun) -> bool:
    before = len(watched.run.finished())
    watched.start()
    return watched.wait(lambda: len(watched.run.finished()) > before, _STEP_S)


def _outcome(watched: WatchedRun, what: str, told: str, good: bool) -> Outcome:
    if not good:
        print(watched.last_words(), file=sys.stderr)
    return Outcome(what, None, good, told)
