r"""Tuples, points and vectors: `(1,2)`, `[1,2,3]`, `\langle 1,2\rangle`. Their order matters.

Brackets have to be the same. Two items in brackets may also be an interval (`region`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rzero_ray.answers.kinds.splitting import split
from rzero_ray.answers.kinds.value import MAX_ITEMS, Equality, ReadPart, Value, same_in_order

_BRACKETS = (("(", ")"), ("[", "]"), (r"\langle", r"\rangle"))


@dataclass(frozen=True, slots=True)
class Sequence(Value):
    """Values in a fixed order."""

    brackets: tuple[str, str]
    """Opening and closing bracket."""

    items: tuple[Value, ...]


def read(text: str, read_part: ReadPart) -> Sequence | None:
    """Read two items or more in brackets that belong together."""
    for opening, closing in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing):
            items = _items(text[len(opening) : -len(closing)])
            if items is None or not 2 <= len(items) <= MAX_ITEMS:
                return None
            if opening.startswith("\\"):
                opening, closing = "(", ")"
            values = tuple(read_part(item) for item in items)
            inner = ", ".join(value.text for value in values)
            return Sequence(f"{opening}{inner}{closing}", (opening, closing), values)
    return None


def _items(inner: str) -> list[str] | None:
    for separator in (";", ","):
        parts = split(inner.strip(), frozenset({separator}))
        if parts is None or any(not part for part in parts[0]):
            return None
        if len(parts[0]) > 1:
            return parts[0]
    return None


def same_sequence(first: Sequence, second: Sequence, equality: Equality) -> bool:
    """Compare item by item in the same brackets."""
    return first.brackets == second.brackets and same_in_order(first.items, second.items, equality)
