r"""The value of a closed form, exactly where it is rational: the cheap half of a comparison.

Most answers of a vote that differ in text differ in value, and a number shows it in microseconds,
where parsing and comparing them in the symbolic comparer's child process costs milliseconds. A
rational value (`2^{-64}`, `1-\frac{1}{2^{100}}`, `\frac{1}{20!}`) is exact, whatever its size. Any
other value proves nothing about equality: answers with close values still go to the child.

Read are sums, products, quotients, powers, factorials, `\frac`, `\sqrt`, `\binom`, `\bmod`, the
functions of `_FUNCTIONS`, `\pi` and single letters, in normal notation (`notation`). What is
ambiguous (`1/2\pi`, `3\frac{1}{2}x`, `f(x)`) or means something else to somebody (`e`, `i`) has no
value here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 1 << 15
"""Largest numerator or denominator of an exact value, in bits: that of 3,000!."""

MAX_CHARS = 400
"""Longest closed form that is read."""

MAX_NUMBER_CHARS = 256
"""Longest numeral, so that `int()` and `Fraction()` stay in microseconds."""

MAX_DEPTH = 24
"""Deepest nesting that is read."""

_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_STARTS_OPERAND = re.compile(r"[a-zA-Z(.\d]|\\(?:pi|sqrt|frac|binom)$")
_NO_VARIABLE = frozenset("deifghD")
"""Letters that are constants, operators or functions at least as often as variables."""

_TOLERANCE = Fraction(1, 10**9)
"""Difference that settles a comparison, relative to the largest intermediate value: far above the
error of floating point, which grows with that value."""

_Number = Fraction | float


def exact_value(latex: str) -> Fraction | None:
    """Return the value of a closed form if it is rational by exact arithmetic, else None."""
    evaluated = _evaluate(latex)
    return evaluated[0] if evaluated and isinstance(evaluated[0], Fraction) else None


def value_of(latex: str) -> float | None:
    """Return the value of a closed form as a floating-point number, or None."""
    evaluated = _evaluate(latex)
    try:
        return None if evaluated is None else float(evaluated[0])
    except OverflowError:
        return None


def differ_clearly(a: str, b: str) -> bool:
    """Say whether two closed forms in normal notation have clearly different real values.

    Letters stand for fixed numbers between 1 and 2. False when either has no value here, or is a
    lone letter, which may be a name.
    """
    if (len(a) == 1 and a.isalpha()) or (len(b) == 1 and b.isalpha()):
        return False
    left, right = _evaluate(a), _evaluate(b)
    if left is None or right is None:
        return False
    if isinstance(left[0], Fraction) and isinstance(right[0], Fraction):
        return left[0] != right[0]
    try:
        return abs(float(left[0]) - float(right[0])) > _TOLERANCE * max(left[1], right[1])
    except OverflowError:
        return False


@lru_cache(maxsize=16_384)
def _evaluate(latex: str) -> tuple[_Number, float] | None:
    """Return (value, largest intermediate magnitude), or None."""
    if len(latex) > MAX_CHARS or not nests_within(latex, MAX_DEPTH):
        return None
    reader = _Reader(_TOKEN.findall(latex))
    try:
        value = reader.sum()
    except (ValueError, ArithmeticError):
        return None
    if reader.token or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value, reader.scale


def nests_within(text: str, limit: int) -> bool:
    """Say whether no bracket of a text lies within more than `limit` brackets, itself included."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth > limit:
            return False
    return True


