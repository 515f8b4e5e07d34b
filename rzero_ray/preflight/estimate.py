"""Hours and tokens of the whole run, from the figures of its rehearsal.

A step costs what is proportional to its samples, and what it costs once: a weight sync and a
checkpoint. A phase costs once that its learner and engines take up their weights.

A Solver that learns comes to write as it is rewarded for. Where rewarded answers are longer than
others, as chains of thought are, the whole run has longer answers than its rehearsal
(`Findings.growth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rzero_ray.config.config import Config
from rzero_ray.run.rows import Row
from rzero_ray.run.stored import StoredRun

_ONCE_A_STEP = ("checkpoint",)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part of a run takes."""

    part: str
    times: int
    """How often it comes in the run."""
    tokens: float
    """Sampled, each time."""
    seconds: float
    """Each time."""


def estimate(config: Config, rehearsed: Config, run: StoredRun, start_s: float) -> list[Cost]:
    """Return the costs of the parts of a run of `config`.

    `rehearsed` is the configuration of the finished rehearsal `run`, `start_s` the seconds from its
    start to its first work.
    """
    iterations = config.num_iterations
    evaluations = run.evaluations()
    costs = [Cost("start", 1, 0, start_s)]
    if evaluations:
        tokens = sum(row["tokens_sampled"] for row in evaluations) / len(evaluations)
        seconds = sum(row["seconds"]["wall"] for row in evaluations) / len(evaluations)
        costs.append(Cost("evaluation", iterations + 1, tokens, seconds))
    rows = {row["phase"]: row for row in run.metrics()}
    if "challenger" in rows:
        of, now = config.challenger, rehearsed.challenger
        factor = of.num_prompts / now.num_prompts
        costs.append(_phase("challenger", iterations, of.num_steps, factor, rows["challenger"]))
    if "curriculum" in rows:
        row = rows["curriculum"]
        factor = _num_candidates(config, row, rehearsed) / rehearsed.curriculum.num_candidates
        costs.append(_phase("curriculum", iterations, 1, factor, row))
    if "verifier" in rows:
        num_steps = config.verifier.num_steps
        costs.append(_phase("verifier", iterations, num_steps, 1.0, rows["verifier"]))
    if "solver" in rows:
        factor = config.solver.num_prompts / rehearsed.solver.num_prompts
        costs.append(_phase("solver", iterations, config.solver.num_steps, factor, rows["solver"]))
    elif "curriculum" in rows:
        costs.append(_solver_like_votes(config, iterations, run, rows["curriculum"]))
    return costs


def _phase(name: str, times: int, num_steps: int, factor: float, row: Row) -> Cost:
    """Return the cost of a phase of `num_steps` steps, each with `factor` times the samples of the
    one step of `row`."""
    seconds = row["seconds"]
    sync = row.get("sync_seconds") or 0.0
    once_a_step = sync + sum(seconds.get(stage, 0.0) for stage in _ONCE_A_STEP)
    once_a_phase = seconds.get("learner_start", 0.0) + seconds.get("weight_sync", 0.0) - sync
    proportional = max(0.0, seconds["wall"] - once_a_step - once_a_phase)
    return Cost(
        name,
        times,
        num_steps * factor * row["tokens_sampled"],
        once_a_phase + num_steps * (once_a_step + factor * proportional),
    )


def _num_candidates(config: Config, row: Row, rehearsed: Config) -> float:
    """Return how many candidates it takes to keep `num_wanted`, at the share that was kept."""
    settings = config.curriculum
    kept = row["kept"] / rehearsed.curriculum.num_candidates
    if not settings.num_wanted or not kept:
        return settings.num_candidates
    steps = -(-settings.num_wanted / kept // settings.candidates_per_step)
    return min(settings.num_candidates, steps * settings.candidates_per_step)


def _solver_like_votes(config: Config, times: int, run: StoredRun, row: Row) -> Cost:
    """Return the cost of a Solver's phase that was not rehearsed: its answers as votes."""
    votes = max(1, run.num_rows("iteration-01/curriculum/step-001/candidates"))
    per_vote = row["tokens_sampled"] / (votes * config.curriculum.num_votes)
    settings = config.solver
    answers = settings.num_steps * settings.num_prompts * settings.samples_per_prompt
    rate = row["seconds"]["wall"] / max(1, row["tokens_sampled"])
    return Cost("solver", times, answers * per_vote, answers * per_vote * rate)


def totals(costs: Sequence[Cost]) -> tuple[float, float]:
    """Return all tokens and all seconds, at the lengths of the rehearsal."""
    return (
        sum(cost.times * cost.tokens for cost in costs),
        sum(cost.times * cost.seconds for cost in costs),
    )
