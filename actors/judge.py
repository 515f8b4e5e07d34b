"""`protocols.Judge` on a cluster: reward workers, and the driver's side of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.waiting import within
from rzero_ray.method.judging import LocalJudge
from rzero_ray.protocols import Clock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Ballot, BenchmarkProblem, Marks, RepetitionRule, VotingRule


class RewardWorker(LocalJudge):
    """An actor that reads model text on a CPU."""

    def __init__(self, name: str, task: str) -> None:
        super().__init__(make_task(task))
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def start(self) -> int:
        """Return the process id."""
        return os.getpid()


class ClusterJudge:
    """Sends each job to the worker with the fewest under way."""

    def __init__(self, workers: Sequence[ActorHandle], deadline_s: float, clock: Clock) -> None:
        self._workers = workers
        self._under_way = [0] * len(workers)
        self._deadline_s = deadline_s
        self._clock = clock

    async def vote(self, responses: Sequence[str], rule: VotingRule = "by_value") -> Ballot:
        """See `protocols.Judge`."""
        index = self._least_busy()
        return await self._ask(index, "to vote", self._workers[index].vote.remote(responses, rule))

    async def grade(self, responses: Sequence[str], reference: str) -> list[str | None]:
        """See `protocols.Judge`."""
        index = self._least_busy()
        return await self._ask(
            index, "to grade", self._workers[index].grade.remote(responses, reference)
        )

    async def mark(self, responses: Sequence[str], problem: BenchmarkProblem) -> Marks:
        """See `protocols.Judge`."""
        index = self._least_busy()
        return await self._ask(
            index, "to mark answers", self._workers[index].mark.remote(responses, problem)
        )

    async def repetition_shares(
        self, questions: Sequence[str], threshold: float, rule: RepetitionRule = "symmetric"
    ) -> list[float]:
        """See `protocols.Judge`."""
        index = self._least_busy()
        return await self._ask(
            index,
            "to measure repetition",
            self._workers[index].repetition_shares.remote(questions, threshold, rule),
        )

    async def repetition_clusters(self, questions: Sequence[str], threshold: float) -> list[int]:
        """See `protocols.Judge`."""
        index = self._least_busy()
        return await self._ask(
            index,
            "to cluster questions",
            self._workers[index].repetition_clusters.remote(questions, threshold),
        )

    def _least_busy(self) -> int:
        return min(range(len(self._workers)), key=self._under_way.__getitem__)

    async def _ask(self, index: int, what: str, ref: ray.ObjectRef) -> Any:
        self._under_way[index] += 1
        try:
            with self._clock.stage("grading"):
                name = f"reward/worker-{index}"
                return await within(self._deadline_s, f"{name} {what}", ref, "grading")
        finally:
            self._under_way[index] -= 1
