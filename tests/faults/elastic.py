"""A run whose hosts join, drain and die while it is at work: it uses what is there, and goes on.

The hosts are made of namespaces (`namespaces`), so this needs to be root on Linux. The first one
has the driver and room for one engine of each role, the learner and a reward worker; each of the
others has room for one engine. The run directory and the model's folder are on the disk of the
first host alone (`disk=shared`: all see them). `cases` are names of rows, or how they begin:

- `grow`: the run starts on the first host, and two others join.
- `scale`: all three are there, and `rzero scale` wants three engines of the Solver, then one.
- `drain`: one of the three is told to end, finishes what it has, and ends.
- `kill`: one of the three dies at once.
- `story`: one host, two join, one drains and ends, the other one dies.

A row is good when the run ends like one that was left alone (`account`), each sampled step has as
many samples as it should (`samples`), each engine came or went as it should, and the others went on
meanwhile (`presence.Standstill`). It tells what coming and going has cost.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import obtain_model
from tests.faults import evidence
from tests.faults.account import settle
from tests.faults.calls import Call
from tests.faults.evidence import Event
from tests.faults.hosted import HostedRun, actors_on, head_address, left_after
from tests.faults.kills import ONE_ITERATION
from tests.faults.namespaces import hosts, why_not
from tests.faults.presence import Coming, Going, comings, goings, present_on, standstill
from tests.faults.runs import LEAVE_S
from tests.faults.samples import misfits
from tests.faults.site import Site, Size
from tests.faults.table import Outcome, chosen
from tests.faults.watched import WatchedRun

_SETTINGS = (
    *ONE_ITERATION,
    "deadline.start=1800",  # a machine with other work starts engines slowly
    "solver.num_steps=140",  # longer than two engines take to come, one after the other
    "sampler.num_solver.min=1",
    "sampler.num_solver.max=3",
)
_ONE_ENGINE = (*_SETTINGS[:-1], "sampler.num_solver.max=1")
NUM_HOSTS = 3
_HEAD = Size(cpus=2, memory=6 << 30)
"""Room for all that a run starts with, and for no engine more."""
_NODE = Size(cpus=1, memory=2 << 30)
"""Room for one engine."""
_BEFORE = 4
"""Steps of the Solver that nobody disturbs, by which the pauses of others are measured."""
_DRAIN_S = 120.0
_END_S = 2400.0
_COME_S = 1800.0
"""Until an engine is there for which there is room."""
_GO_S = 600.0

SETTINGS = {"cases": "grow,scale,drain,kill,story", "disk": "own", "folder": "/tmp/rzero-elastic"}


@dataclass(frozen=True)
class Finding:
    """What was seen of one thing that was done to a run."""

    good: bool
    told: str


Look = Callable[[Sequence[Event], Sequence[float], Sequence[Call]], Finding]
"""Says what came of something: by the run's events, when its steps were finished, and the calls of
its engines."""


def _join(site: Site, number: int) -> Look:
    """Have a host join, and wait until an engine samples there."""
    node = site.hosts[number].address
    at = site.join(number, _NODE)
    site.wait(lambda: _came(site.watched.events(), node, at) is not None, _COME_S)
    site.steps(2)
    return lambda lines, finished, calls: came(lines, finished, calls, node, at)


def _drain(site: Site, number: int) -> Look:
    """Tell a host that it will end, wait until nobody is there any more, and end it."""
    node = site.hosts[number].address
    at = site.drain(number, _DRAIN_S)
    site.wait(lambda: not present_on(site.watched.events(), node), _GO_S)
    gone = time.time()
    site.hosts[number].kill()
    site.steps(2)
    return lambda lines, finished, calls: went(lines, finished, node, at, gone)


def _kill(site: Site, number: int) -> Look:
    """Have a host die."""
    node = site.hosts[number].address
    lost = sorted(present_on(site.watched.events(), node))
    at = time.time()
    site.hosts[number].kill()
    site.steps(2)
    return lambda lines, finished, calls: died(lines, finished, node, at, lost)


def _scale_up(site: Site) -> Look:
    """Want three engines, and wait until they sample."""
    at = site.scale("3")
    nodes = [host.address for host in site.hosts[1:]]
    site.wait(
        lambda: all(_came(site.watched.events(), node, at) is not None for node in nodes), _COME_S
    )
    site.steps(2)
    return lambda lines, finished, calls: _all(
        [came(lines, finished, calls, node, at) for node in nodes]
    )


def _scale_down(site: Site) -> Look:
    """Want one engine again, and wait until the others have gone."""
    nodes = [host.address for host in site.hosts[1:]]
    at = site.scale("1")
    site.wait(lambda: not any(present_on(site.watched.events(), node) for node in nodes), _GO_S)
    gone = time.time()
    site.steps(2)
    return lambda lines, finished, calls: _all(
        [went(lines, finished, node, at, gone) for node in nodes]
    )


def _grow(site: Site) -> list[Look]:
    return [_join(site, 1), _join(site, 2)]


def _scale(site: Site) -> list[Look]:
    for number in (1, 2):
        site.join(number, _NODE)
    return [_scale_up(site), _scale_down(site)]


def _drained(site: Site) -> list[Look]:
    return [_join(site, 1), _drain(site, 1)]


def _killed(site: Site) -> list[Look]:
    return [_join(site, 1), _kill(site, 1)]


def _story(site: Site) -> list[Look]:
    return [_join(site, 1), _join(site, 2), _drain(site, 1), _kill(site, 2)]


CASES: Mapping[str, tuple[Callable[[Site], list[Look]], tuple[str, ...]]] = {
    "grow": (_grow, _SETTINGS),
    "scale": (_scale, _ONE_ENGINE),
    "drain": (_drained, _SETTINGS),
    "kill": (_killed, _SETTINGS),
    "story": (_story, (*_SETTINGS, "solver.num_steps=260")),
}
"""What is done, and to which run."""


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Go through the cases that are asked for; skip all where no hosts can be made."""
    names = chosen(settings["cases"], CASES)
    if settings["disk"] not in ("own", "shared"):
        raise ValueError(f"disk={settings['disk']}: own or shared")
    if (reason := why_not()) is not None:
        yield Outcome("elastic", None, True, f"SKIPPED: {reason}")
        return
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    for name in names:
        yield run_case(name, folder, has_shared_disk=settings["disk"] == "shared")


