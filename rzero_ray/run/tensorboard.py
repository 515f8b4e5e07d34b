"""TensorBoard: every number of a run's rows as a scalar."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from rzero_ray.run.scalars import ScalarObserver


class ScalarLog(ScalarObserver):
    """Writes every number of a run's rows to `<root>/tensorboard`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        # Imported here: it takes over a second, and a dry run needs none of it.
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = root / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        # The library's own writer of files has a thread, in which a full disk ends unheard.
        self._records = RecordWriter((folder / name).open("wb"))
        self._add(file_version="brain.Event:2")

    def write(self, group: str, numbers: dict[str, float], step: int) -> None:
        """See `scalars.ScalarObserver`."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for name, value in numbers.items():
            self._add(step=step, summary=scalar_pb(name, value))
        self._records.flush()

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        made: Any = event_pb2
        self._records.write(made.Event(wall_time=time.time(), **event).SerializeToString())
