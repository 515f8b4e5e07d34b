"""What it costs to show a run: processor time of all its processes, with and without.

Whole runs in turn, in each round one of every kind: neither metrics nor trace; our metrics and the
trace; and vLLM's metrics as well. Each run has a control group of its own, which counts the time of
whatever it starts, Ray's daemons and agents among it. A run's samples differ a little from one to
the next, so the rounds are pairs, and the figure has an interval.

Needs a machine whose control groups (version 1, `cpuacct`) can be written.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from scipy.stats import ttest_1samp

from tests.bench.harness import Figure, tiny_model

SETTINGS = {"pairs": "7", "arguments": "conf=tiny num_iterations=1", "kinds": "bare,own,all"}
"""How many rounds, what is run, and which kinds of run."""

_GROUPS = Path("/sys/fs/cgroup/cpuacct")
_EMPTY_S = 120.0
"""How long processes of a finished run may take to end."""
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bare": ("tests.bench.untraced", ("metrics.run=false", "metrics.vllm=false")),
    "own": ("rzero_ray.driver", ("metrics.vllm=false",)),
    "all": ("rzero_ray.driver", ()),
}
"""The module that is run, and what it is told, by kind."""
_SHOWN = {"own": "our metrics and the trace", "all": "vLLM's metrics as well"}


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Run the rounds; each finished run is told as it ends."""
    if not os.access(_GROUPS / "cgroup.procs", os.W_OK):
        raise SystemExit(f"no control groups of processor time at {_GROUPS}")
    tiny_model()  # made before, and not by the first run
    console = Console()
    kinds = settings["kinds"].split(",")
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for place in range(int(settings["pairs"])):
        for kind in kinds:
            seconds, tokens = _run_once(kind, settings["arguments"].split())
            spent[kind].append(seconds)
            console.print(f"{place + 1} {kind}: {seconds:.1f} processor seconds, {tokens:,} tokens")
    return [_figure(kind, spent["bare"], spent[kind]) for kind in kinds if kind != "bare"]


def _figure(kind: str, bare: Sequence[float], shown: Sequence[float]) -> Figure:
    ratios = [with_it / without for without, with_it in zip(bare, shown, strict=True)]
    low, high = ttest_1samp(ratios, 1.0).confidence_interval()
    return Figure(
        name=f"processor time with {_SHOWN[kind]} against neither",
        value=statistics.fmean(ratios),
        unit="x",
        target="1.02" if kind == "own" else "",
        details=f"95 % {low:.3f} to {high:.3f} over {len(ratios)} rounds; medians "
        f"{statistics.median(shown):.1f} and {statistics.median(bare):.1f} s",
    )


def _run_once(kind: str, arguments: Sequence[str]) -> tuple[float, int]:
    """Return the processor seconds of a whole run, and the tokens that it sampled."""
    module, told = _KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, _counted() as group:
        root = Path(folder) / "run"
        subprocess.run(
            [sys.executable, "-m", module, *arguments, *told, f"run_dir={root}"],
            env=os.environ | {"RAY_ADDRESS": "local"},
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        _wait_until_empty(group)
        summary = json.loads((root / "summary.json").read_text())
        return int((group / "cpuacct.usage").read_text()) / 1e9, summary["tokens_sampled"]


@contextmanager
def _counted() -> Iterator[Path]:
    """Yield a control group, which is removed after."""
    group = _GROUPS / f"rzero-bench-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()


def _wait_until_empty(group: Path) -> None:
    deadline = time.monotonic() + _EMPTY_S
    while left := (group / "cgroup.procs").read_text().split():
        if time.monotonic() > deadline:
            raise SystemExit(f"processes {', '.join(left)} of a finished run go on")
        time.sleep(0.2)
