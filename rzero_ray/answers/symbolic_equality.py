r"""Compare two LaTeX formulas by what they mean: sympy's part of a comparison.

Runs in the killable child (`symbolic_child`), which bounds its time and memory; nothing here trusts
the text. The grammar is latex2sympy's, which math-verify uses too. Equality is our own, because
math-verify's rounds to 15 decimals, calls any two true statements equal, and reads an open interval
as a pair.

Two expressions are equal when their values agree at a few points: every difference that shows at 30
digits settles it, and where none shows the precision grows to `MAX_DIGITS` before they count as
equal. No `simplify` is needed, which is 100 times slower and is what adversarial answers make hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

PARSE_CACHE_SIZE = 256
"""Parsed answers kept: one vote compares each answer with several others, and parsing is most of
the cost."""

DIGITS = 30
"""Significant digits of the first look at a difference."""

MAX_DIGITS = 1_000
"""Closed forms whose values agree to so many digits, relative to the larger, are equal."""

MAX_DIGITS_AT_POINT = 180
"""The same for expressions, at the first of several points."""

GUARD_DIGITS = 12
"""Last digits of an evaluation that are not relied upon."""

_POINTS = (
    (sympy.Rational(37, 29), sympy.Rational(11, 23)),
    (sympy.Rational(-53, 19), sympy.Rational(17, 31)),
    (sympy.Rational(211, 13), sympy.Rational(29, 7)),
    (sympy.Rational(-7, 17), sympy.Rational(-5, 41)),
    (sympy.Rational(-1613, 11), sympy.Rational(-71, 3)),
    (sympy.Rational(2, 37), sympy.Rational(3, 101)),
)
"""Points (start, step): the k-th symbol is start + k * step. Of both signs and several sizes, so
that |x| is not x and max(x, 9) is not 9."""

_MIN_POINTS = 2
"""Points at which both sides have to have a value before they can count as equal."""

Formula = Any
"""A sympy object. sympy's own types are too narrow for what it returns."""

_CONVERSION = ConversionConfig(lowercase_symbols=False)
_UNFINISHED = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)


def compare(first: str, second: str, report: Callable[[int], None]) -> bool:
    """Say whether two LaTeX formulas are equal. `report` hears how many have been read.

    Whatever the text provokes (RecursionError, MemoryError, errors of sympy's own), the formulas
    are not shown equal.
    """
    try:
        left = parse(first)
        report(1)
        right = parse(second)
        report(2)
        return bool(same(left, right))
    except Exception:
        return False


@lru_cache(maxsize=PARSE_CACHE_SIZE)
def parse(latex: str) -> Any:
    """Return the sympy object of a formula. Any exception means that there is none."""
    parsed = latex2sympy(
        latex, normalization_config=None, conversion_config=_CONVERSION, is_real=None
    )
    return _exact(parsed)


def same(first: Formula, second: Formula) -> bool:
    """Say whether two parsed formulas are equal. Symmetric. Any exception means no."""
    if first == second:
        return True
    if isinstance(first, sympy.Eq) and isinstance(second, sympy.Eq):
        return _is_proportional(_difference(first), _difference(second), _is_nonzero)
    regions = (Relational, sympy.Set, And)
    if isinstance(first, regions) and isinstance(second, regions):
        return _same_region(first, second)
    if any(isinstance(side, sympy.MatrixBase | sympy.MatrixExpr) for side in (first, second)):
        return _same_matrix(first, second)
    if isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr):
        return _same_expression(first, second)
    return False


def _exact(parsed: Any) -> Any:
    """Return decimals as fractions and `i` as the imaginary unit, unless it counts something."""
    if not isinstance(parsed, sympy.Basic):
        return sympy.ImmutableMatrix(parsed) if isinstance(parsed, sympy.MatrixBase) else parsed
    exact = {decimal: sympy.Rational(str(decimal)) for decimal in parsed.atoms(sympy.Float)}
    exact |= {
        symbol: sympy.I
        for symbol in parsed.free_symbols
        if isinstance(symbol, sympy.Symbol) and symbol.name == "i"
    }
    parsed = parsed.xreplace(exact) if exact else parsed
    return parsed.replace(lambda part: isinstance(part, sympy.UnevaluatedExpr), lambda p: p.args[0])


# --- expressions -----------------------------------------------------------------------------


def _same_expression(first: Formula, second: Formula) -> bool:
    if any(_is_indefinite(side) for side in (first, second)):
        return False  # an antiderivative is one of many
    first, second = _named(_finished(first), _finished(second))
    if first == second:
        return True
    if not first.free_symbols | second.free_symbols:
        values = next(_values(first, second), None)
        return values is not None and _is_equal(*values, MAX_DIGITS)
    num_equal = 0
    for left, right in _values(first, second):
        if not _is_equal(left, right, DIGITS if num_equal else MAX_DIGITS_AT_POINT):
            return False
        num_equal += 1
    return num_equal >= _MIN_POINTS


def _is_indefinite(expression: Formula) -> bool:
    return any(
        len(limits) == 1
        for integral in expression.atoms(sympy.Integral)
        for limits in integral.limits
    )


def _finished(expression: Formula) -> Formula:
    """Return sums, limits, integrals and derivatives carried out."""
    return expression.doit() if expression.has(*_UNFINISHED) else expression


def _named(first: Formula, second: Formula) -> tuple[Formula, Formula]:
    """Return both sides with one symbol for each value f(x) of an unknown function."""
    applied = first.atoms(AppliedUndef) | second.atoms(AppliedUndef)
    names = {part: sympy.Symbol(f"_{part}") for part in applied}
    return first.xreplace(names), second.xreplace(names)


