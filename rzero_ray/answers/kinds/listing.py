r"""Bare lists: `1, 2, 3`, `x=1 \text{ or } x=2`, `\pm 3`. Their order does not matter, repeats do.

A list of the names and values of one solution (`x=1, y=2`) is a system, and equals the tuple of its
values; several solutions in one list are several systems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rzero_ray.answers.kinds.assignment import Assignment, assign
from rzero_ray.answers.kinds.sequence import Sequence
from rzero_ray.answers.kinds.splitting import split, top_level
from rzero_ray.answers.kinds.value import (
    MAX_ITEMS,
    Equality,
    ReadPart,
    Value,
    same_in_any_order,
    same_in_order,
)

_OR = re.compile(r"(?<![a-zA-Z])or(?![a-zA-Z])")
_DOTS = re.compile(r"\.\.\.|\\ldots ?")
_JOINER = re.compile(
    r"(?:^|(?<=[\s,;)\]}]))(?:\\text\{ ?[,;]? ?(?:and|or) ?[,;]? ?\}|\\?&"
    r"|(?:and|or)(?![a-zA-Z]))(?=[\s(\[\\{]|$)"
)
_CASES = re.compile(r"\\begin ?\{cases\}((?:(?!\\begin).)*)\\end ?\{cases\}", re.DOTALL)
_SEPARATORS = frozenset({",", ";"})
_SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_LEADING_PLUS = re.compile(r"(^|[=({\[,])\s*\+\s*")


@dataclass(frozen=True, slots=True)
class Listing(Value):
    """A list without brackets, of two items or more."""

    items: tuple[Value, ...]
    is_choice: bool = False
    """Whether "or" stands between statements, which then do not all hold."""


def read(text: str, read_part: ReadPart) -> Listing | None:
    """Read items between commas, semicolons, "and" and "or", and both values of a plus-minus."""
    items = _rows(text) or split_items(text)
    if items is None or len(items) > MAX_ITEMS:
        return None
    items = [both for item in items for both in with_both_signs(item)]
    if len(items) < 2 or any(not item or _DOTS.fullmatch(item) for item in items):
        return None  # what dots leave out is unknown
    values = _with_names(tuple(read_part(item) for item in items))
    items_in_order = listing(values)
    if _OR.search(text) is None or _are_alternatives(values):
        return items_in_order
    return replace(items_in_order, text=f"or: {items_in_order.text}", is_choice=True)


def _with_names(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """Give a bare value the name before it: `x=1, 2` are two values of x."""
    named: list[Value] = []
    for item in items:
        before = named[-1] if named else None
        is_bare = not isinstance(item, Assignment | Listing | Sequence)
        if isinstance(before, Assignment) and before.sign == "=" and is_bare:
            item = assign(before.name, item)
        named.append(item)
    return tuple(named)


def _are_alternatives(items: tuple[Value, ...]) -> bool:
    """Say whether items are values that one thing may have, for which "or" and "and" are the
    same."""
    names = {item.name for item in items if isinstance(item, Assignment)}
    is_said = any(
        item.is_statement or isinstance(item, Listing) or r"\infty" in item.text for item in items
    )
    return not is_said and len(names) < 2


def _rows(text: str) -> list[str]:
    """Return the lines of a system in LaTeX's `cases`, none for anything else."""
    match = _CASES.fullmatch(text)
    return [] if match is None else [row.strip(" ,&") for row in match[1].split("\\\\")]


def listing(items: tuple[Value, ...]) -> Listing:
    """Return a list of values in canonical order, each solution's names and values together."""
    ordered = sorted(_systems(items), key=lambda item: item.text)
    return Listing(", ".join(item.text for item in ordered), tuple(ordered))


def split_items(text: str) -> list[str] | None:
    """Return the items of a bare list, a single one for anything else, None where brackets do not
    balance."""
    parts = _split_at_joiners(text)
    if parts is None:
        return None
    pieces: list[str] = []
    for part in parts:
        split_part = split(part.strip(), _SEPARATORS)
        if split_part is None:
            return None
        found = split_part[0]
        if len(parts) > 1 or len(found) > 1:
            # "1, 2, and 3": the comma before the joiner separates nothing more.
            found = found[:-1] if not found[-1] else found
            found = found[1:] if found and not found[0] and len(parts) > 1 else found
        pieces += found
    return pieces


def _split_at_joiners(text: str) -> list[str] | None:
    outside = top_level(text)
    if outside is None:
        return None
    places = {at for at, _ in outside}
    parts, start = [], 0
    for match in _JOINER.finditer(text):
        if match.start() in places and match.start() >= start:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def with_both_signs(item: str) -> list[str]:
    r"""Return an item with one or several related \pm as its two values."""
    if not _SIGN.search(item) or (top_level(item) is None):
        return [item]
    if item.count(r"\pm") > 1 and item.count(r"\mp") == 0:
        return [item]  # independent signs: four values or more
    both = [
        _SIGN.sub(lambda m, plus=plus: "+" if (m[1] == "pm") is plus else "-", item)
        for plus in (True, False)
    ]
    return [_LEADING_PLUS.sub(r"\1", value).strip() for value in both]


def _systems(items: tuple[Value, ...]) -> list[Value]:
    """Group assignments of several names into one list for each solution."""
    names = [item.name for item in items if isinstance(item, Assignment)]
    if len(names) < len(items) or len(set(names)) < 2 or len(set(names)) == len(names):
        return list(items)
    period = len(set(names))
    if len(names) % period or names != names[:period] * (len(names) // period):
        return list(items)
    return [listing(items[at : at + period]) for at in range(0, len(items), period)]


def same_listing(first: Listing, second: Listing, equality: Equality) -> bool:
    """Pair the items one to one."""
    return first.is_choice == second.is_choice and same_in_any_order(
        first.items, second.items, equality
    )


def same_system(first: Listing, second: Sequence, equality: Equality) -> bool:
    """Compare the values of a system, in the order of its names, with a tuple."""
    if second.brackets != ("(", ")"):
        return False
    values = _values_by_name(first)
    return values is not None and same_in_order(values, second.items, equality)


def _values_by_name(system: Listing) -> tuple[Value, ...] | None:
    items = [item for item in system.items if isinstance(item, Assignment)]
    if len(items) < len(system.items) or len({item.name for item in items}) < len(items):
        return None
    return tuple(item.value for item in items)


def same_named_tuple(first: Listing, second: Assignment, equality: Equality) -> bool:
    """Compare a list with a name and its values: `x=1,y=2` with `(x,y)=(1,2)`, else by the
    values."""
    names = second.name.removeprefix("(").removesuffix(")").split(",")
    if isinstance(second.value, Sequence) and len(names) == len(second.value.items) > 1:
        values = {item.name: item.value for item in first.items if isinstance(item, Assignment)}
        in_order = [values.get(name.strip()) for name in names]
        found = tuple(value for value in in_order if value is not None)
        return len(first.items) == len(found) and same_in_order(found, second.value.items, equality)
    return equality.same(first, second.value)
