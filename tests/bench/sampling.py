"""What a sampled token costs: as phases ask a sampler for it, against a plain way of asking.

The baseline sends each request in an actor call of its own to an engine in a process of its own,
reads every token with its log-probability, and returns all of it. The other sides gather requests
in shared calls, with either kind of engine, and where texts alone are read do without the rest. All
sides take turns in one run, with the same prompts and seeds; what they sample is the same, which is
checked. Both kinds of engine start in it too, which is measured beside.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.fleet.member import Member
from actors.sampling.packing import PackedCompletions, pack, unpack
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.sampler import Sampler
from rzero_ray.types import Completion, SampleRequest
from tests.bench import engines
from tests.bench.harness import Figure, cpu_seconds, family, tiny_model
from tests.bench.pool import requests

SETTINGS = engines.SETTINGS
_REPEATS = 5
_END_S = 60.0
_INSIDE, _BESIDE = "in its sampler's process", "in a process of its own"
_KINDS = {_BESIDE: False, _INSIDE: True}
"""The kinds of engine, and `EngineOptions.in_process` of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What a phase asks for."""

    name: str
    prompts: int
    samples: int
    max_tokens: int
    reads_tokens: bool

    def requests(self, turn: int, settings: Mapping[str, str]) -> list[SampleRequest]:
        sizes = {
            "prompts": str(self.prompts),
            "samples": str(self.samples),
            "max_tokens": str(self.max_tokens),
        }
        return requests(turn, {**settings, **sizes})


_SHAPES = (
    _Shape(name="votes of ten", prompts=52, samples=10, max_tokens=96, reads_tokens=False),
    _Shape(
        name="one sample of 16 tokens", prompts=256, samples=1, max_tokens=16, reads_tokens=False
    ),
    _Shape(name="trained questions", prompts=128, samples=1, max_tokens=64, reads_tokens=True),
    _Shape(name="trained answers", prompts=32, samples=8, max_tokens=112, reads_tokens=True),
)
_TARGETS = {"votes of ten": "at most .66", "one sample of 16 tokens": "at most .70"}


class OneByOneSampler(Sampler):
    """A sampler that also takes a request alone, and returns all there is."""

    async def sample_alone(self, request: SampleRequest) -> PackedCompletions:
        """Answer one request."""
        prompt_ids = self._tokenizer.render(request.messages)
        completions = await self._engine.generate(prompt_ids, request, self._tokenizer)
        return pack(completions, reads_tokens=True)


_Answer = Callable[[SampleRequest], Awaitable[list[Completion]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """A sampler with one kind of engine."""

    actor: ActorHandle
    pid: int
    start_s: float
    """Wall-clock seconds until it samples."""
    start_cpu_s: float
    """Processor time of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """A way of asking, and whom."""

    name: str
    engine: str
    gathered: bool
    reads_tokens: bool


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of one sampled token, in microseconds."""

    in_actor: float
    """Processor time of the sampler's process and of the engine's."""
    in_driver: float
    wall: float


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Alternate the sides, shape by shape; the first turn of each is warm-up."""
    model = Path(settings["model"]) if settings["model"] else tiny_model()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        started = {kind: _start(model, settings, kind) for kind in _KINDS}
        figures = [figure for shape in _SHAPES for figure in _measure(shape, started, settings)]
        figures += _start_figures(started)
        ray.get([engine.actor.stop.remote() for engine in started.values()], timeout=_END_S)
        return figures
    finally:
        ray.shutdown()


def _start(model: Path, settings: Mapping[str, str], kind: str) -> _Engine:
    """Start a sampler alone, and look at what it takes."""
    options = engines.engine_options(model, settings, num_on_gpu=2, in_process=_KINDS[kind])
    begin = time.perf_counter()
    (actor,), (pid,) = engines.start_samplers(options, count=1, kind=OneByOneSampler)
    seconds = time.perf_counter() - begin
    return _Engine(actor=actor, pid=pid, start_s=seconds, start_cpu_s=cpu_seconds(pid))


