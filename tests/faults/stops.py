"""Signals at random moments: how long a run takes to end, and what it leaves.

In the foreground Ctrl-C reaches the whole process group, and every process of it; in the background
of a script it is ignored until the driver asks for it. Each stop meets the run where the one before
has left it, and at the end the run is finished and compared with one that was left alone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.runs import Moment, ShortRun, shared_memory
from tests.faults.table import Outcome, await_end, disturb

SETTINGS = {"signals": "20", "seed": "0", "folder": "/tmp/rzero-faults"}
"""How many signals are sent, of each way as many."""
EXIT_S = 20.0
_CODE = 130


@dataclass(frozen=True)
class _Way:
    """How a signal is sent."""

    name: str
    ignores_interrupt: bool
    send: Callable[[subprocess.Popen[str]], None]


_WAYS = (
    _Way("Ctrl-C, foreground", False, lambda run: os.killpg(run.pid, signal.SIGINT)),
    _Way("SIGTERM, foreground", False, lambda run: run.send_signal(signal.SIGTERM)),
    _Way("SIGINT, background", True, lambda run: run.send_signal(signal.SIGINT)),
    _Way("SIGTERM, background", True, lambda run: run.send_signal(signal.SIGTERM)),
)


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Stop runs many times, then finish them."""
    moments = random.Random(int(settings["seed"]))
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    yield from disturb(folder / "signals", int(settings["signals"]), moments, _stop)


def _stop(run: ShortRun, k: int, moment: Moment) -> Outcome:
    way = _WAYS[k % len(_WAYS)]
    process = run.start(ignores_interrupt=way.ignores_interrupt)
    if not run.wait_for(moment, lambda: process.poll() is None):
        return Outcome(way.name, moment, True, f"ended by itself with {process.returncode}")
    segments = shared_memory(run.processes())
    way.send(process)
    return await_end(way.name, moment, run, process, segments, limit_s=EXIT_S, codes=[_CODE])
