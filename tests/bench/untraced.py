"""`python -m tests.bench.untraced conf=tiny ...`: the driver without its `trace.json`, which no key
turns off. The baseline of what a trace costs, and of nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

from rzero_ray import driver
from rzero_ray.protocols import Observer
from rzero_ray.run import recording


class NoTrace(Observer):
    """Has the methods of `run.trace.TraceFile` and writes nothing."""

    def __init__(self, root: Path) -> None:
        del root

    def close(self) -> None:
        """Nothing is open."""

    def add_stage(self, name: str, start_s: float, seconds: float) -> None:
        """Leave a stage out."""


if __name__ == "__main__":
    with patch.object(recording, "TraceFile", NoTrace):
        sys.exit(driver.main())
