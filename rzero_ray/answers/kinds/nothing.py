r"""Nothing: an empty box, dots, blanks, spacing. It equals itself only, and does not vote."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds.value import ReadPart, Value

_FILLER = re.compile(r"\\(?:text|ldots|cdot|square|Box|rule)|[\s.{}()$~\u2026\\_\"`*|]")


@dataclass(frozen=True, slots=True)
class Nothing(Value):
    """An answer without content."""


def read(text: str, read_part: ReadPart) -> Nothing | None:
    r"""Read text in which nothing is left beside dots, braces, spacing and `\text{}`."""
    return None if _FILLER.sub("", text) or r"\{" in text else Nothing("")
