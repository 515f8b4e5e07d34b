"""A learner rank that learns phases again from stored rollouts (`tests.faults.replay`).

Apart, because torch must find the rank's environment when it is imported: by the process that is
the rank, not by the one that starts it.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.learning.options import LearnerOptions, PhaseOptions
from rzero_ray.phases.asking import to_rollout
from rzero_ray.run.parquet import read_records
from rzero_ray.types import ChallengerSample, Phase, SolverSample

_SAMPLES = {"challenger": ChallengerSample, "solver": SolverSample}


@dataclass(frozen=True)
class Lesson:
    """A phase, and the rollouts of its steps."""

    phase: Phase
    options: PhaseOptions
    rollouts: Sequence[Path]


def learn_again(
    options: LearnerOptions,
    port: int,
    meeting_point: socket.socket | None,
    lessons: Sequence[Lesson],
) -> None:
    """Learn each lesson, and write its model where its phase says; rank 0 has the meeting point."""
    # Imported here: both import torch.
    from transformers.utils import logging

    from actors.learning.deepspeed_rank import DeepSpeedLearner

    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # torch's about what DeepSpeed calls
    learner = DeepSpeedLearner(options, "127.0.0.1", port, meeting_point)
    for lesson in lessons:
        learner.start_phase(lesson.phase, lesson.options)
        for path in lesson.rollouts:
            samples = read_records(path, _SAMPLES[lesson.phase.role])
            learner.update([to_rollout(sample) for sample in samples])
        learner.save_model(lesson.phase.final_model)
