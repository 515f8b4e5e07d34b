r"""The canonical form of an answer: a text that equal answers share, and what kind of answer it is.

Pure text work, linear in the length of the answer; nothing is evaluated. `equality` decides from
these forms whether two answers are the same.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_ANSWER_CHARS = 2_000
"""Longer answers are compared by text only: no exam answer is this long, and parsing cost grows
with length."""

MAX_NUMBER_CHARS = 256
"""Longest text read as an exact number, so that `int()` and `Fraction()` stay in microseconds."""

MAX_EXPONENT = 400
"""Largest decimal exponent of scientific notation read exactly: beyond floating point's, and still
a small integer."""

MAX_POWER_BITS = 2_048
"""Largest integer power (2^{10}) evaluated here, in bits of its result."""

_UNICODE = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width ASCII
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u2215": "/",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u00b0": r"^\circ ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u00b1": r"\pm ",
        "\u2205": r"\emptyset ",
        "\u00bd": r"\frac{1}{2}",
        "\u00bc": r"\frac{1}{4}",
        "\u00be": r"\frac{3}{4}",
        "\u2019": "'",
        "\u3002": ".",
    }
)
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_SUPERSCRIPT_DIGITS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-"
)

# Applied in order. No pattern has nested quantifiers, and the text is at most MAX_ANSWER_CHARS
# long.
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\?\$", ""),  # math mode, and the dollar of an amount of money
        (r"^\s*\\[(\[]|\\[)\]]\s*\.?\s*$", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,!]", ""),
        (r"(?<!\\)\\[;: ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\[lr]vert(?![a-zA-Z])", "|"),
        (
            r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox)\s*\{([^{}]*)\}",
            r" \1 ",
        ),
        (
            r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox)\s*\{([^{}]*)\}",
            r" \1 ",
        ),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
        (r"\\leq(?![a-zA-Z])", r"\\le"),
        (r"\\geq(?![a-zA-Z])", r"\\ge"),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\degree(?![a-zA-Z])", r"^\\circ"),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
        (r"\^\s*\{\s*\\prime\s*\}", "'"),
        (r"\u221a\s*\(([^()]*)\)|(?<![\\a-zA-Z])sqrt\(([^()]*)\)", r"\\sqrt{\1\2}"),
        (r"\u221a\s*([0-9]+|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"([\^_])\{([0-9a-zA-Z])\}", r"\1\2"),
        (r"(?<=[0-9}a-zA-Z)\]]) +(?:or|and) +(?=[-+\\0-9(\[]|[a-zA-Z]\s*=)", ", "),
        (r"\s+", " "),
    )
)
_OPTION = re.compile(r"\(?([a-zA-Z])[.):]*")
_OUTER_GROUP = re.compile(r"\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_SHORT_WORDS = frozenset({"yes", "no", "odd", "dne", "all"})
_MIN_WORD_CHARS = (
    4  # shorter runs of letters may be products of variables, which the child can compare
)
_LOOSE_SPACE = re.compile(r" (?![0-9a-zA-Z])|(?<![0-9a-zA-Z]) ")

_UNITS = {
    alias: names.split()[0]
    for names in (
        "% percent percentage pct",
        "degree degrees deg ^\\circ",
        "radian radians rad",
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "inch inches in",
        "foot feet ft",
        "yard yards yd",
        "mile miles mi",
        "mg",
        "g gram grams",
        "kg kilogram kilograms",
        "pound pounds lb lbs",
        "ounce ounces oz",
        "s second seconds sec",
        "minute minutes min",
        "h hour hours hr hrs",
        "day days",
        "week weeks",
        "month months",
        "year years",
        "liter liters litre litres L",
        "ml milliliter milliliters",
        "unit units",
        "dollar dollars",
        "cent cents",
        "mph",
        "km/h",
        "m/s",
    )
    for alias in names.split()
}
# A single letter right after a digit is a variable (2m), after a space a unit (2 m).
_QUANTITY = re.compile(
    r"(?P<number>.*[0-9}])(?P<space> ?)"
    r"(?P<unit>\\?%|\^\\circ|[a-zA-Z]+(?:/[a-zA-Z]+)?)(?P<power> ?\^[23])?"
)
# After LaTeX (5\\sqrt{2} cm) only units that cannot be a variable or a product of two are read.
_LONG_UNITS = sorted((name for name in _UNITS if name.isalpha() and len(name) > 2), key=len)
TRAILING_UNIT = re.compile(
    rf"(?:\^\\circ|(?<=[0-9}}]) ?(?:{'|'.join(reversed(_LONG_UNITS))})(?: ?\^[23])?)$"
)
_SQUARE_UNIT = re.compile(r"(?<=[0-9}] )(square|sq|cubic) ([a-zA-Z]+)$")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER_FORMS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("decimal", rf"({_DECIMAL})"),
        ("fraction", rf"({_DECIMAL}) ?/ ?([-+]?{_DECIMAL})"),
        ("fraction", rf"\\frac ?\{{ ?([-+]?{_DECIMAL}) ?\}} ?\{{ ?([-+]?{_DECIMAL}) ?\}}"),
        ("mixed", r"([0-9]+) ?\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\}"),
        ("mixed", r"([0-9]+) ([0-9]+) ?/ ?([0-9]+)"),
        (
            "scientific",
            rf"({_DECIMAL}) ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{{? ?([-+]?[0-9]{{1,3}}) ?\}}?",
        ),
        ("scientific", rf"({_DECIMAL})[eE]([-+]?[0-9]{{1,3}})"),
        ("power", r"([0-9]+) ?\^ ?\{? ?([0-9]{1,4}) ?\}?"),
    )
)
_SIGN = re.compile(r"([-+]?) ?(.*)")

_OPENINGS = ("\\{", "(", "[")
_CLOSINGS = ("\\}", ")", "]")
UNORDERED = frozenset({("\\{", "\\}"), ("", "")})
_SET_BUILDER = re.compile(r"[|:]|\\mid(?![a-zA-Z])|\\in(?![a-zA-Z])|\.\.\.|\\[lc]?dots")


@dataclass(frozen=True, slots=True)
class Form:
    """An answer, read. At most one of `value`, `items` and `is_text` is set; none of them means
    LaTeX."""

    text: str
    """The canonical text."""

    value: Fraction | None = None
    """The exact value of a plain number."""

    unit: str = ""
    """The unit of `value`; "" when the answer gives none."""

    brackets: tuple[str, str] = ("", "")
    """Opening and closing bracket of `items`; two empty strings for a bare list."""

    items: tuple[str, ...] | None = None
    """Canonical elements of a tuple, interval, set or list."""

    is_text: bool = False
    """Words, or too long: equal only to the same text."""


def canonical(answer: str) -> str:
    """Return the canonical form of an answer: pure, linear in its length, and cached for ordinary
    lengths.

    Two answers with equal canonical forms are equal. Different forms prove nothing, except between
    two plain numbers without units, whose form is the exact fraction in lowest terms.
    """
    return read_form(answer).text


def plain_number(answer: str) -> Fraction | None:
    """Return the exact value of an answer that is a plain number without a unit, else None.

    Integers, decimals, thousands commas, fractions, mixed numbers, scientific notation and small
    integer powers count, within `MAX_NUMBER_CHARS`, `MAX_EXPONENT` and `MAX_POWER_BITS`.
    """
    form = read_form(answer)
    return None if form.unit else form.value


def read_form(answer: str) -> Form:
    if len(answer) > MAX_ANSWER_CHARS:
        # Not cached: a cache of megabyte keys would be a leak.
        return Form(" ".join(answer.split()), is_text=True)
    return _read_cached(answer)


@lru_cache(maxsize=16_384)
def _read_cached(answer: str) -> Form:
    text = _clean(answer)
    sequence = None if _exact_value(text) is not None else _split_sequence(text)
    return _read_scalar(text) if sequence is None else _read_sequence(*sequence)


def _clean(answer: str) -> str:
    """Rewrite notation that carries no meaning: math mode, spacing commands, `\\left`, `\\text`,
    Unicode look-alikes."""
    text = answer.translate(_UNICODE)
    text = _SUPERSCRIPT.sub(
        lambda run: "^{" + run.group().translate(_SUPERSCRIPT_DIGITS) + "}", text
    )
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip(" ").rstrip(". ")
    if outer := _OUTER_GROUP.fullmatch(text):
        text = outer.group(1).strip()
    if option := _OPTION.fullmatch(text):
        text = option.group(1)
    return text


def _read_scalar(text: str) -> Form:
    value, unit = _exact_value(text), ""
    if value is None:
        value, unit = _quantity(text)
    if value is not None:
        return Form(f"{value} {unit}".rstrip(), value=value, unit=unit)
    if _is_words(text):
        return Form(text.casefold(), is_text=True)
    return Form(_LOOSE_SPACE.sub("", text))


def _read_sequence(opening: str, parts: list[str], closing: str) -> Form:
    items = [_read_scalar(part.strip()).text for part in parts]
    if (opening, closing) in UNORDERED:
        items = sorted(set(items) if opening else items)
    return Form(
        opening + ", ".join(items) + closing, brackets=(opening, closing), items=tuple(items)
    )


def _is_words(text: str) -> bool:
    if not _WORDS.fullmatch(text):
        return False
    longest = max(re.split(r"[ '-]", text), key=len)
    return len(longest) >= _MIN_WORD_CHARS or not text.isascii() or text.casefold() in _SHORT_WORDS


def _quantity(text: str) -> tuple[Fraction | None, str]:
    """Read a number followed by a known unit: (value, unit), or (None, "")."""
    text = _SQUARE_UNIT.sub(lambda m: f"{m.group(2)}^{3 if m.group(1) == 'cubic' else 2}", text)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None, ""
    name = match["unit"].removeprefix("\\") if "%" in match["unit"] else match["unit"]
    unit = _UNITS.get(name) or _UNITS.get(name.lower())
    if unit is None or (len(name) == 1 and name.isalpha() and not match["space"]):
        return None, ""
    value = _exact_value(match["number"].strip())
    return (None, "") if value is None else (value, unit + (match["power"] or "").strip())


@lru_cache(maxsize=16_384)
def _exact_value(text: str) -> Fraction | None:
    """Read a plain number exactly, or return None. Digits, exponents and powers are bounded, so
    this is microseconds."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    signed = _SIGN.fullmatch(text)
    if signed is None:
        return None
    sign = -1 if signed[1] == "-" else 1
    for name, pattern in _NUMBER_FORMS:
        if match := pattern.fullmatch(signed[2]):
            magnitude = _magnitude(name, match.groups())
            return None if magnitude is None else sign * magnitude
    return None


