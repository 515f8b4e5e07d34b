"""Measures an iteration's drift from what the run has stored, and warns of it (`figures.py`)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.config.audits import DriftConfig
from rzero_ray.config.config import Config
from rzero_ray.config.method import SamplingConfig
from rzero_ray.evaluation.drift.figures import (
    THRESHOLDS,
    AnswerFigures,
    Threshold,
    WrittenAnswer,
    answer_figures,
    crossed,
    distinct_share,
    kl_to_base,
    question_figures,
    script_change,
    script_shares,
    spread,
)
from rzero_ray.protocols import Cast
from rzero_ray.run.rows import Row
from rzero_ray.run.run import Run
from rzero_ray.types import (
    BaseScore,
    Role,
    RunError,
    Step,
    iteration_key,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rollout:
    """The fields of either role's samples that the base model is asked about."""

    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Posed:
    """The field of a `Candidate` that is compared."""

    question: str | None


async def monitor_drift(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Measure the iteration's drift, once, and warn of what lies beyond a threshold.

    With `drift.stop` a crossed threshold is a RunError. The figures stay, so the same command goes
    on once the threshold is raised. Leaves the base model in the Challenger's engines: whatever
    samples from them next publishes or `hold`s its own model first.
    """
    for step in run.steps(iteration, "drift", 1):
        figures = {
            **await _distance_to_base(config, step, cast, run),
            **await _answers(config, iteration, run),
            **await _questions(config, iteration, cast, run),
        }
        figures["limits"] = [[t.figure, t.key, t.limit(config.drift)] for t in THRESHOLDS]
        run.finish_measurement(step, figures)
    _judge(config.drift, iteration, run)


def describe(threshold: Threshold, row: Row, config: DriftConfig) -> str:
    """Return a figure and its threshold as `kl_solver .62 (max_kl .5)`."""
    limit = f"{threshold.key} {threshold.limit(config):g}"
    return f"{threshold.figure} {row[threshold.figure]:.2g} ({limit})"


def _judge(config: DriftConfig, iteration: int, run: Run) -> None:
    """Warn of the limits that are crossed, or end the run where the configuration says so."""
    row = run.stored.figures(iteration, "drift") or {}
    found = [describe(threshold, row, config) for threshold in crossed(row, config)]
    if not found:
        return
    text = f"iteration {iteration} drifts: {', '.join(found)}"
    if config.stop:
        raise RunError(f"{text}; raise the threshold in drift. or set drift.stop=false to go on")
    run.note(f"warning: {text}")


async def _distance_to_base(config: Config, step: Step, cast: Cast, run: Run) -> Row:
    """Return the KL to the base of each role that learned in this iteration.

    It is estimated on rollouts of the role's last step, which the weights before its last update
    have sampled.
    """
    last = _last_steps(config, step.iteration, run)
    if not last:
        return {}
    scores = await run.once(
        f"{iteration_key(step.iteration)}/base-logprobs",
        BaseScore,
        lambda: _score_by_base(config.drift.num_sequences, last, cast, run),
    )
    row: Row = {}
    for role in last:
        own = [score for score in scores if score.role == role]
        kl = kl_to_base([s.policy_logprobs for s in own], [s.base_logprobs for s in own])
        row |= {
            f"kl_{role}": kl.value,
            f"kl_{role}_error": kl.standard_error,
            f"kl_{role}_tokens": kl.num_tokens,
        }
    return row


def _last_steps(config: Config, iteration: int, run: Run) -> dict[Role, Step]:
    """Return each role's last step whose samples compare with the base model's."""
    found: dict[Role, Step] = {}
    if config.drift.num_sequences == 0:
        return found
    samplings: tuple[tuple[Role, SamplingConfig], ...] = (
        ("challenger", config.challenger.sampling),
        ("solver", config.solver.sampling),
    )
    for role, sampling in samplings:
        steps = run.stored.sampled_steps(role, iteration)
        if steps and sampling.temperature != 1.0:
            # An engine scores given tokens at temperature 1 only.
            run.note(
                f"iteration {iteration}: no KL to the base for the {role}, whose rollouts are "
                f"sampled at temperature {sampling.temperature:g}, not 1"
            )
        elif steps:
            found[role] = steps[-1]
    return found


async def _score_by_base(
    num_sequences: int, steps: dict[Role, Step], cast: Cast, run: Run
) -> list[BaseScore]:
    """Have the base model score some rollouts of each step, on the Challenger's engines."""
    chosen: list[tuple[Role, int, _Rollout]] = []
    for role, step in steps.items():
        key = f"{step.key}/rollouts"
        rows = spread(range(run.stored.num_rows(key)), num_sequences)
        samples = await asyncio.to_thread(run.stored.read, key, _Rollout, rows)
        chosen.extend((role, row, sample) for row, sample in zip(rows, samples, strict=True))
    await cast.challenger.hold(run.stored.base_model)
    scores = await cast.challenger.score([(s.prompt_ids, s.token_ids) for _, _, s in chosen])
    return [
        BaseScore(
            role=role, row=row, policy_logprobs=sample.logprobs[: len(base)], base_logprobs=base
        )
        for (role, row, sample), base in zip(chosen, scores, strict=True)
    ]


async def _answers(config: Config, iteration: int, run: Run) -> Row:
    """Return the figures of the Solver's last step, compared with its first step of the run."""
    steps = run.stored.sampled_steps("solver", iteration)
    if not steps:
        return {}

    def figures(step: Step) -> AnswerFigures:
        answers = run.stored.read(f"{step.key}/rollouts", WrittenAnswer)
        return answer_figures(answers, config.solver.sampling.max_tokens)

    first = await asyncio.to_thread(figures, run.stored.sampled_steps("solver")[0])
    last = await asyncio.to_thread(figures, steps[-1])
    return {
        **asdict(last),
        "answer_length_ratio": last.answer_tokens / max(first.answer_tokens, 1.0),
        "answer_script_change": script_change(first.answer_scripts, last.answer_scripts),
    }


async def _questions(config: Config, iteration: int, cast: Cast, run: Run) -> Row:
    """Return the figures of the curriculum's candidates, compared with the first curriculum's."""
    now = await asyncio.to_thread(_posed, iteration, run)
    first = await asyncio.to_thread(_posed, 1, run)
    if not (now and first):
        return {}
    # Distinct n-grams per n-gram fall with the number of questions: both sides have the same.
    count = min(config.drift.num_questions, len(now), len(first))
    now, first = spread(now, count), spread(first, count)
    ids = await cast.judge.repetition_clusters(now, config.curriculum.cluster_threshold)
    figures = await asyncio.to_thread(question_figures, now, ids, cast.task.words)
    before = distinct_share([cast.task.words(question) for question in first], 2)
    return {
        **asdict(figures),
        "distinct_ratio": figures.distinct_2 / before if before else None,
        "question_script_change": script_change(script_shares(first), figures.question_scripts),
    }


def _posed(iteration: int, run: Run) -> list[str]:
    """Return the well-formed questions of an iteration's curriculum, kept or dropped."""
    candidates = run.stored.read_steps("curriculum", iteration, "candidates", _Posed)
    return [c.question for c in candidates if c.question is not None]
