"""The driver's own work at the size of `conf=qwen3_8b`, with engines and a learner in memory.

Seconds are processor time, so that a busy machine does not matter; memory is the highest above that
at the start of the measurement. Each measurement has a process of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import MagicMock

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from actors.fleet.member import Member
from actors.sampling.pool import PooledSampler, SamplerPool
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.method.repetition import bleu_matrix, cluster_ids
from rzero_ray.phases.challenger import train_challenger
from rzero_ray.phases.curriculum import build_curriculum
from rzero_ray.phases.solver import train_solver
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.observers import Observers
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.run import Run
from rzero_ray.run.stored import StoredRun
from rzero_ray.run.tensorboard import ScalarLog
from rzero_ray.tasks.registry import make_task
from rzero_ray.tasks.words import split_words
from rzero_ray.types import CurriculumItem, Role
from tests.bench.harness import Figure
from tests.bench.long_run import write_run
from tests.bench.replay import (
    MAX_TOKENS,
    Cost,
    FakePolicy,
    FakeSampler,
    Heartbeat,
    Judges,
    Texts,
)

SETTINGS = {
    "sizes": "1,2,4",  # prompts of a step, times those of the configuration
    "engines": "1,4,16",
    "spread": "3",  # seconds over which the answers to a burst of requests come, at one size
    "questions": "16000",  # clustered
    "iterations": "100",  # of the report
}
_COMPARED = 4_096
"""Questions that are clustered by all pairs, too."""
_THRESHOLD = 0.5

PhaseOf = Literal["challenger", "curriculum", "solver", "solver, all of 4,096 tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a piece of work has taken."""

    seconds: float
    """Of this process's processor time."""
    mib: float
    """The highest memory above that of the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A phase that was replayed."""

    mib: float
    """The highest memory above that of the start."""
    loop_s: float
    """Processor time of the event loop's thread, without what stands for the cluster."""
    longest_stall_s: float
    """The longest part of that without a turn for others."""
    num_samples: int
    """Questions, candidates or answers."""
    reply_mib: float


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Measure phases, their growth, clustering and the report."""
    sizes, engines = _numbers(settings["sizes"]), _numbers(settings["engines"])
    spread, usual = float(settings["spread"]), 4
    phases: tuple[PhaseOf, ...] = (
        "challenger",
        "curriculum",
        "solver",
        "solver, all of 4,096 tokens",
    )
    at_one = {phase: _alone(replay, phase, 1, usual, spread) for phase in phases}
    figures = [_phase_figure(phase, replayed) for phase, replayed in at_one.items()]
    figures += [_memory_figure(phase, replayed) for phase, replayed in at_one.items()]
    for phase in ("challenger", "solver"):
        for size in sizes[1:]:
            # As many engines take so many times as long.
            grown = _alone(replay, phase, size, usual, spread * size)
            figures.append(_growth(f"{phase}, {size} times the prompts", grown, at_one[phase]))
    few = _alone(replay, "challenger", 1, engines[0], spread)
    for count in engines[1:]:
        name = f"challenger, {count} engines against {engines[0]}"
        figures.append(_growth(name, _alone(replay, "challenger", 1, count, spread), few))
    figures += _alone(cluster, int(settings["questions"]))
    return [*figures, *_alone(report, int(settings["iterations"]))]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _phase_figure(phase: str, replayed: Replayed) -> Figure:
    return Figure(
        name=f"longest stall of the event loop, {phase}",
        value=replayed.longest_stall_s,
        unit="s",
        target="at most 0.3 s of processor time",
        details=f"{replayed.num_samples:,} samples, {replayed.loop_s:.1f} s of the loop in all, "
        f"{replayed.reply_mib:,.0f} MiB of replies",
    )


def _memory_figure(phase: str, replayed: Replayed) -> Figure:
    return Figure(
        name=f"peak memory of the driver, {phase}",
        value=replayed.mib,
        unit="MiB",
        target="at most 500 MiB",
    )


def _growth(name: str, grown: Replayed, first: Replayed) -> Figure:
    costs = [1e6 * of.loop_s / of.num_samples for of in (grown, first)]
    return Figure(
        name=f"event loop's time a sample, {name}",
        value=costs[0] / costs[1],
        unit="x",
        target="about 1, or below",
        details=f"{costs[0]:.0f} against {costs[1]:.0f} microseconds; "
        f"{grown.mib:.0f} against {first.mib:.0f} MiB, longest stall "
        f"{grown.longest_stall_s:.2f} against {first.longest_stall_s:.2f} s",
    )


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` does in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _spent(work: Callable[[], object]) -> Spent:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    memory, start = _status_mib("VmRSS"), time.process_time()
    work()
    return Spent(seconds=time.process_time() - start, mib=_status_mib("VmHWM") - memory)


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


# Phases.


def replay(phase: PhaseOf, size: int, num_engines: int, spread: float) -> Replayed:
    """Replay one step of a phase, or a whole curriculum, on fake engines."""
    config = _config(size)
    texts = Texts(MAX_TOKENS if phase.endswith("tokens") else None)
    cost, clock, judges = Cost(), StageClock(), Judges()
    beat = Heartbeat(cost)
    with tempfile.TemporaryDirectory() as folder:
        run = _open_run(config, Path(folder) / "run", clock)
        pool = SamplerPool(_samplers(num_engines, texts, spread, cost), 3600)
        # They have the methods that these phases call.
        challenger: Any = FakePolicy("challenger", pool, clock)
        solver: Any = FakePolicy("solver", pool, clock)
        judge: Any = judges
        cast = Cast(challenger, solver, judge, make_task("math"))
        items = [
            CurriculumItem(question=texts.question(), label="7", agreement=0.5)
            for _ in range(config.curriculum.num_wanted)
        ]

        async def work() -> None:
            await judges.vote(["\\boxed{1}"], "by_value")
            gc.freeze()  # as the driver does
            beating = asyncio.create_task(beat.beat())
            if phase == "challenger":
                await train_challenger(config, 1, cast, run)
            elif phase == "curriculum":
                await build_curriculum(config, 1, cast, run)
            else:
                await train_solver(config, 1, cast, items, run)
            beating.cancel()

        with judges.pool:
            spent = _spent(lambda: asyncio.run(work()))
        steps = len(run.stored.metrics())
    return Replayed(
        mib=spent.mib,
        loop_s=beat.loop_s,
        longest_stall_s=beat.longest_s,
        num_samples=_num_samples(config, phase, steps),
        reply_mib=cost.num_bytes / 2**20,
    )


def _config(size: int) -> Config:
    return load_config(
        [
            "conf=qwen3_8b",
            "challenger.num_steps=1",
            f"challenger.num_prompts={512 * size}",
            "solver.num_steps=1",
            f"solver.num_prompts={512 * size}",
            "drift.num_sequences=0",
        ]
    )


def _num_samples(config: Config, phase: PhaseOf, steps: int) -> int:
    if phase == "challenger":
        return config.challenger.num_prompts * config.challenger.samples_per_prompt
    if phase == "curriculum":
        return steps * config.curriculum.candidates_per_step
    return config.solver.num_prompts * config.solver.samples_per_prompt


def _samplers(count: int, texts: Texts, spread: float, cost: Cost) -> list[PooledSampler]:
    """Return fake engines, a quarter of them the Challenger's; a single one serves both."""
    homes: list[Role] = ["challenger" if 4 * k < count else "solver" for k in range(count)]
    if count == 1:
        homes = ["challenger", "solver"]
    actors: list[Any] = [FakeSampler(texts, spread, cost) for _ in homes]
    return [
        PooledSampler(Member(f"fake-{k}", actor), home=home, role=home, model=None)
        for k, (actor, home) in enumerate(zip(actors, homes, strict=True))
    ]


