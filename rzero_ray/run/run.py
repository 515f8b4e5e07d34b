"""A run in progress: what is left to do, what was sampled, what is finished.

    config.yaml      the resolved configuration
    manifest.json    what is finished; moves by atomic rename after each step
    metrics.jsonl    one object per finished step
    events.jsonl     starts, resumes, warnings
    iteration-NN/PHASE/step-NNN/*.parquet    what was sampled, written before it is used
    iteration-NN/curriculum.parquet, evaluation.parquet, evaluation.json
    checkpoints/     state of the policy in training after its last steps
    models/          policies in Hugging Face format
    summary.json, report.html

The order of writing makes a stop harmless: rollouts before the update that uses them, the
checkpoint before the manifest that names it. After a stop the manifest names a step and its
checkpoint; the update of the step in flight is done again from its rollouts, on that checkpoint.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.disk.files import remove_folder, write_text_durably
from rzero_ray.protocols import Observer
from rzero_ray.run.budget import check_budget
from rzero_ray.run.clock import StageClock
from rzero_ray.run.manifest import phase_key
from rzero_ray.run.mirror import Mirror
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.run.parts import PARTS
from rzero_ray.run.retention import best_iteration, unneeded_models
from rzero_ray.run.rows import Row
from rzero_ray.run.stored import StoredRun, by_number, row_key
from rzero_ray.types import (
    BusySpan,
    CurriculumItem,
    Phase,
    PhaseName,
    Role,
    Step,
    iteration_key,
)

R = TypeVar("R")

_WITHOUT_CHECKPOINT = ("curriculum", "audit", "drift")
"""Phases in which nothing learns."""


class Run:
    """A run directory, open for one driver (`directory.prepare_run_dir` takes its lock)."""

    def __init__(
        self,
        config: Config,
        root: Path,
        base_model: Path,
        clock: StageClock,
        observer: Observer,
        mirror: Mirror | None = None,
    ) -> None:
        """`mirror` is told of all that is finished; without one the run is not copied."""
        self.stored = StoredRun(config, root, base_model)
        self._mirror = mirror or Mirror(root, None, observer.note)
        self._checkpoints = config.checkpoint
        self._removals = ThreadPoolExecutor(1, thread_name_prefix="removal")
        self._clock = clock
        self._observer = observer
        self.stored.manifest.take_over()
        self._forget_unfinished_metrics()
        self._remove_what_stops_left()

    def close(self) -> None:
        """Wait until what is not needed any more is removed."""
        self._removals.shutdown()

    # What is left to do.

    def iterations(self, num_iterations: int) -> Iterator[int]:
        """Yield the iterations that are not finished, from 1."""
        for iteration in range(1, num_iterations + 1):
            if not self.is_finished(iteration_key(iteration)):
                yield iteration

    def begin_phase(self, iteration: int, role: Role) -> Phase | None:
        """Return a phase of learning as it stands on disk; None when it is finished."""
        key = phase_key(iteration, role)
        if self.is_finished(key):
            return None
        finished = self._take_back_steps_without_checkpoint(iteration, role)
        last = Step(iteration=iteration, phase=role, index=finished)
        return Phase(
            iteration=iteration,
            role=role,
            initial_model=self.stored.initial_model(role),
            checkpoint=self.stored.checkpoint_path(last) if finished else None,
            num_finished_steps=finished,
            final_model=self.stored.model_path(role, iteration),
            anchor=self.stored.anchor(role),
        )

    def steps(self, iteration: int, phase: PhaseName, num_steps: int) -> Iterator[Step]:
        """Yield the steps of a phase that are not finished, from 1; raise BudgetSpentError instead
        of the next when the run may spend no more."""
        num_done = len(self.stored.manifest.steps(phase, iteration))
        self._observer.start_phase(iteration, phase, num_steps, num_done)
        self.add_event("phase", iteration=iteration, phase=phase)
        for index in range(1, num_steps + 1):
            step = Step(iteration=iteration, phase=phase, index=index)
            if not self.is_finished(step.key):
                check_budget(self.stored.config, self.stored)
                yield self._with_checkpoint(step, num_steps)

    def is_finished(self, key: str) -> bool:
        """Return whether the manifest lists the key."""
        return key in self.stored.manifest

    # What was sampled.

    async def once(
        self, key: str, record_type: type[R], make: Callable[[], Awaitable[Sequence[R]]]
    ) -> list[R]:
        """Return the records under `key`: read where they are on disk, else made and written."""
        path = self.stored.root / f"{key}.parquet"
        if path.exists():
            return await asyncio.to_thread(read_records, path, record_type)
        records = await make()
        with self._clock.stage("write"):
            await self.write(key, records, record_type)
        return list(records)

    async def write(self, key: str, records: Sequence[Any], record_type: type) -> None:
        """Write the records under `key`, in place of earlier ones.

        In a thread: packing a step's tokens and a slow disk would keep everybody waiting.
        """
        self.stored.manifest.check_attempt()
        path = self.stored.root / f"{key}.parquet"
        await asyncio.to_thread(write_records, path, records, record_type)

    async def write_curriculum(self, iteration: int, items: list[CurriculumItem]) -> None:
        """Write the questions that the Solver trains on."""
        key = f"{iteration_key(iteration)}/curriculum"
        if not (self.stored.root / f"{key}.parquet").exists():
            await self.write(key, items, CurriculumItem)
        if not items:
            self.note(f"iteration {iteration}: no question was kept; the Solver does not train")

    # What is finished.

    def finish_step(self, step: Step, metrics: Row, *, is_saved: bool = True) -> None:
        """Record a step: its line of metrics, then the manifest.

        Where its checkpoint is still being written, `is_saved` is False and `keep_checkpoint`
        follows. A stop between the two has the update done again from the rollouts on disk.
        """
        row = {**metrics, **self._clock.spent()}
        self._finish_step(step, row, with_checkpoint=is_saved and step.checkpoint is not None)

    def keep_checkpoint(self, step: Step) -> None:
        """Record that the checkpoint of a finished step is written."""
        self.stored.manifest.finish(step.key, with_checkpoint=True)
        self._remove_old_checkpoints(step)
        self._mirror.changed()

    def finish_measurement(self, step: Step, figures: Row) -> None:
        """Record a step that samples nothing, made after something that is not recorded yet.

        Its seconds stay on the clock and count with that: the evaluation, of the drift monitors.
        """
        self._finish_step(step, figures)

    def finish_phase(self, phase: Phase) -> None:
        """Record that the phase's policy is written; its checkpoints are not needed any more."""
        key = phase_key(phase.iteration, phase.role)
        self.stored.manifest.finish(key)
        self._remove(self.stored.root / "checkpoints" / key)
        self._mirror.changed()

    def finish_iteration(self, iteration: int, figures: Row) -> None:
        """Record an evaluation; iteration 0 is the base model."""
        self.stored.manifest.check_attempt()
        row = {**figures, **self._clock.spent()}
        key = iteration_key(iteration)
        folder = self.stored.root / key
        folder.mkdir(parents=True, exist_ok=True)
        write_text_durably(folder / "evaluation.json", json.dumps(row, indent=1))
        self.stored.manifest.finish(key)
        self._remove_old_models()
        self._mirror.changed()
        self._observer.finish_iteration(row)

    def note(self, text: str, **details: Any) -> None:
        """Tell the user, and `events.jsonl`."""
        self.add_event(text, **details)
        self.say(text)

    def say(self, text: str) -> None:
        """Tell the user."""
        self._observer.note(text)

    def add_event(self, event: str, **details: Any) -> None:
        """Add a line to `events.jsonl`."""
        self.stored.log.add_event(event, **details)
        self._observer.see_event(event, details)

    def see_work(self, span: BusySpan) -> None:
        """Tell the observers when an actor was at work."""
        self._observer.see_work(span)

    # Inside.

    def _finish_step(self, step: Step, figures: Row, *, with_checkpoint: bool = False) -> None:
        self.stored.manifest.check_attempt()
        row = {"iteration": step.iteration, "phase": step.phase, "step": step.index, **figures}
        self.stored.log.add_metrics(row)
        self.stored.manifest.finish(step.key, with_checkpoint=with_checkpoint)
        self._remove(self.stored.root / step.key / PARTS)
        if with_checkpoint:
            self._remove_old_checkpoints(step)
        self._mirror.changed()
        self._observer.finish_step(row)

    def _forget_unfinished_metrics(self) -> None:
        """Forget lines of steps that will be done again."""
        self.stored.log.mend(lambda row: self.is_finished(row_key(row)))

    def _take_back_steps_without_checkpoint(self, iteration: int, role: Role) -> int:
        """Return how many steps of an unfinished phase the last checkpoint holds.

        Steps after it are unmarked: their updates are done again from the rollouts on disk.
        """
        durable = self.stored.manifest.durable_steps(iteration, role)
        steps = self.stored.manifest.steps(role, iteration)
        again = [step.key for step in steps if step.index > durable]
        if again:
            self.stored.manifest.undo(again)
            self._forget_unfinished_metrics()
        return durable

    def _with_checkpoint(self, step: Step, num_steps: int) -> Step:
        """Return the step with the place of its checkpoint, where it saves one."""
        is_due = step.index % self._checkpoints.every_steps == 0 or step.index == num_steps
        if step.phase in _WITHOUT_CHECKPOINT or not is_due:
            return step
        return replace(step, checkpoint=self.stored.checkpoint_path(step))

    def _remove_old_checkpoints(self, step: Step) -> None:
        assert step.checkpoint is not None
        for old in by_number(step.checkpoint.parent, "step-*")[: -self._checkpoints.keep]:
            if old != step.checkpoint:
                self._remove(old)

    def _remove_old_models(self) -> None:
        stored = self.stored
        best = best_iteration(stored.evaluations(), stored.config.eval.num_samples)
        learned: dict[Role, list[int]] = {
            role.name: stored.manifest.learned(role.name) for role in ROLES
        }
        current = {stored.current_model(role.name) for role in ROLES}
        for role, iteration in unneeded_models(learned, best, self._checkpoints.keep_models):
            if stored.model_path(role, iteration) not in current:
                self._remove(stored.model_path(role, iteration))
        for average in stored.averages():
            if average != stored.voter():
                self._remove(average)

    def _remove_what_stops_left(self) -> None:
        """Remove checkpoints of finished phases, parts of finished steps, and what was being
        removed or written."""
        root = self.stored.root
        for folder in root.glob("checkpoints/iteration-*/*"):
            if self.is_finished(f"{folder.parent.name}/{folder.name}"):
                self._remove(folder)
        for folder in root.glob(f"iteration-*/*/step-*/{PARTS}"):
            if self.is_finished(str(folder.parent.relative_to(root))):
                self._remove(folder)
        for pattern in (
            "models/.*",
            "checkpoints/*/.*",
            "checkpoints/*/*/.*",
            "iteration-*/*/step-*/.*",
        ):
            for folder in root.glob(pattern):
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        """Remove a folder in a thread: hundreds of gigabytes take minutes, and others wait."""
        self._removals.submit(self._remove_now, folder)

    def _remove_now(self, folder: Path) -> None:
        with self._mirror.at_rest():
            remove_folder(folder, self.stored.root)
