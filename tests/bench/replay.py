"""What stands for the cluster where the driver alone is measured: engines and a learner in memory.

Questions and answers have the lengths, the entropy and the answers of real ones: prompts of 200
tokens, questions of about 95 words, answers of 900 tokens on average and 4,096 at most; a tenth of
the questions is malformed, some answers are LaTeX. Reply and rollouts are pickled as Ray does it.
Reward workers are processes that run the real code; pool, phases and run are the program's own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import random
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from actors.learning.rollouts import pack_rollouts
from actors.sampling.packing import FinishedRequests, pack
from actors.sampling.pool import SamplerPool
from rzero_ray.method.judging import LocalJudge
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import (
    Completion,
    LearningReport,
    Phase,
    ProbeReport,
    Role,
    Rollout,
    SampleRequest,
    Step,
    SyncReport,
    TransferReport,
    UpdateReport,
    Vocabulary,
    WeightVersion,
)

PROMPT_TOKENS, QUESTION_TOKENS, MEAN_TOKENS, MAX_TOKENS = 200, 150, 900, 4096
_CHARS_PER_TOKEN = 3.5
_NUM_TOKENS = 4_000_000
_BALLOT = 10
_VERSION = WeightVersion(role="solver", iteration=1, num_steps=0)
_TASK = make_task("math")


@dataclass(slots=True)
class Cost:
    """What the parts that stand for engines and Ray have taken."""

    seconds: float = 0.0
    """Of the loop's thread's processor time."""
    num_bytes: int = 0
    """Of replies."""


class Texts:
    """A store of tokens, words and answers, from which completions are cut."""

    def __init__(self, answer_tokens: int | None = None, seed: int = 0) -> None:
        """All answers have `answer_tokens` tokens, or lengths of a log-normal distribution."""
        self._answer_tokens = answer_tokens
        self.rng, rng = random.Random(seed), np.random.default_rng(seed)
        self._token_ids = np.minimum(rng.zipf(1.25, _NUM_TOKENS), 151_935).astype(np.int32)
        is_sure = rng.random(_NUM_TOKENS) >= 0.55
        self._logprobs = np.where(is_sure, 0, -rng.exponential(0.4, _NUM_TOKENS)).astype(np.float32)
        self._words = [
            "".join(self.rng.choices("etaoinshrdlucmfwgyp", k=self.rng.randint(1, 9)))
            for _ in range(6_000)
        ]
        self._text = " ".join(self._words[k] for k in np.minimum(rng.zipf(1.3, 1_000_000), 5_999))
        self._templates = [self._some_words(45) for _ in range(80)]
        self._ballots = [self._make_ballot() for _ in range(256)]

    def question(self) -> str:
        """Return about 95 words: half of them a template's, in every tenth question all of them. A
        sixth is replaced."""
        rng = self.rng
        words = self._templates[int(rng.triangular(0, 79, 0))] + self._some_words(50)
        if rng.random() < 0.1:
            words = self._templates[rng.randrange(8)] + self._templates[rng.randrange(8, 16)]
        return " ".join(rng.choice(self._words) if rng.random() < 0.16 else w for w in words)

    def ballot(self, question: str) -> list[str]:
        """Return the answers to a question, the same ones each time."""
        return self._ballots[hash(question) % len(self._ballots)]

    def reply(self, request: SampleRequest) -> list[Completion]:
        """Return the completions of a request."""
        last = request.messages[-1]["content"]
        if last == _TASK.challenger_messages()[-1]["content"]:
            return [self._posed(request.reads_tokens) for _ in range(request.num_samples)]
        ballot = self.ballot(last)
        return [self._answer(ballot[k % _BALLOT], request) for k in range(request.num_samples)]

    def _posed(self, reads_tokens: bool) -> Completion:
        question = self.question()
        if self.rng.random() < 0.9:
            question = f"<question>{question}</question>\\boxed{{7}}"
        return self._completion(QUESTION_TOKENS, question, reads_tokens)

    def _answer(self, answer: str, request: SampleRequest) -> Completion:
        drawn = int(self.rng.lognormvariate(log(MEAN_TOKENS) - 0.32, 0.8))
        length = self._answer_tokens or max(8, min(MAX_TOKENS, drawn))
        tail = f"\\boxed{{{answer}}}" if length < MAX_TOKENS or self._answer_tokens else ""
        return self._completion(length, tail, request.reads_tokens)

    def _completion(self, length: int, tail: str, reads_tokens: bool) -> Completion:
        start = self.rng.randrange(_NUM_TOKENS - MAX_TOKENS)
        tokens = slice(start, start + length if reads_tokens else start)
        num_chars = max(0, int(length * _CHARS_PER_TOKEN) - len(tail))
        place = self.rng.randrange(len(self._text) - num_chars)
        return Completion(
            text=self._text[place : place + num_chars] + tail,
            num_tokens=length,
            finished=length < MAX_TOKENS,
            prompt_ids=self._token_ids[: PROMPT_TOKENS if reads_tokens else 0],
            token_ids=self._token_ids[tokens],
            logprobs=self._logprobs[tokens],
            weight_versions=((_VERSION, 0, length),) if reads_tokens else (),
        )

    def _some_words(self, count: int) -> list[str]:
        start = self.rng.randrange(len(self._text) - 20 * count)
        return self._text[start : start + 20 * count].split()[1 : count + 1]

    def _make_ballot(self) -> list[str]:
        rng = self.rng
        a, b, c = rng.randint(2, 5000), rng.choice((2, 3, 5, 7)), rng.randint(2, 9)
        kinds = (
            [str(a)],
            [f"\\frac{{{a}}}{{{c}}}", f"{a}/{c}"],
            [f"{a}\\sqrt{{{b}}}", f"{a} \\sqrt{b}"],
        )
        right, share = rng.choices(kinds, (6, 2, 2))[0], rng.betavariate(1.2, 1.2)
        return [
            rng.choice(right) if rng.random() < share else str(a + rng.randint(1, 4))
            for _ in range(_BALLOT)
        ]


class FakeSampler:
    """In place of a sampler's handle: answers each request after up to `spread` seconds."""

    def __init__(self, texts: Texts, spread: float, cost: Cost) -> None:
        self.sample = self
        self._texts, self._spread, self._cost = texts, spread, cost

    async def remote(
        self, requests: Sequence[SampleRequest]
    ) -> AsyncIterator[Awaitable[FinishedRequests]]:
        """Stream the answers, each when it is ready."""
        for ready in asyncio.as_completed([self._later(*item) for item in enumerate(requests)]):
            yield ready

    async def _later(self, place: int, request: SampleRequest) -> FinishedRequests:
        await asyncio.sleep(self._spread * random.random())
        start = time.thread_time()
        sent = pickle.dumps(pack(self._texts.reply(request), request.reads_tokens), 5)
        self._cost.seconds += time.thread_time() - start
        self._cost.num_bytes += len(sent)
        return [(place, pickle.loads(sent))]


