"""`summary.json`: what a run came to, in numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from rzero_ray.run.quality import quality_reading
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.run.stored import StoredRun
from rzero_ray.text.numbers import decimals, signed
from rzero_ray.types import iteration_key

WALL_CLOCK_NOTE = (
    "Seconds during which a stage had work under way. Stages overlap (a question is voted on while "
    "others are still being sampled), so they need not add up to the total. A step that an "
    "interruption made the run do again is counted once."
)

_MIN_GAIN_FOR_SHARES = 0.01
"""A change of accuracy smaller than this gets no percentage."""


def make_summary(run: StoredRun) -> Row:
    """Return what `summary.json` holds."""
    metrics, evaluations = run.metrics(), run.evaluations()
    rows = [*metrics, *evaluations]
    heldout = [_heldout_row(row) for row in evaluations if row.get("num_problems", 1)]
    iterations = range(1, max((row["iteration"] for row in rows), default=0) + 1)
    syncs = [e for e in run.log.events() if e.get("max_logprob_difference") is not None]
    probes = [event["max_logprob_difference"] for event in syncs]
    tell = quality_reading if run.config.method == "judged" else reading
    # Stale rollouts differ from the policy by design; only the probes compare equal weights then.
    on_policy = [] if run.config.pipeline.staleness else metrics
    samples = [r["logprob_difference_max"] for r in on_policy if "logprob_difference_max" in r]
    return {
        "name": run.config.name,
        "algorithm": run.config.algorithm,
        "ablation": run.config.ablation,
        "task": run.config.task,
        "seed": run.config.seed,
        "base_model": str(run.base_model),
        "num_iterations": run.config.num_iterations,
        "num_finished_iterations": sum(iteration_key(i) in run.manifest for i in iterations),
        "heldout": heldout,
        "reading": tell(heldout, run.config.eval.num_samples),
        "label_accuracy": [label_accuracy(metrics, i) for i in iterations],
        "challenger_reward": [_first_and_last_reward(metrics, i) for i in iterations],
        "tokens_sampled": sum(row.get("tokens_sampled", 0) for row in rows),
        "vote_tokens_saved_share": votes_saved(metrics),
        "wall_clock_s": seconds_by_stage(rows),
        "wall_clock_note": WALL_CLOCK_NOTE,
        "alone_s": seconds_alone(rows),
        "overhead_share": _overhead_share(rows),
        "weight_syncs": len(probes),
        "max_logprob_difference": _largest([*probes, *samples]),
        "max_logprob_difference_probes": _largest(probes),
        "max_logprob_difference_samples": _largest(samples),
        "probe_bound": syncs[-1].get("probe_bound") if syncs else None,
    }


def label_accuracy(metrics: Sequence[Row], iteration: int) -> float | None:
    """Return the share of right pseudo-labels among an iteration's kept questions.

    None where nothing was kept or the task has no oracle.
    """
    rows = phase_rows(metrics, "curriculum", iteration)
    return _weighted_mean((row.get("label_accuracy"), row["kept"]) for row in rows)


def label_accuracy_all(metrics: Sequence[Row], iteration: int) -> float | None:
    """Return the same share among all candidates that were voted on."""
    rows = phase_rows(metrics, "curriculum", iteration)
    return _weighted_mean((row.get("label_accuracy_all"), row.get("voted", 0)) for row in rows)


def votes_saved(metrics: Sequence[Row]) -> float | None:
    """Return the share of the curricula's vote tokens that early stopping spared, as estimated by
    `phases.metrics.curriculum_metrics`; None before the first curriculum."""
    rows = phase_rows(metrics, "curriculum")
    return _weighted_mean((row.get("vote_tokens_saved_share"), row.get("voted", 0)) for row in rows)


def _weighted_mean(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def outcomes(row: Row) -> dict[str, int]:
    """Return how many candidates of a curriculum step were kept, and dropped for which reason."""
    dropped = {key.partition("/")[2]: row[key] for key in row if key.startswith("dropped/")}
    return {"kept": row["kept"], **dropped}


def seconds_by_stage(rows: Iterable[Row]) -> dict[str, float]:
    """Return the sum of the rows' seconds by stage, longest first; `total` is the wall clock."""
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        for stage, value in row.get("seconds", {}).items():
            seconds["total" if stage == "wall" else stage] += value
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def seconds_alone(rows: Iterable[Row]) -> dict[str, float]:
    """Return the seconds during which a stage was the only one busy, longest first.

    They are the critical path: the run would be shorter by them if the stage took no time.
    """
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        for stage, value in row.get("seconds_alone", {}).items():
            seconds[stage] += value
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _overhead_share(rows: Sequence[Row]) -> float | None:
    """Return the share of the wall clock in which nothing was sampled, learned or graded."""
    wall = sum(row.get("seconds", {}).get("wall", 0.0) for row in rows)
    return sum(row.get("seconds_overhead", 0.0) for row in rows) / wall if wall else None


