"""Memory over time: what each process of a run takes, and how fast that grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

_MIB = 1 << 20
_WARM_UP_S = 60.0
"""In which a process loads what it works with: that is no growth."""
_DAEMONS = ("raylet", "gcs_server")
"""Ray's own processes, by their names."""

Samples = list[tuple[float, float]]
"""(seconds, MiB), in the order of time."""


@dataclass
class Memory:
    """What processes take, by role and process id."""

    samples: dict[str, dict[int, Samples]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def look(self, roles: Mapping[int, str]) -> None:
        """Measure the processes of `roles`, {process id: role}, that are there.

        What counts is their own: pages of Ray's object store and of libraries, which each process
        maps as it comes to them, are there once for all.
        """
        for pid, role in roles.items():
            try:
                memory = psutil.Process(pid).memory_info()
            except psutil.NoSuchProcess:
                continue
            own = (memory.rss - memory.shared) / _MIB
            self.samples[role][pid].append((time.monotonic(), own))

    def growth(self) -> dict[str, Growth]:
        """Return what has come of each role."""
        return {role: grown(by_pid.values()) for role, by_pid in sorted(self.samples.items())}


def daemons(processes: Iterable[psutil.Process]) -> dict[int, str]:
    """Return Ray's own processes, {process id: role}."""
    found = {}
    for process in processes:
        try:
            name = process.name()
        except psutil.NoSuchProcess:
            continue
        if name in _DAEMONS:
            found[process.pid] = f"ray/{name}"
    return found


@dataclass(frozen=True)
class Growth:
    """A straight line through the memory of all processes of a role, each from its own level."""

    mib_per_hour: float
    late_mib_per_hour: float
    """The same of the later half of each process's time: near 0 where it levels off."""
    num_samples: int
    num_processes: int
    first_mib: float
    last_mib: float
    """Of the first process and of the last one, at the first and the last sample."""

    def __str__(self) -> str:
        return (
            f"{self.mib_per_hour:+.1f} MiB/hour, {self.late_mib_per_hour:+.1f} in the later half "
            f"(n={self.num_samples} of {self.num_processes} processes), from {self.first_mib:.0f} "
            f"to {self.last_mib:.0f} MiB"
        )


def grown(processes: Iterable[Sequence[tuple[float, float]]]) -> Growth:
    """Fit one slope by least squares to the samples of processes that came one after the other.

    Each process has a level of its own, so that a new one that begins lower does not count as
    memory that was given back. Its first `_WARM_UP_S` are left out.
    """
    kept = [
        np.array([sample for sample in samples if sample[0] - samples[0][0] >= _WARM_UP_S])
        for samples in processes
    ]
    kept = [samples for samples in kept if len(samples) >= 2]
    if not kept:
        return Growth(0.0, 0.0, 0, 0, 0.0, 0.0)
    return Growth(
        mib_per_hour=_slope(kept),
        late_mib_per_hour=_slope([samples[len(samples) // 2 :] for samples in kept]),
        num_samples=sum(map(len, kept)),
        num_processes=len(kept),
        first_mib=float(kept[0][0, 1]),
        last_mib=float(kept[-1][-1, 1]),
    )


def _slope(processes: Sequence[np.ndarray]) -> float:
    """Return the one slope of all, each [samples, (seconds, MiB)], in MiB an hour."""
    centered = np.concatenate([samples - samples.mean(axis=0) for samples in processes])
    seconds, mib = centered[:, 0], centered[:, 1]
    spread = float(seconds @ seconds)
    return float(seconds @ mib) / spread * 3600 if spread else 0.0
