"""Throughput of a role while it grows from one engine to three and shrinks again, `scale` at each.

Each engine has a quarter of a core (a control group of its own), so that two cores hold three of
them and three are three times one. Requests are asked all the time, each by a seed of its own; what
comes back is counted by seed: a request is lost that has no answer, and doubled that has two.

Needs root and a machine whose control groups can be written.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import psutil
import ray

from actors.cluster import Cluster, start_cluster
from actors.fleet.member import State
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.config.load import load_config
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import ActorChange, Role, SampleRequest, ScaleRequest
from tests.bench import pool
from tests.bench.harness import Figure, family, tiny_model

SETTINGS = {"seconds": "40", "share": "0.25", "engines": "3"}
"""Seconds of each measurement, the share of a core of an engine, and how many there are at most."""

_GROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000
_UNDER_WAY = 64
"""Requests that wait at a time: more than all engines hold."""
_COME_S = 300.0
"""How long an engine may take to come or go."""


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Measure, scale up, measure, scale down, measure."""
    if not (_GROUPS / "cpu.cfs_quota_us").exists():
        raise SystemExit(f"no control groups of processor time at {_GROUPS}")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        return asyncio.run(_measure(settings))
    finally:
        ray.shutdown()


async def _measure(settings: Mapping[str, str]) -> list[Figure]:
    seconds, most = float(settings["seconds"]), int(settings["engines"])
    config, model = _config(), tiny_model()
    task = make_task(config.task)
    models: dict[Role, Path] = {"challenger": model, "solver": model}
    cluster = await start_cluster(config, disaggregated(config), models, task, model)
    with _limited(float(settings["share"])) as limit:
        try:
            traffic = Traffic(cluster)
            cluster.cast(
                config, task, StageClock(), lambda sync: None, on_change=traffic.note_change
            )
            _limit_all(cluster, limit)
            asking = [asyncio.create_task(traffic.ask()) for _ in range(_UNDER_WAY)]
            alone = await traffic.rate(seconds)
            begin = time.monotonic()
            _scale(cluster, most)
            joined = await traffic.until_healthy(most, lambda: _limit_all(cluster, limit))
            together = await traffic.rate(seconds)
            _scale(cluster, 1)
            left = await traffic.until_gone(1)
            again = await traffic.rate(seconds)
            traffic.is_over = True
            await asyncio.gather(*asking)
        finally:
            await cluster.close()
    counts = Counter(traffic.answered)
    lost = len(traffic.asked) - len(counts)
    doubled = sum(count - 1 for count in counts.values())
    per_engine = ", ".join(f"{name} {n}" for name, n in sorted(traffic.by_engine.items()))
    return [
        Figure(
            name=f"requests/s with {most} engines against 1",
            value=together / alone,
            unit="x",
            target=f"near {most}",
            details=f"{together:.2f} against {alone:.2f}, and {again:.2f} after scaling back; each "
            f"engine has {settings['share']} of a core",
        ),
        Figure(
            name="requests lost, and sampled twice into a result",
            value=float(lost + doubled),
            unit="requests",
            target="0",
            details=f"{lost} and {doubled} of {len(traffic.asked)}; under way at the ends of the "
            f"three measurements: {per_engine}",
        ),
        Figure(
            name="seconds from rzero scale until the last newcomer samples",
            value=joined - begin,
            unit="s",
            details=f"and {left:.1f} s until those that are not wanted have gone; an engine starts "
            "without its limit",
        ),
        Figure(
            name="longest pause between answers while they came, against before",
            value=traffic.longest_pause(begin, joined) / traffic.longest_pause(0.0, begin),
            unit="x",
            target="about 1",
            details=f"{traffic.longest_pause(begin, joined):.2f} against "
            f"{traffic.longest_pause(0.0, begin):.2f} s",
        ),
    ]


def _config() -> Config:
    config = load_config(["conf=tiny"])
    sampler = replace(config.sampler, cpus_per_engine=0.25, max_num_seqs=40)
    return replace(config, sampler=sampler)


def _scale(cluster: Cluster, number: int) -> None:
    cluster.scaling.scale(ScaleRequest(role="solver", least=number, most=number))


@dataclass
class Traffic:
    """Requests that are asked one after the other, and what came of each."""

    cluster: Cluster
    asked: list[int] = field(default_factory=list)
    """Seeds, in the order in which they were asked."""
    answered: list[int] = field(default_factory=list)
    """Seeds, in the order of their answers."""
    times: list[float] = field(default_factory=list)
    """When each answer came (monotonic seconds)."""
    by_engine: Counter[str] = field(default_factory=Counter)
    is_over: bool = False
    states: dict[str, str] = field(default_factory=dict)

    def note_change(self, change: ActorChange) -> None:
        self.states[change.actor] = change.state

    async def ask(self) -> None:
        """Ask, until it is over."""
        while not self.is_over:
            seed = 100 * len(self.asked)
            self.asked.append(seed)
            await self.cluster.pool.sample("solver", _request(seed))
            self.answered.append(seed)
            self.times.append(time.monotonic())

    async def rate(self, seconds: float) -> float:
        """Return the answers a second over some time from now on."""
        before, begin = len(self.answered), time.monotonic()
        await asyncio.sleep(seconds)
        for sampler in self.cluster.pool.own("solver"):
            self.by_engine[sampler.name] += sampler.outstanding_samples // 10
        return (len(self.answered) - before) / (time.monotonic() - begin)

    async def until_healthy(self, number: int, each_look: Callable[[], None]) -> float:
        """Return when so many Solvers sample."""
        async with asyncio.timeout(_COME_S):
            while sum(self._is_healthy(name) for name in self.states) < number:
                await asyncio.sleep(0.1)
        each_look()
        return time.monotonic()

    def _is_healthy(self, name: str) -> bool:
        return name.startswith("solver/") and self.states[name] == State.HEALTHY

    async def until_gone(self, number: int) -> float:
        """Return the seconds until no more than so many Solvers are there."""
        begin = time.monotonic()
        async with asyncio.timeout(_COME_S):
            while len(self.cluster.pool.own("solver")) > number:
                await asyncio.sleep(0.1)
        return time.monotonic() - begin

    def longest_pause(self, begin: float, end: float) -> float:
        """Return the longest time between two answers in a span."""
        times = [t for t in self.times if begin <= t <= end]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        return max(pauses, default=end - begin)


def _request(seed: int) -> SampleRequest:
    (request,) = pool.requests(0, pool.SETTINGS | {"prompts": "1"})
    return replace(request, seed=seed)


@contextmanager
def _limited(share: float) -> Iterator[Callable[[int], None]]:
    """Yield what gives the processes of an engine such a share of one core."""
    made: list[Path] = []

    def limit(pid: int) -> None:
        group = _GROUPS / f"rzero-bench-{pid}"
        if not group.exists():
            group.mkdir()
            made.append(group)
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
        for process in family(pid):
            (group / "cgroup.procs").write_text(str(process.pid))

    try:
        yield limit
    finally:
        for group in made:
            with suppress(OSError):  # the processes in it have ended
                group.rmdir()


def _limit_all(cluster: Cluster, limit: Callable[[int], None]) -> None:
    for sampler in cluster.pool.own("solver"):
        with suppress(psutil.NoSuchProcess):
            limit(sampler.member.pid)
