r"""Times of day and dates: `12:30`, `4:30 \text{ p.m.}`, `2020-01-02`. Compared as text: 12:30 is
neither 2:5 nor 0.4."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds.value import ReadPart, Value

_TIME = re.compile(
    r"((?:[01]?[0-9]|2[0-4]):[0-5][0-9](?::[0-5][0-9])?)"
    r"(?: ?(?:\\text\{)? ?([ap])\.? ?m\.? ?\}?)?",
    re.IGNORECASE,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}[/.][0-9]{1,2}[/.][0-9]{4}")


@dataclass(frozen=True, slots=True)
class Clock(Value):
    """A time of day or a date."""


def read(text: str, read_part: ReadPart) -> Clock | None:
    """Read a time with two digits of minutes, or a date with four digits of the year."""
    if time := _TIME.fullmatch(text):
        half = f" {time[2].lower()}m" if time[2] else ""
        return Clock(time[1].removeprefix("0") + half)
    return Clock(text) if _DATE.fullmatch(text) else None