class _Reader:
    """Recursive descent over the tokens; ValueError for anything that is not of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [token for token in tokens if not token.isspace()]
        self._at = 0
        self.scale = 1.0

    @property
    def token(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.token
        if not token or (expected and token != expected):
            raise ValueError(token)
        self._at += 1
        return token

    def _noted(self, value: _Number) -> _Number:
        """Return a result after its size has been looked at."""
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
                raise ValueError("too large")
            if value.numerator.bit_length() < 1_000 and value.denominator.bit_length() < 1_000:
                self.scale = max(self.scale, abs(float(value)))
        elif isinstance(value, float):
            self.scale = max(self.scale, abs(value))
        else:
            raise ValueError("not a real number")
        return value

    def sum(self) -> _Number:
        value = self.product()
        if self.token == r"\bmod":
            self.take()
            value = self._modulo(value, self.product())
            if self.token in ("+", "-"):
                raise ValueError("ambiguous")
        while self.token in ("+", "-"):
            if self.take() == "+":
                value = self._noted(value + self.product())
            else:
                value = self._noted(value - self.product())
        return value

    def product(self) -> _Number:
        if self.token in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value, divided = self.power(), False
        while self.token:
            if self.token in ("*", r"\cdot", r"\times"):
                self.take()
                value = self._noted(value * self.power())
            elif self.token == "/":
                self.take()
                value, divided = self._noted(value / self.power()), True
            elif _STARTS_OPERAND.match(self.token):
                before = self._tokens[self._at - 1]
                mixed_number = self.token == r"\frac" or self.token[0].isdigit()
                if (
                    divided
                    or (mixed_number and before != ")")
                    or (before.isalpha() and self.token == "(")
                ):
                    raise ValueError("ambiguous")
                value = self._noted(value * self.power())
            else:
                break
        return value

    @staticmethod
    def _modulo(value: _Number, modulus: _Number) -> _Number:
        if isinstance(value, Fraction) and isinstance(modulus, Fraction):
            return value % modulus
        raise ValueError("a remainder of what is not rational")

    def power(self) -> _Number:
        base = self.operand()
        if self.token == "!":
            self.take()
            base = self._noted(_factorial(base))
            if self.token == "!":
                raise ValueError("a double factorial")
        if self.token != "^":
            return base
        self.take()
        if self.token == "-" or (len(self.token) > 1 and self.token[0].isdigit()):
            raise ValueError("ambiguous without braces")
        value = self._noted(_power(base, self.operand()))
        if self.token in ("^", "!"):
            raise ValueError("ambiguous without braces")
        return value

    def operand(self) -> _Number:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            if len(token) > MAX_NUMBER_CHARS:
                raise ValueError("too long")
            return self._noted(Fraction(token))
        if token == "(":
            return self._group(")")
        if token == "{":
            return self._group("}")
        if token == "|":
            return abs(self._group("|"))
        if token == r"\pi":
            return math.pi
        if token == r"\frac":
            return self._noted(self._braced() / self._braced())
        if token == r"\binom":
            return self._noted(_binomial(self._braced(), self._braced()))
        if token == r"\sqrt":
            return self._noted(self._root())
        if token in _CLOSERS:
            closing, rounded = _CLOSERS[token]
            value = self._group(closing)
            if not isinstance(value, Fraction):
                raise ValueError("rounding needs an exact value")
            return Fraction(rounded(value))
        if token in _FUNCTIONS:
            return self._noted(_FUNCTIONS[token](self._arguments()))
        if len(token) == 1 and token.isascii() and token.isalpha() and token not in _NO_VARIABLE:
            return 1 + (ord(token) ** 3 % 997) / 997  # no letter is the mean of its neighbours
        raise ValueError(token)

    def _root(self) -> _Number:
        degree: _Number = Fraction(2)
        if self.token == "[":
            self.take()
            degree = self._group("]")
        radicand = self._braced()
        if degree == 2 and isinstance(radicand, Fraction) and radicand >= 0:
            above, below = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
            if Fraction(above, below) ** 2 == radicand:
                return Fraction(above, below)
        if isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2 and radicand < 0:
            return -math.pow(-radicand, 1 / degree)
        return math.pow(radicand, 1 / degree)

    def _arguments(self) -> list[Fraction]:
        self.take("(")
        values = [self.sum()]
        while self.token == ",":
            self.take()
            values.append(self.sum())
        self.take(")")
        exact = [value for value in values if isinstance(value, Fraction)]
        if len(exact) < len(values):
            raise ValueError("not rational")
        return exact

    def _braced(self) -> _Number:
        self.take("{")
        return self._group("}")

    def _group(self, closing: str) -> _Number:
        value = self.sum()
        self.take(closing)
        return value


def _integers(values: list[Fraction]) -> list[int]:
    if any(value.denominator != 1 for value in values):
        raise ValueError("not whole numbers")
    return [value.numerator for value in values]


def _gcd(values: list[Fraction]) -> Fraction:
    return Fraction(math.gcd(*_integers(values)))


def _lcm(values: list[Fraction]) -> Fraction:
    return Fraction(math.lcm(*_integers(values)))


_FUNCTIONS: dict[str, Callable[[list[Fraction]], Fraction]] = {
    r"\gcd": _gcd,
    r"\lcm": _lcm,
    r"\max": max,
    r"\min": min,
}
_CLOSERS = {r"\lfloor": (r"\rfloor", math.floor), r"\lceil": (r"\rceil", math.ceil)}


def _factorial(value: _Number) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= MAX_BITS:
        raise ValueError("the factorial of no small whole number")
    if value.numerator * max(value.numerator.bit_length() - 2, 1) > MAX_BITS:
        raise ValueError("too large")
    return Fraction(math.factorial(value.numerator))


def _binomial(above: _Number, below: _Number) -> Fraction:
    if not (isinstance(above, Fraction) and isinstance(below, Fraction)):
        raise ValueError("a binomial coefficient of what is not rational")
    n, k = _integers([above, below])
    if n < 0 or k < 0 or min(k, abs(n - k)) * n.bit_length() > MAX_BITS:
        raise ValueError("too large")
    return Fraction(math.comb(n, k))


def _power(base: _Number, exponent: _Number) -> _Number:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if (bits - 1) * abs(exponent) > MAX_BITS:
                raise ValueError("too large")
            return base ** int(exponent)
        if abs(exponent) > 1_000:
            raise ValueError("the error of the base grows with the exponent")
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ValueError("not a real number")
    return value