_Value = Callable[[int], tuple[Formula, Formula]]
"""Returns (real, imaginary) part to a number of digits."""


def _values(first: Formula, second: Formula) -> Iterator[tuple[_Value, _Value]]:
    """Yield both sides' values at each point at which both have one."""
    symbols: list[Formula] = sorted({*first.free_symbols, *second.free_symbols}, key=str)
    for start, step in _POINTS:
        point = {symbol: start + k * step for k, symbol in zip(count(), symbols)}
        left, right = (_value_at(side, point) for side in (first, second))
        if left is not None and right is not None:
            yield left, right


def _value_at(expression: Formula, point: dict[Any, Any]) -> _Value | None:
    """Return the value at a point, or None where there is none (a pole, a gap of sympy's)."""

    def value(digits: int) -> tuple[Formula, Formula]:
        number = expression.evalf(digits, subs=point, maxn=3 * digits + 100)
        parts = number.as_real_imag()
        if not all(part.is_Float or part.is_Rational for part in parts):
            raise ArithmeticError("no number")
        real, imaginary = (_significant(part) for part in parts)
        return real, imaginary

    try:
        value(DIGITS)
    except (ArithmeticError, TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    return value


def _significant(part: Formula) -> Formula:
    """Return a number, 0 where the evaluation says that it has no digit of it."""
    return sympy.Integer(0) if part.is_Float and part._prec <= 4 else part


def _is_equal(left: _Value, right: _Value, max_digits: int) -> bool:
    """Compare two values by their relative difference, at a precision that grows."""
    digits = DIGITS
    while True:
        (a, b), (c, d) = left(digits), right(digits)
        difference = max(abs(a - c), abs(b - d))
        size = max(abs(a), abs(b), abs(c), abs(d))
        if difference > size * sympy.Float(10) ** (GUARD_DIGITS - digits):
            return False
        if digits >= max_digits:
            return True
        digits = min(digits * 6, max_digits)


# --- equations, inequalities, regions --------------------------------------------------------


def _is_nonzero(ratio: Formula) -> bool:
    return ratio != 0


def _is_positive(ratio: Formula) -> bool:
    return bool(ratio > 0)


def _is_proportional(first: Formula, second: Formula, allowed: Callable[[Formula], bool]) -> bool:
    """Say whether one side is an allowed constant times the other."""
    if first.free_symbols != second.free_symbols or not first.free_symbols:
        return False
    first, second = _named(_finished(first), _finished(second))
    ratio: Formula = None
    num_equal = 0
    for left, right in _values(first, second):
        (a, b), (c, d) = left(DIGITS), right(DIGITS)
        above, below = a + sympy.I * b, c + sympy.I * d
        if above == 0 or below == 0:
            if above != below:
                return False
            continue
        at_point = sympy.expand(above / below, complex=True)
        if ratio is None:
            ratio = at_point
        if abs(at_point - ratio) > abs(ratio) * sympy.Float(10) ** (GUARD_DIGITS - DIGITS):
            return False
        num_equal += 1
    return ratio is not None and num_equal >= _MIN_POINTS and allowed(sympy.re(ratio))


def _difference(relation: Formula) -> Formula:
    return relation.lhs - relation.rhs


def _excess(inequality: Formula) -> Formula:
    """Return what has to be positive, or not negative."""
    return inequality.gts - inequality.lts


def _same_region(first: Formula, second: Formula) -> bool:
    if isinstance(first, sympy.Set):
        first, second = second, first
    if all(isinstance(side, Relational) for side in (first, second)):
        if first.free_symbols != second.free_symbols:
            return False
        if isinstance(first, sympy.Ne) and isinstance(second, sympy.Ne):
            return _is_proportional(_difference(first), _difference(second), _is_nonzero)
        if _is_same_inequality(first, second):
            return True
    left, right = _region(first), _region(second)
    if left in (sympy.S.EmptySet, sympy.S.Reals) and not isinstance(second, sympy.Set):
        return False  # two statements that never hold, or always, need not say the same
    return left == right or bool(left.is_subset(right) and right.is_subset(left))


def _is_same_inequality(first: Formula, second: Formula) -> bool:
    if any(isinstance(side, sympy.Eq | sympy.Ne) for side in (first, second)):
        return False
    first_strict, second_strict = (
        isinstance(side, sympy.Lt | sympy.Gt) for side in (first, second)
    )
    return first_strict == second_strict and _is_proportional(
        _excess(first), _excess(second), _is_positive
    )


def _region(side: Any) -> sympy.Set:
    """Return the set of reals that a relation in one symbol, or a set, describes."""
    if isinstance(side, sympy.Set):
        return side.doit()
    if isinstance(side, And):
        return sympy.Intersection(*map(_region, side.args)).doit()
    (symbol,) = side.free_symbols
    real = sympy.Dummy(real=True)
    return side.xreplace({symbol: real}).as_set()


# --- matrices --------------------------------------------------------------------------------


def _same_matrix(first: Any, second: Any) -> bool:
    left, right = (_explicit(side) for side in (first, second))
    return left.shape == right.shape and all(
        a == b or _same_expression(a, b) for a, b in zip(_flat(left), _flat(right), strict=True)
    )


def _explicit(side: Any) -> Any:
    return side.doit().as_explicit() if isinstance(side, sympy.MatrixExpr) else side


def _flat(matrix: Any) -> Sequence[Formula]:
    return list(matrix)
