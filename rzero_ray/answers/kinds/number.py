r"""Exact numbers: integers, decimals, fractions, mixed and repeating ones, scientific notation,
digits in another base, and every closed form whose value is rational (`2^{-64}`, `\binom{5}{2}`).

Decimals are exact, so 0.333 is not 1/3; an integer before a proper fraction is a mixed number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rzero_ray.answers.closed_form import MAX_NUMBER_CHARS, exact_value
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value

MAX_EXPONENT = 400
"""Largest decimal exponent of scientific notation read exactly: beyond floating point's, and still
a small integer."""

MAX_DECIMAL_BITS = 1_024
"""Larger numbers have hexadecimal digits in their canonical text: decimal ones take quadratic time,
and Python refuses them from 4,300 digits."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_FRACTION = r"\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\}"
_NUMBER_FORMS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("decimal", rf"({_DECIMAL})"),
        ("fraction", rf"({_DECIMAL}) ?/ ?([-+]?{_DECIMAL})"),
        ("fraction", rf"\\frac ?\{{ ?([-+]?{_DECIMAL}) ?\}} ?\{{ ?([-+]?{_DECIMAL}) ?\}}"),
        ("mixed", rf"([0-9]+|[0-9]{{1,3}}(?: [0-9]{{3}})+) ?{_FRACTION}"),
        ("mixed", r"([0-9]+|[0-9]{1,3}(?: [0-9]{3})+) ([0-9]+) ?/ ?([0-9]+)"),
        (
            "scientific",
            rf"({_DECIMAL}) ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{{ ?([-+]?[0-9]{{1,3}}) ?\}}",
        ),
        ("scientific", rf"({_DECIMAL})[eE]([-+]?[0-9]{{1,3}})"),
        ("repeating", r"([0-9]*\.[0-9]*) ?\\overline ?\{ ?([0-9]{1,40}) ?\}"),
        ("repeating", r"([0-9]*\.[0-9]*)\(([0-9]{1,40})\)"),
        ("repeating", r"([0-9]*\.[0-9]*?)(?:([0-9])\2{2,})(?:\.\.\.| ?\\ldots)"),
        ("dotted", r"([0-9]*\.[0-9]*) ?((?:\\dot ?\{ ?[0-9] ?\} ?[0-9]*){1,2})"),
        ("based", r"([0-9A-Z]{1,64}) ?\\text\{ ?\(?(?:in )?(?:base )?(\w{1,12})\)? ?\}"),
        ("based", r"\(?([0-9A-Z]{1,64}(?:\.[0-9A-Z]{1,64})?)\)?_\{(?:\\text\{)?(\w{1,5})\}?\}"),
    )
)
_SIGNS = re.compile(r"((?:[-+] ?)*)(.*)", re.DOTALL)
_BASE_NAMES = {"two": 2, "three": 3, "five": 5, "eight": 8, "ten": 10, "hex": 16}
_BASE_NAMES |= {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16}


@dataclass(frozen=True, slots=True)
class Number(Value):
    """A rational number."""

    value: Fraction
    """Its exact value, of any size."""

    @classmethod
    def of(cls, value: Fraction) -> Number:
        """Return the number with its canonical text: the fraction in lowest terms."""
        return cls(_text_of(value), value)


def read(text: str, read_part: ReadPart) -> Number | None:
    """Read a rational number in any of its notations."""
    is_bracketed = text[:1] == "[" and text[-1:] == "]"
    value = exact(text[1:-1] if is_bracketed else text)
    return None if value is None else Number.of(value)


@lru_cache(maxsize=16_384)
def exact(text: str) -> Fraction | None:
    """Return the exact value of a number in normal notation, or None for anything else. Digits,
    exponents and results are bounded, so this takes microseconds."""
    if len(text) <= MAX_NUMBER_CHARS:
        signs, digits = _SIGNS.fullmatch(text).groups()  # type: ignore[union-attr]
        sign = -1 if signs.count("-") % 2 else 1
        for name, pattern in _NUMBER_FORMS:
            if match := pattern.fullmatch(digits):
                magnitude = _READERS[name](*match.groups())
                return None if magnitude is None else sign * magnitude
    return exact_value(text)


def same_number(first: Number, second: Number, equality: Equality) -> bool:
    """Compare exactly."""
    return first.value == second.value


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def _fraction(above: str, below: str) -> Fraction | None:
    return _decimal(above) / _decimal(below) if _decimal(below) else None


def _mixed(whole: str, above: str, below: str) -> Fraction | None:
    fraction = _fraction(above, below)
    return None if fraction is None or fraction >= 1 else _decimal(whole) + fraction


def _scientific(base: str, exponent: str) -> Fraction | None:
    return (
        _decimal(base) * Fraction(10) ** int(exponent)
        if abs(int(exponent)) <= MAX_EXPONENT
        else None
    )


def _repeating(start: str, period: str) -> Fraction:
    num_decimals = len(start) - start.index(".") - 1
    tail = Fraction(int(period), 10 ** len(period) - 1) / 10**num_decimals
    return (_decimal(start) if start != "." else Fraction(0)) + tail


def _dotted(start: str, period: str) -> Fraction:
    return _repeating(start, re.sub(r"[^0-9]", "", period))


def based(digits: str, base: str) -> Fraction | None:
    """Return the value of digits in a base from 2 to 36, given in digits or as a word."""
    number = int(base) if base.isdecimal() else _BASE_NAMES.get(base, 0)
    if not 2 <= number <= 36:
        return None
    whole, _, decimals = digits.partition(".")
    try:
        return Fraction(int(whole + decimals, number), number ** len(decimals))
    except ValueError:
        return None


_READERS = {
    "decimal": _decimal,
    "fraction": _fraction,
    "mixed": _mixed,
    "scientific": _scientific,
    "repeating": _repeating,
    "dotted": _dotted,
    "based": based,
}


def _text_of(value: Fraction) -> str:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_DECIMAL_BITS:
        return str(value)
    return f"{hex(value.numerator)}/{hex(value.denominator)}"
