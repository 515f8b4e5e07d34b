"""One question from its prompt to what was learned from it: all that a run has stored of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.config import Config
from rzero_ray.protocols import Task
from rzero_ray.run.report.serving.questions import (
    Place,
    Question,
    path_of,
    questions_at,
    siblings,
)
from rzero_ray.run.report.serving.reading import Problems, columns, record
from rzero_ray.run.report.serving.training import TrainedStep, taught, training_on
from rzero_ray.run.report.serving.twins import Twins, twins_of
from rzero_ray.run.report.verdicts import verdict_on
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate, ChallengerSample, CurriculumItem, Verdict, iteration_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of the histogram of votes: an answer as it was written, and how often."""

    answer: str | None
    """None stands for the votes without an answer."""
    count: int
    is_label: bool
    texts: tuple[str, ...]
    """The votes in full, where they are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardParts:
    """Of what a question's reward is made: max(0, score of its votes - weight x share), or without
    the cut, as `challenger.reward` says."""

    rule: str
    agreement: float | None
    """The majority's share of the answered votes."""
    agreement_of_all: float | None
    """Its share of all votes."""
    uncertainty: float | None
    """1 - 2 |p - 1/2| of that share p that `voting.share` names."""
    is_well_formed: bool
    repetition_share: float
    weight: float
    reward: float
    advantage: float
    novelty: str

    @property
    def penalty(self) -> float:
        """Return what repetition takes from the reward."""
        return self.weight * self.repetition_share

    @property
    def score(self) -> float | None:
        """Return what the votes earned before the penalty; None where that is not to be told from
        what is stored: where the reward was cut at 0, or a memory of questions had a part in it."""
        if not self.is_well_formed or self.novelty != "none" or self.reward == 0:
            return None
        return self.reward + self.penalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What is stored of one question."""

    question: Question
    sample: ChallengerSample | None
    """Its row, where the Challenger learned from it."""
    candidate: Candidate | None
    """Its row, where it was offered to the curriculum."""
    siblings: list[Question]
    """Others from the same prompt of the same step."""
    votes: list[Bar]
    num_asked: int
    """Votes taken, those without an answer as well."""
    reward: RewardParts | None
    truth: str | None
    item: CurriculumItem | None
    """The row of the iteration's curriculum with this question."""
    verdict: Verdict | None
    trained: list[TrainedStep]
    twins: Twins

    @property
    def label_is(self) -> str:
        """Return what is known of the label (`verdicts`), of a task whose answers can be computed
        also where no truth is stored."""
        return verdict_on(self.question.label, self.truth)


def trace(run: StoredRun, task: Task, place: Place, problems: Problems) -> Lineage | None:
    """Return the lineage of a question; None where there is no such row.

    Raises DamagedFileError where its own file cannot be read; what else is damaged is noted.
    """
    found = questions_at(run.root, place.step, [place.row])
    if not found:
        return None
    (question,) = found
    path = path_of(run.root, place.step)
    is_candidate = place.step.phase == "curriculum"
    candidate = record(path, Candidate, place.row) if is_candidate else None
    sample = None if is_candidate else record(path, ChallengerSample, place.row)
    row = candidate or sample
    assert row is not None
    text, iteration = question.text, place.step.iteration
    item, trained, verdict, twins = None, [], None, Twins()
    if text is not None:
        with problems.noted():
            item = taught(run, text, iteration)
        with problems.noted():
            verdict = _verdict(run.root, text, iteration)
        trained = training_on(run, text, iteration, problems)
        twins = twins_of(run.root, place, text, task.normalize, problems)
    return Lineage(
        question=question,
        sample=sample,
        candidate=candidate,
        siblings=siblings(run.root, place),
        votes=_histogram(row.answers, row.label, candidate.vote_texts if candidate else ()),
        num_asked=len(row.answers),
        reward=None if sample is None else reward_parts(sample, run.config),
        truth=_truth(task, text) if candidate is None else candidate.truth,
        item=item,
        verdict=verdict,
        trained=trained,
        twins=twins,
    )


def reward_parts(sample: ChallengerSample, config: Config) -> RewardParts:
    """Return what a question's reward is made of, as far as it is stored."""
    settings, votes = config.challenger, len(sample.answers)
    of_answered = sample.num_agree / sample.num_votes if sample.num_agree else None
    of_all = sample.num_agree / votes if sample.num_agree else None
    share = of_all if config.voting.share == "all" else of_answered
    return RewardParts(
        rule=settings.reward,
        agreement=of_answered,
        agreement_of_all=of_all,
        uncertainty=None if share is None else 1.0 - 2.0 * abs(share - 0.5),
        is_well_formed=sample.question is not None,
        repetition_share=sample.repetition_share,
        weight=settings.repetition_weight,
        reward=sample.reward,
        advantage=sample.advantage,
        novelty=settings.novelty,
    )


def _histogram(answers: Sequence[str | None], label: str | None, texts: Sequence[str]) -> list[Bar]:
    """Return the votes by their answers, the most frequent first and those without one last."""
    counts = Counter(answers)
    bars = [
        Bar(
            answer=answer,
            count=count,
            is_label=answer is not None and answer == label,
            texts=tuple(t for a, t in zip(answers, texts, strict=False) if a == answer),
        )
        for answer, count in counts.most_common()
    ]
    return sorted(bars, key=lambda bar: bar.answer is None)


def _truth(task: Task, question: str | None) -> str | None:
    """Return the exact answer by the task's oracle, of a question whose file does not hold it."""
    return task.solve(question) if task.has_oracle and question is not None else None


def _verdict(root: Path, question: str, iteration: int) -> Verdict | None:
    path = root / iteration_key(iteration) / "verdicts.parquet"
    if not path.exists():
        return None
    found = columns(path, Verdict)
    rows = [row for row, text in enumerate(found["question"]) if text == question]
    return Verdict(**{name: values[rows[0]] for name, values in found.items()}) if rows else None
