"""The only seam between the algorithm and the cluster.

`phases` and `evaluation` know nothing else of how sampling, learning and grading are run, and of
who watches: the actors implement these protocols on a cluster, and the unit tests in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import (
    Ballot,
    BenchmarkProblem,
    BusySpan,
    Completion,
    Marks,
    Message,
    Phase,
    Problem,
    RatedPair,
    RepetitionRule,
    Rollout,
    SampleRequest,
    Step,
    UpdateReport,
    Vocabulary,
    VotingRule,
)


class Sampler(Protocol):
    """A language model that samples."""

    async def sample(self, request: SampleRequest) -> list[Completion]:
        """Return `request.num_samples` completions, in the order of their seeds.

        They hold what the request reads (`SampleRequest.reads_tokens`).
        Raises TooLongError where the prompt leaves no room for an answer.
        """
        ...


class Policy(Sampler, Protocol):
    """A language model that samples and learns: the Challenger or the Solver."""

    async def start_phase(self, phase: Phase) -> None:
        """Make this the policy in training: fresh optimizer, `phase.initial_model` as the KL
        reference, weights from `phase.checkpoint` where there is one, engines in step with them."""
        ...

    async def update(
        self, rollouts: Sequence[Rollout], step: Step, vocabulary: Vocabulary | None = None
    ) -> UpdateReport:
        """Learn from one step's rollouts, publish the new weights into the engines and verify
        them there, and save `step.checkpoint` where one is wanted.

        `vocabulary` is what the rollouts were drawn from, where it was a part of all tokens:
        log-probabilities are then of that part.
        """
        ...

    async def tokenize(
        self, exchanges: Sequence[tuple[tuple[Message, ...], str]]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Return, per (messages, answer), the token ids of the rendered prompt and of the answer,
        its end-of-sequence token included."""
        ...

    async def imitate(self, demonstrations: Sequence[Rollout], step: Step) -> UpdateReport:
        """Raise the likelihood of one step's demonstrations (cross-entropy), then as `update`.

        Their log-probabilities and advantages are not read: nobody sampled them.
        """
        ...

    async def finish_phase(self, phase: Phase) -> None:
        """Write the policy to `phase.final_model` in Hugging Face format."""
        ...

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        """Write decay x `older` + (1 - decay) x `newer`, two models of one shape in Hugging Face
        format, into `folder`, which appears when it is complete."""
        ...

    async def hold(self, model: Path) -> None:
        """Have the role's own engines sample from `model`, outside a phase of learning.

        Nothing happens where they hold it already: after `finish_phase`, and after a start. They
        do not while they hold the weights of the role that borrowed them, or when both roles are
        one model and the other role has learned since.
        """
        ...

    async def score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    ) -> list[NDArray[np.float32]]:
        """Return, per (prompt ids, completion ids), the log-probabilities (nats, at temperature 1)
        of the completion's tokens under what the role's engines hold.

        [T], or less where prompt and completion together reach the model's longest text.
        """
        ...


class Judge(Protocol):
    """Reads model text: parses it, counts votes, compares answers."""

    async def vote(self, responses: Sequence[str], rule: VotingRule = "by_value") -> Ballot:
        """Parse [M] responses and return the majority answer by `voting.VOTING_RULES[rule]`."""
        ...

    async def grade(self, responses: Sequence[str], reference: str) -> list[str | None]:
        """Return per response `reference` itself where its answer is equivalent to it, the answer
        as written where it is not, and None where it holds none."""
        ...

    async def mark(self, responses: Sequence[str], problem: BenchmarkProblem) -> Marks:
        """Hold responses to a problem against its reference, by the problem's rule."""
        ...

    async def repetition_shares(
        self, questions: Sequence[str], threshold: float, rule: RepetitionRule = "symmetric"
    ) -> list[float]:
        """Return per question the share of `questions` in its cluster, by
        `repetition.REPETITION_RULES[rule]`."""
        ...

    async def repetition_clusters(self, questions: Sequence[str], threshold: float) -> list[int]:
        """Return per question the number of its BLEU cluster (`repetition.cluster_ids`)."""
        ...


@dataclass(frozen=True, slots=True)
class Halves:
    """A question in two parts, of which the second goes on from the first's answer."""

    first: str
    second: Callable[[str], str | None]
    """Makes the second question of an answer to the first; None of an answer that is none."""


