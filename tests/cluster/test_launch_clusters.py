"""`launch/slurm.sh` and the commands of `ray up`'s files, as they are, on hosts of namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.faults.namespaces import Host, hosts, why_not
from tests.faults.runs import FIRST_STEP_S, REPOSITORY, SHORT, ShortRun

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

_SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
SLURM_NODEID=0 exec "$@"
"""
"""Slurm's, on one node."""
_SCONTROL = '#!/usr/bin/env bash\necho "$@" >>"$SLURM_SUBMIT_DIR/scontrol.log"\n'
_NODES = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print("alive:", sum(node["Alive"] for node in ray.nodes()))
"""
_JOB = "7"
_STARTED_S = 200.0
_ENDED_S = 400.0
_LOOK_S = 0.5


def _clone(folder: Path) -> Path:
    """Return a folder that has what the scripts need of a clone, and nothing to install."""
    (folder / "launch").mkdir(parents=True)
    for name in ("env.sh", "token.sh", "slurm.sh", "slurm-join.sh"):
        shutil.copy(REPOSITORY / "launch" / name, folder / "launch")
    (folder / "launch/setup.sh").write_text("")
    for name in ("rzero_ray", "actors", "conf"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@dataclass
class SlurmNode:
    """A host with the commands of Slurm that a batch script calls, in a job of one node."""

    host: Host
    clone: Path
    folder: Path

    def start(
        self, script: str, *arguments: str, more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a batch script as Slurm does."""
        commands = self.folder / "bin"
        commands.mkdir(exist_ok=True)
        for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "SLURM_JOB_ID": _JOB,
            "SLURM_SUBMIT_DIR": str(self.clone),
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_ON_NODE": "2",
        }
        words = ["bash", str(self.clone / "launch" / script), *arguments]
        with (self.folder / "job.log").open("a") as log:
            return self.host.start(words, self.folder, environment | (more or {}), log)

    def signal(self, number: int) -> None:
        """Send a signal to the batch script alone."""
        scripts = [p for p in self.host.work() if "slurm.sh" in " ".join(p.cmdline())]
        min(scripts, key=psutil.Process.create_time).send_signal(number)

    def queued_again(self) -> int:
        """Return how often the job was queued again."""
        calls = self.clone / "scontrol.log"
        lines = calls.read_text().splitlines() if calls.exists() else []
        assert set(lines) <= {f"requeue {_JOB}"}
        return len(lines)

    def said(self) -> str:
        """Return the log of the job."""
        return (self.folder / "job.log").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SlurmNode]:
    with hosts(1, tmp_path / "disks") as (host,):
        yield SlurmNode(host, _clone(tmp_path / "clone"), tmp_path)


def _wait(what: str, seconds: float, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(_LOOK_S)


def test_a_slurm_job_whose_time_is_up_is_queued_again_and_goes_on(node: SlurmNode, tmp_path: Path):
    run = ShortRun(tmp_path / "run", (*SHORT, "num_iterations=1"))
    arguments = run.command()[3:]
    job = node.start("slurm.sh", *arguments)
    _wait("a step", FIRST_STEP_S, lambda: len(run.finished()) > 1 or job.poll() is not None)
    node.signal(signal.SIGUSR1)
    assert job.wait(_ENDED_S) == 130, node.said()
    assert "the time of the job is nearly up" in node.said()
    assert (node.queued_again(), run.is_complete()) == (1, False)
    _wait("nothing left", 20, lambda: not node.host.work())
    assert node.start("slurm.sh", *arguments).wait(FIRST_STEP_S + _ENDED_S) == 0, node.said()
    assert run.is_complete() and set(run.updates()) == run.all_updates()
    assert node.queued_again() == 1
    token = node.folder / ".ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    # It is in no log, and Ray's own lines are not among the driver's.
    assert token.read_text() not in node.said() and "ray stop" not in node.said()


def test_a_slurm_job_that_fails_is_queued_again_three_times_and_never_when_told_to_stop(
    node: SlurmNode,
):
    # No head answers there, so that no driver starts.
    nobody = {"RZERO_HEAD_IP": "10.77.0.9", "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "1"}
    job = node.start("slurm.sh", "conf=tiny", more=nobody)
    _wait("the script's start", _STARTED_S, lambda: "slurm: the head is" in node.said())
    node.signal(signal.SIGTERM)
    assert (job.wait(_ENDED_S), node.queued_again()) == (130, 0), node.said()
    for times in (1, 2, 3, 3):
        assert node.start("slurm.sh", "conf=tiny", more=nobody).wait(_ENDED_S) == 1
        assert node.queued_again() == times
    assert "the driver did not start" in node.said() and "ray-0.log says why" in node.said()


def test_the_commands_of_ray_up_join_hosts_and_a_slurm_job_joins_them(tmp_path: Path):
    prepared = yaml.safe_load((REPOSITORY / "launch/cluster-on-premise.yaml").read_text())
    (tmp_path / "rzero_ray").symlink_to(_clone(tmp_path / "clone"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with hosts(3, tmp_path / "disks") as made, (tmp_path / "ray.log").open("w") as log:
        # As `ray up` runs them, but for the file by which a head starts others.
        (head,) = prepared["head_start_ray_commands"]
        (worker,) = prepared["worker_start_ray_commands"]
        commands = [
            head.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
            f"export RAY_HEAD_IP={made[0].address}; {worker}",
        ]
        for host, command in zip(made, commands, strict=False):
            words = ["bash", "--login", "-c", "-i", f"source ~/.bashrc; {command}"]
            ended = host.start(words, tmp_path, environment, log).wait(_STARTED_S)
            assert ended == 0, (tmp_path / "ray.log").read_text()
        SlurmNode(made[2], tmp_path / "clone", tmp_path).start(
            "slurm-join.sh", f"{made[0].address}:6379"
        )

        def alive() -> str:
            with (tmp_path / "nodes").open("w") as said:
                told = environment | {"RAY_AUTH_MODE": "token"}
                words = [sys.executable, "-c", _NODES]
                made[0].start(words, tmp_path, told, said).wait(_STARTED_S)
            return (tmp_path / "nodes").read_text()

        _wait("three nodes", _STARTED_S, lambda: "alive: 3" in alive())
