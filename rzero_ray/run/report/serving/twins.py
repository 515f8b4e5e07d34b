"""The same question elsewhere in a run: questions with the same normal form.

A run has millions of questions. Of a file that was looked through, 64 bits of each question's
normal form stay in memory; the questions that agree in these are read and compared as text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rzero_ray.disk.files import Stamp, stamp_of
from rzero_ray.run.manifest import PHASES
from rzero_ray.run.parquet import read_columns
from rzero_ray.run.report.serving.questions import (
    SOURCES,
    Place,
    Question,
    iterations,
    path_of,
    questions_at,
    steps_with_questions,
)
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.types import Step

Normalize = Callable[[str], str]
"""`Task.normalize`."""
_FILES_KEPT = 4096
_SECONDS = 5.0
"""For which files are looked through for one page; those already known cost nothing."""


@dataclass(frozen=True, slots=True)
class _Text:
    """The field of a row that is compared."""

    question: str | None


@dataclass(slots=True)
class Twins:
    """Where else a question was asked."""

    questions: list[Question] = field(default_factory=list)
    """Earlier ones first."""
    num_left: int = 0
    """Files that there was no time for."""


def twins_of(
    root: Path,
    place: Place,
    text: str,
    normalize: Normalize,
    problems: Problems,
    seconds: float = _SECONDS,
) -> Twins:
    """Return the other questions of the run with the normal form of `text`.

    Files of near iterations are looked through first. When the seconds are over the rest is left
    out; a page that is loaded again goes on where this one ended.
    """
    normal = normalize(text)
    wanted = _bits(normal)
    found, left = Twins(), time.monotonic() + seconds
    for step in _nearest_first(root, place.step.iteration):
        if time.monotonic() > left:
            found.num_left += 1
            continue
        with problems.noted():
            path = path_of(root, step)
            (rows,) = np.nonzero(_forms(path, stamp_of(path), normalize) == wanted)
            for question in questions_at(root, step, rows.tolist()) if len(rows) else ():
                is_same = question.text is not None and normalize(question.text) == normal
                if is_same and question.place != place:
                    found.questions.append(question)
    found.questions.sort(key=_when_asked)
    return found


@lru_cache(maxsize=_FILES_KEPT)
def _forms(path: Path, stamp: Stamp, normalize: Normalize) -> NDArray[np.uint64]:
    """Return the bits of the normal form of each question of a file; 0 for a malformed one."""
    texts = read_columns(path, _Text)["question"]
    bits = [0 if text is None else _bits(normalize(text)) for text in texts]
    return np.array(bits, dtype=np.uint64)


def _bits(normal: str) -> np.uint64:
    digest = hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _nearest_first(root: Path, iteration: int) -> list[Step]:
    found = [
        step
        for other in iterations(root)
        for source in SOURCES
        for step in steps_with_questions(root, other, source)
    ]
    return sorted(found, key=lambda step: abs(step.iteration - iteration))


def _when_asked(question: Question) -> tuple[int, int, int, int]:
    step = question.place.step
    return step.iteration, PHASES.index(step.phase), step.index, question.place.row
