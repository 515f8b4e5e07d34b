"""`protocols.Judge` on a cluster: reward workers, and the driver's side of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.fleet.life import Lives, Whereabouts, whereabouts
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.waiting import ActorLostError, DeadlineError, within
from rzero_ray.config.cluster import DeadlineConfig, RecoveryConfig
from rzero_ray.method.judging import LocalJudge
from rzero_ray.protocols import Clock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Ballot, BenchmarkProblem, Marks, RepetitionRule, VotingRule

_MOST_FAILURES = 2
"""How often a job may be late, or fail on a worker that lives, before the failure is its own."""


class RewardWorker(LocalJudge, Lives):
    """An actor that reads model text on a CPU."""

    def __init__(self, name: str, task: str) -> None:
        super().__init__(make_task(task))
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def start(self) -> Whereabouts:
        """Return where the worker runs."""
        return whereabouts()

    @ray.method(concurrency_group="life")
    def num_killed(self) -> int:
        """See `method.judging.LocalJudge`."""
        return super().num_killed()


class ClusterJudge:
    """Sends each job to the worker with the fewest under way.

    A job whose worker dies goes to another one. A worker that is not done in time is ended, for it
    is no use to others either, and its job is tried once more: it may have been the worker.
    """

    def __init__(
        self,
        workers: Sequence[Member],
        deadlines: DeadlineConfig,
        clock: Clock,
        watch: Watch | None = None,
    ) -> None:
        self._workers = workers
        self._under_way = {worker.name: 0 for worker in workers}
        self._deadlines = deadlines
        self._clock = clock
        self._watch = watch or Watch(RecoveryConfig())

    async def vote(self, responses: Sequence[str], rule: VotingRule = "by_value") -> Ballot:
        """See `protocols.Judge`."""
        return await self._ask("to vote", lambda worker: worker.vote.remote(responses, rule))

    async def grade(self, responses: Sequence[str], reference: str) -> list[str | None]:
        """See `protocols.Judge`."""
        return await self._ask("to grade", lambda worker: worker.grade.remote(responses, reference))

    async def mark(self, responses: Sequence[str], problem: BenchmarkProblem) -> Marks:
        """See `protocols.Judge`."""
        return await self._ask(
            "to mark answers", lambda worker: worker.mark.remote(responses, problem)
        )

    async def repetition_shares(
        self, questions: Sequence[str], threshold: float, rule: RepetitionRule = "symmetric"
    ) -> list[float]:
        """See `protocols.Judge`."""
        return await self._ask(
            "to measure repetition",
            lambda worker: worker.repetition_shares.remote(questions, threshold, rule),
        )

    async def repetition_clusters(self, questions: Sequence[str], threshold: float) -> list[int]:
        """See `protocols.Judge`."""
        return await self._ask(
            "to cluster questions",
            lambda worker: worker.repetition_clusters.remote(questions, threshold),
        )

    async def _ask(self, what: str, job: Callable[[Any], ray.ObjectRef]) -> Any:
        num_failures = 0
        with self._clock.stage("grading"):
            while True:
                worker = await self._available()
                life = worker.life
                try:
                    return await self._answered(worker, what, job)
                except ActorLostError as error:
                    if worker.life != life or not await self._watch.is_alive(worker, str(error)):
                        continue
                    num_failures += 1
                    if num_failures == _MOST_FAILURES:
                        raise
                except DeadlineError as error:
                    if worker.life == life:
                        self._watch.condemn(worker, str(error))
                    num_failures += 1
                    if num_failures == _MOST_FAILURES:
                        raise

    async def _answered(self, worker: Member, what: str, job: Callable[[Any], Any]) -> Any:
        self._under_way[worker.name] += 1
        try:
            with worker.work.at("grading", None):
                return await within(
                    self._deadlines.grade, f"{worker.name} {what}", job(worker.actor), "grading"
                )
        finally:
            self._under_way[worker.name] -= 1

    async def _available(self) -> Member:
        """Return the worker with the least to do, as soon as there is one."""
        while not (ready := [w for w in self._workers if w.state is State.HEALTHY]):
            await self._watch.change_among(self._workers, "a reward worker", self._deadlines.start)
        return min(ready, key=lambda worker: self._under_way[worker.name])
