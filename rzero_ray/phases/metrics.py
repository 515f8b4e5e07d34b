"""The rows of `metrics.jsonl`: what each phase says of one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rzero_ray.method.comparisons import divided_share, spread
from rzero_ray.method.selection import count_dropped
from rzero_ray.protocols import Task
from rzero_ray.run.rows import mean
from rzero_ray.types import (
    Candidate,
    ChallengerSample,
    Comparison,
    Rollout,
    SolverSample,
    Step,
    UpdateReport,
)


def challenger_metrics(samples: Sequence[ChallengerSample], task: Task) -> dict[str, float]:
    """Return the Challenger's part of a row of `metrics.jsonl`."""
    posed = [s for s in samples if s.question is not None]
    return {
        "reward": mean([s.reward for s in samples]),
        "agreement": mean([s.num_agree / max(s.num_votes, 1) for s in posed]),
        "answered": mean([s.num_votes / max(len(s.answers), 1) for s in posed]),
        "ambiguous": _ambiguous_share(posed),
        "well_formed": len(posed) / len(samples),
        "too_long": mean([s.too_long for s in samples]),
        "repetition_share": mean([s.repetition_share for s in posed]),
        "unique": len({task.normalize(s.question or "") for s in posed}) / max(len(posed), 1),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
        **_label_accuracy("label_accuracy", posed, task),
    }


def curriculum_metrics(
    candidates: Sequence[Candidate], task: Task, num_votes: int
) -> dict[str, float]:
    """Return the curriculum's part of a row of `metrics.jsonl`.

    Agreement, and labels that are not of kept questions, are of the votes taken, and of questions
    with a vote. `num_votes` is the size of a full vote, against which the saving is measured.
    """
    posed = [c for c in candidates if c.question is not None]
    voted = [c for c in posed if c.answers]
    kept = [c for c in candidates if c.dropped is None]
    dropped = {f"dropped/{why}": count for why, count in count_dropped(candidates).items()}
    return {
        "agreement": mean([c.agreement for c in voted]),
        "ambiguous": _ambiguous_share(voted),
        "well_formed": len(posed) / len(candidates),
        "voted": len(voted),
        "kept": len(kept),
        "kept_share": len(kept) / len(candidates),
        **dropped,
        **_votes_saved(posed, num_votes),
        **_label_accuracy("label_accuracy", kept, task),
        **_label_accuracy("label_accuracy_all", voted, task),
    }


def _ambiguous_share(asked: Sequence[Candidate] | Sequence[ChallengerSample]) -> float:
    """Return the share of the answered votes that equal answers of two clusters."""
    return sum(q.num_ambiguous for q in asked) / max(sum(q.num_votes for q in asked), 1)


def _votes_saved(posed: Sequence[Candidate], num_votes: int) -> dict[str, float]:
    """Return the shares of votes and of their tokens that were not sampled.

    A vote not taken counts as long as the mean of its question's votes, and where that has none, of
    the step's.
    """
    taken = sum(len(c.answers) for c in posed)
    tokens = sum(c.vote_tokens for c in posed)
    usual = tokens / max(taken, 1)
    spared = sum(
        (num_votes - len(c.answers)) * (c.vote_tokens / len(c.answers) if c.answers else usual)
        for c in posed
    )
    return {
        "votes_saved_share": 1 - taken / max(num_votes * len(posed), 1),
        "vote_tokens_saved_share": spared / max(spared + tokens, 1),
    }


def solver_metrics(samples: Sequence[SolverSample], task: Task) -> dict[str, float]:
    """Return the Solver's part of a row of `metrics.jsonl`."""
    first = {s.prompt_index: s for s in samples}
    return {
        "reward": mean([s.reward for s in samples]),
        "answered": mean([s.answer is not None for s in samples]),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
        **_label_accuracy("label_accuracy", first.values(), task),
    }


def request_metrics(samples: Sequence[ChallengerSample], task: Task) -> dict[str, float]:
    """Return the Challenger's part of a row of `metrics.jsonl` where nobody votes."""
    posed = [s for s in samples if s.question is not None]
    return {
        "reward": mean([s.reward for s in samples]),
        "well_formed": len(posed) / len(samples),
        "too_long": mean([s.too_long for s in samples]),
        "repetition_share": mean([s.repetition_share for s in posed]),
        "unique": len({task.normalize(s.question or "") for s in posed}) / max(len(posed), 1),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
    }


def answer_metrics(samples: Sequence[SolverSample]) -> dict[str, float]:
    """Return the Solver's part of a row of `metrics.jsonl` where answers are compared: `win_spread`
    is how far apart the answers to one request lie (`comparisons.spread`)."""
    groups: dict[int, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_index, []).append(sample.reward)
    return {
        "win_spread": mean([spread(shares) for shares in groups.values()]),
        "answered": mean([s.answer is not None for s in samples]),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
    }


def comparison_metrics(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return what a row of `metrics.jsonl` says of a step's comparisons: their number, the share
    that the order of presentation decided or nobody (`divided`), and the share of verdicts that
    say nothing."""
    verdicts = [v for c in comparisons for v in (c.verdict, c.verdict_swapped)]
    return {
        "comparisons": len(comparisons),
        "divided": divided_share(comparisons),
        "no_verdict": mean([verdict is None for verdict in verdicts]),
    }


def staleness(samples: Sequence[ChallengerSample | SolverSample], step: Step) -> dict[str, float]:
    """Return by how many updates the weights that sampled last tokens are behind, on average.

    0 on policy: the batch of step n is sampled by the weights after n - 1 updates. Nothing where
    the samples do not say it: they were written by an earlier version of the program.
    """
    had = [s.weight_num_steps for s in samples if s.weight_num_steps is not None]
    return {"staleness": mean([step.index - 1 - steps for steps in had])} if had else {}


def imitation_metrics(demonstrations: Sequence[Rollout]) -> dict[str, float]:
    """Return the Solver's part of a row of `metrics.jsonl` in a step of imitation."""
    return {"completion_tokens": mean([len(d.token_ids) for d in demonstrations])}


def update_metrics(report: UpdateReport) -> dict[str, float]:
    """Return the learner's part of a row of `metrics.jsonl`: its report, and the sync's figures."""
    learning = {k: v for k, v in asdict(report.learning).items() if v is not None}
    return {
        "trained_tokens": learning.pop("num_tokens"),
        **learning,
        "probe_difference_max": report.sync.probe.max_difference,
        "probe_difference_mean": report.sync.probe.mean_difference,
        "sync_seconds": report.sync.transfer.seconds,
        "sync_bytes": report.sync.transfer.num_bytes,
    }


def _label_accuracy(
    name: str, labelled: Iterable[ChallengerSample | Candidate | SolverSample], task: Task
) -> dict[str, float]:
    """Return {name: share of labels that are the exact answer}; nothing where no oracle exists.

    A question that has no answer at all counts as labelled wrongly: whatever the Solver is taught
    of it is not true. So does one without a label.
    """
    right = [
        s.question is not None and s.label is not None and task.solve(s.question) == s.label
        for s in labelled
    ]
    return {name: mean(right)} if task.has_oracle and right else {}
