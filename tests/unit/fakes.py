"""In-memory `Policy` and `Judge` for unit tests of the algorithm: no engine, milliseconds.

The fake Solver knows sums: with probability `skill` it answers rightly, else off by one. An update
raises or lowers its skill with the mean advantage of right answers, enough to see that the loop
hands the right things to the right role. Engines are lent as on a cluster: a policy whose engines
hold another role's weights refuses to sample.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.method.judging import LocalJudge
from rzero_ray.protocols import Observer
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Ballot,
    BenchmarkProblem,
    Completion,
    LearningReport,
    Marks,
    Message,
    Phase,
    ProbeReport,
    RepetitionRule,
    Rollout,
    SampleRequest,
    Step,
    SyncReport,
    TooLongError,
    TransferReport,
    UpdateReport,
    Vocabulary,
    VotingRule,
    WeightVersion,
)


class FakePolicy:
    """Samples from a rule, and records what it is asked and taught."""

    def __init__(self, role: str, skill: float = 0.6) -> None:
        self.role = role
        self.skill = skill
        self.requests: list[SampleRequest] = []
        self.updates: list[tuple[str, list[Rollout]]] = []
        self.vocabularies: list[Vocabulary | None] = []
        """What each update was told that its rollouts were drawn from."""
        self.phases: list[Phase] = []
        self.borrows_from: FakePolicy | None = None
        """Whose engines it has during its phases of learning."""
        self.weights: Path | str | None = Path("/base")
        """What its engines hold: a finished model, the name of a step, None while they are lent."""
        self._num_steps = 0
        self.loads: list[Path] = []
        """The models that `hold` published."""
        self.sampled_from: list[Path | str] = []
        """What each request was answered with."""
        self.averages: list[tuple[Path, Path, float]] = []
        """What `average` was asked for."""
        self.fails_to_average = False
        self.base_logprob = -1.25
        """What `score` says of every token; samples have -1."""
        self.scored_with: list[Path | str] = []
        self.longest_prompt: int | None = None
        """Characters of the last message beyond which a prompt leaves no room for an answer."""

    async def sample(self, request: SampleRequest) -> list[Completion]:
        assert self.weights is not None, f"the {self.role}'s engines are lent"
        if self.longest_prompt is not None:
            length = len(request.messages[-1]["content"])
            if length > self.longest_prompt:
                raise TooLongError(f"a prompt of {length} characters leaves no room for an answer")
        self.sampled_from.append(self.weights)
        self.requests.append(request)
        return [
            self._completion(request, random.Random(request.seed + k))
            for k in range(request.num_samples)
        ]

    async def start_phase(self, phase: Phase) -> None:
        self.phases.append(phase)
        self._num_steps = phase.num_finished_steps
        self.weights = phase.initial_model
        if phase.checkpoint is not None:
            self.weights = "/".join(phase.checkpoint.parts[-3:])  # the key of its step
        if self.borrows_from is not None:
            self.borrows_from.weights = None

    async def update(
        self, rollouts: Sequence[Rollout], step: Step, vocabulary: Vocabulary | None = None
    ) -> UpdateReport:
        self.vocabularies.append(vocabulary)
        await asyncio.sleep(0.005)  # what is sampled ahead gets its turn
        self.updates.append((step.key, list(rollouts)))
        self._num_steps = step.index
        self.weights = step.key
        if step.checkpoint is not None:
            step.checkpoint.mkdir(parents=True, exist_ok=True)
        return fake_report(self._version(), sum(len(r.token_ids) for r in rollouts))

    async def tokenize(
        self, exchanges: Sequence[tuple[tuple[Message, ...], str]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (np.array([1, 2], dtype=np.int32), np.arange(len(answer), dtype=np.int32))
            for _, answer in exchanges
        ]

    async def imitate(self, demonstrations: Sequence[Rollout], step: Step) -> UpdateReport:
        return await self.update(demonstrations, step)

    async def finish_phase(self, phase: Phase) -> None:
        Path(phase.final_model).mkdir(parents=True, exist_ok=True)
        self.weights = phase.final_model

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        if self.fails_to_average:
            raise RuntimeError("stopped")
        self.averages.append((older, newer, decay))
        folder.mkdir(parents=True)

    async def hold(self, model: Path) -> None:
        if self.weights != model:
            self.loads.append(model)
            self.weights = model

    async def score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    ) -> list[NDArray[np.float32]]:
        assert self.weights is not None, f"the {self.role}'s engines are lent"
        self.scored_with.append(self.weights)
        return [np.full(len(tokens), self.base_logprob, np.float32) for _, tokens in sequences]

    def weights_by_request(self, root: Path) -> set[tuple[int, int, str, str]]:
        """Return which weights answered which request, named without `root`."""
        return {
            (r.seed, r.num_samples, r.messages[-1]["content"], str(w).removeprefix(str(root)))
            for r, w in zip(self.requests, self.sampled_from, strict=True)
        }

    def _completion(self, request: SampleRequest, rng: random.Random) -> Completion:
        text = self._text(request, rng)
        tokens = np.arange(len(text), dtype=np.int32)
        if not request.reads_tokens:
            return fake_text(text)
        return Completion(
            text=text,
            num_tokens=len(text),
            finished=True,
            prompt_ids=np.array([1, 2], dtype=np.int32),
            token_ids=tokens,
            logprobs=np.full(len(text), -1.0, dtype=np.float32),
            weight_versions=((self._version(), 0, len(text)),),
        )

    def _text(self, request: SampleRequest, rng: random.Random) -> str:
        return self._pose(rng) if self.role == "challenger" else self._answer(request, rng)

    def _version(self) -> WeightVersion:
        return WeightVersion(role=self.role, iteration=1, num_steps=self._num_steps)

    def _pose(self, rng: random.Random) -> str:
        if rng.random() < 0.1:
            return "<question>1+1"  # malformed
        question = f"{rng.randint(1, 9)}+{rng.randint(1, 9)}"
        return f"<question>{question}</question>\\boxed{{0}}"

    def _answer(self, request: SampleRequest, rng: random.Random) -> str:
        if self.role == "verifier":  # one that knows
            question, _, solution = request.messages[-1]["content"].partition("=")
            return rf"\boxed{{{int(parse_answer(solution) == ArithmeticTask().solve(question))}}}"
        truth = int(ArithmeticTask().solve(request.messages[-1]["content"]) or 0)
        greedy = request.sampling.temperature == 0
        wrong = not greedy and rng.random() >= self.skill
        thought = "" if rng.random() < 0.5 else "1+1=2;"
        return f"{thought}\\boxed{{{truth + (rng.choice([-1, 1]) if wrong else 0)}}}"


class FakeJudge:
    """The real rules, in this process."""

    def __init__(self) -> None:
        self._judge = LocalJudge(ArithmeticTask())

    async def vote(self, responses: Sequence[str], rule: VotingRule = "by_value") -> Ballot:
        return self._judge.vote(responses, rule)

    async def grade(self, responses: Sequence[str], reference: str) -> list[str | None]:
        return self._judge.grade(responses, reference)

    async def mark(self, responses: Sequence[str], problem: BenchmarkProblem) -> Marks:
        return self._judge.mark(responses, problem)

    async def repetition_shares(
        self, questions: Sequence[str], threshold: float, rule: RepetitionRule = "symmetric"
    ) -> list[float]:
        return self._judge.repetition_shares(questions, threshold, rule)

    async def repetition_clusters(self, questions: Sequence[str], threshold: float) -> list[int]:
        return self._judge.repetition_clusters(questions, threshold)


class SilentObserver(Observer):
    """An observer that shows nothing and keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, str, int, int]] = []
        self.rows: list[dict] = []
        self.evaluations: list[dict] = []
        self.notes: list[str] = []

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        self.phases.append((iteration, phase, num_steps, num_done))

    def finish_step(self, row: dict) -> None:
        self.rows.append(row)

    def finish_iteration(self, row: dict) -> None:
        self.evaluations.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


def fake_text(text: str) -> Completion:
    """Return what a request that reads no tokens is answered with."""
    return Completion(
        text=text,
        num_tokens=len(text),
        finished=True,
        prompt_ids=np.empty(0, dtype=np.int32),
        token_ids=np.empty(0, dtype=np.int32),
        logprobs=np.empty(0, dtype=np.float32),
        weight_versions=(),
    )


def fake_report(version: WeightVersion, num_tokens: int) -> UpdateReport:
    learning = LearningReport(
        num_updates=1,
        num_tokens=num_tokens,
        loss=0.0,
        kl=0.0,
        entropy=0.0,
        grad_norm=0.0,
        clip_share=0.0,
        learning_rate=0.0,
        logprob_difference_mean=0.0,
        logprob_difference_max=0.0,
        importance_truncated_share=0.0,
        importance_mean=1.0,
        mismatch_kl=0.0,
    )
    sync = SyncReport(
        role=version.role,
        version=version,
        transfer=TransferReport(
            num_bytes=0, num_engines=1, seconds=0.0, seconds_engines_paused=0.0
        ),
        probe=ProbeReport(max_difference=0.0, mean_difference=0.0, bound=1e-3),
    )
    return UpdateReport(learning=learning, sync=sync)
