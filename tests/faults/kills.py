"""One actor, the driver or a node dies, or hangs, in each phase: the run goes on by itself.

Each row is a run of its own, which is left alone until a stated moment. It is good when the run
reaches its end, no step's samples were drawn again after it was finished, no step has two rows, all
weights are what the stored rollouts give when each is taken once (`replay`), an event between the
blow and the end says that the actor was lost, and nothing of the run is left.

The driver is started again by the same command; everything else is the driver's own affair.
"""

from __future__ import annotations

import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from tests.faults import evidence
from tests.faults.account import Account, settle
from tests.faults.evidence import Life
from tests.faults.nodes import Nodes, nodes
from tests.faults.runs import SHORT, ShortRun
from tests.faults.table import Outcome
from tests.faults.watched import WatchedRun, strike

Target = Literal["challenger-engine", "solver-engine", "reward-worker", "rank", "driver", "node"]
PhaseOfSteps = Literal["challenger", "curriculum", "solver"]

ONE_ITERATION = (
    *SHORT,
    "num_iterations=1",
    "challenger.num_prompts=48",
    "challenger.prompts_per_update=48",
    "curriculum.num_candidates=120",
    "curriculum.candidates_per_step=60",
    "solver.num_prompts=24",
    "solver.prompts_per_update=24",
    "solver.samples_per_prompt=4",
    "checkpoint.keep_models.every=1",
)
"""Two steps in each phase; less than 90 s when it is left alone, most of it its start."""
_TWO_RANKS = ("learner.num_ranks=2", "learner.cpus_per_rank=0.25")
"""A rank that dies leaves another waiting for it."""
_SILENCE_S = 10
_ACTORS: dict[Target, str] = {
    "challenger-engine": "challenger/sampler-0",
    "solver-engine": "solver/sampler-0",
    "reward-worker": "reward/worker-0",
    "rank": "learner/rank-1",
}
_MAY_HANG: tuple[Target, ...] = ("challenger-engine", "solver-engine", "rank")
"""What is also stopped (SIGSTOP): it neither answers nor dies."""
_REACHED_S = 300.0
"""Until a started run is where it is to be struck; a quiet machine needs a tenth of it."""
_END_S = 300.0
"""Until a run that was struck has ended."""
_DELAY_S = 0.3
"""After a step was finished: the next one is then being sampled."""

SETTINGS = {
    "targets": ",".join(get_args(Target)),
    "phases": ",".join(get_args(PhaseOfSteps)),
    "signals": "SIGKILL,SIGSTOP",
    "folder": "/tmp/rzero-faults",
}


@dataclass(frozen=True)
class Row:
    """Who is struck, when, and how."""

    target: Target
    phase: PhaseOfSteps
    sent: signal.Signals = signal.SIGKILL

    @property
    def name(self) -> str:
        """Its run directory, in the folder of the table."""
        return f"{self.target}-{self.phase}-{self.sent.name}"

    @property
    def moment(self) -> str:
        """When the row's signal is sent, in words."""
        doing = "learned" if self._strikes_update else "sampled"
        return f"{self.phase}: step 2 being {doing}"

    def is_reached(self, run: ShortRun) -> bool:
        """Return whether the run is where it is to be struck, up to `_DELAY_S`."""
        step = f"iteration-01/{self.phase}/step-00"
        if self._strikes_update:  # they are written before the update that takes them
            return (run.root / f"{step}2" / "rollouts.parquet").exists()
        return f"{step}1" in run.finished()

    @property
    def _strikes_update(self) -> bool:
        return self.target == "rank" and self.phase != "curriculum"

    @property
    def delay_s(self) -> float:
        """Return how long after that the signal is sent."""
        return 0.0 if self._strikes_update else _DELAY_S

    def settings(self) -> tuple[str, ...]:
        """Return those of the row's run."""
        ranks = _TWO_RANKS if self.target == "rank" else ()
        silence = (f"recovery.silence={_SILENCE_S}",) if self.sent is signal.SIGSTOP else ()
        return (*ONE_ITERATION, *ranks, *silence)


def run(settings: dict[str, str]) -> Iterator[Outcome]:
    """Strike a run per target, phase and signal that is asked for."""
    folder = Path(settings["folder"]) / uuid.uuid4().hex[:8]
    for row in rows(settings):
        yield run_row(row, folder)


def rows(settings: dict[str, str]) -> list[Row]:
    """Return the rows of the table that are asked for, in its order. ValueError for another one."""
    targets, phases, signals = (
        settings[key].split(",") for key in ("targets", "phases", "signals")
    )
    for asked, there in (
        (targets, get_args(Target)),
        (phases, get_args(PhaseOfSteps)),
        (signals, ("SIGKILL", "SIGSTOP")),
    ):
        if not set(asked) <= set(there):
            raise ValueError(f"{', '.join(asked)}: there are {', '.join(there)}")
    return [
        Row(target, phase, signal.Signals[name])
        for name in signals
        for target in get_args(Target)
        for phase in get_args(PhaseOfSteps)
        if target in targets and phase in phases and (name == "SIGKILL" or target in _MAY_HANG)
    ]


