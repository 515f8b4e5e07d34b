"""What it costs to show a run: processor time of all its processes, with and without.

Whole runs in turn, in each round one of every kind: neither metrics nor trace; our metrics and the
trace; and vLLM's metrics as well. Each run has a control group of its own, which counts the time of
whatever it starts, Ray's daemons and agents among it. The rounds are pairs, and each figure has an
interval.

A machine's speed moves the time of a whole run by more than our metrics and the trace can. They are
made in the driver and handed on by Ray's daemons, and engines, learner and graders have no part in
them. So a second figure takes driver and daemons alone, as a multiple of the others' time in the
same run, which has the same machine.

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
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
_SHOWING = (
    *(module for module, _ in _KINDS.values()),
    "/ray/core/src/ray/",
    "/ray/dashboard/",
    "ray.dashboard",
    "ray-dashboard",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "/log_monitor.py",
    "/_private/monitor.py",
)
"""Parts of the command lines of the processes that make figures and hand them on: the driver, and
Ray's daemons and agents."""
_POLL_S = 0.3
"""How often their time is read."""
_SHOWN = {"own": "our metrics and the trace", "all": "vLLM's metrics as well"}


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Run the rounds; each finished run is told as it ends."""
    if not os.access(_GROUPS / "cgroup.procs", os.W_OK):
        raise SystemExit(f"no control groups of processor time at {_GROUPS}")
    tiny_model()  # made before, and not by the first run
    console = Console()
    kinds = settings["kinds"].split(",")
    spent: dict[str, list[_Spent]] = {kind: [] for kind in kinds}
    for place in range(int(settings["pairs"])):
        for kind in kinds:
            spent[kind].append(_run_once(kind, settings["arguments"].split()))
            console.print(f"{place + 1} {kind}: {spent[kind][-1]}")
    bare = spent["bare"]
    figures = [
        _figure(
            f"processor time with {_SHOWN[kind]} against neither",
            [run.whole_s / other.whole_s for run, other in zip(spent[kind], bare, strict=True)],
            f"medians {_median(spent[kind])} and {_median(bare)} s",
            target="1.02" if kind == "own" else "",
        )
        for kind in kinds
        if kind != "bare"
    ]
    if "own" in kinds:
        share = statistics.median(run.showing_s / run.whole_s for run in bare)
        figures.append(
            _figure(
                "the same, if engines, learner and graders take as long in both",
                [
                    run.over_others / other.over_others
                    for run, other in zip(spent["own"], bare, strict=True)
                ],
                f"driver and daemons are {share:.0%} of a run with neither",
                target="1.02",
            )
        )
    return figures


@dataclass(frozen=True, slots=True)
class _Spent:
    """Processor seconds of a whole run."""

    whole_s: float
    showing_s: float
    """Of the driver and Ray's daemons."""
    tokens: int

    @property
    def over_others(self) -> float:
        """The whole as a multiple of what is neither the driver's nor that of Ray's daemons."""
        return self.whole_s / (self.whole_s - self.showing_s)

    def __str__(self) -> str:
        return (
            f"{self.whole_s:.1f} processor seconds, {self.showing_s:.1f} of them driver and "
            f"daemons, {self.tokens:,} tokens"
        )


def _median(spent: Sequence[_Spent]) -> str:
    return f"{statistics.median(one.whole_s for one in spent):.1f}"


def _figure(name: str, ratios: Sequence[float], details: str, target: str) -> Figure:
    low, high = ttest_1samp(ratios, 1.0).confidence_interval()
    return Figure(
        name=name,
        value=statistics.fmean(ratios),
        unit="x",
        target=target,
        details=f"95 % {low:.3f} to {high:.3f} over {len(ratios)} rounds; {details}",
    )


def _run_once(kind: str, arguments: Sequence[str]) -> _Spent:
    """Make a whole run, and return what it took."""
    module, told = _KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, _counted() as group:
        root = Path(folder) / "run"
        started = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *told, f"run_dir={root}"],
            env=os.environ | {"RAY_ADDRESS": "local"},
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            stdout=subprocess.DEVNULL,
        )
        showing_s = _watch(group, started)
        if started.returncode:
            raise SystemExit(f"a run of kind {kind} ended with exit code {started.returncode}")
        whole_s = int((group / "cpuacct.usage").read_text()) / 1e9
        summary = json.loads((root / "summary.json").read_text())
        return _Spent(whole_s, showing_s, summary["tokens_sampled"])


def _watch(group: Path, started: subprocess.Popen[bytes]) -> float:
    """Wait until a control group is empty; return the processor seconds of those of its processes
    that make figures and hand them on, less what each took after it was last looked at."""
    showing: dict[int, float] = {}
    deadline = None
    while left := (group / "cgroup.procs").read_text().split():
        for pid in map(int, left):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                command = " ".join(process.cmdline())
                if any(part in command for part in _SHOWING):
                    times = process.cpu_times()
                    showing[pid] = times.user + times.system
        if started.poll() is not None:
            deadline = deadline or time.monotonic() + _EMPTY_S
            if time.monotonic() > deadline:
                raise SystemExit(f"processes {', '.join(left)} of a finished run go on")
        time.sleep(_POLL_S)
    started.wait()
    return sum(showing.values())


@contextmanager
def _counted() -> Iterator[Path]:
    """Yield a control group, which is removed after."""
    group = _GROUPS / f"rzero-bench-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()