def _start_figures(started: Mapping[str, _Engine]) -> list[Figure]:
    """Return what the engines, which are both still there, took to start and take now."""
    inside, beside = started[_INSIDE], started[_BESIDE]
    memory = [
        sum(process.memory_full_info().pss for process in family(engine.pid))
        for engine in (inside, beside)
    ]
    sides = "engine in its sampler's process against one beside it"
    return [
        Figure(
            name=f"start of a sampler, {sides}",
            value=inside.start_cpu_s / beside.start_cpu_s,
            unit="x",
            details=f"processor time {inside.start_cpu_s:.1f} s against {beside.start_cpu_s:.1f} "
            f"s, on the clock {inside.start_s:.1f} s against {beside.start_s:.1f} s, once each",
        ),
        Figure(
            name=f"memory of a sampler, {sides}",
            value=memory[0] / memory[1],
            unit="x",
            details=f"{memory[0] / 2**20:.0f} MiB against {memory[1] / 2**20:.0f} MiB; pages that "
            "processes share are divided among them",
        ),
    ]


def _measure(
    shape: _Shape, started: Mapping[str, _Engine], settings: Mapping[str, str]
) -> list[Figure]:
    costs: dict[str, list[_Cost]] = {}
    for turn in range(_REPEATS + 1):
        asked = shape.requests(turn, settings)
        texts: set[tuple[str, ...]] = set()
        for side in _sides(shape):
            engine = started[side.engine]
            sided = [replace(request, reads_tokens=side.reads_tokens) for request in asked]
            answer = _pooled(engine.actor) if side.gathered else _one_by_one(engine.actor)
            cost, completions = _turn(answer, sided, engine.pid)
            costs.setdefault(side.name, []).append(cost)
            texts.add(tuple(completion.text for completion in completions))
        assert len(texts) == 1, "the sides sampled different tokens"
    baseline, *others = costs
    return [_figure(shape, side, costs[side][1:], baseline, costs[baseline][1:]) for side in others]


def _sides(shape: _Shape) -> list[_Side]:
    """Return the sides, the baseline first."""
    reads = shape.reads_tokens
    what = "gathered" if reads else "gathered, texts alone"
    return [
        _Side(name="one by one", engine=_BESIDE, gathered=False, reads_tokens=True),
        *(
            _Side(name=f"{what}, engine {kind}", engine=kind, gathered=True, reads_tokens=reads)
            for kind in _KINDS
        ),
    ]


def _figure(
    shape: _Shape, side: str, ours: Sequence[_Cost], baseline: str, theirs: Sequence[_Cost]
) -> Figure:
    def medians(part: str) -> str:
        mine, other = (
            statistics.median(getattr(cost, part) for cost in costs) for costs in (ours, theirs)
        )
        return f"{mine:.1f} against {other:.1f}"

    ratios = [a.in_actor / b.in_actor for a, b in zip(ours, theirs, strict=True)]
    return Figure(
        name=f"{shape.name}: processor time in the actor per token, {side} against {baseline}",
        value=statistics.median(ratios),
        unit="x",
        target=_TARGETS.get(shape.name, "at most .78"),
        details=f"{shape.prompts} requests of {shape.samples} samples; microseconds in the actor "
        f"{medians('in_actor')}, in the driver {medians('in_driver')}, on the clock "
        f"{medians('wall')}; {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs",
    )


def _turn(
    answer: _Answer, asked: Sequence[SampleRequest], pid: int
) -> tuple[_Cost, list[Completion]]:
    """Return what a turn has cost, and what it sampled."""

    async def go() -> list[list[Completion]]:
        return await asyncio.gather(*(answer(request) for request in asked))

    actor, driver, start = cpu_seconds(pid), time.process_time(), time.perf_counter()
    groups = asyncio.run(go())
    parts = (
        cpu_seconds(pid) - actor,
        time.process_time() - driver,
        time.perf_counter() - start,
    )
    completions = [completion for group in groups for completion in group]
    tokens = sum(completion.num_tokens for completion in completions)
    return _Cost(*(1e6 * seconds / tokens for seconds in parts)), completions


def _one_by_one(actor: ActorHandle) -> _Answer:
    async def answer(request: SampleRequest) -> list[Completion]:
        packed: Any = actor.sample_alone.remote(request)
        return unpack(await packed)

    return answer


def _pooled(actor: ActorHandle) -> _Answer:
    sampler = PooledSampler(
        Member("bench/sampler-0", actor), home="solver", role="solver", model=None
    )
    pool = SamplerPool([sampler], deadline_s=600)
    return lambda request: pool.sample("solver", request)
