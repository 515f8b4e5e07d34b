r"""A number or closed form with a unit: `5\text{ cm}`, `50\%`, `\$5`, `12\text{ apples}`.

Stated choices: a missing unit equals any unit, two different units do not (5 cm = 5, 5 cm != 5 m);
units are not converted (1 km != 1000 m); any word in `\text{}` after a number is a unit; percent is
a unit, and 50% equals both 50 and 0.5. Several units in a row are one (`20\%\text{ loss}`), of
which the later ones may be missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rzero_ray.answers.commands import names
from rzero_ray.answers.kinds import expression, number
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value

PERCENT = "%"
DEGREE = "degree"
COUNT = "times"
MAX_UNITS = 3
"""Units in a row that are read."""
RESIDUE = "mod "
"""First letters of the unit of a residue class (`3\\pmod{7}`)."""

_UNITS = {
    alias: aliases.split("|")[0]
    for aliases in (
        "%|percent|percentage|pct",
        "degree|degrees|deg|^\\circ",
        "radian|radians|rad",
        "mm|millimeter|millimeters|millimetre|millimetres",
        "cm|centimeter|centimeters|centimetre|centimetres",
        "m|meter|meters|metre|metres",
        "km|kilometer|kilometers|kilometre|kilometres",
        "inch|inches|in",
        "foot|feet|ft",
        "yard|yards|yd",
        "mile|miles|mi",
        "mg|milligram|milligrams",
        "g|gram|grams",
        "kg|kilogram|kilograms",
        "pound|pounds|lb|lbs",
        "ounce|ounces|oz",
        "s|second|seconds|sec|secs",
        "minute|minutes|min|mins",
        "h|hour|hours|hr|hrs",
        "day|days",
        "week|weeks",
        "month|months",
        "year|years",
        "liter|liters|litre|litres|L",
        "ml|mL|milliliter|milliliters",
        "unit|units",
        "dollar|dollars|\\$|USD|usd",
        "cent|cents",
        "euro|euros|\u20ac|EUR",
        "\u00a3|GBP",
        "yuan|\u00a5|RMB|CNY",
        "rupee|rupees|\u20b9|Rs.|Rs|INR",
        "mph|miles per hour",
        "km/h|kmh|kph|kilometers per hour",
        "m/s|meters per second",
        "N|newton|newtons",
        "J|joule|joules",
        "W|watt|watts",
        "V|volt|volts",
        "\\Omega|ohm|ohms",
        "C|celsius|^\\circC|^\\circ C",
        "F|fahrenheit|^\\circF|^\\circ F",
        "K|kelvin",
        "Hz|hertz",
        "Pa|pascal|pascals",
        "mol|moles",
        "am|a.m.|AM",
        "pm|p.m.|PM",
    )
    for alias in aliases.split("|")
}
_WORD_UNITS = sorted((name for name in _UNITS if name.isalpha() and len(name) > 1), key=len)
_POWER = r"(?: ?\^ ?\{?([23])\}?)?"
_QUOTED = re.compile(rf"(.*\S) ?\\text\{{([^{{}}]*)\}}{_POWER}", re.DOTALL)
_SYMBOL = re.compile(
    r"(.*[^\s\\]) ?(\\?%|\^\\circ(?: ?[CF])?|\\Omega|\\\$|[\u20ac\u00a3\u00a5\u20b9])", re.DOTALL
)
_BARE_AFTER_DIGITS = re.compile(
    rf"(.*[0-9)}}%]) ?([a-zA-Z]{{2,}}(?:[/ ][a-zA-Z]+)*|(?<= )[a-zA-Z](?:/[a-zA-Z])?){_POWER}"
)
_BARE_AFTER_LATEX = re.compile(rf"(.*[0-9}}i]) ({'|'.join(reversed(_WORD_UNITS))}){_POWER}")
_PREFIX = re.compile(
    r"(?P<sign>-?) ?(?:\\text\{(?P<word>Rs\.?|USD|EUR|GBP)\}"
    r"|(?P<mark>\\\$|[\u20ac\u00a3\u00a5\u20b9]|USD|EUR|Rs\.?)) ?(?P<amount>.+)",
    re.DOTALL,
)
_RESIDUE = re.compile(
    r"(.+?) ?(?:\\pmod ?\{([0-9]{1,9})\}|\\pmod ([0-9]{1,9})"
    r"|\( ?(?:\\text\{mod\}|\\bmod|mod) ?([0-9]{1,9}) ?\))"
)
_HAS_UNIT = re.compile(r"[a-zA-Z%\\]")
_SEPARATED = re.compile(r"[=<>,;]|\\(?:ne|le|ge|in|pm|mp|cup|cap)(?![a-zA-Z])")
_BARE_WORD = re.compile(r"(?<![\\a-zA-Z])[a-z]{2,}")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12}
_NO_UNITS = names(
    "or and is are not no if when where for to than as at most least more less fewer above below"
    " over under factorial squared cubed out of by in with from plus minus times divided modulo mod"
)
"""First words of what follows a number and changes what it says."""
_MEASURES = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_PRODUCT = re.compile(r"\\times|\\cdot|\*|[+]|(?<=.)-")


@dataclass(frozen=True, slots=True)
class Quantity(Value):
    """An amount with its units."""

    amount: Value
    """A `Number` or an `Expression`."""

    units: tuple[str, ...]
    """At least one unit, each by its first name in `_UNITS` where it is known."""


def read(text: str, read_part: ReadPart) -> Quantity | None:
    """Read an amount before or after its unit."""
    if text.isascii() and not _HAS_UNIT.search(text):
        return None
    if text[:1] == "(" and text[-1:] == ")":
        text = text[1:-1].strip()
    return _read_residue(text) or _read_prefixed(text) or _read_suffixed(text, MAX_UNITS)


def _read_residue(text: str) -> Quantity | None:
    match = _RESIDUE.fullmatch(text)
    if match is None:
        return None
    value, modulus = number.exact(match[1]), int(match[2] or match[3] or match[4])
    if value is None or not modulus:
        return None
    return _quantity(Number.of(value % modulus), f"{RESIDUE}{modulus}")


def _read_prefixed(text: str) -> Quantity | None:
    match = _PREFIX.fullmatch(text)
    if match is None:
        return None
    amount = _read_amount(match["sign"] + match["amount"])
    return None if amount is None else _quantity(amount, _UNITS[match["word"] or match["mark"]])


def _read_suffixed(text: str, max_units: int) -> Quantity | None:
    for pattern in (_SYMBOL, _QUOTED, _BARE_AFTER_LATEX, _BARE_AFTER_DIGITS):
        match = pattern.fullmatch(text)
        if match is None:
            continue
        unit = _unit(match[2].removeprefix("\\") if "%" in match[2] else match[2])
        if unit.split(" ")[0] in _NO_UNITS:
            continue
        power = match[3] if pattern is not _SYMBOL else None
        if pattern is _BARE_AFTER_DIGITS and not _may_be_bare(match[2], unit):
            continue
        if unit == DEGREE and expression.is_angle_of_function(match[1]):
            continue  # \cos 60^\circ is no 60 degrees
        is_known = unit in _UNITS.values() or unit in _SCALES
        amount = _read_prefixed(match[1]) or _read_amount(match[1])
        if amount is None and max_units > 1:
            amount = _read_suffixed(match[1], max_units - 1)
        if amount is None or (_PRODUCT.search(match[1]) and not is_known):
            continue  # 2\times3\text{ matrix} is no six matrices
        return _quantity(amount, unit + (f"^{power}" if power else ""))
    return None


def _may_be_bare(name: str, unit: str) -> bool:
    """Say whether letters without `\\text` after a number are a unit, and no variables."""
    if len(name) == 1 or unit in _UNITS.values():
        return unit in _UNITS.values()
    return name in _ORDINALS or max(map(len, re.split("[ /]", name))) > 3


def _unit(text: str) -> str:
    """Return the one name of a unit, with its power: "square cm" is "cm^2"."""
    name = " ".join(text.split()).rstrip(",;")
    if name in _ORDINALS:
        return "ordinal"
    first, _, rest = name.partition(" ")
    if first in _MEASURES and rest:
        return f"{_unit(rest)}^{_MEASURES[first]}"
    return _UNITS.get(name) or _UNITS.get(name.lower()) or name.casefold().rstrip(".")


def _read_amount(text: str) -> Value | None:
    text = text.strip()
    if (_SEPARATED.search(text) and number.exact(text) is None) or _BARE_WORD.search(text):
        return None
    if text[:1] == "(" and text[-1:] == ")":
        text = text[1:-1]
    value = number.exact(text)
    if value is not None:
        return Number.of(value)
    read_as = expression.read_formula(text)
    return read_as if read_as.is_formula else None


def _scaled(amount: Value, scale: int) -> tuple[Value, tuple[str, ...]]:
    """Return an amount times its scale ("5 million"), with a unit that anything equals."""
    units = amount.units if isinstance(amount, Quantity) else (COUNT,)
    inner = amount.amount if isinstance(amount, Quantity) else amount
    if isinstance(inner, Number):
        return Number.of(inner.value * scale), units
    return inner, (*units, f"times {scale}")


def _quantity(amount: Value, unit: str) -> Quantity:
    units = (unit,)
    if unit in _SCALES:
        amount, units = _scaled(amount, _SCALES[unit])
    elif isinstance(amount, Quantity):
        amount, units = amount.amount, (*amount.units, unit)
    return Quantity(f"{amount.text} {' '.join(units)}", amount, units)


def same_quantity(first: Quantity, second: Quantity, equality: Equality) -> bool:
    """Compare amounts where the units are the same, or one has further words."""
    if COUNT in (first.units[0], second.units[0]):
        return equality.same(first.amount, second.amount)
    num_shared = min(len(first.units), len(second.units))
    if first.units[:num_shared] != second.units[:num_shared]:
        return False
    return equality.same(first.amount, second.amount)


def same_amount(first: Quantity, second: Number | Expression, equality: Equality) -> bool:
    """Compare with what has no unit; a percentage also with the hundredfold.

    x% is not x: only of numbers is it understood which of the two is meant.
    """
    if first.units[0] == PERCENT and expression.has_variables(second):
        return False
    if equality.same(first.amount, second):
        return True
    if first.units[0] != PERCENT or not isinstance(second, Number):
        return False
    hundredfold = second.value * Fraction(100)
    return equality.same(first.amount, Number.of(hundredfold))
