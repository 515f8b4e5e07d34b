"""A run over three hosts, of which one is killed, or cut off and back again: the run goes on.

The hosts are made of namespaces (`namespaces`), so this needs to be root on Linux. They share the
folder of the run and that of the model, nothing else. The driver is on the first host, which has
room for a reward worker only; each of the others has room for all engines, ranks and workers, and
Ray spreads them over both. `cases` are names of rows, or how they begin:

- `whole`: nobody disturbs the run.
- `killed-engine`, `killed-learner`: the host without the learner, or with it, dies at once.
- `cut-briefly`: the host without the learner is cut off for 4 s. Nobody is replaced.
- `cut-engine`: it is cut off for good.
- `cut-learner`: the host with the learner is cut off while the learner writes a checkpoint. When
  the new learner works it goes on writing, and later its host is back.

A row is good when the run ends like one that was left alone (`account`), and when each actor of the
host that is lost has died and serves again on another one. After `cut-learner` each file that the
manifest stood for before the host was back is what it was.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import evidence
from tests.faults.account import settle
from tests.faults.evidence import Event
from tests.faults.hosted import (
    NUM_HOSTS,
    HostedRun,
    actors_on,
    head_address,
    left_after,
    start_ray,
)
from tests.faults.kills import ONE_ITERATION
from tests.faults.namespaces import Host, hosts, why_not
from tests.faults.runs import LEAVE_S
from tests.faults.stale import StaleWriter
from tests.faults.table import Outcome, chosen
from tests.faults.watched import WatchedRun

_SETTINGS = (*ONE_ITERATION, "solver.num_steps=8")
"""A run that is at work for some seconds more when a lost host is back."""
_REACHED_S = 300.0
_END_S = 360.0
_BLIP_S = 4.0
_STALE_S = 1.0
"""For a learner that goes on writing, before its host is back."""
_BACK_S = 90.0
"""Until a host that was cut off has noticed that it was replaced, and its processes have ended."""
_DELAY_S = 0.3
"""After a step was finished: the next one is then being sampled."""

SETTINGS = {"cases": "whole,killed,cut", "folder": "/tmp/rzero-hosts"}


@dataclass
class Scene:
    """A run over several hosts, which is at work."""

    hosts: Sequence[Host]
    watched: WatchedRun

    def serving(self) -> dict[str, Event]:
        """Return, by actor, the event that says which process serves as it."""
        told = (line for line in self.watched.events() if line["event"] == "actor")
        return {line["actor"]: line for line in told if line["state"] == "HEALTHY" and line["pid"]}

    def host_of(self, actor: str) -> Host:
        """Return the host on which an actor is."""
        where = self.serving()[actor]["node"]
        return next(host for host in self.hosts if host.address == where)

    def host_beside(self, actor: str) -> Host:
        """Return a host with an engine, where the driver and this actor are not."""
        taken = {self.hosts[0].address, self.serving()[actor]["node"]}
        return next(host for host in self.hosts if host.address not in taken)

    def wait(self, is_reached: Callable[[], bool], within_s: float = _REACHED_S) -> None:
        """Wait until the run is somewhere. RuntimeError where it does not get there."""
        if not self.watched.wait(is_reached, within_s):
            raise RuntimeError("the run ended or stood still before it was where it was waited for")

    def steps(self, count: int) -> None:
        """Wait until so many steps more are finished."""
        wanted = len(self.watched.run.finished()) + count
        self.wait(lambda: len(self.watched.run.finished()) >= wanted)

    def sampling(self) -> None:
        """Wait until the second step of the Challenger's phase is being sampled."""
        self.wait(lambda: "iteration-01/challenger/step-001" in self.watched.run.finished())
        time.sleep(_DELAY_S)


@dataclass
class Loss:
    """What was taken from a run."""

    at: float
    """Seconds since 1970."""
    host: Host
    actors: Sequence[str]
    """Those that were on it."""
    is_replaced: bool = True
    """Whether others are to take their places."""
    stale: StaleWriter | None = None
    """The learner that was cut off while it wrote."""


Disturb = Callable[[Scene], Loss | None]


def _leave_alone(scene: Scene) -> None:
    """Wait until every host is at work."""
    scene.sampling()
    used = {line["node"] for line in scene.serving().values()}
    missing = {host.address for host in scene.hosts[1:]} - used
    if missing:
        raise RuntimeError(f"nobody is on {', '.join(missing)}")


def _lose(scene: Scene, host: Host) -> Loss:
    serving = scene.serving()
    actors = sorted(name for name, line in serving.items() if line["node"] == host.address)
    if all(name.startswith("reward") for name in actors):
        raise RuntimeError(f"no engine or rank is on {host.address}: {actors}")
    return Loss(time.time(), host, actors)


def _kill_engine(scene: Scene) -> Loss:
    scene.sampling()
    loss = _lose(scene, scene.host_beside("learner/rank-0"))
    loss.host.kill()
    return loss


def _kill_learner(scene: Scene) -> Loss:
    step = scene.watched.run.root / "iteration-01/challenger/step-002"
    scene.wait((step / "rollouts.parquet").exists)
    loss = _lose(scene, scene.host_of("learner/rank-0"))
    loss.host.kill()
    return loss


