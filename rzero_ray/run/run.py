"""The run directory: what is finished, what was sampled, and how a run goes on after a stop.

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

import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml
from filelock import FileLock, Timeout

from rzero_ray.config.config import Config, to_yaml
from rzero_ray.config.sources import flatten
from rzero_ray.run.clock import StageClock
from rzero_ray.run.parquet import read_records, write_records, write_text_durably
from rzero_ray.types import CurriculumItem, Phase, PhaseName, Role, Step, UserError

R = TypeVar("R")

MANIFEST_FORMAT = 1
_MIN_FREE_BYTES = 1 << 30
"""Below this a run is not started: it would die in the middle of a write."""
_MAY_CHANGE = (
    "name",
    "run_dir",
    "num_iterations",
    "model.cache_dir",
    "layout",
    "sampler.",
    "reward.",
    "learner.cpus_per_rank",
    "learner.threads_per_rank",
    "checkpoint.",
    "deadline.",
    "weights.",
    "audit.",
    "drift.",
)
"""Keys (or sections) that may differ when a run is resumed: they do not change what it computes."""


_WITHOUT_CHECKPOINT = ("curriculum", "audit", "drift")
"""Phases in which nothing learns."""


class Observer(Protocol):
    """Who is told of progress: the terminal display."""

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """A phase begins or goes on."""
        ...

    def finish_step(self, row: dict[str, Any]) -> None:
        """A step is finished; `row` is its line of `metrics.jsonl`."""
        ...

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """An evaluation is finished; `row` is its entry in `summary.json`'s `heldout`."""
        ...

    def note(self, text: str) -> None:
        """Something a user should read."""
        ...