def _magnitude(name: str, groups: tuple[str, ...]) -> Fraction | None:
    numbers = [Fraction(group.replace(",", "").rstrip(".")) for group in groups]
    if name == "decimal":
        return numbers[0]
    if name == "fraction":
        return numbers[0] / numbers[1] if numbers[1] else None
    if name == "mixed":
        whole, numerator, denominator = numbers
        return whole + numerator / denominator if 0 < numerator < denominator else None
    base, exponent = numbers[0], int(numbers[1])
    if name == "scientific":
        return base * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None
    if base == 0 or base.numerator.bit_length() * exponent > MAX_POWER_BITS:
        return None
    return base**exponent


def _split_sequence(text: str) -> tuple[str, list[str], str] | None:
    """Split a tuple, interval, set or bare list at its top-level commas, or return None for
    anything else."""
    opening = next((bracket for bracket in _OPENINGS if text.startswith(bracket)), "")
    closing = next((bracket for bracket in _CLOSINGS if text.endswith(bracket)), "")
    is_enclosed = bool(opening and closing) and len(text) >= len(opening) + len(closing)
    inner = text[len(opening) : len(text) - len(closing)] if is_enclosed else text
    parts = _split_at_commas(inner)
    if (
        is_enclosed and parts is None
    ):  # "(0,1) \cup (2,3)": the first bracket does not match the last
        opening = closing = ""
        parts = _split_at_commas(text)
    elif not is_enclosed:
        opening = closing = ""
    if parts is None or (len(parts) < 2 and opening != "\\{"):
        return None
    if (opening == "\\{") != (closing == "\\}") or _SET_BUILDER.search(text):
        return None
    if any(not part.strip() for part in parts):
        return None
    return opening, parts, closing


def _split_at_commas(text: str) -> list[str] | None:
    """Split at commas outside brackets; None when brackets do not balance. Kinds are not matched:
    [0,1) is an interval."""
    parts, start, depth = [], 0, 0
    for at, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return None if depth else parts
