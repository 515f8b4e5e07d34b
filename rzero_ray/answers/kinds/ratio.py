r"""Ratios: `3:2`, `1:2:3`, `3 \text{ to } 2`. They can be reduced; one of two parts equals their
quotient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from rzero_ray.answers.kinds import number
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.splitting import split
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value


@dataclass(frozen=True, slots=True)
class Ratio(Value):
    """Rational parts in lowest terms."""

    parts: tuple[int, ...]


def read(text: str, read_part: ReadPart) -> Ratio | None:
    """Read rational parts between colons, or two with "to" between them."""
    text = text.replace(r"\mid", "|").replace(r"\text{to}", ":").replace(" to ", ":")
    found = split(text, frozenset({":"}))
    if found is None or len(found[0]) < 2:
        return None
    values = [number.exact(part) for part in found[0]]
    parts = [value for value in values if value is not None and value > 0]
    return _reduced(parts) if len(parts) == len(values) else None


def _reduced(parts: list[Fraction]) -> Ratio:
    common = math.lcm(*(part.denominator for part in parts))
    whole = [int(part * common) for part in parts]
    divisor = math.gcd(*whole)
    reduced = tuple(part // divisor for part in whole)
    return Ratio(":".join(Number.of(Fraction(part)).text for part in reduced), reduced)


def same_quotient(first: Ratio, second: Number, equality: Equality) -> bool:
    """Compare the quotient of two parts with a number."""
    return len(first.parts) == 2 and Fraction(*first.parts) == second.value
