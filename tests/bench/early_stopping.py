"""Early-stopped votes: what they leave unchanged, and what they spare.

By itself the benchmark samples the candidates and full votes of `conf=tiny`'s first curriculum on
real engines, five times as many as a run does, and once more with early stopping. With
`RZERO_BENCH_RUNS=DIR[:DIR...]` it replays the full votes that runs have stored (folders with
`iteration-*/curriculum/step-*/candidates.parquet`, of runs with `curriculum.early_stopping=false`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import ray

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.voting import majority_vote
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.method.early_stopping import NO_VOTE_YET, is_decided, num_next_votes
from rzero_ray.method.selection import Band, mark_dropped, normal_forms, reason_without_votes
from rzero_ray.phases.curriculum import sample_candidates
from rzero_ray.protocols import Cast, Task
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.parquet import read_records
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.registry import held_out_forms, make_task
from rzero_ray.types import Ballot, Candidate, Step
from tests.bench.engines import start_roles
from tests.bench.harness import Figure, gather_groups

_NUM_STEPS = 5
"""Of 400 candidates each: 2,000 questions."""


@dataclass(slots=True)
class Replay:
    """Full votes against early-stopped ones, summed over questions."""

    questions: int = 0
    votes: int = 0
    """Of the full vote."""
    taken: int = 0
    portions: int = 0
    different: int = 0
    """Questions with another reason, or kept under another label."""
    least: int = 0
    """Votes that settle the outcome when the best of them are picked with hindsight."""


def run() -> list[Figure]:
    """Replay stored runs where some are named, else sample on real engines and replay that."""
    if folders := os.environ.get("RZERO_BENCH_RUNS"):
        return _figures(_replay_runs([Path(folder) for folder in folders.split(":")]))
    return _sample_and_replay()


def _figures(replay: Replay) -> list[Figure]:
    return [
        Figure(
            name="early stopping, outcomes that differ",
            value=replay.different,
            unit="questions",
            target="0 of at least 2,000",
            details=f"of {replay.questions:,} well-formed questions, by replay of their full votes",
        ),
        Figure(
            name="early stopping, votes spared",
            value=100 * (1 - replay.taken / replay.votes),
            unit="%",
            target="25 %",
            details=f"{replay.taken:,} of {replay.votes:,} votes taken, in "
            f"{replay.portions / replay.questions:.2f} portions a question; picking the votes that "
            f"settle the outcome with hindsight spares {1 - replay.least / replay.votes:.1%}",
        ),
    ]


def _replay_runs(folders: Sequence[Path]) -> Replay:
    replay = Replay()
    for folder in folders:
        config = load_stored_config(folder)
        task = make_task(config.task)
        for iteration in sorted(folder.glob("iteration-*/curriculum")):
            steps = sorted(iteration.glob("step-*/candidates.parquet"))
            _add(replay, [read_records(path, Candidate) for path in steps], config, task)
    return replay


def _add(replay: Replay, steps: Sequence[Sequence[Candidate]], config: Config, task: Task) -> None:
    """Replay the steps of one curriculum, each with what the steps before have asked."""
    settings, voting = config.curriculum, config.voting
    band = Band.of(settings, voting)
    heldout = held_out_forms(task)
    earlier: list[Candidate] = []
    for full in steps:
        seen = normal_forms(earlier, task.normalize)
        early = []
        for candidate in full:
            normal = None if candidate.question is None else task.normalize(candidate.question)
            hopeless = reason_without_votes(
                candidate.question, normal, candidate.truth, settings, heldout, seen
            )
            ballot = NO_VOTE_YET
            while not hopeless and (count := num_next_votes(ballot, band)):
                ballot = _count(candidate.answers[: len(ballot.answers) + count])
                replay.portions += 1
            early.append(_with_ballot(candidate, ballot))
            if candidate.question is not None:
                replay.questions += 1
                replay.votes += len(candidate.answers)
                replay.taken += len(ballot.answers)
                replay.least += 0 if hopeless else _least_votes(candidate.answers, band)
        recounted = [_with_ballot(c, _count(c.answers)) for c in full]
        marked_full = mark_dropped(recounted, earlier, settings, voting, task.normalize, heldout)
        marked_early = mark_dropped(early, earlier, settings, voting, task.normalize, heldout)
        replay.different += sum(
            (a.dropped, a.label if a.dropped is None else None)
            != (b.dropped, b.label if b.dropped is None else None)
            for a, b in zip(marked_full, marked_early, strict=True)
        )
        earlier += full


def _count(answers: Sequence[str | None]) -> Ballot:
    return majority_vote(answers, equivalent)


def _with_ballot(candidate: Candidate, ballot: Ballot) -> Candidate:
    return replace(
        candidate,
        answers=ballot.answers,
        label=ballot.label,
        num_agree=ballot.num_agree,
        num_votes=ballot.num_votes,
        tied=ballot.is_tied,
    )


def _least_votes(answers: Sequence[str | None], band: Band) -> int:
    ballot = _count(answers)
    sizes = tuple(sum(counts) for counts in ballot.form_counts)
    return _smallest_proof(sizes, len(answers) - sum(sizes), band)


@cache
def _smallest_proof(sizes: tuple[int, ...], num_unanswered: int, band: Band) -> int:
    """Return the size of the smallest part of a vote that decides its outcome."""
    least = band.num_votes
    for *picked, unanswered in product(*(range(n + 1) for n in (*sizes, num_unanswered))):
        num_picked = sum(picked) + unanswered
        part = tuple((n,) for n in sorted(picked, reverse=True) if n)
        left = band.num_votes - num_picked
        if num_picked < least and is_decided(part, False, left, band):
            least = num_picked
    return least


def _sample_and_replay() -> list[Figure]:
    config = load_config(["conf=tiny", "curriculum.early_stopping=false"])
    model = obtain_model(config.model)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        (full, full_s), (early, early_s) = asyncio.run(_sample_both(config, model))
    finally:
        ray.shutdown()
    replay, task = Replay(), make_task(config.task)
    _add(replay, full, config.curriculum, task)
    flat_full = [c for step in full for c in step]
    flat_early = [c for step in early for c in step]
    tokens = [sum(c.vote_tokens for c in found) for found in (flat_full, flat_early)]
    kept = [{c.question: c.label for c in f if c.dropped is None} for f in (flat_full, flat_early)]
    return [
        *_figures(replay),
        Figure(
            name="early stopping, vote tokens spared on real engines",
            value=100 * (1 - tokens[1] / tokens[0]),
            unit="%",
            target="25 %",
            details=f"{tokens[1]:,} of {tokens[0]:,} tokens counted; "
            f"{len(kept[0].items() ^ kept[1].items())} of {len(kept[0]):,} kept questions or "
            "labels differ between the two samplings",
        ),
        Figure(
            name="early stopping, time of a curriculum step",
            value=early_s / full_s,
            unit="x",
            target="below 1",
            details=f"{early_s / _NUM_STEPS:.1f} s against {full_s / _NUM_STEPS:.1f} s in full, "
            "steps of the two kinds alternating",
        ),
    ]


Steps = tuple[list[list[Candidate]], float]
"""The candidates of each step, and the seconds of all steps."""


async def _sample_both(config: Config, model: Path) -> tuple[Steps, Steps]:
    """Sample each step in full and early-stopped, from the same seeds."""
    cluster, cast = await start_roles(config, model)
    early = replace(config, curriculum=replace(config.curriculum, early_stopping=True))
    steps: dict[str, list[list[Candidate]]] = {"full": [], "early": []}
    seconds = dict.fromkeys(steps, 0.0)
    try:
        await _warm_up(config, cast)
        for index in range(1, _NUM_STEPS + 1):
            step = Step(iteration=1, phase="curriculum", index=index)
            for name, settings in (("full", config), ("early", early)):
                wide = _with_candidates(settings, index)
                start = time.perf_counter()
                earlier = [c for done in steps[name] for c in done]
                steps[name].append(
                    await sample_candidates(wide, step, cast, earlier, gather_groups)
                )
                seconds[name] += time.perf_counter() - start
    finally:
        await cluster.close()
    return (steps["full"], seconds["full"]), (steps["early"], seconds["early"])


def _with_candidates(config: Config, index: int) -> Config:
    """Return the config of a curriculum that has at least `index` full steps."""
    count = config.curriculum.candidates_per_step * index
    return replace(config, curriculum=replace(config.curriculum, num_candidates=count))


async def _warm_up(config: Config, cast: Cast) -> None:
    small = replace(
        config, curriculum=replace(config.curriculum, num_candidates=20, candidates_per_step=20)
    )
    await sample_candidates(
        small, Step(iteration=9, phase="curriculum", index=1), cast, [], gather_groups
    )
