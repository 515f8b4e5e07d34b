r"""Finite sets: `\{1,2\}`, `\emptyset`. Neither order nor repeats matter.

A set equals the bare list of its members, and a set of one member equals the member.
"""

from __future__ import annotations

from dataclasses import dataclass

from rzero_ray.answers.kinds.listing import Listing, with_both_signs
from rzero_ray.answers.kinds.splitting import split
from rzero_ray.answers.kinds.value import (
    MAX_ITEMS,
    Equality,
    ReadPart,
    Value,
    same_in_any_order,
)

_EMPTY = frozenset({r"\emptyset", r"\{\}", r"\{ \}"})
_PAIRS = ((r"\{", r"\}"), ("{", "}"))


@dataclass(frozen=True, slots=True)
class FiniteSet(Value):
    """Different values without an order."""

    items: tuple[Value, ...]


def read(text: str, read_part: ReadPart) -> FiniteSet | None:
    """Read members in braces, escaped or not."""
    if text.strip() in _EMPTY:
        return FiniteSet(r"\{\}", ())
    for opening, closing in _PAIRS:
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            parts = split(inner, frozenset({",", ";"}))
            if parts is None or any(not part for part in parts[0]) or _is_builder(inner):
                return None
            items = [both for part in parts[0] for both in with_both_signs(part)]
            if len(items) > MAX_ITEMS or (opening == "{" and len(items) < 2):
                return None
            return finite_set(tuple(read_part(item) for item in items))
    return None


def _is_builder(inner: str) -> bool:
    return any(mark in inner for mark in (r"\mid", ":", r"\in ", r"\ldots", "..."))


def finite_set(items: tuple[Value, ...]) -> FiniteSet:
    """Return a set with each canonical text once."""
    once = {item.text: item for item in items}
    ordered = tuple(once[text] for text in sorted(once))
    return FiniteSet(rf"\{{{', '.join(item.text for item in ordered)}\}}", ordered)


def same_set(first: FiniteSet, second: FiniteSet, equality: Equality) -> bool:
    """Say whether each member has an equal one on the other side."""
    return all(
        any(
            isinstance(value, FiniteSet) == isinstance(other, FiniteSet)
            and equality.same(value, other)
            for other in others
        )
        for values, others in ((first.items, second.items), (second.items, first.items))
        for value in values
    )


def same_members(first: FiniteSet, second: Listing, equality: Equality) -> bool:
    """Compare with a bare list, whose repeats count."""
    return same_in_any_order(first.items, second.items, equality)


def same_member(first: FiniteSet, second: Value, equality: Equality) -> bool:
    """Compare the only member with a value."""
    return len(first.items) == 1 and equality.same(first.items[0], second)