def reading(heldout: Sequence[Row], k: int) -> str:
    """Return, in words, by how much accuracy changed and what the change goes with."""
    if not heldout:
        return "No held-out problem was evaluated: nothing says whether the Solver became better."
    if heldout[0]["iteration"] != 0:
        return "The base model's evaluation is missing: there is nothing to compare with."
    if len(heldout) == 1:
        return "No iteration has been evaluated yet: there is nothing to compare."
    first, last = heldout[0], heldout[-1]
    gain = last[f"mean@{k}"] - first[f"mean@{k}"]
    (low_0, high_0), (low_1, high_1) = first[f"mean@{k}_ci95"], last[f"mean@{k}_ci95"]
    overlap = low_1 <= high_0 and low_0 <= high_1
    doubt = "overlap, so this may be noise" if overlap else "do not overlap"
    names = ("the chain-of-thought share", "accuracy given CoT", "accuracy of direct answers")
    keys = ("cot_share", "accuracy_given_cot", "accuracy_given_direct")
    moves = [f"{decimals(first.get(key))} to {decimals(last.get(key))}" for key in keys]
    amounts = [f"{signed(part)}{_percentage(part, gain)}" for part in _divide_gain(first, last)]
    return (
        f"From the base to iteration {last['iteration']}, mean@{k} went from "
        f"{decimals(first[f'mean@{k}'])} to {decimals(last[f'mean@{k}'])} ({signed(gain)}); "
        f"the 95% intervals {doubt}. Of this change {amounts[0]} goes with {names[0]} "
        f"({moves[0]}), {amounts[1]} with {names[1]} ({moves[1]}) and {amounts[2]} with "
        f"{names[2]} ({moves[2]})."
    )


def _divide_gain(first: Row, last: Row) -> tuple[float, float, float]:
    """Divide the change of accuracy over CoT share, accuracy given CoT, and given a direct answer.

    Accuracy is s a + (1 - s) b. Each factor's change is taken at the mean of the others, which
    makes the three parts add up to the whole. An accuracy that is undefined at one end (no such
    answer) did not change.
    """
    s = (first["cot_share"], last["cot_share"])
    a = _filled(first.get("accuracy_given_cot"), last.get("accuracy_given_cot"))
    b = _filled(first.get("accuracy_given_direct"), last.get("accuracy_given_direct"))
    mean_s = sum(s) / 2
    return (
        (s[1] - s[0]) * (sum(a) - sum(b)) / 2,
        mean_s * (a[1] - a[0]),
        (1 - mean_s) * (b[1] - b[0]),
    )


def _filled(first: float | None, last: float | None) -> tuple[float, float]:
    first, last = (last if first is None else first), (first if last is None else last)
    return first or 0.0, last or 0.0


def _heldout_row(row: Row) -> Row:
    """Return an evaluation with null for the accuracy of answers that nobody gave."""
    undefined = {0.0: "accuracy_given_cot", 1.0: "accuracy_given_direct"}.get(row["cot_share"])
    kept = {key: value for key, value in row.items() if not key.startswith("seconds")}
    return kept | ({undefined: None} if undefined else {})


def _first_and_last_reward(metrics: Sequence[Row], iteration: int) -> list[float] | None:
    rewards = [row["reward"] for row in phase_rows(metrics, "challenger", iteration)]
    return [rewards[0], rewards[-1]] if rewards else None


def _largest(values: Sequence[float]) -> float | None:
    # np.max, unlike max, does not lose a NaN.
    return float(np.max(values)) if values else None


def _percentage(part: float, gain: float) -> str:
    return f" ({part / gain:.0%})" if min(abs(part), abs(gain)) >= _MIN_GAIN_FOR_SHARES else ""
