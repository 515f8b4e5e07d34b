"""What a disturbed run has come to: it must be what a run that was left alone comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tests.faults import evidence
from tests.faults.replay import Replayed, replay
from tests.faults.watched import WatchedRun


@dataclass(frozen=True)
class Account:
    """What is found at the end of a run, whose driver ended with `code`; None where it did not."""

    code: int | None
    is_complete: bool
    lost: Sequence[str]
    """Steps whose samples were drawn again after they were finished, and updates without a row."""
    doubled: Sequence[str]
    """Steps with two rows of figures."""
    replayed: Sequence[Replayed]
    num_phases: int
    """Of learning, in a whole run."""
    left: Sequence[str]
    """Processes and shared memory that are still there."""

    @property
    def is_whole(self) -> bool:
        """Whether the run has ended as one that was left alone."""
        return (
            self.code == 0
            and self.is_complete
            and not (self.lost or self.doubled or self.left)
            and len(self.replayed) == self.num_phases
            and all(phase.is_equal for phase in self.replayed)
        )

    def __str__(self) -> str:
        ended = "finished" if self.code == 0 and self.is_complete else "NOT finished"
        num_equal = sum(phase.is_equal for phase in self.replayed)
        told = (
            f"{ended} (code {self.code}), {len(self.lost)} lost, {len(self.doubled)} doubled, "
            f"{num_equal} of {self.num_phases} phases reproduced, {len(self.left)} left"
        )
        return "; ".join(chain([told], self.lost, self.doubled, self.left))


def settle(watched: WatchedRun, code: int | None) -> Account:
    """Look at what a run has left whose driver has ended with `code`, or is still there (None)."""
    run = watched.run
    config = run.config()
    updates = run.updates()
    without_row = sorted(run.all_updates() - set(updates))
    is_complete = run.is_complete()
    return Account(
        code=code,
        is_complete=is_complete,
        lost=[*watched.steps.drawn_again(), *without_row],
        doubled=evidence.doubled(updates),
        replayed=replay(run.root) if is_complete else [],
        num_phases=2 * config.num_iterations,
        left=watched.left_behind(),
    )