class Run:
    """A run directory, open for one driver. See the module for its files."""

    def __init__(
        self, config: Config, root: Path, base_model: Path, clock: StageClock, observer: Observer
    ) -> None:
        """Use `open_run`, which checks the directory and takes its lock first."""
        self.config = config
        self.root = root
        self.base_model = base_model
        self._clock = clock
        self._observer = observer
        manifest = json.loads((root / "manifest.json").read_text())
        self._finished: list[str] = manifest["finished"]
        self._checkpoint: str | None = manifest["checkpoint"]
        self._drop_unfinished_metrics()

    # What is left to do.

    def iterations(self, num_iterations: int) -> Iterator[int]:
        """Yield the iterations that are not finished, from 1."""
        for iteration in range(1, num_iterations + 1):
            if not self.is_finished(f"iteration-{iteration:02d}"):
                yield iteration

    def begin_phase(self, iteration: int, role: Role) -> Phase | None:
        """Return a phase of learning as it stands on disk; None when it is finished."""
        key = f"iteration-{iteration:02d}/{role}"
        if self.is_finished(key):
            return None
        finished = self._durable_steps(iteration, role)
        checkpoint = self._checkpoint_path(f"{key}/step-{finished:03d}") if finished else None
        return Phase(
            iteration=iteration,
            role=role,
            initial_model=self.current_model(role),
            checkpoint=checkpoint,
            num_finished_steps=finished,
            final_model=self.model_path(role, iteration),
        )

    def finish_phase(self, phase: Phase) -> None:
        """Record that the phase's policy is written; its checkpoints are not needed any more."""
        key = f"iteration-{phase.iteration:02d}/{phase.role}"
        self._finish(key)
        shutil.rmtree(self.root / "checkpoints" / key, ignore_errors=True)

    def steps(self, iteration: int, phase: PhaseName, num_steps: int) -> Iterator[Step]:
        """Yield the steps of a phase that are not finished, from 1."""
        key = f"iteration-{iteration:02d}/{phase}"
        num_done = sum(name.startswith(f"{key}/step-") for name in self._finished)
        self._observer.start_phase(iteration, phase, num_steps, num_done)
        for index in range(1, num_steps + 1):
            step = Step(
                iteration=iteration,
                phase=phase,
                index=index,
                checkpoint=self._checkpoint_of(key, index, num_steps, phase),
            )
            if not self.is_finished(step.key):
                yield step

    def is_finished(self, key: str) -> bool:
        """Return whether the manifest lists the key."""
        return key in self._finished

    def current_model(self, role: Role) -> Path:
        """Return the folder of the policy that the role has now: where its next phase starts, and
        what its engines sample from while nothing is learned.

        It is the role's last finished policy; with shared weights, that of whichever role learned
        last; before, the base model.
        """
        both: tuple[Role, ...] = ("challenger", "solver")
        phases: dict[str, tuple[Role, int]] = {
            f"iteration-{iteration:02d}/{learner}": (learner, iteration)
            for learner in (both if self.config.shared_weights else (role,))
            for iteration in range(1, self.config.num_iterations + 1)
        }
        last = next((phases[key] for key in reversed(self._finished) if key in phases), None)
        return self.base_model if last is None else self.model_path(*last)

    def model_path(self, role: Role, iteration: int) -> Path:
        """Return the folder of a role's policy after an iteration; 0 is the base model."""
        if iteration == 0:
            return self.base_model
        return self.root / "models" / f"{role}-iteration-{iteration:02d}"

    # What was sampled.

    async def once(
        self, key: str, record_type: type[R], make: Callable[[], Awaitable[Sequence[R]]]
    ) -> list[R]:
        """Return the records under `key`: read where they are on disk, else made and written."""
        path = self.root / f"{key}.parquet"
        if not path.exists():
            records = await make()
            with self._clock.stage("write"):
                write_records(path, records, record_type)
        return read_records(path, record_type)

    def load_finished_steps(
        self, iteration: int, phase: PhaseName, name: str, record_type: type[R]
    ) -> list[R]:
        """Return the records `name` of the phase's finished steps, in their order."""
        prefix = f"iteration-{iteration:02d}/{phase}/step-"
        steps = [key for key in self._finished if key.startswith(prefix)]
        paths = (self.root / key / f"{name}.parquet" for key in steps)
        return [record for path in paths for record in read_records(path, record_type)]

    def finished_steps(self, phase: PhaseName, iteration: int | None = None) -> list[str]:
        """Return the keys of a phase's finished steps, oldest first; of all without iteration."""
        keys = (key.split("/") for key in self._finished)
        return [
            "/".join(key)
            for key in keys
            if len(key) == 3
            and key[1] == phase
            and iteration in (None, int(key[0].removeprefix("iteration-")))
        ]

    def sampled_steps(self, role: Role, iteration: int | None = None) -> list[str]:
        """Return `finished_steps` of a role's phases that have rollouts: imitation has none."""
        steps = self.finished_steps(role, iteration)
        return [key for key in steps if (self.root / key / "rollouts.parquet").exists()]

    def read(self, key: str, record_type: type[R]) -> list[R]:
        """Return the records under `key`, such as `iteration-01/solver/step-001/rollouts`."""
        return read_records(self.root / f"{key}.parquet", record_type)

    def figures(self, iteration: int, phase: PhaseName) -> dict[str, Any] | None:
        """Return the last line of `metrics.jsonl` of a phase, or None before there is one."""
        rows = [r for r in self.metrics() if (r["iteration"], r["phase"]) == (iteration, phase)]
        return rows[-1] if rows else None

    def write(self, key: str, records: Sequence[Any], record_type: type) -> None:
        """Write the records under `key`, in place of earlier ones."""
        write_records(self.root / f"{key}.parquet", records, record_type)

    def write_curriculum(self, iteration: int, items: list[CurriculumItem]) -> None:
        """Write the questions that the Solver trains on."""
        path = self.root / f"iteration-{iteration:02d}" / "curriculum.parquet"
        if not path.exists():
            write_records(path, items, CurriculumItem)
        if not items:
            self.note(f"iteration {iteration}: no question was kept; the Solver does not train")

    # What is finished.

    def finish_step(self, step: Step, metrics: dict[str, Any]) -> None:
        """Record a step: its line of metrics, then the manifest."""
        row = {"iteration": step.iteration, "phase": step.phase, "step": step.index, **metrics}
        row |= self._cost()
        self._append("metrics.jsonl", row)
        if step.checkpoint is not None:
            self._checkpoint = step.key
        self._finish(step.key)
        self._remove_old_checkpoints(step)
        self._observer.finish_step(row)

    def finish_measurement(self, step: Step, figures: dict[str, Any]) -> None:
        """Record a step that samples nothing, made after something that is not recorded yet.

        Its seconds stay on the clock and count with that: the evaluation, of the drift monitors.
        """
        row = {"iteration": step.iteration, "phase": step.phase, "step": step.index, **figures}
        self._append("metrics.jsonl", row)
        self._finish(step.key)
        self._observer.finish_step(row)

    def finish_iteration(self, iteration: int, figures: dict[str, Any]) -> None:
        """Record an evaluation; iteration 0 is the base model."""
        row = {**figures, **self._cost()}
        folder = self.root / f"iteration-{iteration:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        write_text_durably(folder / "evaluation.json", json.dumps(row, indent=1))
        self._finish(f"iteration-{iteration:02d}")
        self._observer.finish_iteration(row)

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluation of the base and of each finished iteration."""
        paths = sorted(self.root.glob("iteration-*/evaluation.json"))
        rows = [json.loads(path.read_text()) for path in paths]
        return [row for row in rows if self.is_finished(f"iteration-{row['iteration']:02d}")]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`."""
        return _read_lines(self.root / "metrics.jsonl")

    def note(self, text: str, **details: Any) -> None:
        """Tell the user, and `events.jsonl`."""
        self._append("events.jsonl", {"time": time.time(), "event": text, **details})
        self._observer.note(text)

    def add_event(self, event: str, **details: Any) -> None:
        """Add a line to `events.jsonl`."""
        self._append("events.jsonl", {"time": time.time(), "event": event, **details})

    # Inside.

    def _cost(self) -> dict[str, Any]:
        """Return what was spent since the last row: tokens, seconds by stage, overhead."""
        lap = self._clock.lap()
        return {
            "tokens_sampled": self._clock.take_tokens(),
            "seconds": {**lap.busy, "wall": lap.wall},
            "seconds_alone": lap.alone,
            "seconds_overhead": lap.overhead,
        }

    def _finish(self, key: str) -> None:
        self._finished.append(key)
        _write_manifest(self.root, self._finished, self._checkpoint)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.root / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def _drop_unfinished_metrics(self) -> None:
        """Forget lines of steps that will be done again."""
        path = self.root / "metrics.jsonl"
        rows = [
            row
            for row in _read_lines(path)
            if f"iteration-{row['iteration']:02d}/{row['phase']}/step-{row['step']:03d}"
            in self._finished
        ]
        write_text_durably(path, "".join(json.dumps(row) + "\n" for row in rows))

    def _durable_steps(self, iteration: int, role: Role) -> int:
        """Return how many steps of an unfinished phase the last checkpoint holds.

        Steps after it are unmarked: their updates are done again from the rollouts on disk.
        """
        key = f"iteration-{iteration:02d}/{role}"
        prefix = f"{key}/step-"
        durable = 0
        if self._checkpoint is not None and self._checkpoint.startswith(prefix):
            durable = int(self._checkpoint.removeprefix(prefix))
        redo = {
            name
            for name in self._finished
            if name.startswith(prefix) and int(name.removeprefix(prefix)) > durable
        }
        if redo:
            self._finished = [name for name in self._finished if name not in redo]
            _write_manifest(self.root, self._finished, self._checkpoint)
            self._drop_unfinished_metrics()
        return durable

    def _checkpoint_path(self, key: str) -> Path:
        return self.root / "checkpoints" / key

    def _checkpoint_of(self, key: str, index: int, num_steps: int, phase: PhaseName) -> Path | None:
        due = index % self.config.checkpoint.every_steps == 0 or index == num_steps
        if phase in _WITHOUT_CHECKPOINT or not due:
            return None
        return self._checkpoint_path(f"{key}/step-{index:03d}")

    def _remove_old_checkpoints(self, step: Step) -> None:
        if step.checkpoint is None:
            return
        kept = self.config.checkpoint.keep
        for old in sorted(step.checkpoint.parent.glob("step-*"))[:-kept]:
            if old != step.checkpoint:
                shutil.rmtree(old, ignore_errors=True)