class FakePolicy:
    """A role: the real pool over fake engines, and a learner that is given its rollouts."""

    def __init__(self, role: Role, pool: SamplerPool, clock: StageClock) -> None:
        self._role: Role = role
        self._pool, self._clock = pool, clock

    async def sample(self, request: SampleRequest) -> list[Completion]:
        with self._clock.stage("sampling"):
            completions = await self._pool.sample(self._role, request)
        self._clock.count_tokens(sum(c.num_tokens for c in completions))
        return completions

    async def start_phase(self, phase: Phase) -> None:
        self._pool.assign(self._role)

    async def hold(self, model: Path) -> None:
        self._pool.send_home()

    async def finish_phase(self, phase: Phase) -> None:
        self._pool.send_home()

    async def update(
        self, rollouts: Sequence[Rollout], step: Step, vocabulary: Vocabulary | None = None
    ) -> UpdateReport:
        await asyncio.to_thread(lambda: pickle.dumps(pack_rollouts(rollouts), 5))
        figures: dict[str, Any] = dict.fromkeys(LearningReport.__dataclass_fields__, 0.1)
        transfer = TransferReport(num_bytes=0, num_engines=1, seconds=0, seconds_engines_paused=0)
        probe = ProbeReport(max_difference=0.0, mean_difference=0.0, bound=1e-3)
        sync = SyncReport(role="solver", version=_VERSION, transfer=transfer, probe=probe)
        return UpdateReport(learning=LearningReport(**figures), sync=sync)


class Judges:
    """Two reward workers, each a process."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))

    async def vote(self, *arguments: Any) -> Any:
        return await self._ask(_vote, arguments)

    async def grade(self, *arguments: Any) -> Any:
        return await self._ask(_grade, arguments)

    async def repetition_shares(self, *arguments: Any) -> Any:
        return await self._ask(_shares, arguments)

    async def repetition_clusters(self, *arguments: Any) -> Any:
        return await self._ask(_clusters, arguments)

    async def _ask(self, work: Any, arguments: Sequence[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)


_JUDGE = LocalJudge(_TASK)


def _vote(*arguments: Any) -> Any:
    return _JUDGE.vote(*arguments)


def _grade(*arguments: Any) -> Any:
    return _JUDGE.grade(*arguments)


def _shares(*arguments: Any) -> Any:
    return _JUDGE.repetition_shares(*arguments)


def _clusters(*arguments: Any) -> Any:
    return _JUDGE.repetition_clusters(*arguments)


class Heartbeat:
    """Measures for how much processor time the event loop's thread lets nobody else run."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self.longest_s = self.loop_s = 0.0

    async def beat(self) -> None:
        """Run beside the work until cancelled."""
        while True:
            before = time.thread_time() - self._cost.seconds
            await asyncio.sleep(0.005)
            spent = time.thread_time() - self._cost.seconds - before
            self.longest_s = max(self.longest_s, spent)
            self.loop_s += spent
