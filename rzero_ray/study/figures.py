"""A run directory to the figures by which a study compares runs.

Only the columns that are counted are read of each file, never whole rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rzero_ray.config.config import Config, resolve_run_dir
from rzero_ray.disk.files import damaged
from rzero_ray.method.verification import confirmed
from rzero_ray.protocols import Task
from rzero_ray.run.parquet import read_columns
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.run.stored import StoredRun
from rzero_ray.study.arms import Place
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import CurriculumItem, Verdict, iteration_key

LAST = 3
"""Iterations over which the primary metric is taken."""
NEAR_PEAK = 0.02
"""How far below its own peak a run may end and still hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What a study knows of a finished run."""

    place: Place
    by_iteration: Sequence[Mapping[str, float]]
    """Of the base model and of each iteration: the figures of `SERIES`, and those by stratum under
    `NAME/STRATUM`. What a run has not is missing."""
    totals: Mapping[str, float]
    """`primary`, `base`, `gain`, `peak_iteration`, `fall`, `near_peak`, `wall_hours`, and sums over
    the iterations."""


SERIES = {
    "mean": "mean@k, all held-out problems",
    "greedy": "greedy accuracy, all held-out problems",
    "half_a": "mean@k, half A",
    "half_b": "mean@k, half B",
    "labels": "kept questions with the right label",
    "kept": "kept questions",
    "share": "share of the kept questions",
    "referee": "the referee's accuracy on held-out pairs",
    "divided": "held-out pairs that the order of presentation decides",
    "middling": "the Challenger's requests that are well-formed and of middling quality",
    "well_formed": "well-formed candidates",
    "distinct": "distinct among the well-formed candidates",
    "skeletons": "skeletons among the well-formed candidates",
    "kl_solver": "KL of the Solver to the base, nats a token",
    "kl_challenger": "KL of the Challenger to the base, nats a token",
    "votes_challenger": "votes for the Challenger's training",
    "votes_curriculum": "votes for the curriculum",
    "updates": "updates of the Solver",
}
"""The figures of an iteration, each with what it is; `share` is told by stratum alone. Where no
exact answer exists, accuracies are the mean hidden quality (`evaluation.quality`)."""
COUNTS = ("kept", "skeletons", "votes_challenger", "votes_curriculum", "updates")
SUMMED = ("votes_challenger", "votes_curriculum", "updates")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """What is read of `AnsweredProblem`."""

    question: str
    reference: str
    greedy_answer: str | None
    answers: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rated:
    """What is read of `RatedRequest`."""

    request: str
    greedy_quality: float
    qualities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """What is read of `Candidate`."""

    question: str | None
    answers: tuple[str | None, ...]
    label: str | None
    dropped: str | None
    truth: str | None
    check_votes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    """What is read of `ChallengerSample`."""

    answers: tuple[str | None, ...]


def read_figures(place: Place, config: Config) -> RunFigures:
    """Return the figures of a finished run. Raises UserError for a damaged file."""
    run = StoredRun(config, resolve_run_dir(config), Path(config.model.path))
    _check_log(run)
    task = make_task(config.task)
    evaluations = {row["iteration"]: row for row in run.evaluations()}
    by_iteration = [
        {
            **_accuracy(run, iteration, task),
            **_others(evaluations.get(iteration, {})),
            **(_learning(run, iteration, task) if iteration else {}),
        }
        for iteration in range(config.num_iterations + 1)
    ]
    rows = [*run.metrics(), *run.evaluations()]
    hours = sum(row.get("seconds", {}).get("wall", 0.0) for row in rows) / 3600
    totals = {**_headline(by_iteration), "wall_hours": hours}
    for name in SUMMED:
        totals[name] = sum(row.get(name, 0.0) for row in by_iteration)
    return RunFigures(place=place, by_iteration=by_iteration, totals=totals)


def _check_log(run: StoredRun) -> None:
    """Raise DamagedFileError unless the log has a line of each step: without it, updates and hours
    of a run that took them would count as none."""
    lost = run.steps_without_row()
    if lost:
        raise damaged(run.root / "metrics.jsonl", f"it has no line of {lost[0]}")


def _headline(by_iteration: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the primary metric of a run and what it is compared with; nothing of a task without
    held-out problems.

    The peak is chosen on half A, the base model among the candidates, and valued on half B: its
    height then owes nothing to having been chosen.
    """
    if not by_iteration or "half_b" not in by_iteration[0]:
        return {}
    half_b = [row["half_b"] for row in by_iteration]
    primary = float(np.mean(half_b[1:][-LAST:])) if len(half_b) > 1 else half_b[0]
    peak = int(np.argmax([row["half_a"] for row in by_iteration]))
    fall = half_b[peak] - primary
    return {
        "primary": primary,
        "base": half_b[0],
        "gain": primary - half_b[0],
        "peak_iteration": float(peak),
        "fall": fall,
        "near_peak": float(fall < NEAR_PEAK),
    }


def _accuracy(run: StoredRun, iteration: int, task: Task) -> dict[str, float]:
    """Return the accuracies of one evaluation; none where there are no held-out problems."""
    path = run.root / iteration_key(iteration) / "evaluation.parquet"
    if run.config.method == "judged":
        rated = read_columns(path, _Rated)
        mean_P = np.array([np.mean(qualities) for qualities in rated["qualities"]])
        return _scores(rated["request"], mean_P, np.array(rated["greedy_quality"]), task)
    columns = read_columns(path, _Answered)
    if not columns["question"]:
        return {}
    references = columns["reference"]
    mean_P = np.array(
        [
            np.mean([answer == reference for answer in answers])
            for answers, reference in zip(columns["answers"], references, strict=True)
        ]
    )
    pairs = zip(columns["greedy_answer"], references, strict=True)
    greedy_P = np.array([float(answer == reference) for answer, reference in pairs])
    return _scores(columns["question"], mean_P, greedy_P, task)


