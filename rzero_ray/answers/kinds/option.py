r"""Options of a multiple-choice question with their text: `C. 7`, `(D) \text{Alina}`.

The letter decides: an option equals its lone letter, and the same letter with the same text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds.value import Equality, ReadPart, Value

_OPTION = re.compile(
    r"(?:[(\[]([A-J])[)\]] ?|([A-J])(?:[.)] ?| (?=[A-Z][a-z]+$)))"
    r"(?=[\w$-]|\\text|\\frac|\\sqrt)(.+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Option(Value):
    """A letter and what it stands for."""

    letter: str
    content: Value


def read(text: str, read_part: ReadPart) -> Option | None:
    """Read a capital letter in brackets or with a full stop, and a text after it."""
    match = _OPTION.fullmatch(text)
    if match is None:
        return None
    letter, content = match[1] or match[2], read_part(match[3])
    return Option(f"({letter}) {content.text}", letter, content)


def same_option(first: Option, second: Option, equality: Equality) -> bool:
    """Compare letter and text."""
    return first.letter == second.letter and equality.same(first.content, second.content)


def same_letter(first: Option, second: Value, equality: Equality) -> bool:
    """Compare with a lone letter."""
    return first.letter == second.text
