"""Signals at random moments: how long a run takes to end, and what it leaves.

In the foreground Ctrl-C reaches the whole process group, and every process of it; in the background
of a script it is ignored until the driver asks for it. `ray job stop` sends SIGTERM to the driver,
and SIGKILL `RAY_JOB_STOP_WAIT_TIME_S` (3) seconds later. Each stop meets the run where the one
before has left it, and at the end the run is finished and compared with one that was left alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.runs import REPOSITORY, Moment, ShortRun, last_line, shared_memory
from tests.faults.table import Outcome, disturb

SETTINGS = {"signals": "20", "jobs": "10", "seed": "0", "folder": "/tmp/rzero-faults"}
"""How many signals are sent, of each kind as many, and how often `ray job stop` is said."""
EXIT_S = 20.0
_CODE = 130
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_JOBS_END = {"STOPPED", "FAILED", "SUCCEEDED"}


@dataclass(frozen=True)
class _Way:
    """How a signal is sent."""

    name: str
    ignores_interrupt: bool
    send: Callable[[subprocess.Popen[str]], None]


_WAYS = (
    _Way("Ctrl-C, foreground", False, lambda run: os.killpg(run.pid, signal.SIGINT)),
    _Way("SIGTERM, foreground", False, lambda run: run.send_signal(signal.SIGTERM)),
    _Way("SIGINT, background", True, lambda run: run.send_signal(signal.SIGINT)),
    _Way("SIGTERM, background", True, lambda run: run.send_signal(signal.SIGTERM)),
)


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Stop runs many times, then finish them."""
    moments = random.Random(int(settings["seed"]))
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    yield from disturb(folder / "signals", int(settings["signals"]), moments, _stop)
    with _ray_head() as environment:

        def stop_job(run: ShortRun, _: int, moment: Moment) -> Outcome:
            return _stop_job(run, moment, environment)

        yield from disturb(folder / "jobs", int(settings["jobs"]), moments, stop_job)


def _stop(run: ShortRun, k: int, moment: Moment) -> Outcome:
    way = _WAYS[k % len(_WAYS)]
    process = run.start(ignores_interrupt=way.ignores_interrupt)
    if not run.wait_for(moment, lambda: process.poll() is None):
        return Outcome(way.name, moment, True, f"ended by itself with {process.returncode}")
    segments = shared_memory(run.processes())
    began = time.monotonic()
    way.send(process)
    try:
        _, error = process.communicate(timeout=3 * EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return Outcome(way.name, moment, False, f"still there after {3 * EXIT_S:.0f} s")
    took = time.monotonic() - began
    left = run.left_behind(segments)
    good = took < EXIT_S and process.returncode == _CODE and "Traceback" not in error and not left
    if not good:
        print(error, file=sys.stderr)
    told = f"{took:.1f} s, code {process.returncode}, {len(left)} left: {last_line(error)}"
    return Outcome(way.name, moment, good, "; ".join([told, *left]))


def _stop_job(run: ShortRun, moment: Moment, environment: dict[str, str]) -> Outcome:
    job = f"rzero-{uuid.uuid4().hex[:8]}"
    runtime = json.dumps({"env_vars": run.new_mark()})
    options = ["--no-wait", "--submission-id", job, "--runtime-env-json", runtime]
    _ray(["job", "submit", *options, "--", *run.command()], environment)
    run.wait_for(moment, lambda: not run.is_complete())
    segments = shared_memory(run.processes())
    began = time.monotonic()
    _ray(["job", "stop", job], environment)
    took = time.monotonic() - began
    status = _job_status(job, environment)
    left = run.left_behind(segments)
    good = took < EXIT_S and status in _JOBS_END and not left
    told = f"{took:.1f} s, {status}, {len(left)} left"
    return Outcome("ray job stop", moment, good, "; ".join([told, *left]))


@contextmanager
def _ray_head() -> Iterator[dict[str, str]]:
    """Start a Ray that takes jobs, in a process group that ends with the block."""
    address = "127.0.0.1"
    head = subprocess.Popen(
        [*_RAY, "start", "--head", "--block", "--node-ip-address", address, "--port", "6399"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_worker_niceness": "0"},
        start_new_session=True,
    )
    environment = os.environ | {"RAY_API_SERVER_ADDRESS": f"http://{address}:8265"}
    environment.pop("RAY_ADDRESS", None)
    try:
        _wait_for_jobs_api(environment)
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def _wait_for_jobs_api(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 120
    while _ray(["job", "list"], environment, check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError("Ray takes no jobs after two minutes")
        time.sleep(1)


def _job_status(job: str, environment: dict[str, str]) -> str:
    said = _ray(["job", "status", job], environment).stdout
    return next((word for word in sorted(_JOBS_END) if word in said), last_line(said))


def _ray(
    arguments: list[str], environment: dict[str, str], *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_RAY, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
        timeout=180,
    )
