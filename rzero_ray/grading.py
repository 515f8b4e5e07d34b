r"""Decide whether two answers are the same answer, in bounded time, for any text.

The order of work, cheapest first:

1. `canonical`: one linear pass to a canonical text. Equal forms mean equal answers.
2. Plain numbers (and numbers with a unit) compare exactly as fractions, words compare as text,
   tuples, intervals, sets and lists compare element by element.
3. Only what is left, real LaTeX, goes to math-verify, always in a child process with CPU, memory
   and wall-clock limits (`SymbolicComparer`), which is killed when it exceeds them.

Source: R-Zero (arXiv 2508.05004) section 3 needs only "the same answer". The official code compares
with sympy inside the server, under a thread-based timeout that cannot interrupt C code: training
hangs (issue #10 there). Its README blames math-verify; the cause is any unbounded symbolic
comparison in a process that holds state, which is why ours is killable.

Stated choices, where "the same" is a convention: percent is a unit, so 50% equals both 50 and 0.5
(as in math-verify); a missing unit equals any unit, two different units do not (5 cm = 5, 5 cm != 5
m, and 1 km != 1000 m: units are not converted); lists without brackets are unordered, as sets are;
decimals are exact, so 0.333 is not 1/3; an integer before a proper fraction is a mixed number, so
3\frac{1}{2} is 7/2.
"""

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from rzero_ray.grading_child import FRAME_HEADER, write_frame

MAX_ANSWER_CHARS = 2_000
"""Longer answers are compared by text only: no exam answer is this long, and parsing cost grows
with length."""

MAX_SYMBOLIC_CHARS = 400
"""Longer LaTeX is not sent to the child: the grammar needs 2 to 5 ms a character."""

MAX_NESTING = 8
"""LaTeX with deeper brackets is not sent to the child: answers nest to about 5, and the grammar
backtracks (8 plain nested braces take 1 s, 16 take 28 s)."""

MAX_NUMBER_CHARS = 256
"""Longest text read as an exact number, so that `int()` and `Fraction()` stay in microseconds."""

MAX_EXPONENT = 400
"""Largest decimal exponent of scientific notation read exactly: beyond floating point's, and still
a small integer."""

MAX_POWER_BITS = 2_048
"""Largest integer power (2^{10}) evaluated here, in bits of its result."""

MAX_ELEMENTS = 16
"""Larger tuples and sets are compared by canonical text only: sets need a quadratic number of
comparisons."""

WALL_LIMIT_S = 10.0
"""Wall-clock seconds for one comparison. A backstop for a child that waits rather than computes;
normal is 10 ms."""

CPU_LIMIT_S = 2.0
"""CPU seconds for one comparison, so that a verdict does not depend on how busy the machine is."""

ADDRESS_SPACE_BYTES = 1 << 30
"""Address space of the child. sympy and math-verify load in 70 MB; 1 GiB leaves room and protects
the node."""

START_LIMIT_S = 120.0
"""Seconds for a child to import sympy: 0.7 on an idle core, far more on a cold network file
system."""

PAIR_CACHE_SIZE = 65_536
"""Verdicts kept per comparer; a verdict is two short strings, so this is some tens of megabytes at
most."""

COMPARISONS_PER_CHILD = 10_000
"""A child is replaced after this many comparisons: sympy's caches grow, and its address space is
limited."""

MAX_STRIKES = 2
"""An answer that was present at this many kills is compared by text only from then on."""


