"""A short run as a user starts it, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.types import iteration_key

REPOSITORY = Path(__file__).resolve().parents[2]

SHORT = (
    "conf=tiny",
    "num_iterations=2",
    "challenger.num_steps=2",
    "challenger.num_prompts=16",
    "challenger.prompts_per_update=16",
    "curriculum.num_candidates=40",
    "curriculum.candidates_per_step=40",
    "solver.num_steps=2",
    "solver.num_prompts=8",
    "solver.prompts_per_update=8",
    "solver.samples_per_prompt=2",
    "eval.num_samples=1",
)
"""A run of 8 updates, most of whose time is its start."""

MARK = "RZERO_FAULTS_MARK"
"""An environment variable that every process of a run inherits, Ray's daemons too."""
_LOOK_S = 0.2
FIRST_STEP_S = 400.0
"""Until a started run has finished a step; a laptop needs a tenth of it."""
LEAVE_S = 20.0
"""How long a stopped run's processes may take to be gone."""


@dataclass(frozen=True)
class Moment:
    """When a run is disturbed."""

    seconds: float
    at_work: bool
    """Whether the seconds count from the first finished step after the start, or from the start."""

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s after {'a step' if self.at_work else 'the start'}"


@dataclass
class ShortRun:
    """A run directory, and the processes that the commands on it have started."""

    root: Path
    settings: tuple[str, ...] = SHORT
    address: str = "local"
    """`RAY_ADDRESS`: a Ray of each command's own, or one that is there."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def config(self) -> Config:
        """Return the configuration of the run."""
        return load_config(self._arguments())

    def command(self) -> list[str]:
        """Return the command line that starts or resumes the run."""
        return [sys.executable, "-m", "rzero_ray.driver", *self._arguments()]

    def _arguments(self) -> list[str]:
        model = obtain_model(load_config(["conf=tiny"]).model)
        return [*self.settings, f"model.path={model}", f"run_dir={self.root}"]

    def environment(self) -> dict[str, str]:
        """Return the variable by which the processes of the run are known."""
        return {MARK: self.mark}

    def start(
        self, *, ignores_interrupt: bool = False, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start the driver as the leader of a process group.

        `ignores_interrupt` is how a script's `&` starts it: Ctrl-C is ignored from the outset.
        """
        with interrupt_ignored() if ignores_interrupt else nullcontext():
            return subprocess.Popen(
                self.command(),
                cwd=REPOSITORY,
                env=os.environ | {"RAY_ADDRESS": self.address} | self.environment(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Return what is alive of the commands, wherever it was moved to."""
        return [process for process in psutil.process_iter() if _carries(process, self.mark)]

    def left_behind(self, segments: Iterable[Path]) -> list[str]:
        """Return the command lines of processes that are there after `LEAVE_S`, and the names of
        those of the run's shared-memory segments that are."""
        deadline = time.monotonic() + LEAVE_S
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        commands = [" ".join(process.cmdline())[:100] for process in alive]
        return [*commands, *(path.name for path in segments if path.exists())]

    def wait_for(self, moment: Moment, is_alive: Callable[[], bool]) -> bool:
        """Wait for a moment of the command that was just started; return whether it still is."""
        before = len(self.finished())
        deadline = time.monotonic() + FIRST_STEP_S
        while moment.at_work and len(self.finished()) == before and is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no step of {self.root} within {FIRST_STEP_S:.0f} s")
            time.sleep(_LOOK_S)
        end = time.monotonic() + moment.seconds
        while time.monotonic() < end and is_alive():
            time.sleep(_LOOK_S)
        return is_alive()

    def finished(self) -> list[str]:
        """Return the keys that the manifest lists."""
        manifest = self.root / "manifest.json"
        return json.loads(manifest.read_text())["finished"] if manifest.exists() else []

    def all_updates(self) -> set[str]:
        """Return the updates of a whole run, as `updates` names them."""
        config = self.config()
        steps = {"challenger": config.challenger.num_steps, "solver": config.solver.num_steps}
        return {
            f"{iteration}/{phase}/{step}"
            for iteration in range(1, config.num_iterations + 1)
            for phase, count in steps.items()
            for step in range(1, count + 1)
        }

    def updates(self) -> list[str]:
        """Return the phase and number of each update that has a row of figures, repeated ones too.

        How many steps a curriculum takes depends on what the Challenger asks, so they are left out.
        """
        metrics = self.root / "metrics.jsonl"
        if not metrics.exists():
            return []
        rows = (json.loads(line) for line in metrics.read_text().splitlines())
        return [
            f"{row['iteration']}/{row['phase']}/{row['step']}"
            for row in rows
            if row.get("phase") in ("challenger", "solver") and row.get("step") is not None
        ]

    def is_complete(self) -> bool:
        """Return whether the command would find nothing to do."""
        return iteration_key(self.config().num_iterations) in self.finished()


def mapped(processes: Iterable[psutil.Process]) -> set[Path]:
    """Return the paths, as the kernel tells them, of what processes have mapped into memory."""
    found = set()
    for process in processes:
        # Not psutil's: it counts the pages of every map, which takes a hundred times longer.
        with suppress(OSError):
            lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            found |= {Path(line.partition("/")[1] + line.partition("/")[2]) for line in lines}
    return found


def shared_memory(processes: Iterable[psutil.Process]) -> list[Path]:
    """Return the shared-memory segments that processes have mapped and that have a name.

    Others on the machine make segments of the same names, so a look at the folder tells nothing.
    """
    shm = Path("/dev/shm")
    return sorted(path for path in mapped(processes) if path.parent == shm and path.exists())


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    return (text.strip().splitlines() or [""])[-1]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@contextmanager
def interrupt_ignored() -> Iterator[None]:
    """Start processes in the block as a script's `&` does: with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def inherited(values: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started in the block find these in their environment."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