def _cut_briefly(scene: Scene) -> Loss:
    scene.sampling()
    loss = _lose(scene, scene.host_beside("learner/rank-0"))
    loss.host.unplug()
    time.sleep(_BLIP_S)
    loss.host.plug_in()
    loss.is_replaced = False
    return loss


def _cut_engine(scene: Scene) -> Loss:
    scene.sampling()
    loss = _lose(scene, scene.host_beside("learner/rank-0"))
    loss.host.unplug()
    return loss


def _cut_learner(scene: Scene) -> Loss:
    """Cut the learner off in the midst of a checkpoint; be back when another one has learned."""
    scene.wait(lambda: "iteration-01/challenger" in scene.watched.run.finished())
    rank, host = scene.serving()["learner/rank-0"], scene.host_of("learner/rank-0")
    stale = StaleWriter(scene.watched.run.root, host.process(rank["pid"]))
    stale.stop_while_it_writes(_REACHED_S)
    loss = _lose(scene, host)
    loss.stale = stale
    host.unplug()
    finished = len(scene.watched.run.finished())
    scene.wait(lambda: len(scene.watched.run.finished()) > finished)
    stale.go_on()
    time.sleep(_STALE_S)
    stale.look()
    host.plug_in()
    scene.watched.wait(lambda: not host.work(), _BACK_S)
    if left := left_after(_BACK_S, host.work):
        raise RuntimeError(f"{host.address} is back, and after {_BACK_S:.0f} s there is {left[0]}")
    stale.look()
    return loss


CASES: Mapping[str, Disturb] = {
    "whole": _leave_alone,
    "killed-engine": _kill_engine,
    "killed-learner": _kill_learner,
    "cut-briefly": _cut_briefly,
    "cut-engine": _cut_engine,
    "cut-learner": _cut_learner,
}


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Disturb a run per case that is asked for; skip all where no hosts can be made."""
    names = chosen(settings["cases"], CASES)
    if (reason := why_not()) is not None:
        yield Outcome("hosts", None, True, f"SKIPPED: {reason}")
        return
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    for name in names:
        yield run_case(name, folder)


def run_case(name: str, folder: Path) -> Outcome:
    """Make hosts, start a run over them, disturb it, and say what came of it."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with hosts(NUM_HOSTS, folder / f"{name}-disks") as made:
        run = HostedRun(folder / name, _SETTINGS, head_address(made), host=made[0])
        watched = WatchedRun(run, folder / f"{name}.log")
        try:
            start_ray(made, run.environment(), folder / f"{name}-ray")
            watched.start()
            loss = CASES[name](Scene(made, watched))
            code = watched.await_end(_END_S)
            there = [host for host in made if loss is None or host is not loss.host]
            left = left_after(LEAVE_S, lambda: actors_on(there))
        except RuntimeError as error:
            print(watched.last_words(), file=sys.stderr)
            return Outcome(name, None, False, str(error))
    outcome = _judge(name, watched, loss, code, left, time.monotonic() - began)
    if not outcome.good:
        print(watched.last_words(), file=sys.stderr)
    return outcome


def _judge(
    name: str,
    watched: WatchedRun,
    loss: Loss | None,
    code: int | None,
    left: Sequence[str],
    seconds: float,
) -> Outcome:
    """Return the row; `left` are actors that were there when the driver had ended."""
    account = settle(watched, code)
    lines = watched.events()
    told, good = [f"{seconds:.0f} s", str(account), *left], account.is_whole and not left
    if loss is None:
        told.append(f"actors on {len({line['node'] for line in _healthy(lines)})} hosts")
    elif loss.is_replaced:
        witnesses = [replaced(lines, actor, loss) for actor in loss.actors]
        told += [f"{a}: {w or 'NOT replaced'}" for a, w in zip(loss.actors, witnesses, strict=True)]
        good &= None not in witnesses
    else:
        renewed = [line for line in _healthy(lines) if line["life"] > 1]
        told.append(f"{', '.join(loss.actors)}: {len(renewed)} replaced")
        good &= not renewed
    if loss is not None and loss.stale is not None:
        loss.stale.look()
        told.append(str(loss.stale))
        good &= loss.stale.has_changed_nothing()
    return Outcome(name, None, good, "; ".join(told))


def _healthy(lines: Sequence[Event]) -> list[Event]:
    return [line for line in lines if line["event"] == "actor" and line["state"] == "HEALTHY"]


def replaced(lines: Sequence[Event], actor: str, loss: Loss) -> str | None:
    """Return, in words, when an actor was found dead and when another served on another host."""
    dead = evidence.witness(lines, actor, loss.at)
    new = next(
        (
            line
            for line in _healthy(lines)
            if line["actor"] == actor
            and line["time"] > loss.at
            and line["life"] > 1
            and line["node"] != loss.host.address
        ),
        None,
    )
    if dead is None or new is None:
        return None
    return (
        f"{dead['state']} after {dead['time'] - loss.at:.1f} s, life {new['life']} on "
        f"{new['node']} after {new['time'] - loss.at:.1f} s"
    )