def run_row(row: Row, folder: Path) -> Outcome:
    """Start a run, strike it, and say what came of it."""
    (outcome,) = run_course([row], folder)
    return outcome


def run_course(course: Sequence[Row], folder: Path) -> list[Outcome]:
    """Start one run and strike it once for each row, in the order of its phases; say what came of
    each. What the run has come to at its end counts for all of them."""
    name = "+".join(row.name for row in course)
    settings = dict.fromkeys(chain.from_iterable(row.settings() for row in course))
    short = ShortRun(folder / name, tuple(settings))
    on_nodes = any(row.target == "node" for row in course)
    where = nodes(short.environment()) if on_nodes else nullcontext()
    watched = WatchedRun(short, folder / f"{name}.log")
    try:
        with where as several:
            if several is not None:
                short.address = several.address
            watched.start()
            struck = [_strike(row, watched, several) for row in course]
            code = watched.await_end(_END_S if all(struck) else 0.0)
        account = settle(watched, code)
        outcomes = [
            _judge(row, watched, of_row, account)
            for row, of_row in zip(course, struck, strict=True)
        ]
    finally:
        watched.end()
    if not all(outcome.good for outcome in outcomes):
        print(watched.last_words(), file=sys.stderr)
    return outcomes


@dataclass(frozen=True)
class _Struck:
    """Who was struck, and when in seconds since 1970."""

    at: float
    actors: Sequence[Life]


def _strike(row: Row, watched: WatchedRun, several: Nodes | None) -> _Struck | None:
    """Strike the run; None where it did not come so far, or did not tell whom."""
    if not watched.wait(lambda: row.is_reached(watched.run), _REACHED_S):
        return None
    time.sleep(row.delay_s)
    serving = watched.lives()
    if row.target == "driver":
        assert watched.driver is not None
        at = strike([watched.driver.pid], row.sent)
        watched.driver.wait()
        watched.start()
        return _Struck(at, [])
    if several is not None:
        mark, lost = _node_to_kill(several, list(serving.values()))
        return _Struck(strike(several.processes(mark), row.sent), lost)
    life = serving.get(_ACTORS[row.target])
    return None if life is None else _Struck(strike([life.pid], row.sent), [life])


def _node_to_kill(several: Nodes, serving: Sequence[Life]) -> tuple[str, list[Life]]:
    """Return the node with the most actors, an engine or a rank among them, and these actors."""
    by_node = {
        mark: [life for life in serving if several.of(life.pid) == mark] for mark in several.others
    }
    mark, lost = max(by_node.items(), key=lambda item: len(item[1]))
    assert any(not life.actor.startswith("reward") for life in lost), f"no engine or rank: {lost}"
    return mark, lost


def _judge(row: Row, watched: WatchedRun, struck: _Struck | None, account: Account) -> Outcome:
    what = f"{row.target} {row.sent.name}"
    if struck is None:
        said = "it ended or stood still before it was struck, or nobody said who was to be struck"
        return Outcome(what, row.moment, False, f"{said}; {account}")
    seen, back_after = _witness(row, watched, struck)
    back = "not back" if back_after is None else f"back after {back_after:.1f} s"
    told = f"{account}; {back}; witness: {seen}"
    return Outcome(what, row.moment, account.is_whole and seen is not None, told)


def _witness(row: Row, watched: WatchedRun, struck: _Struck) -> tuple[str | None, float | None]:
    """Return what says that the blow was noticed, and the seconds until another served in place.

    Of a driver these are its start and the first step or phase that it finished. Of a node
    it takes a witness for each of its actors, and the last of them to be back counts.
    """
    lines = watched.events()
    if row.target == "driver":
        finished_at = watched.steps.first_after(struck.at)
        again = evidence.num_starts(line for line in lines if line["time"] > struck.at)
        seen = "started again" if again == 1 else None
        return seen, None if finished_at is None else finished_at - struck.at
    seen = [evidence.witness(lines, life.actor, struck.at) for life in struck.actors]
    new = [evidence.next_life(lines, life, struck.at) for life in struck.actors]
    told = [
        f"{event['actor']} {event['state']} after {event['time'] - struck.at:.1f} s"
        for event in seen
        if event is not None
    ]
    at = [life.since for life in new if life is not None]
    return (
        ", ".join(told) if len(told) == len(seen) else None,
        max(at) - struck.at if len(at) == len(new) else None,
    )
