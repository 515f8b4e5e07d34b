"""`python -m tests.faults.calls FILE`: write down the calls of a run's engines, as Ray saw them.

Joins the Ray of RAY_ADDRESS and writes a JSON list of `Call`s: when each engine was called to
sample, and when that call had ended. One call has many requests (`actors.sampling.gathering`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

_CALL = "task::Sampler.sample"
_START = re.compile(r"task::(?P<actor>.+):Sampler.__init__")
"""What Ray calls such a call, and the start of an engine."""


@dataclass(frozen=True)
class Call:
    """An engine was asked to sample. Times are seconds since 1970."""

    actor: str
    node: str
    """The address of the engine's node."""
    began: float
    ended: float


def read_calls(timeline: Sequence[dict[str, Any]]) -> list[Call]:
    """Return the calls that are in a timeline of Ray (`ray.timeline`), the earliest first."""
    starts = ((event["tid"], _START.fullmatch(event["cat"])) for event in timeline)
    actors = {process: start["actor"] for process, start in starts if start}
    found = [
        Call(
            actor=actors[event["tid"]],
            node=event["pid"],
            began=event["ts"] / 1e6,
            ended=(event["ts"] + event["dur"]) / 1e6,
        )
        for event in timeline
        if event["cat"] == _CALL
    ]
    return sorted(found, key=lambda call: call.began)


def load_calls(path: Path) -> list[Call]:
    """Return what this program has written."""
    return [Call(**row) for row in json.loads(path.read_text())]


def main(path: Path) -> None:
    """Write the calls of the joined Ray into a file."""
    ray.init(log_to_driver=False)
    timeline: Any = ray.timeline()
    path.write_text(json.dumps([asdict(call) for call in read_calls(timeline)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
