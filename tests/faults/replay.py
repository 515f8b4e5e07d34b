"""`python -m tests.faults.replay RUN_DIR`: learn every phase of a run again, from what it has kept.

A phase starts from its initial model and takes each of its steps once, from the step's stored
rollouts, without engines, driver or Ray. The model that comes out is held against the one that the
run has left, bit for bit. A step that the run has applied twice, or not at all, shows.

As many learner ranks as the run had, each in a process with the environment that it had there. On a
CPU with the same libraries, and only there, equal work gives equal bits.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from actors.learning.options import LearnerOptions, PhaseOptions
from actors.process import held_port, learner_environment
from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.manifest import Manifest, phase_key
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.types import Phase, Role, Step
from tests.faults.replay_rank import Lesson, learn_again
from tests.faults.runs import inherited

WITHIN_S = 300.0
"""How long the ranks may take to learn all phases of a short run."""
StepsToTake = Callable[[Sequence[Step]], Sequence[Step]]


@dataclass(frozen=True)
class Replayed:
    """What came of one phase."""

    phase: str
    num_steps: int
    is_equal: bool
    difference: float
    """The largest one of all weights."""

    def __str__(self) -> str:
        if self.is_equal:
            return f"{self.phase}: reproduced from {self.num_steps} steps"
        return f"{self.phase}: NOT reproduced, weights differ by up to {self.difference:.2g}"


def replay(root: Path, steps_to_take: StepsToTake = list) -> list[Replayed]:
    """Return what comes of each finished phase of learning of the run in `root`, in their order.

    `steps_to_take` may leave steps out or repeat them, to see that it shows.
    """
    config = load_stored_config(root)
    base_model = obtain_model(config.model)
    with tempfile.TemporaryDirectory() as folder:
        phases = list(_phases(config, root, base_model, Path(folder)))
        lessons = [
            Lesson(phase, options, [root / f"{s.key}/rollouts.parquet" for s in steps_to_take(of)])
            for phase, options, of in phases
        ]
        _learn(config, lessons)
        return [
            _compare(phase, len(steps), root / "models" / phase.final_model.name)
            for phase, _, steps in phases
        ]


def _phases(
    config: Config, root: Path, base_model: Path, folder: Path
) -> Iterator[tuple[Phase, PhaseOptions, list[Step]]]:
    """Yield the finished phases as they began, to end in `folder`, with their steps."""
    run = StoredRun(config, root, base_model)
    learns = {role.name: role.learns for role in ROLES if role.learns is not None}
    finished = json.loads((root / "manifest.json").read_text())["finished"]
    for place, key in enumerate(finished):
        iteration, _, name = key.partition("/")
        if name not in learns:
            continue
        role: Role = name
        number = int(iteration.rpartition("-")[2])
        before = StoredRun(config, root, base_model)
        before.manifest = Manifest(root / "manifest.json", finished[:place])
        phase = Phase(
            iteration=number,
            role=role,
            initial_model=before.initial_model(role),
            checkpoint=None,
            num_finished_steps=0,
            final_model=folder / run.model_path(role, number).name,
            anchor=run.anchor(role),
        )
        assert phase_key(number, role) == key
        yield phase, PhaseOptions.of(learns[role](config)), run.manifest.steps(role, number)


def _learn(config: Config, lessons: Sequence[Lesson]) -> None:
    """Have the ranks learn, in processes that end when they have."""
    on_cpu = config.learner.gpus_per_rank == 0
    assert on_cpu, "another GPU, or the same one again, adds up in another order"
    assert config.challenger.vocabulary_keep == 1.0, "the allowed tokens are not stored"
    context = multiprocessing.get_context("spawn")
    num_ranks = config.learner.num_ranks
    environment = learner_environment(config.learner.threads_per_rank, on_cpu, "object_store")
    with held_port("127.0.0.1") as meeting_point, inherited(environment):
        _, port = meeting_point.getsockname()
        ranks = [
            context.Process(
                target=learn_again,
                args=(_options(config, k), port, None if k else meeting_point, lessons),
                daemon=True,
            )
            for k in range(num_ranks)
        ]
        for rank in ranks:
            rank.start()
    _await(ranks)


def _await(ranks: Sequence[BaseProcess]) -> None:
    try:
        for rank in ranks:
            rank.join(WITHIN_S)
        codes = [rank.exitcode for rank in ranks]
        if any(codes) or None in codes:
            raise RuntimeError(f"the learner's ranks ended with {codes} (None: not yet)")
    finally:
        for rank in ranks:
            rank.kill()


def _options(config: Config, rank: int) -> LearnerOptions:
    """Return what the rank of a run on CPUs is set up with."""
    learner = config.learner
    return LearnerOptions(
        rank=rank,
        world_size=learner.num_ranks,
        device="cpu",
        dtype=config.model.dtype,
        zero_stage=learner.zero_stage,
        tokens_per_micro_batch=learner.tokens_per_micro_batch,
        num_threads=learner.threads_per_rank,
        weight_backend="object_store",
        gradient_checkpointing=learner.gradient_checkpointing,
        reference=learner.reference,
        offload=learner.offload,
        lora=learner.lora,
        collective_s=WITHIN_S,
    )


def _compare(phase: Phase, num_steps: int, kept: Path) -> Replayed:
    """Compare the model that a phase has given again with the one that was kept."""
    found, expected = _weights(phase.final_model), _weights(kept)
    assert found.keys() == expected.keys(), f"{kept} is a model of another kind"
    is_equal = all(a.tobytes() == expected[name].tobytes() for name, a in found.items())
    difference = max(float(np.abs(a - expected[name]).max()) for name, a in found.items())
    return Replayed(phase_key(phase.iteration, phase.role), num_steps, is_equal, difference)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    assert found, f"{folder} holds no weights; was checkpoint.keep_models.every=1?"
    return found


def main() -> int:
    """Replay the run of the command line; returns 1 where a phase is not reproduced."""
    replayed = replay(Path(sys.argv[1]))
    for phase in replayed:
        print(phase)
    return 0 if replayed and all(phase.is_equal for phase in replayed) else 1


if __name__ == "__main__":
    sys.exit(main())
