"""A cluster that grows when a run asks for engines, and shrinks when they have nothing to do.

Ray's autoscaler adds nodes to a head on one host of namespaces (`autoscaler`), so this needs to be
root on Linux. `cases` are names of rows:

- `groups`: plain placement groups that have no room bring nodes, and without them the nodes go.
- `run`: the head has room for one engine of the Solver, which may have three. While the run
  samples, two nodes come and an engine works on each. Then its learner is stopped (SIGSTOP), so
  that engines have nothing to do: they are given back, and so are their nodes. The learner goes on
  (SIGCONT), and the run ends like one that was left alone.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.account import settle
from tests.faults.autoscaler import (
    Autoscaling,
    NodeType,
    await_nodes,
    raylets,
    start_autoscaled_ray,
)
from tests.faults.evidence import Event
from tests.faults.hosted import HostedRun, actors_on, head_address, left_after
from tests.faults.hosts import Scene
from tests.faults.kills import ONE_ITERATION
from tests.faults.namespaces import hosts, why_not
from tests.faults.presence import comings, goings
from tests.faults.runs import LEAVE_S, REPOSITORY, last_line
from tests.faults.samples import misfits
from tests.faults.table import Outcome
from tests.faults.watched import WatchedRun

_CLUSTER = Autoscaling(
    head=NodeType(cpus=2, memory=6 << 30),  # room for all that a run starts with
    node=NodeType(cpus=1, memory=2 << 30),  # room for one engine
    most=2,
    idle_s=15.0,
)
_RUN = (
    *ONE_ITERATION,
    "deadline.start=1800",  # a machine with other work starts engines slowly
    "solver.num_steps=160",
    "sampler.num_solver.min=1",
    "sampler.num_solver.max=3",
    "sampler.idle_seconds=20",
    "recovery.silence=600",  # the learner is stopped until the nodes have gone
)
_COME_S = 1800.0
_GO_S = 600.0
_GROUPS_S = 480.0
_END_S = 2400.0

SETTINGS = {"cases": "groups,run", "version": "2", "folder": "/tmp/rzero-autoscaled"}
"""`version` is that of Ray's autoscaler, 1 or 2."""


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Go through the cases that are asked for; skip all where no host can be made."""
    cases = {"groups": _groups, "run": _run}
    asked = settings["cases"].split(",")
    if unknown := set(asked) - cases.keys():
        raise ValueError(f"{', '.join(unknown)}: there are {', '.join(cases)}")
    if (reason := why_not()) is not None:
        yield Outcome("autoscaled", None, True, f"SKIPPED: {reason}")
        return
    scaling = _CLUSTER.of_version(int(settings["version"]))
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    for name in asked:
        try:
            yield cases[name](folder / name, scaling)
        except RuntimeError as error:
            yield Outcome(f"autoscaled {name}", None, False, str(error))


def _groups(folder: Path, scaling: Autoscaling) -> Outcome:
    log = folder / "groups.log"
    # As many as fill the head, and one for each node that may come.
    count = scaling.head.cpus // scaling.node.cpus + scaling.most
    words = [sys.executable, "-m", "tests.faults.groups", str(count), str(scaling.node.cpus)]
    with hosts(1, folder / "disks") as (host,):
        run = HostedRun(folder / "none", host=host)
        start_autoscaled_ray(host, run.environment(), folder / "ray", scaling)
        environment = {**run.environment(), "RAY_ADDRESS": head_address([host])}
        with log.open("w") as stream:
            code = host.start(words, REPOSITORY, environment, stream).wait(_GROUPS_S)
    if code:
        raise RuntimeError(f"the groups ended with {code}: {last_line(log.read_text())}")
    told = json.loads(last_line(log.read_text()))
    numbers = [told["before"], told["during"], told["after"]]
    return Outcome(
        "autoscaled groups",
        None,
        numbers == [1, 1 + scaling.most, 1],
        f"{' -> '.join(map(str, numbers))} nodes, there after {told['came_s']:.1f} s, gone after "
        f"{told['left_s']:.1f} s, {scaling.idle_s:.0f} s of it idle",
    )


def _run(folder: Path, scaling: Autoscaling) -> Outcome:
    with hosts(1, folder / "disks") as (host,):
        run = HostedRun(folder / "run", _RUN, head_address([host]), host=host)
        start_autoscaled_ray(host, run.environment(), folder / "ray", scaling)
        watched = WatchedRun(run, folder / "run.log")
        watched.start()
        try:
            told = _grow_and_shrink(Scene([host], watched), scaling)
            code = watched.await_end(_END_S)
        except RuntimeError:
            print(watched.last_words(), file=sys.stderr)
            raise
        left = left_after(LEAVE_S, lambda: actors_on([host]))
        back_s = await_nodes(host, 1, _GO_S)
    account = settle(watched, code)  # the host's Ray has ended with it
    wrong = misfits(run.root, run.config())
    given_back = "nodes NOT given back" if back_s is None else f"head alone {back_s:.1f} s later"
    good = account.is_whole and not left and not wrong and back_s is not None
    if not good:
        print(watched.last_words(), file=sys.stderr)
    words = [str(account), *left, *wrong, *told, given_back]
    return Outcome("autoscaled run", None, good, "; ".join(words))


def _grow_and_shrink(scene: Scene, scaling: Autoscaling) -> list[str]:
    """Wait until an engine works on each node that may come; stop the learner until the nodes have
    gone. Returns what that took. RuntimeError where it does not come to it."""
    (host,), watched = scene.hosts, scene.watched
    whole = 1 + scaling.most
    scene.wait(lambda: len(comings(watched.events())) >= scaling.most, _COME_S)
    lines = watched.events()
    nodes = {host.process(pid).ppid() for pid in _engines(lines)}
    if len(nodes) != whole or nodes != set(raylets(host)):
        raise RuntimeError(f"the Solver's engines are on {len(nodes)} of {whole} nodes")
    scene.steps(2)
    learner = host.process(scene.serving()["learner/rank-0"]["pid"])
    at = time.time()
    learner.suspend()
    try:
        scene.wait(lambda: len(raylets(host)) == 1, _GO_S)
    finally:
        learner.resume()
    gone = time.time()
    left = [going for going in goings(watched.events()) if going.told > at]
    if len(left) != scaling.most or any(going.gone is None for going in left):
        raise RuntimeError(f"engines did not leave in order: {left}")
    scene.steps(2)
    return [
        *(
            f"{c.actor} ready {c.ready - c.asked:.1f} s after it was asked for"
            for c in comings(lines)
        ),
        f"idle engines let go {max(g.told for g in left) - at:.1f} s after the learner stopped",
        f"head alone {gone - max(g.gone or 0.0 for g in left):.1f} s after they had gone",
    ]


def _engines(lines: Sequence[Event]) -> list[int]:
    """Return the processes of the Solver's engines, by the last that was told of each."""
    last = {line["actor"]: line for line in lines if line["event"] == "actor"}
    return [
        line["pid"]
        for actor, line in last.items()
        if actor.startswith("solver/") and line["state"] == "HEALTHY"
    ]
