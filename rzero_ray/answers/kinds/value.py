"""What every kind of answer has, and what a kind may ask while it compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Value:
    """An answer, read. Two values with one `text` are equal, whatever their kinds."""

    text: str
    """The canonical text."""

    is_statement: ClassVar[bool] = False
    """Whether "or" and "and" between two of the kind differ: statements, and sets of numbers."""


MAX_ITEMS = 64
"""Longer lists, sets and tuples are compared by text: pairing takes a quadratic number of
comparisons."""

ReadPart = Callable[[str], Value]
"""Reads a part of an answer, such as an element of a list: any kind but a bare list."""


class Equality(Protocol):
    """Decides whether two values are equal; kinds ask it about their parts."""

    def same(self, a: Value, b: Value) -> bool:
        """Say whether two values are equal by the table of kinds."""
        ...

    def same_latex(self, a: str, b: str) -> bool:
        """Say whether two LaTeX texts are equal by the symbolic comparer. False where it has no
        budget left."""
        ...


def same_in_order(first: tuple[Value, ...], second: tuple[Value, ...], equality: Equality) -> bool:
    """Say whether two sequences have equal values at equal places."""
    return len(first) == len(second) and all(map(equality.same, first, second))


def same_in_any_order(
    first: tuple[Value, ...], second: tuple[Value, ...], equality: Equality
) -> bool:
    """Say whether two sequences can be paired one to one with equal values (repeats count)."""
    if len(first) != len(second):
        return False
    left = list(second)
    for value in first:
        partner = next((other for other in left if other.text == value.text), None)
        if partner is None:
            partner = next((other for other in left if equality.same(value, other)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True