def run_case(name: str, folder: Path, *, has_shared_disk: bool) -> Outcome:
    """Make hosts, start a run on the first, have others come and go, and say what came of it."""
    do, settings = CASES[name]
    began = time.monotonic()
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with hosts(NUM_HOSTS, folder / f"{name}-disks") as made:
        run = HostedRun(runs / name, settings, head_address(made), host=made[0])
        hidden = [runs, obtain_model(load_config(["conf=tiny"]).model)]
        watched = WatchedRun(run, folder / f"{name}.log")
        site = Site(
            made,
            watched,
            run.environment(),
            folder / f"{name}-ray",
            [] if has_shared_disk else hidden,
        )
        try:
            site.start_head(_HEAD, "--include-dashboard=false")
            watched.start()
            site.wait(lambda: f"iteration-01/solver/step-{_BEFORE:03}" in run.finished(), _COME_S)
            looks = do(site)
            code = watched.await_end(_END_S)
            left = left_after(LEAVE_S, lambda: actors_on(made))
            calls = site.calls()
        except RuntimeError as error:
            print(watched.last_words(), file=sys.stderr)
            return Outcome(name, None, False, str(error))
    account = settle(watched, code)
    lines = watched.events()
    finished = watched.steps.times("iteration-01/solver")
    findings = [look(lines, finished, calls) for look in looks]
    wrong = misfits(run.root, run.config())
    outcome = Outcome(
        name,
        None,
        account.is_whole and not left and not wrong and all(found.good for found in findings),
        "; ".join(
            [
                f"{time.monotonic() - began:.0f} s",
                str(account),
                *left,
                *wrong,
                *(found.told for found in findings),
            ]
        ),
    )
    if not outcome.good:
        print(watched.last_words(), file=sys.stderr)
    return outcome


def _came(lines: Sequence[Event], node: str, after: float) -> Coming | None:
    return next((c for c in comings(lines) if c.node == node and c.ready > after), None)


def came(
    lines: Sequence[Event],
    finished: Sequence[float],
    calls: Sequence[Call],
    node: str,
    at: float,
) -> Finding:
    """Say whether an engine joined on a node after a moment and sampled there, what that took, and
    whether the others stood still."""
    coming = _came(lines, node, at)
    if coming is None:
        return Finding(False, f"{node}: no engine joined")
    first = next(
        (
            call
            for call in calls
            if call.actor == coming.actor and call.node == node and call.began > coming.asked
        ),
        None,
    )
    if first is None:
        return Finding(False, f"{node}: {coming.actor} joined and was never asked")
    still = standstill(finished, max(at, coming.asked), coming.ready)
    told = (
        f"{node}: {coming.actor} ready {coming.ready - at:.1f} s after the host or the command, "
        f"{coming.ready - coming.asked:.1f} s after it was asked for, first asked to sample "
        f"{first.began - coming.ready:+.1f} s later; {still}"
    )
    return Finding(not still.is_one, told)


def went(
    lines: Sequence[Event], finished: Sequence[float], node: str, at: float, gone: float
) -> Finding:
    """Say whether the engines of a node left in order after a moment, what that took, and whether
    the others stood still until everybody had `gone`."""
    going = [g for g in goings(lines) if g.node == node and g.told > at]
    if not going:
        return Finding(False, f"{node}: no engine was let go")
    still = standstill(finished, at, gone)
    told = [_told_of(one, at) for one in going] + [str(still)]
    in_order = all(one.gone is not None for one in going)
    return Finding(in_order and not still.is_one, f"{node}: {', '.join(told)}")


def _told_of(going: Going, at: float) -> str:
    if going.gone is None:
        return f"{going.actor} did NOT leave in order"
    return (
        f"{going.actor} let go {going.told - at:.1f} s later, gone after "
        f"{going.gone - going.told:.1f} s"
    )


def died(
    lines: Sequence[Event],
    finished: Sequence[float],
    node: str,
    at: float,
    lost: Sequence[str],
) -> Finding:
    """Say whether it was noticed of each actor of a node that it is dead, and when."""
    witnesses = {actor: evidence.witness(lines, actor, at) for actor in lost}
    noticed = {a: line["time"] for a, line in witnesses.items() if line is not None}
    told = [
        f"{a} dead after {noticed[a] - at:.1f} s" if a in noticed else f"{a} NOT noticed"
        for a in lost
    ]
    still = standstill(finished, at, max(noticed.values(), default=at))
    return Finding(
        bool(lost) and len(noticed) == len(lost),
        f"{node}: {', '.join([*told, str(still)]) if lost else 'nobody was there'}",
    )


def _all(findings: Sequence[Finding]) -> Finding:
    return Finding(
        all(found.good for found in findings), "; ".join(found.told for found in findings)
    )
