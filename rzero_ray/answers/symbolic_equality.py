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

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
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

_SIZES = (Fraction(9, 5), Fraction(-13, 7), 28, -31, Fraction(3, 10), -640, 710, 3_300, -4)
"""About the value of a symbol at each point, in an order of its own from the second point on. Of
both signs and several sizes, so that |x| is not x, |ab| not ab and max(x, 100) not 100."""

_NUM_POINTS = len(_SIZES)
_SMOOTH_POINTS = 4
"""As many are enough where nothing has a corner."""

_WHOLE_SIZES = (12, 35, 30, 7, 64, 9, 18, 100, 25)
"""The same for expressions of whole numbers: multiples of common divisors, odd and even."""

_WHOLE_NAMES = frozenset("ijklmnN")
"""First letters of what is a whole number where rounding or a sign that alternates is about it."""

_CORNERS = (sympy.Abs, sympy.Max, sympy.Min, sympy.sign, sympy.Piecewise)

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
    parsed = parsed.replace(lambda p: isinstance(p, sympy.UnevaluatedExpr), lambda p: p.args[0])
    return parsed if parsed.has(sympy.I) else parsed.replace(_is_odd_root, _real_root)


def _is_odd_root(part: Any) -> bool:
    return part.is_Pow and part.exp.is_Rational and part.exp.q > 1 and part.exp.q % 2 == 1


def _real_root(power: Any) -> Any:
    """Return an odd root as people mean it: of a negative number the negative one."""
    if power.base.is_nonnegative:
        return power
    return sympy.sign(power.base) ** power.exp.p * sympy.Abs(power.base) ** power.exp


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
    for point in _points(symbols, first, second):
        left, right = (_value_at(side, point) for side in (first, second))
        if left is not None and right is not None:
            yield left, right


def _points(symbols: list[Formula], *sides: Formula) -> list[dict[Any, Any]]:
    """Return values for the symbols, each symbol's own, so that no relation between them holds at
    every point."""
    if not symbols:
        return [{}]
    has_corners = any(side.has(*_CORNERS) for side in sides)
    count_whole = any(_is_of_whole_numbers(side) for side in sides)
    # Roots and logarithms of letters on both sides are those of positive numbers.
    is_positive = not has_corners and all(_has_branches(side) for side in sides)
    values = [
        _whole_values_of(str(symbol))
        if count_whole and str(symbol)[0] in _WHOLE_NAMES
        else _values_of(str(symbol), is_positive, has_whole=count_whole)
        for symbol in symbols
    ]
    num_points = _NUM_POINTS if has_corners or count_whole else _SMOOTH_POINTS
    return [dict(zip(symbols, at_point, strict=True)) for at_point in zip(*values, strict=True)][
        :num_points
    ]


def _values_of(name: str, is_positive: bool, has_whole: bool) -> list[Formula]:
    """Return a symbol's values, which depend on its name alone. `has_whole`: one is a whole number,
    where what is rounded may jump."""
    rng = random.Random(name)
    first, *rest = _SIZES
    rng.shuffle(rest)
    exact = [size * (1 + Fraction(rng.randint(-400, 400), 1_009)) for size in (first, *rest)]
    signed = [abs(value) if is_positive else value for value in exact]
    if has_whole:
        signed[1] = Fraction(round(signed[1]))
    return [sympy.Rational(value.numerator, value.denominator) for value in signed]


def _whole_values_of(name: str) -> list[Formula]:
    rng = random.Random(name)
    return [sympy.Integer(size + rng.choice((0, 0, 1, 6))) for size in _WHOLE_SIZES]


def _is_of_whole_numbers(side: Formula) -> bool:
    return side.has(sympy.floor, sympy.ceiling, sympy.Mod) or any(
        power.base.is_negative and power.exp.free_symbols for power in side.atoms(sympy.Pow)
    )


def _has_branches(side: Formula) -> bool:
    """Say whether a side has a root or a logarithm of something with letters."""
    return any(log.free_symbols for log in side.atoms(sympy.log)) or any(
        power.base.free_symbols and power.exp.is_Rational and power.exp.q > 1
        for power in side.atoms(sympy.Pow)
    )


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
