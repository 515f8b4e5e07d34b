r"""Statements: what stands on two or more sides of `=`, `<`, `\in`, `\to` and the like.

A statement with a name on one side is an `assignment` (`x=5`, `1<x\le 2`, `x\in[0,1)`). Any other
is compared with other statements: side by side; as an equation, when one is a constant times the
other; as an inequality, by its solutions. Without letters it is only compared side by side, never
by its truth. A calculation equals its result (`\log_2 8=3` and 3), an equation never equals a side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds import expression, region, words
from rzero_ray.answers.kinds.assignment import Assignment, assign, is_name
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.listing import listing, split_items
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.quantity import Quantity
from rzero_ray.answers.kinds.region import Combination, Interval
from rzero_ray.answers.kinds.splitting import split
from rzero_ray.answers.kinds.value import (
    Equality,
    ReadPart,
    Value,
    same_in_any_order,
    same_in_order,
)

_FLIPPED = {">": "<", r"\ge": r"\le", r"\supset": r"\subset", r"\supseteq": r"\subseteq"}
_ORDER = frozenset({"<", r"\le"})
_SAME = frozenset({"=", r"\approx"})
_SYMMETRIC = frozenset(
    {"=", r"\ne", r"\approx", r"\iff", r"\parallel", r"\perp", r"\equiv", r"\land", r"\lor"}
)
_CORRESPONDENCES = frozenset({r"\sim", r"\cong"})
_IN_GRAMMAR = frozenset({"=", r"\ne", "<", r"\le"})
_OPERATORS = frozenset(
    {*_FLIPPED, *_FLIPPED.values(), *_SYMMETRIC, *_CORRESPONDENCES}
    | {r"\in", r"\notin", r"\to", r"\Rightarrow", r"\propto"}
)
_BUILDER = re.compile(r"\\\{ ?(.+?) ?(?:\\in ?\\mathbb\{R\})? ?(?:\\mid|:|\|) ?(.+)\\\}", re.DOTALL)
_OR = re.compile(r" ?(?:\\text\{ ?or ?\}|\\lor|(?<![a-zA-Z\\])or(?![a-zA-Z])) ?")
_AND = re.compile(r" ?(?:\\text\{ ?and ?\}|\\land|(?<![a-zA-Z\\])and(?![a-zA-Z])) ?")
_LITERAL = re.compile(r"[-+]?[0-9.,]+|\\frac\{[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+")
_FUNCTION_OF = re.compile(r"[a-zA-Z]\w*'*\(.*\)")


@dataclass(frozen=True, slots=True)
class Relation(Value):
    """A statement without a name to assign to."""

    is_statement = True
    sides: tuple[Value, ...]
    operators: tuple[str, ...]
    """One between each two sides; `>` and `\\ge` are turned round."""
    is_calculation: bool
    """Whether its first side is worked out in the others (`2+3=5`, not `5=5`)."""

    @property
    def latex(self) -> str:
        """The statement for the symbolic comparer, "" where its grammar does not read it."""
        sides = [expression.latex_of(side) for side in self.sides]
        if not all(sides) or not _IN_GRAMMAR.issuperset(self.operators):
            return ""
        rest = (f"{op} {side}" for op, side in zip(self.operators, sides[1:], strict=True))
        return sides[0] + "".join(rest)


def read(text: str, read_part: ReadPart) -> Value | None:
    """Read a statement: a `Relation`, an `Assignment`, an interval, or a list of assignments."""
    found = split(text, _OPERATORS)
    if found is None or len(found[0]) < 2:
        return None
    sides, operators = found
    if not sides[0] and operators[0] in {"<", ">", r"\le", r"\ge"} and len(sides) == 2:
        return _half_line(operators[0], read_part(sides[1]))
    if not all(sides):
        return None
    if set(operators) <= {*_FLIPPED}:
        sides, operators = sides[::-1], [_FLIPPED[operator] for operator in operators[::-1]]
    if set(operators) <= _SAME:
        return _read_equation(sides, operators, read_part)
    if set(operators) <= _ORDER:
        return _read_inequality(sides, operators, read_part)
    if operators == [r"\ne"] and is_name(sides[0]):
        end = read_part(sides[1])
        if not expression.has_variables(end):
            return assign(sides[0], _all_but(end), r"\in")
    if operators == [r"\in"] and is_name(sides[0]):
        return assign(sides[0], read_part(sides[1]), r"\in")
    if operators == [r"\equiv"] and is_name(sides[0]):
        residue = read_part(sides[1])
        if isinstance(residue, Quantity):
            return assign(sides[0], residue)
    return _relation(sides, operators, read_part)


def read_builder(text: str, read_part: ReadPart) -> Value | None:
    r"""Read `\{x \mid x>1\}` as the set of values that the condition leaves."""
    match = _BUILDER.fullmatch(text)
    if match is None or not is_name(match[1]):
        return None
    condition = read_alternatives(match[2], read_part) or read(match[2], read_part)
    if isinstance(condition, Assignment) and condition.name == match[1].replace(" ", ""):
        return condition.value
    return None


def read_alternatives(text: str, read_part: ReadPart) -> Assignment | None:
    """Read inequalities in one name that are joined by "or" or by "and"."""
    for joiner, operator in ((_OR, r"\cup"), (_AND, r"\cap")):
        parts = [part.strip(" ,") for part in joiner.split(text)]
        if len(parts) < 2 or any(split_items(part) != [part] for part in parts):
            continue
        values = [read_part(part) for part in parts]
        regions = [value for value in values if isinstance(value, Assignment)]
        regions = [value for value in regions if isinstance(value.value, Interval | Combination)]
        names = {value.name for value in regions}
        if len(regions) == len(values) and len(names) == 1:
            joined = region.combination(operator, tuple(value.value for value in regions))
            return assign(names.pop(), joined, r"\in")
    return None


def _half_line(operator: str, end: Value) -> Value:
    if operator in _ORDER:
        return region.interval(region.MINUS_INFINITY, end, (False, operator == r"\le"))
    return region.interval(end, region.INFINITY, (operator == r"\ge", False))


def _all_but(end: Value) -> Combination:
    below = region.interval(region.MINUS_INFINITY, end, (False, False))
    above = region.interval(end, region.INFINITY, (False, False))
    return region.combination(r"\cup", (below, above))


def _relation(sides: list[str], operators: list[str], read_part: ReadPart) -> Relation:
    if not _CORRESPONDENCES.isdisjoint(operators):
        values: tuple[Value, ...] = tuple(words.words(side) for side in sides)  # corner to corner
    else:
        values = tuple(read_part(side) for side in sides)
    parts = [values[0].text]
    for operator, value in zip(operators, values[1:], strict=True):
        parts += [operator, value.text]
    is_calculation = set(operators) <= _SAME and not _LITERAL.fullmatch(sides[0])
    return Relation(" ".join(parts), values, tuple(operators), is_calculation)


def _read_equation(sides: list[str], operators: list[str], read_part: ReadPart) -> Value:
    if r"\approx" in operators and "=" in operators:
        # x=1/3\approx.33: what follows the exact value rounds it.
        num_exact = operators.index(r"\approx") + 1
        if num_exact > 1:
            sides, operators = sides[:num_exact], operators[: num_exact - 1]
    if not is_name(sides[0]):
        if len(sides) == 2 and is_name(sides[1]):
            value = read_part(sides[0])
            if not expression.has_variables(value):
                return assign(sides[1], value)
        return _relation(sides, operators, read_part)
    names = [side for side in sides if is_name(side)]
    value = read_part(sides[-1])
    if any(not _is_formula(read_part(side)) for side in sides[1:-1]):
        return _relation(sides, operators, read_part)  # x=1 when y=2
    if len(names) == len(sides) > 2:
        return _relation(sides, operators, read_part)
    if len(names) == len(sides) - 1 > 1:
        return listing(tuple(assign(name, value) for name in names))
    if _FUNCTION_OF.fullmatch(sides[0]) and (value.text == "0" or is_name(sides[-1])):
        return _relation(sides, operators, read_part)  # f(x)=0 asks for x
    return assign(sides[0], value)


def _is_formula(value: Value) -> bool:
    return isinstance(value, Number | Quantity) or bool(expression.latex_of(value))


def _read_inequality(sides: list[str], operators: list[str], read_part: ReadPart) -> Value:
    at = next((at for at, side in enumerate(sides) if is_name(side)), None)
    if at is None or len(sides) > 3 or (len(sides) == 3 and at != 1):
        return _relation(sides, operators, read_part)
    below = region.read_end(sides[at - 1], read_part) if at else region.MINUS_INFINITY
    above = region.INFINITY
    if at + 1 < len(sides):
        above = region.read_end(sides[at + 1], read_part)
    if any(expression.has_variables(end) for end in (below, above)):
        return _relation(sides, operators, read_part)
    closed = (at > 0 and operators[at - 1] == r"\le", operators[-1] == r"\le")
    return assign(sides[at], region.interval(below, above, closed), r"\in")


# --- comparison ------------------------------------------------------------------------------


def same_relation(first: Relation, second: Relation, equality: Equality) -> bool:
    """Compare side by side, then, with letters in both, by what they say about them."""
    if first.operators == second.operators:
        is_symmetric = _SYMMETRIC.issuperset(first.operators)
        same_sides = same_in_any_order if is_symmetric else same_in_order
        if same_sides(first.sides, second.sides, equality):
            return True
    if not all(any(map(expression.has_variables, r.sides)) for r in (first, second)):
        return False
    return _same_statement(first.latex, second.latex, equality)


def same_solution(first: Relation, second: Assignment, equality: Equality) -> bool:
    """Compare with a name and its value or values."""
    if isinstance(second.value, Interval | Combination):
        is_about_name = expression.variables(first.latex) == {second.name}
        right = region.latex(second.value) if is_about_name else ""
    else:
        right = second.latex
    has_letters = any(map(expression.has_variables, first.sides))
    return has_letters and _same_statement(first.latex, right, equality)


def same_set_of_solutions(first: Relation, second: Value, equality: Equality) -> bool:
    """Compare the solutions of an inequality with a set of numbers."""
    if "=" in first.operators or len(expression.variables(first.latex)) != 1:
        return False
    return _same_statement(first.latex, region.latex(second), equality)


def same_result(
    first: Relation, second: Number | Expression | Quantity, equality: Equality
) -> bool:
    """Compare a finished calculation with its result."""
    if not first.is_calculation or any(map(expression.has_variables, first.sides)):
        return False
    if first.operators == (r"\approx",):
        return equality.same(first.sides[0], second)
    result = first.sides[-1]
    return equality.same(result, second) and equality.same(first.sides[0], result)


def _same_statement(left: str, right: str, equality: Equality) -> bool:
    return bool(left and right) and equality.same_latex(left, right)
