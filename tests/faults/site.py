"""A run over hosts that join and leave while it is at work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.calls import Call, load_calls
from tests.faults.hosted import head_address, ray_words, start_node
from tests.faults.hosts import Scene
from tests.faults.namespaces import Host
from tests.faults.runs import REPOSITORY, last_line

_ANSWER_S = 120.0
"""How long a command may take to be done."""


@dataclass(frozen=True)
class Size:
    """What a host has, as its Ray is told."""

    cpus: int
    memory: int
    """Bytes."""

    def options(self) -> list[str]:
        """Return that as options of `ray start`."""
        return [f"--num-cpus={self.cpus}", f"--memory={self.memory}"]


@dataclass
class Site(Scene):
    """A run whose driver is on the first host, and what can be done to the others."""

    environment: Mapping[str, str]
    """What each Ray and each command find in theirs."""
    logs: Path
    """The folder of what these say."""
    only_first_sees: Sequence[Path] = ()
    """Folders that are on the first host's disk alone."""
    joined: dict[int, float] = field(default_factory=dict)
    """By the number of a host: when its `ray start` said that it was there, in seconds since
    1970."""

    def start_head(self, size: Size, *options: str) -> None:
        """Start the Ray of the first host."""
        self.logs.mkdir(parents=True)
        role = ["--head", f"--port={head_address(self.hosts).rpartition(':')[2]}", *options]
        self._start(self.hosts[0], [*role, *size.options()])

    def join(self, number: int, size: Size) -> float:
        """Have a host join; returns when it had, in seconds since 1970."""
        host = self.hosts[number]
        for folder in self.only_first_sees:
            host.hide(folder)
        self._start(host, [f"--address={head_address(self.hosts)}", *size.options()])
        return self.joined[number]

    def _start(self, host: Host, options: Sequence[str]) -> None:
        start_node(host, options, self.environment, self.logs / f"host{host.number}.log")
        self.joined[host.number] = time.time()

    def drain(self, number: int, deadline_s: float) -> float:
        """Tell Ray that a host will end after some time, as a cloud's notice does; returns when."""
        words = ray_words("drain-node", f"--address={head_address(self.hosts)}")
        words += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=it will end"]
        words += [f"--deadline-remaining-seconds={deadline_s:.0f}"]
        at = time.time()
        self.command(words, on=number)
        return at

    def scale(self, solver: str) -> float:
        """Have the run want other numbers of the Solver's engines; returns when it was asked."""
        at = time.time()
        run_dir = f"run_dir={self.watched.run.root}"
        self.command(
            [sys.executable, "-m", "rzero_ray", "scale", run_dir, f"solver={solver}"], on=0
        )
        return at

    def command(self, words: Sequence[str], on: int) -> str:
        """Have a command done on a host and return what it says; RuntimeError where it fails."""
        log = self.logs / "command.log"
        environment = {**self.environment, "RAY_ADDRESS": head_address(self.hosts)}
        with log.open("w") as stream:
            process = self.hosts[on].start(words, REPOSITORY, environment, stream)
        # The run is looked at meanwhile, where it is at work.
        self.watched.wait(lambda: process.poll() is not None, _ANSWER_S)
        try:
            code = process.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RuntimeError(f"{' '.join(words)} is not done within minutes") from None
        said = log.read_text()
        if code:
            raise RuntimeError(f"{' '.join(words)} ended with {code}: {last_line(said)}")
        return said

    def calls(self) -> list[Call]:
        """Return the calls of the run's engines so far."""
        path = self.logs / "calls.json"
        self.command([sys.executable, "-m", "tests.faults.calls", str(path)], on=0)
        return load_calls(path)
