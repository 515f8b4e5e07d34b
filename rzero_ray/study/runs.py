"""Makes the runs of a study: workers that each keep their actors from run to run."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rzero_ray.config.config import Config, resolve_run_dir
from rzero_ray.config.layout import Layout
from rzero_ray.config.roles import ROLES
from rzero_ray.disk.errors import disk_error
from rzero_ray.driver import go_through, keep_imports, run_metrics
from rzero_ray.protocols import Observer
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.directory import (
    check_run_dir,
    hold_run_dir,
    is_complete,
    prepare_run_dir,
)
from rzero_ray.run.inspection import check_files
from rzero_ray.run.observers import Observers
from rzero_ray.run.recording import recorded
from rzero_ray.run.retention import plan_disk
from rzero_ray.run.run import Run
from rzero_ray.run.shape import find_shape
from rzero_ray.study.arms import Place
from rzero_ray.tasks.base_model import find_model
from rzero_ray.tasks.registry import make_task
from rzero_ray.text.characters import printable
from rzero_ray.types import BudgetSpentError, Role, RunError, UserError

if TYPE_CHECKING:  # it imports Ray
    from actors.cluster import Cluster

_MOST_FAILURES = 2
"""Runs in a row that fail before a worker ends: its cluster has been started anew between them, so
that the fault lies deeper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that is to be made, or to go on."""

    place: Place
    config: Config
    base_model: Path


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish, and why, in one line."""

    place: Place
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Progress(Observer):
    """Prints a line for each iteration of a run; its notes are in the run's `events.jsonl`."""

    def __init__(self, place: Place, config: Config, say: Say) -> None:
        self._place, self._config, self._say = place, config, say
        self._curriculum: dict[str, Any] = {}

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        if row["phase"] == "curriculum":
            self._curriculum = row

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        k = self._config.eval.num_samples
        figures = [f"mean@{k} {row.get(f'mean@{k}', 0.0):.3f}"]
        for key, name in (("kept", "kept"), ("label_accuracy", "labels right")):
            if self._curriculum.get(key) is not None:
                figures.append(f"{name} {self._curriculum[key]:.3g}")
        self._curriculum = {}
        where = f"iteration {row['iteration']}/{self._config.num_iterations}"
        self._say(f"{self._place}: {where}  {'  '.join(figures)}")


class Say:
    """Prints lines with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        clock = f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
        print(printable(f"[{clock}] {text}"), flush=True)


def is_finished(config: Config) -> bool:
    """Return whether a run has all its iterations. Raises UserError where its folder is damaged or
    belongs to another run."""
    root = resolve_run_dir(config)
    check_run_dir(config, root)
    return is_complete(config, root)


class Workers:
    """Makes runs, in the order in which they are given, several at once."""

    def __init__(self, jobs: Sequence[Job], layout: Layout, address: str, say: Say) -> None:
        """The driver has joined Ray at `address`; `layout` is that of each worker's cluster."""
        self._jobs = list(jobs)
        self._unfinished = {job.config.run_dir for job in jobs}
        self._layout = layout
        self._address = address
        self._say = say
        self.failures: list[Failure] = []

    async def work(self, num_workers: int) -> None:
        """Make the runs. What fails is in `failures`; the rest goes on."""
        await gather_all(self._work() for _ in range(min(num_workers, len(self._jobs))))
        for job in self._jobs:
            waits = job.config.curriculum.questions_of in self._unfinished
            ended = "the run whose questions it takes has not finished"
            self._fail(job, f"not begun, because {ended if waits else 'all workers have ended'}")

    async def _work(self) -> None:
        """Make one run after the other on one cluster, which is started anew after a failure: what
        a failed run leaves in its actors is not known."""
        num_failures = 0
        while num_failures < _MOST_FAILURES and (job := self._next()) is not None:
            try:
                cluster = await self._start(job)
            except (RunError, UserError) as error:
                self._fail(job, str(error))
                num_failures += 1
                continue
            try:
                while job is not None and await self._succeeds(job, cluster):
                    num_failures, job = 0, self._next()
            finally:
                await cluster.close()
            num_failures += 1

    def _next(self) -> Job | None:
        """Return the next run that can be taken up; None where none is left.

        A run that takes the questions of one that is not finished is left to the worker that
        finishes that one.
        """
        for job in list(self._jobs):
            if job.config.curriculum.questions_of in self._unfinished:
                continue
            self._jobs.remove(job)
            try:
                lost = check_files(job.config, resolve_run_dir(job.config))
            except UserError as error:
                self._fail(job, str(error))
                continue
            for text in lost:
                self._say(f"{job.place}: warning: {text}")
            return job
        return None

    async def _start(self, job: Job) -> Cluster:
        from actors.cluster import start_cluster  # imports Ray

        models: dict[Role, Path] = {role.name: job.base_model for role in ROLES}
        cluster = await start_cluster(
            job.config,
            self._layout,
            models,
            make_task(job.config.task),
            job.base_model,
            resolve_run_dir(job.config),
        )
        keep_imports()
        return cluster

    async def _succeeds(self, job: Job, cluster: Cluster) -> bool:
        """Make a run, or note why it has failed."""
        try:
            await self._make(job, cluster)
        except (RunError, UserError, BudgetSpentError) as error:
            self._fail(job, str(error))
        except Exception as error:
            reason = disk_error(error)
            if reason is None:
                traceback.print_exc()
                reason = f"a bug, whose traceback is above: {type(error).__name__}"
            self._fail(job, reason)
        else:
            self._unfinished.discard(job.config.run_dir)
            return True
        return False

    async def _make(self, job: Job, cluster: Cluster) -> None:
        with self._opened(job) as (run, clock):
            run.add_event(
                "start", address=self._address, pid=os.getpid(), layout=self._layout.describe()
            )
            await go_through(job.config, run, clock, cluster)
            run.add_event("end")
        self._say(f"{job.place}: finished, {len(self._jobs)} runs wait")

    @contextmanager
    def _opened(self, job: Job) -> Iterator[tuple[Run, StageClock]]:
        """Take the directory of a run with all that writes into it, and close it at the end."""
        root = resolve_run_dir(job.config)
        shape = find_shape(job.config.model.path, find_model(job.config.model))
        disk = None if shape is None else plan_disk(job.config, shape)
        with hold_run_dir(job.config, root, disk):
            prepare_run_dir(job.config, root)
            with recorded(job.config, root, job.config.trackers) as recording:
                progress = Progress(job.place, job.config, self._say)
                shown = run_metrics(job.config, on_cluster=True)
                observer = Observers(progress, *recording.observers, *shown)
                run = Run(job.config, root, job.base_model, recording.clock, observer)
                try:
                    yield run, recording.clock
                finally:
                    run.close()

    def _fail(self, job: Job, reason: str) -> None:
        failure = Failure(job.place, reason)
        self.failures.append(failure)
        print_failure(failure)


def print_failure(failure: Failure) -> None:
    """Tell the user of a run that does not go on."""
    print(printable(f"rzero_ray: failed: {failure}"), file=sys.stderr, flush=True)
