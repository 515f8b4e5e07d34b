r"""Decide whether two answers are the same answer, in bounded time, for any text.

The order of work, cheapest first:

1. `canonical`: one linear pass to a canonical text. Equal forms mean equal answers.
2. Plain numbers (and numbers with a unit) compare exactly as fractions, words compare as text,
   tuples, intervals, sets and lists compare element by element.
3. Closed forms with clearly different values (`closed_form`) are different.
4. Only what is left, real LaTeX, goes to math-verify, always in a child process with CPU, memory
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

import re
from functools import lru_cache

from rzero_ray.answers.closed_form import differ_clearly
from rzero_ray.answers.forms import TRAILING_UNIT, UNORDERED, Form, read_form
from rzero_ray.answers.symbolic import SymbolicComparer

MAX_SYMBOLIC_CHARS = 400
"""Longer LaTeX is not sent to the child: the grammar needs 2 to 5 ms a character."""

MAX_NESTING = 8
"""LaTeX with deeper brackets is not sent to the child: answers nest to about 5, and the grammar
backtracks (8 plain nested braces take 1 s, 16 take 28 s)."""

MAX_ELEMENTS = 16
"""Larger tuples and sets are compared by canonical text only: sets need a quadratic number of
comparisons."""

# Towers of digits, five-digit exponents, factorials of factorials or of large numbers: numbers that
# no memory holds. Each would cost a killed child; as text they still equal themselves.
_EXPLOSIVE = re.compile(r"\^\{?\(?-?[0-9]+\^|\^\{?-?[0-9]{5,}|\^\{?\([0-9]+\^|![) ]*!|[0-9]{5,} ?!")


def equivalent(a: str, b: str, comparer: SymbolicComparer | None = None) -> bool:
    """Say whether two answers are the same answer by value. Symmetric, bounded in time and memory,
    raises on no text.

    `comparer` gives other limits than the process-wide default one. RuntimeError only when the
    child cannot be started at all (math-verify missing): that is the installation's fault.
    """
    return _same(a, b, _default_comparer() if comparer is None else comparer)


def _same(a: str, b: str, comparer: SymbolicComparer) -> bool:
    first, second = read_form(a), read_form(b)
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
    return not differ_clearly(latex_a, latex_b) and comparer.compare(latex_a, latex_b)


def _same_quantity(first: Form, second: Form) -> bool:
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


def _same_sequence(first: Form, second: Form, comparer: SymbolicComparer) -> bool:
    left, right = first.items or (), second.items or ()
    if max(len(left), len(right)) > MAX_ELEMENTS:
        return False
    if first.brackets in UNORDERED and second.brackets in UNORDERED:
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


def _latex(form: Form) -> str:
    """The text that the child's grammar reads: a unit other than percent is dropped, as it is for a
    missing unit."""
    if form.value is None:
        return TRAILING_UNIT.sub("", form.text)
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


@lru_cache(maxsize=1)
def _default_comparer() -> SymbolicComparer:
    """The process-wide comparer behind `equivalent`, made on first use."""
    return SymbolicComparer()
