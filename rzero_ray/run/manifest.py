"""`manifest.json`: what of a run is finished, and which checkpoint belongs to it.

A key is the path of what it stands for: `iteration-02`, the phase `iteration-02/solver`, the step
`iteration-02/solver/step-003`. The file moves by atomic rename, so that it is always whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast, get_args

from pydantic import BaseModel, ConfigDict

from rzero_ray.disk.files import DamagedFileError, damaged, read_json, write_text_durably
from rzero_ray.types import PhaseName, Role, RunError, Step, UserError, iteration_key

FORMAT = 1
_ADVICE = " or choose another run_dir"
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
"""The phases in the order in which an iteration goes through them."""
_LEARNING: tuple[str, ...] = get_args(Role)
"""Phases that are finished by a key of their own: later ones start from what they learned."""
_KEY = re.compile(
    rf"iteration-(?:\d\d|[1-9]\d{{2,4}})(?:/(?:{'|'.join(PHASES)})"
    r"(?:/step-(?:\d{3}|[1-9]\d{3,9}))?)?",
    re.ASCII,
)
"""A key as this program writes it: `iteration-1` would be another one than `iteration-01`."""


class _Content(BaseModel):
    model_config = ConfigDict(strict=True)
    format: int
    finished: list[str]
    checkpoint: str | None
    attempt: int = 0


class Manifest:
    """The finished keys of a run, and its last checkpoint."""

    def __init__(
        self,
        path: Path,
        finished: Iterable[str] = (),
        checkpoint: str | None = None,
        attempt: int = 0,
    ) -> None:
        """Nothing is written until the first change, or `write`."""
        self._path = path
        self._attempt = attempt
        """How many drivers have taken the run up, this one counted."""
        self._finished = set(finished)
        self.checkpoint = checkpoint
        """The key of the step after which the policy in training was saved last."""

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest. Raises UserError where it is damaged, missing or of another format."""
        try:
            content = read_json(path, _Content)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}{_ADVICE}") from None
        if content["format"] != FORMAT:
            raise UserError(
                f"{path} has format {content['format']}, this program reads {FORMAT}; choose "
                "another run_dir"
            )
        finished, checkpoint = content["finished"], content["checkpoint"]
        for key in [*finished, *([] if checkpoint is None else [checkpoint])]:
            if not _KEY.fullmatch(key):
                raise damaged(path, f"{key!r} is no key", f"restore it from a copy{_ADVICE}")
        if checkpoint is not None and not (checkpoint.count("/") == 2 and checkpoint in finished):
            reason = f"its checkpoint {checkpoint} is of no finished step"
            raise damaged(path, reason, f"restore it from a copy{_ADVICE}")
        manifest = cls(path, finished, checkpoint, content.get("attempt", 0))
        gap = manifest._gap()
        if gap is not None:
            reason = f"{gap[0]} is finished and {gap[1]}, which comes before it, is not"
            raise damaged(path, reason, f"restore it from a copy{_ADVICE}")
        return manifest

    @property
    def attempt(self) -> int:
        """How many drivers have taken the run up."""
        return self._attempt

    def __contains__(self, key: str) -> bool:
        return key in self._finished

    def take_over(self) -> None:
        """Be the driver of the run from now on: one before, which may be cut off and not know that
        it has been replaced, cannot change the manifest any more."""
        self._attempt += 1
        self._put()

    def check_attempt(self) -> None:
        """Raise RunError where another driver has taken the run over."""
        on_disk = read_json(self._path, _Content).get("attempt", 0)
        if on_disk != self._attempt:
            raise RunError(
                f"{self._path}: another driver has taken this run over; this one changes nothing "
                "any more"
            )

    def finish(self, key: str, *, with_checkpoint: bool = False) -> None:
        """Record that `key` is finished, and whether its step has saved the policy."""
        self._finished.add(key)
        if with_checkpoint:
            self.checkpoint = key
        self.write()

    def undo(self, keys: Iterable[str]) -> None:
        """Record that these are not finished after all."""
        self._finished -= set(keys)
        self.write()

    def write(self) -> None:
        """Write the file, keys in the order in which a run finishes them.

        Raises RunError where another driver has taken the run over.
        """
        if self._attempt:
            self.check_attempt()
        self._put()

    def _put(self) -> None:
        content = {
            "format": FORMAT,
            "finished": sorted(self._finished, key=_place),
            "checkpoint": self.checkpoint,
            "attempt": self._attempt,
        }
        write_text_durably(self._path, json.dumps(content, indent=1))

    def _gap(self) -> tuple[str, str] | None:
        """Return a finished key, and one before it that is not finished; None where all are."""
        for key in self._finished:
            folder, _, last = key.rpartition("/")
            iteration = key.partition("/")[0]
            is_step = last.startswith("step-")
            before = [(key, iteration_key(max(0, number_in(iteration) - 1)))]
            if is_step and number_in(key) > 1:
                before.append((key, f"{folder}/step-{number_in(key) - 1:03d}"))
            if is_step and iteration in self._finished and folder.endswith(_LEARNING):
                before.append((iteration, folder))
            for pair in before:
                if pair[1] not in self._finished:
                    return pair
        return None

    def steps(self, phase: PhaseName, iteration: int | None = None) -> list[Step]:
        """Return a phase's finished steps, oldest first; of all iterations without `iteration`."""
        found = [
            Step(iteration=number_in(parts[0]), phase=phase, index=number_in(parts[2]))
            for parts in (key.split("/") for key in self._finished)
            if len(parts) == 3 and parts[1] == phase
        ]
        wanted = [step for step in found if iteration in (None, step.iteration)]
        return sorted(wanted, key=lambda step: (step.iteration, step.index))

    def last_learned(self, roles: Sequence[Role]) -> tuple[Role, int] | None:
        """Return which of the roles finished a phase of learning last, and in which iteration."""
        phases: list[tuple[Role, int]] = [
            (role, iteration) for role in roles for iteration in self.learned(role)
        ]
        return max(phases, key=lambda of: (of[1], PHASES.index(of[0])), default=None)

    def num_evaluated(self) -> int:
        """Return how many evaluations are finished, that of the base model counted."""
        return sum("/" not in key for key in self._finished)

    def learned(self, role: Role) -> list[int]:
        """Return the iterations in which the role has finished a phase of learning, in order."""
        return sorted(
            number_in(k.partition("/")[0]) for k in self._finished if k.endswith(f"/{role}")
        )

    def durable_steps(self, iteration: int, role: Role) -> int:
        """Return how many steps of a phase of learning the last checkpoint holds."""
        prefix = f"{phase_key(iteration, role)}/"
        if self.checkpoint is None or not self.checkpoint.startswith(prefix):
            return 0
        return number_in(self.checkpoint)


def phase_key(iteration: int, phase: PhaseName) -> str:
    """Return the folder of a phase inside a run directory, and its name in the manifest."""
    return f"{iteration_key(iteration)}/{phase}"


def number_in(name: str) -> int:
    """Return the number of an iteration or step: 3 of `iteration-02/solver/step-003`."""
    return int(name.rpartition("-")[2])


def _place(key: str) -> tuple[int, int, int]:
    """Return what sorts keys: a phase comes after its steps, an iteration after its phases."""
    iteration, *rest = key.split("/")
    phase = PHASES.index(cast(PhaseName, rest[0])) if rest and rest[0] in PHASES else len(PHASES)
    is_step = len(rest) == 2
    return number_in(iteration), phase, number_in(rest[1]) if is_step else 1 << 30
