"""TensorBoard: every number of a run's rows as a scalar."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rzero_ray.protocols import Observer


class ScalarLog(Observer):
    """Writes every number of a run's rows to `<root>/tensorboard`.

    Tags are `PHASE/metric` over the steps of that phase in the whole run, and `heldout/metric`
    over iterations.
    """

    def __init__(self, root: Path) -> None:
        # Imported here: it takes over a second, and a dry run needs none of it.
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = root / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        # The library's own writer of files has a thread, in which a full disk ends unheard.
        self._records = RecordWriter((folder / name).open("wb"))
        self._num_steps: dict[str, int] = {}
        self._add(file_version="brain.Event:2")

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """Note how many steps the phase has: its scalars go on where the last iteration's end."""
        self._num_steps[phase] = num_steps

    def finish_step(self, row: dict[str, Any]) -> None:
        """Write a step."""
        phase, iteration = row["phase"], row["iteration"]
        step = (iteration - 1) * self._num_steps.get(phase, 0) + row["step"]
        self._write(phase, row, step)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """Write an evaluation; 0 is the base model."""
        self._write("heldout", row, row["iteration"])

    def _write(self, group: str, row: dict[str, Any], step: int) -> None:
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for name, value in scalars(group, row):
            self._add(step=step, summary=scalar_pb(name, value))
        self._records.flush()

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        made: Any = event_pb2
        self._records.write(made.Event(wall_time=time.time(), **event).SerializeToString())


def scalars(group: str, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number of a row under `group/key`, and under `group/key/inner` where it has
    objects in it."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from scalars(f"{group}/{name}", value)
        elif isinstance(value, int | float) and name not in ("iteration", "step"):
            yield f"{group}/{name}", value
