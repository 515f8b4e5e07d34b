"""A Ray over several hosts (`namespaces`), and a run whose driver is on the first of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from actors.process import RAY_ENVIRONMENT
from tests.faults.namespaces import Host
from tests.faults.runs import REPOSITORY, ShortRun, last_line

_PORT = 6379
_RESOURCES = ((1, 1 << 29), (4, 6 << 30), (4, 6 << 30))
"""CPUs and bytes of each host, as Ray is told. An engine wants more than the first one has."""
NUM_HOSTS = len(_RESOURCES)
OBJECT_STORE_BYTES = 200 << 20
"""Of each node of a Ray over hosts."""
_ACTORS = ("ray::Sampler", "ray::Learner", "ray::RewardWorker")
"""How Ray names the processes of a run's actors."""
_JOINED_S = 120.0
_STARTS = 4
"""Ray gives a node 30 s to start, which a machine with other work may not do at once."""
_LOOK_S = 0.1


@dataclass
class HostedRun(ShortRun):
    """A run whose driver is on a host."""

    host: Host = field(kw_only=True)
    """That of the driver."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def environment(self) -> dict[str, str]:
        """Return what the driver and every Ray find in their environment."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return os.environ | RAY_ENVIRONMENT | health_checks() | super().environment() | token

    def start(
        self, *, ignores_interrupt: bool = False, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start the driver on its host."""
        assert not ignores_interrupt and not isinstance(stderr, int)
        environment = {**self.environment(), "RAY_ADDRESS": self.address}
        return self.host.start(self.command(), REPOSITORY, environment, stderr)


def health_checks() -> dict[str, str]:
    """Return how Ray is told to look after its nodes, as a user's is (`launch/env.sh`)."""
    script = (REPOSITORY / "launch/env.sh").read_text()
    return dict(
        re.findall(r"^export (RAY_health_check_\w+)=\"\${\1:-(\d+)}\"$", script, re.MULTILINE)
    )


def head_address(made: Sequence[Host]) -> str:
    """Return where the Ray of these hosts answers."""
    return f"{made[0].address}:{_PORT}"


def start_ray(
    made: Sequence[Host],
    environment: Mapping[str, str],
    logs: Path,
    resources: Sequence[tuple[int, int]] = _RESOURCES,
) -> None:
    """Start a Ray with a token over the hosts, which have so many CPUs and bytes. It ends with
    them."""
    logs.mkdir()
    for host, (cpus, memory) in zip(made, resources, strict=True):
        role = [f"--address={head_address(made)}"]
        if host is made[0]:
            role = ["--head", f"--port={_PORT}", "--include-dashboard=false"]
        options = [*role, f"--num-cpus={cpus}", f"--memory={memory}"]
        start_node(host, options, environment, logs / f"host{host.number}.log")


def ray_words(*words: str) -> list[str]:
    """Return a command of the Ray that is installed here."""
    return [str(Path(sys.executable).with_name("ray")), *words]


def start_node(
    host: Host, options: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[str]:
    """Start Ray on a host that has none, with these options of `ray start`, and return when its
    node is there. The process ends with Ray, whose words go to `log`.

    RuntimeError where it does not start.
    """
    words = ray_words("start", *options, f"--node-ip-address={host.address}")
    words += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--block"]
    for _ in range(_STARTS):
        with log.open("w") as stream:
            process = host.start(words, REPOSITORY, environment, stream)
        if _has_joined(log, process):
            return process
        for left in host.work():
            with suppress(psutil.NoSuchProcess):
                left.kill()
    raise RuntimeError(f"Ray did not start on {host.address}: {last_line(log.read_text())}")


def _has_joined(log: Path, process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + _JOINED_S
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def left_after(seconds: float, look: Callable[[], Sequence[psutil.Process]]) -> list[str]:
    """Return the processes that are there after some time, or nothing, once there are none."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return [_title(process) for process in found]


def actors_on(made: Sequence[Host]) -> list[psutil.Process]:
    """Return the actors of a run that are on these hosts."""
    there = [process for host in made for process in host.processes()]
    return [process for process in there if _title(process).startswith(_ACTORS)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.NoSuchProcess:
        return ""
