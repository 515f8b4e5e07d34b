"""A disk of 1.1 GB that is full from a random moment on: one line, and the run can be resumed.

The disk is a file system in memory, which root alone can mount. Something else fills it to the last
byte while the run writes to it; the run fails, room is made, and the same command goes on.
"""

from __future__ import annotations

import errno
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.runs import Moment, ShortRun, shared_memory
from tests.faults.table import Outcome, await_end, disturb

SETTINGS = {"times": "10", "seed": "0", "megabytes": "1100"}
END_S = 300.0
"""How long a run may go on after its disk is full: until it writes."""


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Fill the disk of a run many times, then finish it."""
    moments = random.Random(int(settings["seed"]))
    with _disk(int(settings["megabytes"])) as disk:

        def fill(run: ShortRun, _: int, moment: Moment) -> Outcome:
            return _fill(run, disk, moment)

        yield from disturb(disk, int(settings["times"]), moments, fill)


def _fill(run: ShortRun, disk: Path, moment: Moment) -> Outcome:
    name = "disk full"
    process = run.start()
    if not run.wait_for(moment, lambda: process.poll() is None):
        return Outcome(name, moment, True, f"ended by itself with {process.returncode}")
    segments = shared_memory(run.processes())
    filler = disk / "filler"
    _write_until_full(filler)
    try:
        # A run whose disk is full before it has written anything is refused (2), others fail (1).
        return await_end(name, moment, run, process, segments, limit_s=END_S, codes=[1, 2])
    finally:
        filler.unlink()


def _write_until_full(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextmanager
def _disk(megabytes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        options = f"size={megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