def check_run_dir(config: Config, root: Path) -> None:
    """Raise UserError unless `root` is new or can be resumed with `config`. Writes nothing.

    Refused: a run of another configuration, a manifest that cannot be read, a folder that holds
    something else.
    """
    manifest = root / "manifest.json"
    if manifest.exists():
        _check_manifest(manifest)
        _check_same_config(config, root)
    elif root.exists():
        _check_unused(root)


def is_complete(config: Config, root: Path) -> bool:
    """Return whether the run that `check_run_dir` accepted has all its iterations."""
    manifest = root / "manifest.json"
    if not manifest.exists():
        return False
    finished = json.loads(manifest.read_text())["finished"]
    return all(f"iteration-{i:02d}" in finished for i in range(config.num_iterations + 1))


def prepare_run_dir(config: Config, root: Path) -> FileLock:
    """Create the run directory, or take up one that `check_run_dir` accepts; lock it.

    Raises UserError when another driver holds it, when it cannot be written or the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free < _MIN_FREE_BYTES:
            raise UserError(
                f"run_dir={root}: {free / 2**30:.1f} GiB free on its disk, needs at least "
                f"{_MIN_FREE_BYTES / 2**30:.0f}; free some space or choose another run_dir"
            )
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"run_dir={root} is in use by another driver; wait for it or choose another run_dir"
        ) from None
    except OSError as error:
        raise UserError(
            f"run_dir={root} cannot be written ({error.strerror}); choose another run_dir"
        ) from None
    check_run_dir(config, root)
    if not (root / "manifest.json").exists():
        write_text_durably(root / "config.yaml", to_yaml(config))
        _write_manifest(root, [], None)
    return lock


def _check_unused(root: Path) -> None:
    """Refuse a folder that holds anything but what a start that was killed at once leaves."""
    if not root.is_dir():
        raise UserError(f"run_dir={root} is not a folder; choose another run_dir")
    names = {path.name.removesuffix(".partial").lstrip(".") for path in root.iterdir()}
    if "metrics.jsonl" in names:
        raise UserError(
            f"{root}/manifest.json is missing though the run has begun; restore it from a copy or "
            "choose another run_dir"
        )
    others = names - {"lock", "config.yaml", "manifest.json"}
    if others:
        raise UserError(
            f"run_dir={root} holds other files ({min(others)}); choose a new or empty folder"
        )


def _check_manifest(path: Path) -> None:
    advice = "restore it from a copy or choose another run_dir"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
        list(manifest["finished"])
        manifest["checkpoint"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); {advice}") from None
    if version != MANIFEST_FORMAT:
        raise UserError(
            f"{path} has format {version}, this program reads {MANIFEST_FORMAT}; {advice}"
        )


def _check_same_config(config: Config, root: Path) -> None:
    path = root / "config.yaml"
    try:
        stored = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); restore it or choose another run_dir"
        ) from None
    for key, value in flatten(asdict(config)).items():
        before = stored.get(key)
        if before != value and not key.startswith(_MAY_CHANGE):
            raise UserError(
                f"run_dir={root} was made by another config: {key} was {before}, now {value}; "
                f"choose another run_dir, or set {key}={before} to resume"
            )


def _write_manifest(root: Path, finished: list[str], checkpoint: str | None) -> None:
    manifest = {"format": MANIFEST_FORMAT, "finished": finished, "checkpoint": checkpoint}
    write_text_durably(root / "manifest.json", json.dumps(manifest, indent=1))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, up to the first line that a stop cut short."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
