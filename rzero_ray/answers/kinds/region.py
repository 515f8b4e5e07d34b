r"""Sets of real numbers: intervals, and unions, intersections and differences of sets.

`[0,1)`, `(0,1)\cup(2,3)`, `\mathbb{R}\setminus\{1\}`. Two numbers in round or square brackets are a
`sequence`, which equals the interval of the same ends. A region never equals a finite set or a list
of its ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds import expression
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.finite_set import FiniteSet
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.sequence import Sequence
from rzero_ray.answers.kinds.splitting import split
from rzero_ray.answers.kinds.value import (
    Equality,
    ReadPart,
    Value,
    same_in_any_order,
    same_in_order,
)

_INTERVAL = re.compile(r"([(\[\]])(.*)([)\]\[])", re.DOTALL)
_EVERYTHING = frozenset({r"\mathbb{R}", "all real numbers", "all reals", "all real x"})
_OPERATORS = (r"\cup", r"\cap", r"\setminus")
INFINITY = Expression(r"\infty", r"\infty", is_formula=True)
MINUS_INFINITY = Expression(r"-\infty", r"-\infty", is_formula=True)


@dataclass(frozen=True, slots=True)
class Interval(Value):
    """All numbers between two ends."""

    is_statement = True
    low: Value
    high: Value
    closed: tuple[bool, bool]
    """Whether each end belongs to it."""


@dataclass(frozen=True, slots=True)
class Combination(Value):
    """Sets joined by one operator."""

    is_statement = True
    operator: str
    operands: tuple[Value, ...]


def interval(low: Value, high: Value, closed: tuple[bool, bool]) -> Interval:
    """Return an interval with its canonical text; no infinite end belongs to it."""
    closed = (closed[0] and low != MINUS_INFINITY, closed[1] and high != INFINITY)
    opening, closing = "[" if closed[0] else "(", "]" if closed[1] else ")"
    return Interval(f"{opening}{low.text}, {high.text}{closing}", low, high, closed)


def combination(operator: str, operands: tuple[Value, ...]) -> Combination:
    """Return sets joined by an operator, in canonical order where the order does not matter."""
    if operator != r"\setminus":
        operands = tuple(sorted(operands, key=lambda operand: operand.text))
    return Combination(f" {operator} ".join(o.text for o in operands), operator, operands)


def read_interval(text: str, read_part: ReadPart) -> Interval | None:
    """Read `[a,b)`, `(a,b]`, `]a,b[`, and the set of all real numbers."""
    if text.removeprefix(r"\text{").removesuffix("}").casefold() in _EVERYTHING or (
        text in _EVERYTHING
    ):
        return interval(MINUS_INFINITY, INFINITY, (False, False))
    match = _INTERVAL.fullmatch(text)
    if match is None or (match[1], match[3]) in (("(", ")"), ("[", "]"), ("(", "["), ("]", ")")):
        return None
    found = split(match[2], frozenset({",", ";"}))
    if found is None or len(found[0]) != 2 or not all(found[0]):
        return None
    low, high = (read_end(end, read_part) for end in found[0])
    return interval(low, high, (match[1] == "[", match[3] == "]"))


def read_end(text: str, read_part: ReadPart) -> Value:
    """Read an end of an interval: a plus before infinity does not matter."""
    return read_part(text.removeprefix("+").strip())


def read_combination(text: str, read_part: ReadPart) -> Combination | None:
    """Read sets joined by one operator outside brackets."""
    for operator in _OPERATORS:
        found = split(text, frozenset({operator}))
        if found is None or any(not part for part in found[0]):
            return None
        if len(found[0]) > 1:
            return combination(operator, tuple(read_part(_as_set(part)) for part in found[0]))
    return None


def _as_set(operand: str) -> str:
    is_braced = operand[:1] == "{" and operand[-1:] == "}"
    return rf"\{{{operand[1:-1]}\}}" if is_braced else operand


def same_interval(first: Interval, second: Interval, equality: Equality) -> bool:
    """Compare the ends, and whether they belong to it."""
    return (
        first.closed == second.closed
        and equality.same(first.low, second.low)
        and equality.same(first.high, second.high)
    )


def same_ends(first: Interval, second: Sequence, equality: Equality) -> bool:
    """Compare with two numbers in brackets."""
    if len(second.items) != 2:
        return False
    is_closed = second.brackets == ("[", "]")
    low, high = second.items
    return same_interval(first, interval(low, high, (is_closed, is_closed)), equality)


def same_combination(first: Combination, second: Combination, equality: Equality) -> bool:
    """Compare operand by operand, else as sets of numbers."""
    if first.operator == second.operator:
        is_ordered = first.operator == r"\setminus"
        same_operands = same_in_order if is_ordered else same_in_any_order
        if same_operands(first.operands, second.operands, equality):
            return True
    return same_region(first, second, equality)


def same_region(first: Value, second: Value, equality: Equality) -> bool:
    """Compare as sets of numbers, where all ends are closed forms."""
    left, right = latex(first), latex(second)
    return bool(left and right) and equality.same_latex(left, right)


def latex(value: Value) -> str:
    """Return a set of numbers for the symbolic comparer, "" where a letter stands in it."""
    if isinstance(value, Combination):
        parts = [latex(operand) for operand in value.operands]
        inner = value.operator.join(
            f"({part})" if r"\c" in part or r"\s" in part else part for part in parts
        )
        return inner if all(parts) else ""
    if isinstance(value, FiniteSet):
        parts = [_end(item) for item in value.items]
        return rf"\{{{','.join(parts)}\}}" if all(parts) else ""
    if isinstance(value, Interval):
        opening, closing = "[" if value.closed[0] else "(", "]" if value.closed[1] else ")"
        ends = (_end(value.low), _end(value.high))
        return f"{opening}{ends[0]},{ends[1]}{closing}" if all(ends) else ""
    if isinstance(value, Sequence) and len(value.items) == 2:
        ends = (_end(value.items[0]), _end(value.items[1]))
        return f"{value.brackets[0]}{ends[0]},{ends[1]}{value.brackets[1]}" if all(ends) else ""
    return ""


def _end(value: Value) -> str:
    if expression.has_variables(value) or not isinstance(value, Number | Expression):
        return ""
    return expression.latex_of(value)
