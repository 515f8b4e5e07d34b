"""Who writes down a run's progress: the same for a run by itself and for one of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from rzero_ray.config.config import Config
from rzero_ray.config.showing import TrackersConfig
from rzero_ray.protocols import Observer
from rzero_ray.run.clock import StageClock
from rzero_ray.run.tensorboard import ScalarLog
from rzero_ray.run.trace import TraceFile
from rzero_ray.run.trackers import opened_trackers


class Recording(NamedTuple):
    """What a run's progress is told to."""

    clock: StageClock
    """Whose stages are in the timeline."""
    observers: Sequence[Observer]
    """TensorBoard, the timeline, and the trackers that are wanted."""


@contextmanager
def recorded(config: Config, root: Path, trackers: TrackersConfig) -> Iterator[Recording]:
    """Have the files of TensorBoard and the timeline open in the block, and `trackers`, which may
    be others than the config's. Raises UserError where a tracker cannot be begun."""
    with (
        opened_trackers(trackers, config, root) as tracked,
        closing(TraceFile(root)) as trace,
    ):
        yield Recording(StageClock(trace.add_stage), [ScalarLog(root), trace, *tracked])
