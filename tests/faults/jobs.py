"""A run as a job, by the command that the README has: submitted, stopped, and submitted again.

A Ray over three hosts of namespaces, so this needs to be root on Linux. All hosts have the user's
home, as a cluster's nodes have, in which the job keeps the run; the job is submitted from a copy of
the repository on the first host, in a shell that has sourced `launch/env.sh`. `ray job stop` meets
it while the second step of the Challenger's phase is being sampled.

The row is good when the stop is in order (the job is STOPPED, nobody is left on any host), the same
command goes on where the run was, and the run ends like one that was left alone (`account`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import obtain_model
from tests.faults import evidence
from tests.faults.account import settle
from tests.faults.hosted import HostedRun, actors_on, head_address, left_after
from tests.faults.namespaces import hosts, why_not
from tests.faults.runs import LEAVE_S, MARK, REPOSITORY
from tests.faults.site import Site, Size
from tests.faults.table import Outcome
from tests.faults.watched import WatchedRun

_SUBMIT = "ray job submit --working-dir . -- python -m rzero_ray.driver"
_ENV_SH = """
bash() { case "$1" in */setup.sh) ;; *) command bash "$@" ;; esac; }
source launch/env.sh && env -0
"""
"""Sources `env.sh` and tells the environment that comes of it. What it would install is there."""
_HEAD, _NODE = Size(cpus=1, memory=1 << 29), Size(cpus=4, memory=6 << 30)
_REACHED_S = 600.0
_STOP_S = 120.0
_END_S = 2400.0
_DELAY_S = 0.3
"""After a step was finished: the next one is then being sampled."""
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")

SETTINGS = {"arguments": "conf=tiny", "folder": "/tmp/rzero-jobs"}
"""`arguments` are those of the driver, in one word."""

_STATUSES = ("stopped", "succeeded", "failed", "RUNNING", "PENDING")
"""Words by which `ray job status` says how a job is."""


@dataclass
class JobRun(HostedRun):
    """A run whose driver is a job, submitted from a folder on a host."""

    checkout: Path = field(kw_only=True)
    shell: Mapping[str, str] = field(kw_only=True)
    """The environment of the user's shell."""

    def config(self) -> Config:
        """Return the configuration of the run."""
        return load_config(list(self.settings))

    def environment(self) -> dict[str, str]:
        """Return what each Ray and each command find in their environment."""
        return {**self.shell, MARK: self.mark}

    def start(
        self, *, ignores_interrupt: bool = False, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Submit the job. The process ends when the job does, with 0 where that has succeeded."""
        assert not ignores_interrupt and not isinstance(stderr, int)
        words = ["bash", "-c", f"{_SUBMIT} {shlex.join(self.settings)}"]
        return self.host.start(words, self.checkout, self.environment(), stderr)


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Submit, stop, submit again; skipped where no hosts can be made."""
    if (reason := why_not()) is not None:
        yield Outcome("job", None, True, f"SKIPPED: {reason}")
        return
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    yield _run_job(tuple(settings["arguments"].split()), folder)


def _run_job(arguments: tuple[str, ...], folder: Path) -> Outcome:
    home, checkout = folder / "home", folder / "checkout"
    root = home / "rzero_ray" / load_config(list(arguments)).run_dir
    _make_home(home)
    shutil.copytree(REPOSITORY, checkout, ignore=_NOT_COPIED, symlinks=True)
    began = time.monotonic()
    with hosts(3, folder / "disks") as made:
        job = JobRun(
            root, arguments, head_address(made), host=made[0], checkout=checkout, shell=_shell(home)
        )
        watched = WatchedRun(job, folder / "job.log")
        site = Site(made, watched, job.environment(), folder / "ray")
        try:
            site.start_head(_HEAD)
            for number in (1, 2):
                site.join(number, _NODE)
            watched.start()
            told = _stop_and_go_on(site, job)
            code = watched.await_end(_END_S)
            told.append(f"then {_status(site)}")
            left = left_after(LEAVE_S, lambda: actors_on(made))
        except RuntimeError as error:
            print(watched.last_words(), file=sys.stderr)
            return Outcome("job", None, False, str(error))
    account = settle(watched, code)
    good = account.is_whole and not left and evidence.num_starts(watched.events()) == 2
    if not good:
        print(watched.last_words(), file=sys.stderr)
    seconds = f"{time.monotonic() - began:.0f} s"
    return Outcome("job", None, good, "; ".join([seconds, *told, str(account), *left]))


def _stop_and_go_on(site: Site, job: JobRun) -> list[str]:
    """Stop the job while it samples, submit it again, and wait until it has gone on. Returns what
    was seen; RuntimeError where something was not as it should be."""
    watched = site.watched
    site.wait(lambda: "iteration-01/challenger/step-001" in job.finished(), _REACHED_S)
    time.sleep(_DELAY_S)
    at = time.monotonic()
    site.command(["ray", "job", "stop", _id(watched)], on=0)
    code = watched.await_end(_STOP_S)
    took, status = time.monotonic() - at, _status(site)
    if code is None or status != "stopped":
        raise RuntimeError(f"the job is {status} {took:.0f} s after `ray job stop`")
    if left := left_after(LEAVE_S, lambda: actors_on(site.hosts)):
        raise RuntimeError(f"after `ray job stop` there is {left[0]}")
    before = job.finished()
    watched.start()
    site.wait(lambda: len(job.finished()) > len(before), _REACHED_S)
    if job.finished()[: len(before)] != before:
        raise RuntimeError("the job did not go on where it was")
    return [f"{status} after {took:.1f} s with {len(before)} things done, from which it went on"]


def _id(watched: WatchedRun) -> str:
    """Return the name of the job that was submitted last."""
    return re.findall(r"raysubmit_\w+", watched.log.read_text())[-1]


def _status(site: Site) -> str:
    """Return what Ray says of the job that was submitted last."""
    said = site.command(["ray", "job", "status", _id(site.watched)], on=0)
    return next((word for word in _STATUSES if word in said), "of no status")


def _make_home(home: Path) -> None:
    """Make a home that has the base model already, as one that was in use has."""
    model = obtain_model(load_config(["conf=tiny"]).model)
    home.mkdir(parents=True)
    (home / ".cache").mkdir()
    (home / ".cache/rzero_ray").symlink_to(model.parent)


def _shell(home: Path) -> dict[str, str]:
    """Return the environment of a shell that has sourced `env.sh`, of a user with this home."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        ["bash", "-c", _ENV_SH],
        cwd=REPOSITORY,
        env={**own, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(word.split("=", 1) for word in done.stdout.split("\0") if "=" in word)
