"""Hours and tokens of the whole run, from the figures of its rehearsal.

A step costs what is proportional to its tokens, the work (sampling, grading, learning), and what it
costs whatever their number, while none of these is under way: a weight sync with its probe, a
checkpoint, files (`seconds_overhead` of its row). A phase costs once that its learner takes up its
weights and publishes them, and the run once that it starts and does things for the first time.
Longer answers (`preflight.growth`) are more tokens of work.

Where a phase is rehearsed in smaller steps than the run's, its work is scaled by the samples.
Engines that are not full sample fewer tokens a second, so that the estimate is rather too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rzero_ray.config.config import Config
from rzero_ray.run.rows import Row, mean
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part of a run takes."""

    part: str
    times: int
    """How often it comes in the run."""
    tokens: float
    """Sampled, each time, at the lengths of the rehearsal."""
    fixed: float
    """Seconds, each time, whatever the tokens."""
    work: float = 0.0
    """Seconds, each time, that are proportional to the tokens."""
    growth: float = 1.0
    """How many times as many tokens there are in the run, on average."""


def estimate(
    config: Config, rehearsed: Config, run: StoredRun, unseen_s: float, growth: Sequence[float]
) -> list[Cost]:
    """Return the costs of the parts of a run of `config`.

    `rehearsed` is the configuration of the finished rehearsal `run`, `unseen_s` the seconds of it
    that no row has, `growth` how many times as long the Solver's answers are after each iteration,
    the first entry that before all of them.
    """
    iterations = config.num_iterations
    before, after = mean(growth[:-1]), mean(growth[1:])
    rows: dict[str, list[Row]] = {}
    for row in run.metrics():
        rows.setdefault(row["phase"], []).append(row)
    startup, costs = _evaluations(run, iterations, after)
    phases = [rows[name] for name in ("challenger", "verifier", "solver") if name in rows]
    again = min((_learner_start(of[0]) for of in phases), default=0.0)
    first_times = sum(_opening(of) - _reopening(of, again) for of in phases)
    costs.insert(0, Cost("start", 1, 0, unseen_s + startup + first_times))
    if "challenger" in rows:
        of = rows["challenger"]
        factor = config.challenger.num_prompts / rehearsed.challenger.num_prompts
        asked = mean([row["trained_tokens"] / max(1, row["tokens_sampled"]) for row in of])
        cost = _phase("challenger", iterations, config.challenger.num_steps, factor, of, again)
        costs.append(_grown(cost, 1 - asked, before))
    if "curriculum" in rows:
        costs.append(_curriculum(config, rehearsed, run, rows["curriculum"], before))
    if "verifier" in rows:
        num_steps = config.verifier.num_steps
        taught = 1 if config.verifier.learns == "once" else iterations
        costs.append(_phase("verifier", taught, num_steps, 1.0, rows["verifier"], again))
    if "solver" in rows:
        factor = config.solver.num_prompts / rehearsed.solver.num_prompts
        num_steps = config.solver.num_steps
        cost = _phase("solver", iterations, num_steps, factor, rows["solver"], again)
        costs.append(_grown(cost, 1.0, (before + after) / 2))
    elif "curriculum" in rows:
        costs.append(_solver_like_votes(config, iterations, run, rows["curriculum"][0]))
    return costs


def _evaluations(run: StoredRun, times: int, growth: float) -> tuple[float, list[Cost]]:
    """Return the seconds in which engines and learner start, which the base model's evaluation has
    in its row, and the costs of that evaluation and of the later ones."""
    rows = run.evaluations()
    if not rows:
        return 0.0, []
    base, later = rows[0], rows[-1]
    startup = sum(base["seconds"].get(stage, 0.0) for stage in ("base_model", "startup"))
    overhead = max(0.0, base["seconds_overhead"] - startup)
    of_later = overhead if len(rows) == 1 else later["seconds_overhead"]
    return startup, [
        Cost("base evaluation", 1, base["tokens_sampled"], overhead, _work(base)),
        Cost("evaluation", times, later["tokens_sampled"], of_later, _work(later), growth),
    ]


def _work(row: Row) -> float:
    return max(0.0, row["seconds"]["wall"] - row["seconds_overhead"])


def _learner_start(row: Row) -> float:
    return row["seconds"].get("learner_start", 0.0)


def _opening(rows: Sequence[Row]) -> float:
    """Return the seconds that a phase's first step costs more than the others."""
    return max(0.0, rows[0]["seconds_overhead"] - _fixed(rows))


def _fixed(rows: Sequence[Row]) -> float:
    """Return the seconds that a step costs whatever its tokens: of few steps the least, for what
    holds one up is not to be counted as often as the run has steps."""
    return min(row["seconds_overhead"] for row in rows)


def _reopening(rows: Sequence[Row], learner_start: float) -> float:
    """Return the part of that which the phase costs in each iteration: the learner takes up its
    weights, as fast as in whichever phase it did so fastest, and publishes them as in any step."""
    sync = min(row["seconds"].get("weight_sync", 0.0) for row in rows)
    return min(_opening(rows), learner_start + sync)


def _phase(
    name: str, times: int, num_steps: int, factor: float, rows: Sequence[Row], learner_start: float
) -> Cost:
    """Return the cost of a phase of `num_steps` steps, each with `factor` times the samples of
    those in `rows`."""
    return Cost(
        name,
        times,
        num_steps * factor * mean([row["tokens_sampled"] for row in rows]),
        _reopening(rows, learner_start) + num_steps * _fixed(rows),
        num_steps * factor * mean([_work(row) for row in rows]),
    )


def _grown(cost: Cost, share: float, growth: float) -> Cost:
    """Return the cost where `share` of the tokens are the Solver's, whose answers grow."""
    return Cost(cost.part, cost.times, cost.tokens, cost.fixed, cost.work, 1 + share * (growth - 1))


def _curriculum(
    config: Config, rehearsed: Config, run: StoredRun, rows: Sequence[Row], growth: float
) -> Cost:
    settings = config.curriculum
    wanted = _num_candidates(config, rows[0], rehearsed)
    num_steps = int(-(-wanted // settings.candidates_per_step))
    factor = wanted / (num_steps * rehearsed.curriculum.num_candidates)
    candidates = run.read_steps("curriculum", 1, "candidates", Candidate)
    asked = sum(c.num_tokens for c in candidates) / max(1, rows[0]["tokens_sampled"])
    cost = _phase("curriculum", config.num_iterations, num_steps, factor, rows, 0.0)
    return _grown(cost, 1 - asked, growth)


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
    return Cost("solver", times, answers * per_vote, 0.0, answers * per_vote * rate)


def totals(costs: Sequence[Cost], *, grown: bool) -> tuple[float, float]:
    """Return all tokens and all seconds; as answers grow, or at the lengths of the rehearsal."""
    growths = [cost.growth if grown else 1.0 for cost in costs]
    return (
        sum(c.times * c.tokens * growth for c, growth in zip(costs, growths, strict=True)),
        sum(c.times * (c.fixed + c.work * g) for c, g in zip(costs, growths, strict=True)),
    )
