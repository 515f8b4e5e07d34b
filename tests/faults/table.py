"""What a disturbance has come to, and whether the disturbed run ends like another."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.runs import Moment, ShortRun, last_line

_START_S, _WORK_S = 30.0, 12.0
"""The latest moments after the start, and after a step: a step takes a second or two."""


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    what: str
    moment: Moment | str | None
    good: bool
    told: str
    """What was seen: seconds, exit code, what was left, the last line."""


def chosen(asked: str, known: Iterable[str]) -> list[str]:
    """Return the rows that are asked for: names with commas between, or how they begin.

    ValueError where there is no such row.
    """
    found = []
    for word in asked.split(","):
        names = [name for name in known if name.startswith(word)]
        if not names:
            raise ValueError(f"{word}: there are {', '.join(known)}")
        found += names
    return found


def disturb(
    folder: Path,
    times: int,
    moments: random.Random,
    disturbance: Callable[[ShortRun, int, Moment], Outcome],
) -> Iterator[Outcome]:
    """Disturb a run in `folder` again and again, each time where the time before has left it.

    `disturbance` starts or resumes it, and is told the number of the time and the moment: one in
    three while it starts, the others while it works. A run that reaches its end makes place for
    another; each is finished and compared.
    """
    if not times:
        return
    run = ShortRun(folder / "run-0")
    for k in range(times):
        at_work = k % 3 > 0
        moment = Moment(moments.uniform(1.0, _WORK_S if at_work else _START_S), at_work)
        yield disturbance(run, k, moment)
        if run.is_complete():
            yield _finish(run)
            run = ShortRun(folder / f"run-{k + 1}")
    yield _finish(run)


def await_end(
    what: str,
    moment: Moment,
    run: ShortRun,
    process: subprocess.Popen[str],
    segments: Sequence[Path],
    *,
    limit_s: float,
    codes: Collection[int],
) -> Outcome:
    """Wait for the end of a command that was disturbed.

    It is as it should be with one of `codes`, within `limit_s`, without a traceback, and with
    nothing left of its processes and of the `segments` that they had.
    """
    began = time.monotonic()
    try:
        _, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return Outcome(what, moment, False, f"still there after {limit_s:.0f} s")
    took = time.monotonic() - began
    left = run.left_behind(segments)
    good = process.returncode in codes and "Traceback" not in error and not left
    if not good:
        print(error, file=sys.stderr)
    told = f"{took:.1f} s, code {process.returncode}, {len(left)} left: {last_line(error)}"
    return Outcome(what, moment, good, "; ".join([told, *left]))


def _finish(run: ShortRun) -> Outcome:
    """Run the same command to its end, and count the updates and their rows."""
    before = len(run.updates())
    process = run.start()
    _, error = process.communicate(timeout=600)
    rows = Counter(run.updates())
    doubled = rows.total() - len(rows)
    lost = len(run.all_updates() - set(rows))
    good = process.returncode == 0 and run.is_complete() and not doubled and not lost
    told = f"code {process.returncode}, from {before} to {len(rows)} updates"
    told += f", {lost} lost, {doubled} doubled"
    if process.returncode:
        told += f"; {last_line(error)}"
    return Outcome("finished by the same command", None, good, told)
