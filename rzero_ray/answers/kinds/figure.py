r"""Figures named by their corners: `\triangle ABC`, `\overline{AB}`, `\angle ABC`.

A triangle has its corners in any order, a segment and an angle can be read from either end. The
corners alone (`AB`), in the same order, are the figure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds.value import Equality, ReadPart, Value
from rzero_ray.answers.kinds.words import Words

_FIGURES = (
    ("triangle", re.compile(r"\\triangle ?\{?([A-Z]{3})\}?")),
    ("segment", re.compile(r"\\overline ?\{([A-Z]{2})\}")),
    ("angle", re.compile(r"\\angle ?\{?([A-Z]{3})\}?")),
)


@dataclass(frozen=True, slots=True)
class Figure(Value):
    """A shape with its corners as they were written."""

    corners: str


def read(text: str, read_part: ReadPart) -> Figure | None:
    """Read a shape and capital letters."""
    for shape, pattern in _FIGURES:
        if match := pattern.fullmatch(text):
            corners = match[1]
            ordered = (
                "".join(sorted(corners)) if shape == "triangle" else min(corners, corners[::-1])
            )
            return Figure(_WRITTEN[shape].format(ordered), corners)
    return None


_WRITTEN = {"triangle": r"\triangle {}", "segment": r"\overline{{{}}}", "angle": r"\angle {}"}


def same_corners(first: Figure, second: Words, equality: Equality) -> bool:
    """Compare with corners that are named without their shape."""
    return first.corners == second.text
