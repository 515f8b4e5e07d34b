r"""The numeric value of a closed-form answer: the cheap half of a symbolic comparison.

Most answers of a vote that differ in text differ in value, and a number shows it in microseconds,
where parsing and comparing them in math-verify's child process costs 10 ms. The value proves
nothing about equality: answers with close values still go to the child.

Read are sums, products, quotients, powers, `\frac`, `\sqrt`, `\pi` and single letters, in the
canonical text of `forms`. What is ambiguous (`1/2\pi`, `3\frac{1}{2}x`, `f(x)`) or means
something else to somebody (`e`, `i`) has no value here.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_STARTS_OPERAND = re.compile(r"[a-zA-Z(.\d]|\\(?:pi|sqrt|frac)$")
_NO_VARIABLE = frozenset("deifghD")
"""Letters that are constants, operators or functions at least as often as variables."""
_TOLERANCE = 1e-3
"""Relative; as `symbolic_child.PROBE_TOLERANCE`."""


def differ_clearly(a: str, b: str) -> bool:
    """Say whether two canonical LaTeX answers have clearly different real values.

    Letters stand for fixed numbers between 1 and 2. False when either has no value here, or is a
    lone letter, which may be a name.
    """
    if (len(a) == 1 and a.isalpha()) or (len(b) == 1 and b.isalpha()):
        return False
    left, right = value_of(a), value_of(b)
    if left is None or right is None:
        return False
    return abs(left - right) > _TOLERANCE * (1 + abs(left))


@lru_cache(maxsize=16_384)
def value_of(latex: str) -> float | None:
    """Return the value of a closed form, or None. The caller bounds length and nesting."""
    reader = _Reader(_TOKEN.findall(latex))
    try:
        value = reader.sum()
    except (ValueError, ArithmeticError):
        return None
    if reader.token or isinstance(value, complex) or not math.isfinite(value):
        return None
    return value


class _Reader:
    """Recursive descent over the tokens; ValueError for anything that is not of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [token for token in tokens if not token.isspace()]
        self._at = 0

    @property
    def token(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.token
        if not token or (expected and token != expected):
            raise ValueError(token)
        self._at += 1
        return token

    def sum(self) -> float:
        value = self.product()
        while self.token in ("+", "-"):
            value += self.product() if self.take() == "+" else -self.product()
        return value

    def product(self) -> float:
        if self.token in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value, divided = self.power(), False
        while self.token:
            if self.token in ("*", r"\cdot", r"\times"):
                self.take()
                value *= self.power()
            elif self.token == "/":
                self.take()
                value, divided = value / self.power(), True
            elif _STARTS_OPERAND.match(self.token):
                before = self._tokens[self._at - 1]
                mixed_number = self.token == r"\frac" or self.token[0].isdigit()
                if (
                    divided
                    or (mixed_number and before != ")")
                    or (before.isalpha() and self.token == "(")
                ):
                    raise ValueError("ambiguous")
                value *= self.power()
            else:
                break
        return value

    def power(self) -> float:
        base = self.operand()
        if self.token != "^":
            return base
        self.take()
        if self.token == "-" or (len(self.token) > 1 and self.token[0].isdigit()):
            raise ValueError("ambiguous without braces")
        return base ** self.operand()

    def operand(self) -> float:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return float(token)
        if token == "(":
            return self._group(")")
        if token == "{":
            return self._group("}")
        if token == r"\pi":
            return math.pi
        if token == r"\frac":
            return self._braced() / self._braced()
        if token == r"\sqrt":
            degree = 2.0
            if self.token == "[":
                self.take()
                degree = self._group("]")
            return math.pow(self._braced(), 1 / degree)
        if len(token) == 1 and token.isascii() and token.isalpha() and token not in _NO_VARIABLE:
            return 1 + (37 + 11 * ord(token)) % 997 / 997
        raise ValueError(token)

    def _braced(self) -> float:
        self.take("{")
        return self._group("}")

    def _group(self, closing: str) -> float:
        value = self.sum()
        self.take(closing)
        return value
