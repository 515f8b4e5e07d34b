"""What every benchmark uses: repeated timing, and figures with what they are measured against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from rzero_ray.config.load import load_config
from rzero_ray.run.concurrency import gather_all
from rzero_ray.tasks.base_model import obtain_model

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure."""

    name: str
    value: float
    unit: str
    """`x` for a ratio to a baseline of the same run."""
    target: str = ""
    """What the project asks for, in words."""
    details: str = ""
    """Sizes, and the two sides of a ratio."""


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` counts this process's work alone: for comparisons on a machine that others use, with one
thread, because threads that wait for each other count as working."""


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of one call, wall-clock unless told."""
    start = clock()
    work()
    return clock() - start


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the median wall-clock time of `repeats` calls."""
    return statistics.median(seconds(work) for _ in range(repeats))


def ratio_figure(
    name: str, pairs: Sequence[tuple[float, float]], target: str, details: str
) -> Figure:
    """Return baseline / ours of (ours, baseline) seconds measured in turn: the median pair's ratio.

    Above 1 ours is faster. The details tell both medians and the range of the ratios.
    """
    ratios = [baseline / ours for ours, baseline in pairs]
    ours, baseline = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Figure(
        name=name,
        value=statistics.median(ratios),
        unit="x",
        target=target,
        details=(
            f"{details}; {ours:.3g} s against {baseline:.3g} s, "
            f"{min(ratios):.2f} to {max(ratios):.2f} in {len(pairs)} pairs"
        ),
    )


async def gather_groups(count: int, make: Callable[[int], Coroutine[Any, Any, T]]) -> list[T]:
    """Return what is made of 0 .. `count` - 1, kept nowhere: a phase's step outside of a run."""
    return await gather_all(make(place) for place in range(count))


def family(pid: int) -> list[psutil.Process]:
    """Return a process and those below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Return the processor time so far of a process and those below it."""
    return sum(sum(member.cpu_times()[:2]) for member in family(pid))


def tiny_model() -> Path:
    """Return the built-in base model: 0.33 million parameters."""
    return obtain_model(load_config(["conf=tiny"]).model)


def device() -> str:
    """Return where models run: `cuda` where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype() -> str:
    """Return the type of weights and activations on that device."""
    return "bfloat16" if torch.cuda.is_available() else "float32"
