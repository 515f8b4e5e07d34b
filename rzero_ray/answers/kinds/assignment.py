r"""A name and its value: `x=5`, `f(x)=2x+1`, `\angle A=30^\circ`, `x>1`, `x\in[1,2]`.

It equals the bare value, because a question that asks for x is answered by both. What stands on the
left has to be a name: an equation (`x+y=5`, `x^2=4`, `xy=6`) is a `relation` and never equals its
right side. An inequality gives its name an interval.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds import expression
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.value import Equality, Value

_LETTER = (
    r"(?:\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi"
    r"|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell) ?|[a-zA-Z])"
)
_SCRIPTED = rf"{_LETTER}(?:_\{{[^{{}}]*(?:\{{[^{{}}]*\}})?[^{{}}]*\}})?'*"
_POINTS = r"[A-Z](?:_\{\w+\})?'*(?:[A-Z](?:_\{\w+\})?'*){1,3}"
_NAME = re.compile(
    rf"{_SCRIPTED}"
    rf"|{_SCRIPTED} ?\((?:[\w, ]|\\[a-z]+ )*\)"
    r"|[fghFGH](?:_\{\w+\}|\^\{-1\})?'* ?\([^()=<>]*\)"
    r"|(?:[PE]|\\mathbb ?\{[PE]\})(?:_\{\w+\})? ?[(\[][^()\[\]]*[)\]]"
    r"|\\(?:det|max|min) ?(?:\([^()]*\)|[A-Z])?"
    r"|\\frac\{d ?[a-z]\}\{d ?[a-z]\}"
    rf"|{_POINTS}"
    r"|m? ?\\(?:angle|triangle|det|measuredangle) ?[A-Za-z]{1,4}"
    r"|\\(?:vec|bar|hat|tilde|overline|dot) ?\{\w{1,4}\}"
    r"|\|[A-Z]{1,3}\||\\#[A-Z]"
    r"|\\text\{[^{}]*\}(?:_\{\w+\})?|[a-zA-Z]{4,}(?: [a-zA-Z]+)*"
    rf"|{_SCRIPTED}(?: ?: ?{_SCRIPTED})+"
    rf"|\\frac\{{{_POINTS}\}}\{{{_POINTS}\}}|{_POINTS} ?/ ?{_POINTS}"
    rf"|\( ?{_SCRIPTED}(?: ?, ?{_SCRIPTED})+ ?\)"
)
_APPLIED = re.compile(r"([a-zA-Z](?:_\{\w+\})?)\(([a-z])\)")
_SYMBOL = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Assignment(Value):
    """A name with the value, or the set of values, that it has."""

    name: str
    """The name without blanks."""

    value: Value
    sign: str
    """How the two are joined in text: `=`, or `\\in` for a set of values."""

    @property
    def latex(self) -> str:
        """The assignment as an equation for the symbolic comparer, "" where it is none."""
        left = expression.latex_of(expression.read_formula(self.name))
        right = expression.latex_of(self.value)
        return f"{left}={right}" if left and right and self.sign == "=" else ""


def is_name(text: str) -> bool:
    """Say whether a text names something, rather than being a sum, product, power or number."""
    return _NAME.fullmatch(text) is not None


def assign(name: str, value: Value, sign: str = "=") -> Assignment:
    """Return a name with its value."""
    name = name.replace(" ", "")
    joiner = "=" if sign == "=" else f"{sign} "
    return Assignment(f"{name}{joiner}{value.text}", name, value, sign)


def same_assignment(first: Assignment, second: Assignment, equality: Equality) -> bool:
    """Compare names and values; the letter in brackets after a function's name does not matter."""
    if first.sign != second.sign:
        return False  # a set is not the value
    if first.name == second.name:
        return equality.same(first.value, second.value)
    left, right = _APPLIED.fullmatch(first.name), _APPLIED.fullmatch(second.name)
    if left and right:
        return left[1] == right[1] and _same_renamed(first, left[2], second, right[2], equality)
    if (left and second.name == "y") or (right and first.name == "y"):
        return equality.same(first.value, second.value)
    if not (expression.has_variables(first.value) and expression.has_variables(second.value)):
        return False
    return bool(first.latex and second.latex) and equality.same_latex(first.latex, second.latex)


def _same_renamed(
    first: Assignment, letter: str, second: Assignment, other: str, equality: Equality
) -> bool:
    if not isinstance(second.value, Expression) or letter in _SYMBOL.findall(second.value.latex):
        return False
    renamed = _SYMBOL.sub(lambda m: letter if m[0] == other else m[0], second.value.latex)
    return equality.same(first.value, expression.read_formula(renamed))


def same_value(first: Assignment, second: Value, equality: Equality) -> bool:
    """Compare the value with a bare one."""
    return equality.same(first.value, second)