def _open_run(config: Config, root: Path, clock: StageClock) -> Run:
    prepare_run_dir(config, root)
    return Run(config, root, Path("/base"), clock, Observers(MagicMock(), ScalarLog(root)))


# Clustering.


def cluster(count: int) -> list[Figure]:
    """Cluster questions, and compare the clusters of some with those of all their pairs."""
    texts = Texts()
    questions = [texts.question() for _ in range(count)]
    spent = _spent(lambda: cluster_ids(questions, _THRESHOLD))
    some = questions[:_COMPARED]
    found, expected = cluster_ids(some, _THRESHOLD), _dense_ids(some)
    joined = len({*zip(found, expected, strict=True)})
    is_same = joined == len(set(found)) == len(set(expected))
    return [
        Figure(
            name=f"clustering of {count:,} questions",
            value=spent.seconds,
            unit="s",
            target="at most 25 s of processor time",
            details=f"{spent.mib:,.0f} MiB; at most 1,024",
        ),
        Figure(
            name=f"clusters of {len(some):,} questions that are those of all pairs",
            value=float(is_same),
            unit="",
            target="1",
            details=f"{len(set(found)):,} clusters",
        ),
    ]


def _dense_ids(questions: Sequence[str]) -> list[int]:
    """Return clusters by the distances of all pairs; no question has fewer than four words."""
    bleu = bleu_matrix(questions, split_words)
    distances = 1 - (bleu + bleu.T) / 2
    tree = linkage(squareform(distances, checks=False), "average")
    return fcluster(tree, np.nextafter(_THRESHOLD, -np.inf), "distance").tolist()


# The report.


def report(num_iterations: int) -> list[Figure]:
    """Write the report of a finished run: real files, one set of them under many names."""
    config = load_config(["conf=qwen3_8b", f"num_iterations={num_iterations}"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "run"
        prepare_run_dir(config, root)
        num_candidates = write_run(config, root)
        stored = StoredRun(config, root, Path("/base"))
        spent = _spent(lambda: write_report(stored))
        size = (root / "report.html").stat().st_size
    return [
        Figure(
            name=f"report of {num_iterations} iterations",
            value=spent.seconds,
            unit="s",
            target="at most 15 s of processor time",
            details=f"{num_candidates:,} candidates; {spent.mib:,.0f} MiB, at most 600; "
            f"{size / 1e6:.1f} MB",
        )
    ]