# -------------------------------------------------------------------------------------------------
# Canonical form
# -------------------------------------------------------------------------------------------------

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
_TRAILING_UNIT = re.compile(
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
_UNORDERED = frozenset({("\\{", "\\}"), ("", "")})
# Towers of digits, five-digit exponents, factorials of factorials or of large numbers: numbers that
# no memory holds. Each would cost a killed child; as text they still equal themselves.
_EXPLOSIVE = re.compile(r"\^\{?\(?-?[0-9]+\^|\^\{?-?[0-9]{5,}|\^\{?\([0-9]+\^|![) ]*!|[0-9]{5,} ?!")
_SET_BUILDER = re.compile(r"[|:]|\\mid(?![a-zA-Z])|\\in(?![a-zA-Z])|\.\.\.|\\[lc]?dots")


@dataclass(frozen=True, slots=True)
class _Form:
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
    return _read(answer).text


def plain_number(answer: str) -> Fraction | None:
    """Return the exact value of an answer that is a plain number without a unit, else None.

    Integers, decimals, thousands commas, fractions, mixed numbers, scientific notation and small
    integer powers count, within `MAX_NUMBER_CHARS`, `MAX_EXPONENT` and `MAX_POWER_BITS`.
    """
    form = _read(answer)
    return None if form.unit else form.value


def _read(answer: str) -> _Form:
    if len(answer) > MAX_ANSWER_CHARS:
        # Not cached: a cache of megabyte keys would be a leak.
        return _Form(" ".join(answer.split()), is_text=True)
    return _read_cached(answer)


@lru_cache(maxsize=16_384)
def _read_cached(answer: str) -> _Form:
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


def _read_scalar(text: str) -> _Form:
    value, unit = _exact_value(text), ""
    if value is None:
        value, unit = _quantity(text)
    if value is not None:
        return _Form(f"{value} {unit}".rstrip(), value=value, unit=unit)
    if _is_words(text):
        return _Form(text.casefold(), is_text=True)
    return _Form(_LOOSE_SPACE.sub("", text))


def _read_sequence(opening: str, parts: list[str], closing: str) -> _Form:
    items = [_read_scalar(part.strip()).text for part in parts]
    if (opening, closing) in _UNORDERED:
        items = sorted(set(items) if opening else items)
    return _Form(
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


# -------------------------------------------------------------------------------------------------
# Equivalence
# -------------------------------------------------------------------------------------------------


def equivalent(a: str, b: str, comparer: "SymbolicComparer | None" = None) -> bool:
    """Say whether two answers are the same answer by value. Symmetric, bounded in time and memory,
    raises on no text.

    `comparer` gives other limits than the process-wide default one. RuntimeError only when the
    child cannot be started at all (math-verify missing): that is the installation's fault.
    """
    return _same(a, b, _default_comparer() if comparer is None else comparer)


def _same(a: str, b: str, comparer: "SymbolicComparer") -> bool:
    first, second = _read(a), _read(b)
    if first.text == second.text:
        return True
    if first.is_text or second.is_text:
        return False
    if first.value is not None and second.value is not None:
        return _same_quantity(first, second)
    if first.items is not None and second.items is not None:
        return _same_sequence(first, second, comparer)
    if (
        first.text.isalpha()
        and second.text.isalpha()
        and first.text.casefold() == second.text.casefold()
    ):
        return True  # options: (a) is A
    name_a, value_a = _assignment(first.text)
    name_b, value_b = _assignment(second.text)
    if name_a and name_b:
        return name_a == name_b and _same(value_a, value_b, comparer)
    if (name_a or name_b) and not (first.items or second.items or "=" in value_a + value_b):
        return _same(value_a, value_b, comparer)
    latex_a, latex_b = _latex(first), _latex(second)
    if not (_is_comparable(latex_a) and _is_comparable(latex_b)):
        return False
    return comparer.compare(latex_a, latex_b)


def _same_quantity(first: _Form, second: _Form) -> bool:
    assert first.value is not None and second.value is not None
    units = {first.unit, second.unit}
    if len(units) == 2 and "" not in units:
        return False
    if first.value == second.value:
        return True
    if units != {"%", ""}:
        return False
    percent, number = (first, second) if first.unit else (second, first)
    return (
        percent.value == number.value * 100
        if percent.value is not None and number.value is not None
        else False
    )


def _same_sequence(first: _Form, second: _Form, comparer: "SymbolicComparer") -> bool:
    left, right = first.items or (), second.items or ()
    if max(len(left), len(right)) > MAX_ELEMENTS:
        return False
    if first.brackets in _UNORDERED and second.brackets in _UNORDERED:
        return all(any(_same(x, y, comparer) for y in right) for x in left) and all(
            any(_same(x, y, comparer) for x in left) for y in right
        )
    if first.brackets != second.brackets or len(left) != len(right):
        return False
    return all(_same(x, y, comparer) for x, y in zip(left, right, strict=True))


def _assignment(text: str) -> tuple[str, str]:
    """Split "x=5" into ("x", "5"); ("", text) for anything but one letter and one equals sign."""
    if text[1:2] == "=" and text[0].isalpha() and text.count("=") == 1:
        return text[0], text[2:]
    return "", text


def _latex(form: _Form) -> str:
    """The text that the child's grammar reads: a unit other than percent is dropped, as it is for a
    missing unit."""
    if form.value is None:
        return _TRAILING_UNIT.sub("", form.text)
    return f"{form.value}\\%" if form.unit == "%" else str(form.value)


def _is_comparable(latex: str) -> bool:
    """Cheap screen: what cannot be an answer, or would only be killed, is not sent to the child."""
    if not latex or len(latex) > MAX_SYMBOLIC_CHARS or "__" in latex:
        return False
    if _EXPLOSIVE.search(latex):
        return False
    depth = deepest = 0
    for char in latex:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING


# -------------------------------------------------------------------------------------------------
# The killable child
# -------------------------------------------------------------------------------------------------


class ChildDied(Exception):
    """The child ended or overran its limit; `num_parsed` answers of the pair had been read by
    then."""

    def __init__(self, num_parsed: int) -> None:
        super().__init__(f"child died after reading {num_parsed} of 2 answers")
        self.num_parsed = num_parsed


class SymbolicComparer:
    """Compares LaTeX answers in one long-lived child process that it kills when a comparison
    overruns.

    A comparison that kills the child counts as "not equal". The child is started on first use,
    replaced after a kill, and replaced in a forked process; it ends when this process ends. Safe to
    share between threads (comparisons queue).

    Which of two answers overran is known if it happened while reading one; otherwise both get a
    strike. An answer with `MAX_STRIKES` is not tried again until it falls out of the cache, so a
    vote full of bombs costs a number of kills linear, not quadratic, in its size. A finished
    comparison clears the strikes of its answers.
    """

    def __init__(
        self,
        wall_limit_s: float = WALL_LIMIT_S,
        cpu_limit_s: float = CPU_LIMIT_S,
        address_space_bytes: int = ADDRESS_SPACE_BYTES,
        cache_size: int = PAIR_CACHE_SIZE,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        """Limits are those of the module's constants of the same names. ValueError when one is not
        positive."""
        if min(wall_limit_s, cpu_limit_s, address_space_bytes, cache_size, start_limit_s) <= 0:
            raise ValueError("every limit of SymbolicComparer must be positive")
        self.num_killed = 0
        """Comparisons that ended with the child dead: over a limit, or crashed."""
        self.num_compared = 0
        """Comparisons that reached the child, killed ones included."""
        self._wall_limit_s = wall_limit_s
        self._start_limit_s = start_limit_s
        self._arguments = [str(cpu_limit_s), str(address_space_bytes)]
        self._cache_size = cache_size
        self._verdicts: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._strikes: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self._num_served = 0
        self._end_child: weakref.finalize[..., SymbolicComparer] | None = None

    def compare(self, a: str, b: str) -> bool:
        """Say whether math-verify finds two LaTeX answers equal, in either direction, within the
        limits."""
        if a == b or max(len(a), len(b)) > MAX_ANSWER_CHARS:
            return a == b
        pair = (a, b) if a <= b else (b, a)
        with self._lock:
            verdict = self._verdicts.get(pair)
            if verdict is None:
                verdict = self._judge(pair)
                self._verdicts[pair] = verdict
                if len(self._verdicts) > self._cache_size:
                    self._verdicts.popitem(last=False)
            self._verdicts.move_to_end(pair)
            return verdict

    def close(self) -> None:
        """Kill the child, if there is one. The comparer stays usable: the next comparison starts
        another."""
        self._child = None
        if self._end_child is not None:
            self._end_child()

    def _judge(self, pair: tuple[str, str]) -> bool:
        if any(self._strikes[text] >= MAX_STRIKES for text in pair):
            return False
        self.num_compared += 1
        try:
            equal = self._ask(pair)
        except ChildDied as death:
            self.close()
            self.num_killed += 1
            guilty = pair if death.num_parsed == 2 else pair[death.num_parsed :][:1]
            weight = 1 if death.num_parsed == 2 else MAX_STRIKES
            for text in guilty:
                self._strikes[text] += weight
            if len(self._strikes) > self._cache_size:
                self._strikes.clear()
            return False
        for text in pair:
            self._strikes.pop(text, None)
        return equal

    def _ask(self, pair: tuple[str, str]) -> bool:
        child = self._ready_child()
        deadline = time.monotonic() + self._wall_limit_s
        num_parsed = 0
        try:
            write_frame(cast(BinaryIO, child.stdin), {"first": pair[0], "second": pair[1]})
            while "equal" not in (reply := _receive(child, deadline)):
                num_parsed = reply["parsed"]
        except (OSError, TimeoutError, EOFError) as error:
            raise ChildDied(num_parsed) from error
        self._num_served += 1
        return reply["equal"]

    def _ready_child(self) -> "subprocess.Popen[bytes]":
        """Return a child that waits for a request, starting or replacing it when needed."""
        if self._owner_pid != os.getpid():  # after a fork the pipes belong to the parent's child
            self._child, self._owner_pid = None, os.getpid()
        worn_out = self._num_served >= COMPARISONS_PER_CHILD
        if self._child is not None and (worn_out or self._child.poll() is not None):
            self.close()
        if self._child is None:
            self._child, self._num_served = self._start_child(), 0
            # Runs at most once: on close, when the comparer is collected, or at exit.
            self._end_child = weakref.finalize(self, _end_child, self._child, os.getpid())
        return self._child

    def _start_child(self) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            # -P: the working directory must not shadow a module of the standard library.
            [sys.executable, "-P", "-m", "rzero_ray.grading_child", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_child_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        try:
            reply = _receive(child, time.monotonic() + self._start_limit_s)
        except (TimeoutError, EOFError) as error:
            reply = {"error": f"no reply within {self._start_limit_s} s ({type(error).__name__})"}
        if "error" in reply:
            child.kill()
            child.wait()
            raise RuntimeError(f"rzero_ray.grading_child did not start: {reply['error']}")
        return child


def _child_environment() -> dict[str, str]:
    """Only what Python needs to start: a process that reads model text gets no tokens and no
    device."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
    package_root = str(Path(__file__).resolve().parent.parent)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)]),
        "PYTHONHASHSEED": "0",  # sympy orders by hash in places: the same pair, the same verdict
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _end_child(child: "subprocess.Popen[bytes]", owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a forked process holds a copy of the handle, not the child
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _receive(child: "subprocess.Popen[bytes]", deadline: float) -> dict[str, Any]:
    """Read one frame. TimeoutError after `deadline` (monotonic seconds), EOFError when the child
    has ended."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    (length,) = FRAME_HEADER.unpack(_read_exactly(descriptor, FRAME_HEADER.size, deadline))
    return json.loads(_read_exactly(descriptor, length, deadline))


def _read_exactly(descriptor: int, size: int, deadline: float) -> bytes:
    # The file object's buffer is never used, so polling the descriptor sees every byte.
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = b""
    while len(data) < size:
        remaining_ms = (deadline - time.monotonic()) * 1_000
        if remaining_ms <= 0 or not poller.poll(remaining_ms):
            raise TimeoutError
        chunk = os.read(descriptor, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


@lru_cache(maxsize=1)
def _default_comparer() -> SymbolicComparer:
    """The process-wide comparer behind `equivalent`, made on first use."""
    return SymbolicComparer()