def _scores(
    questions: Sequence[str], mean_P: NDArray[Any], greedy_P: NDArray[Any], task: Task
) -> dict[str, float]:
    """Return the figures of one evaluation from the scores of its problems."""
    strata_P = np.array([task.stratum(question) for question in questions])
    return {
        "mean": float(mean_P.mean()),
        "greedy": float(greedy_P.mean()),
        "half_a": float(mean_P[::2].mean()),
        # A single problem has no second half.
        "half_b": float(mean_P[1::2].mean() if len(mean_P) > 1 else mean_P.mean()),
        **_by_stratum("mean", mean_P, strata_P),
        **_by_stratum("greedy", greedy_P, strata_P),
    }


def _others(evaluation: Row) -> dict[str, float]:
    """Return what an evaluation says of the other roles where answers are compared."""
    keys = {
        "referee": "referee_accuracy",
        "divided": "referee_divided",
        "middling": "requests_middling",
        "well_formed": "requests_well_formed",
    }
    return {name: evaluation[key] for name, key in keys.items() if key in evaluation}


def _by_stratum(name: str, values: NDArray[Any], strata: NDArray[np.str_]) -> dict[str, float]:
    """Return {NAME/STRATUM: the mean of its values}; questions of no stratum are left out."""
    found = [of for of in np.unique(strata) if of]
    return {f"{name}/{of}": float(values[strata == of].mean()) for of in found}


def _learning(run: StoredRun, iteration: int, task: Task) -> dict[str, float]:
    """Return what an iteration says beside its evaluation."""
    is_judged = run.config.method == "judged"
    found = {} if is_judged else _curriculum(run, iteration, task)
    drift = run.figures(iteration, "drift") or {}
    for name in ("kl_solver", "kl_challenger"):
        if drift.get(name) is not None:
            found[name] = drift[name]
    steps = run.manifest.steps("challenger", iteration)
    found["votes_challenger"] = sum(
        len(votes)
        for step in steps
        for votes in run.columns(f"{step.key}/rollouts", _Votes)["answers"]
    )
    rows = phase_rows(run.metrics(), "solver", iteration)
    found["updates"] = sum(row.get("num_updates", 0) for row in rows)
    return found


def _curriculum(run: StoredRun, iteration: int, task: Task) -> dict[str, float]:
    """Return the figures of an iteration's candidates and of the kept among them.

    An iteration that took another run's questions has no candidates, and their true answers.
    """
    if run.config.curriculum.questions_of:
        items = run.read(f"{iteration_key(iteration)}/curriculum", CurriculumItem)
        return _kept(
            [(item.question, item.label == task.solve(item.question)) for item in items], task
        )
    keys = [f"{step.key}/candidates" for step in run.manifest.steps("curriculum", iteration)]
    candidates = [candidate for key in keys for candidate in run.read(key, _Candidate)]
    posed = [c.question for c in candidates if c.question is not None]
    believed = _believed(run, iteration)
    kept = [
        (c.question, c.label == c.truth)
        for c in candidates
        if c.dropped is None and c.question is not None
        if believed is None or c.question in believed
    ]
    figures = {
        "well_formed": len(posed) / len(candidates),
        "votes_curriculum": sum(len(c.answers) + c.check_votes for c in candidates),
        **_kept(kept, task),
    }
    if posed:
        figures["distinct"] = len({task.normalize(question) for question in posed}) / len(posed)
        figures["skeletons"] = len({task.skeleton(question) for question in posed})
    return figures


def _believed(run: StoredRun, iteration: int) -> set[str] | None:
    """Return the questions whose labels a verifier has confirmed; None where none has judged."""
    key = f"{iteration_key(iteration)}/verdicts"
    if not (run.root / f"{key}.parquet").exists():
        return None
    return confirmed(run.read(key, Verdict))


def _kept(kept: Sequence[tuple[str, bool]], task: Task) -> dict[str, float]:
    """Return the figures of kept questions, each with whether its label is right.

    A question without an answer has a wrong label, and the share of its stratum says how many these
    are.
    """
    strata = np.array([task.stratum(question) for question, _ in kept])
    shares = {f"share/{of}": float(np.mean(strata == of)) for of in np.unique(strata) if of}
    figures = {"kept": len(kept), **shares}
    if not (kept and task.has_oracle):
        return figures
    right = np.array([float(is_right) for _, is_right in kept])
    return {**figures, "labels": float(right.mean()), **_by_stratum("labels", right, strata)}


def with_all_shares(runs: Sequence[RunFigures]) -> list[RunFigures]:
    """Return the runs with a share of 0, wherever questions are kept, for each stratum of which
    another iteration or run keeps some: a mean of shares must not leave those out."""
    names = {n for run in runs for row in run.by_iteration for n in row if n.startswith("share/")}
    none = dict.fromkeys(sorted(names), 0.0)
    return [
        replace(
            run,
            by_iteration=[{**none, **row} if row.get("kept") else row for row in run.by_iteration],
        )
        for run in runs
    ]