class Task(Protocol):
    """What the run is about: prompts, held-out problems, and the oracle where one exists."""

    has_oracle: bool
    has_halves: bool
    """Whether there are questions that `halve` takes apart."""
    has_steps: bool
    """Whether there are solutions that `spoil` makes wrong."""

    def challenger_messages(self) -> tuple[Message, ...]:
        """Return the prompt that asks for one new question; the same for every question."""
        ...

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        """Return the prompt that asks for the answer to `question`."""
        ...

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Return the prompt that asks for one of `options`, which are lettered from A on."""
        ...

    def is_question(self, text: str) -> bool:
        """Return whether a tagged text has the form of a question of this task, as far as can be
        told without answering it; any other is malformed."""
        ...

    def normalize(self, question: str) -> str:
        """Return the text by which two questions are the same."""
        ...

    def words(self, question: str) -> list[str]:
        """Return the words over which BLEU compares questions, in whatever script they are."""
        ...

    def skeleton(self, question: str) -> str:
        """Return what two questions of one form share: their text without what may be exchanged
        without changing how they are solved."""
        ...

    def stratum(self, question: str) -> str:
        """Return the group of questions by which figures are told, such as a range of lengths;
        empty where there is none."""
        ...

    def words_by_space(self, question: str) -> list[str]:
        """Return the words that the official code compares: what white space parts."""
        ...

    def verifier_messages(self, question: str, solution: str) -> tuple[Message, ...]:
        """Return the prompt that asks whether a solution is right (a boxed 1) or not (a 0)."""
        ...

    def spoil(self, question: str, solution: str, rng: random.Random) -> str | None:
        """Return a solution with one mistake more that a reader has to look for: a step left out,
        or changed. None where the task has no steps, or the text none that can be spoilt."""
        ...

    def halve(self, question: str) -> Halves | None:
        """Return the question in two parts that can be solved one after the other; None where it
        has no such parts, or is too short for them."""
        ...

    def solve(self, question: str) -> str | None:
        """Return the exact answer, or None when the question has none or no oracle exists."""
        ...

    def heldout(self) -> tuple[Problem, ...]:
        """Return the problems of the evaluation: never trained on."""
        ...

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        """Return further held-out problems by name, measured beside the headline's, if any."""
        ...

    def reserved(self) -> tuple[Problem, ...]:
        """Return all problems that nothing may be trained on: those that a run measures, and those
        that others measure."""
        ...


class OpenTask(Task, Protocol):
    """A task whose requests have no exact answer: one answer is better than another, by a quality
    that is hidden from everybody but the evaluation."""

    def read_answer(self, text: str) -> str | None:
        """Return the answer that a text holds, in the form in which it is compared; None of a text
        that holds none. The text is untrusted: what is returned holds no markup."""
        ...

    def referee_messages(self, request: str, first: str, second: str) -> tuple[Message, ...]:
        """Return the prompt that asks which of two answers is better: the first (a boxed 1) or the
        second (a 2)."""
        ...

    def quality(self, request: str, answer: str) -> float:
        """Return the hidden quality of a text as an answer, in [0, 1]; 0 where it holds none."""
        ...

    def heldout_pairs(self) -> tuple[RatedPair, ...]:
        """Return the answers in pairs, ordered by their quality, on which a referee is measured."""
        ...


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a run."""

    challenger: Policy
    solver: Policy
    judge: Judge
    task: Task
    verifier: Policy | None = None
    """Who confirms labels, where the run has a verifier."""
    referee: Policy | None = None
    """Who compares answers, where the run has a referee."""


class Clock(Protocol):
    """Keeps the time of a run by stage, and counts what was sampled meanwhile."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Count the seconds of the block to the stage; blocks of one stage may overlap."""
        ...

    def count_tokens(self, count: int) -> None:
        """Count sampled tokens."""
        ...


class Observer(Protocol):
    """Who is told of a run's progress: the terminal, TensorBoard, Prometheus, a tracker.

    A class that names it as its base inherits methods that do nothing, and writes those it needs.
    """

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """A phase begins or goes on."""

    def finish_step(self, row: dict[str, Any]) -> None:
        """A step is finished; `row` is its line of `metrics.jsonl`."""

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """An evaluation is finished; `row` is its entry in `summary.json`'s `heldout`."""

    def see_event(self, event: str, details: Mapping[str, Any]) -> None:
        """Something has happened; both are in `events.jsonl`."""

    def see_work(self, span: BusySpan) -> None:
        """An actor was at work; told some seconds later, and in no file but an observer's own."""

    def note(self, text: str) -> None:
        """Something a user should read."""
