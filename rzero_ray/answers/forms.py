r"""Read an answer: from text to a value of a kind, and to the canonical text that equal notations
share.

Pure text work, linear in the length of the answer; nothing is evaluated. `equality` decides from
the values whether two answers are the same.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from rzero_ray.answers.kinds.expression import as_option
from rzero_ray.answers.kinds.nothing import Nothing
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.table import READERS
from rzero_ray.answers.kinds.value import Value
from rzero_ray.answers.kinds.words import Words
from rzero_ray.answers.notation import normal

MAX_ANSWER_CHARS = 2_000
"""Longer answers are compared by text only: no exam answer is this long, and parsing cost grows
with length."""

MAX_DEPTH = 12
"""Parts within parts (tuples of lists of sets) that are read; deeper ones are compared by text."""

_PLAIN = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")


def canonical(answer: str) -> str:
    """Return the canonical text of an answer: pure, linear in its length, and cached for ordinary
    lengths.

    Two answers with equal canonical texts are equal. Different texts prove nothing, except between
    two plain numbers without units, whose text is the exact fraction in lowest terms.
    """
    return read(answer).text


def plain_number(answer: str) -> Fraction | None:
    """Return the exact value of an answer that is a rational number without a unit, else None."""
    value = read(answer)
    return value.value if isinstance(value, Number) else None


def is_nothing(answer: str) -> bool:
    r"""Say whether an answer has no content: blanks, dots, spacing commands, `\text{}`."""
    return isinstance(read(answer), Nothing)


def read(answer: str) -> Value:
    """Return the value of an answer. Every text has one."""
    if len(answer) > MAX_ANSWER_CHARS:
        # Not cached: a cache of megabyte keys would be a leak.
        return Words(" ".join(answer.split()))
    return _read_cached(answer)


@lru_cache(maxsize=16_384)
def _read_cached(answer: str) -> Value:
    if _PLAIN.fullmatch(answer):
        return Number.of(Fraction(answer))
    return as_option(_read_text(normal(answer), 0))


def _read_text(text: str, depth: int) -> Value:
    if depth > MAX_DEPTH:
        return Words(text)

    def read_part(part: str) -> Value:
        return _read_text(part.strip(), depth + 1)

    return next(value for reader in READERS if (value := reader(text, read_part)) is not None)
