r"""Formulas: closed forms and expressions in variables. The only kind that is compared by sympy.

A formula reaches the symbolic comparer only when its grammar drops none of it: every command has to
be one that the grammar knows, and what it would drop (primes, accents, the base of a numeral, a
derivative's letters, degrees inside a function) is first rewritten into something that it keeps.
Anything else equals only itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.closed_form import differ_clearly, nests_within
from rzero_ray.answers.commands import names
from rzero_ray.answers.kinds import number
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value

MAX_CHARS = 400
"""Longer LaTeX is not sent to the child: the grammar needs 2 to 5 ms a character."""

MAX_NESTING = 8
"""LaTeX with deeper brackets is not sent to the child: answers nest to about 5, and the grammar
backtracks (8 plain nested braces take 1 s, 16 take 28 s)."""

# Towers of digits, five-digit exponents, factorials of factorials or of large numbers: numbers that
# no memory holds. Each would cost a killed child; as text they still equal themselves.
_EXPLOSIVE = re.compile(
    r"\^\{?\(?-?[0-9]+\^|\^\{?-?[0-9]{5,}|\^\{?\([0-9]+\^|![) }]*!|[0-9]{5,} ?!"
)

_KNOWN = names(
    "frac sqrt binom pi cdot times div infty sin cos tan cot sec csc arcsin arccos arctan "
    "sinh cosh tanh ln log exp lim int sum prod to max min gcd lcm lfloor rfloor lceil "
    "rceil bmod le ge ne alpha beta gamma delta epsilon zeta eta theta iota kappa lambda "
    "mu nu xi rho sigma tau upsilon phi chi psi omega \\ Gamma Delta Theta Lambda Xi Pi "
    "Sigma Upsilon Phi Psi Omega"
)
_OPTION = re.compile(r"[(\[]?([A-Da-d])[)\].:]*")
_OPTION_LETTERS = frozenset("abcd")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_FORMULA = re.compile(r"[a-zA-Z0-9\s\\{}()\[\]|+\-*/^_!.,&=]*")
_LOOSE_SPACE = re.compile(r" (?![0-9a-zA-Z])|(?<![0-9a-zA-Z\\]) ")
_ACCENT = re.compile(r"\\(vec|bar|hat|tilde|dot|ddot|overline|mathbb|mathcal|widehat) ?\{(\w+)\}")
_PRIME = re.compile(r"([a-zA-Z](?:_\{\w+\})?)('+)")
_DERIVATIVE = re.compile(
    r"\\frac\{(?:d|\\partial )(?:\^\{(\d)\})? ?([a-zA-Z])\}"
    r"\{(?:d|\\partial ) ?([a-zA-Z])(?:\^\{(\d)\})?\}"
)
_BASED = re.compile(r"(?<![0-9a-zA-Z_}.])([0-9]+(?:\.[0-9]+)?)_\{(\w+)\}")
_SUBSCRIPTED = re.compile(r"[0-9)\]]_\{")
_ANGLE = re.compile(
    r"([0-9]+(?:\.[0-9]+)?|(?<![a-zA-Z\\])[a-zA-Z]|\([^()]*\)|\\frac\{[^{}]*\}\{[^{}]*\})\^\\circ"
)
_FUNCTION = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc|cis)")
_BINDER = re.compile(r"\\(?:sum|prod|int|lim)(?![a-zA-Z])")
_INDEXED = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])_\{([^{}]*[a-z][^{}]*)\}")
_CAPITAL_I = re.compile(r"(?<![a-zA-Z\\])I(?![a-zA-Z_])")
_JUXTAPOSED = re.compile(r"(?<=[0-9])(?=\()|(?<=(?<![a-zA-Z\\])[a-eij-z])(?=\([0-9]+\))")
# Where the grammar reads another thing than people do.
_MISREAD = re.compile(
    r"(?<![a-zA-Z\\])[fghFGHPT](?:_\{\w+\})? ?\((?![\w,{} ]*\))"  # f(x+1) as a product
    r"|\\(?:vec|mathbf) ?\{.*\\times|\\times.*\\(?:vec|mathbf) ?\{"  # a cross product as a product
)
_MIXED = re.compile(r"[0-9] ?\\frac\{([0-9]+)\}\{([0-9]+)\}")
_DIVISORS = re.compile(r"\\(?:gcd|lcm)")
_TRANSPOSED = re.compile(r"\^\{(?:T|\\top|\*|c|H|\\prime|[+-])\}|\^\*")
_LETTERS = re.compile(r"[a-zA-Z]{3,}")
_LETTER = re.compile(r"\\?[a-zA-Z]+")
_NOT_VARIABLES = frozenset("ei")
"""Euler's number and the imaginary unit."""

_SUBFACTORIAL = re.compile(r"(?:^|[-+*/({ ])!|!!")
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[pbv]matrix\}")
_AMBIGUOUS = re.compile(
    r"[0-9] +[0-9]"  # two numbers side by side
    r"|(?:^|[ (+*/-])\{[0-9.]+\} ?\{?[0-9]"
    r"|\^\{[^{}]*\} ?\^"  # a tower without braces
)
_FLOOR = re.compile(r"(?<!\\sqrt)\[")


@dataclass(frozen=True, slots=True)
class Expression(Value):
    """A formula, or what only looks like one."""

    latex: str
    """What the symbolic comparer is asked about."""

    is_formula: bool
    """Whether the comparer may be asked: its grammar drops nothing of it."""


def read(text: str, read_part: ReadPart) -> Expression:
    """Read what no other kind has read."""
    option = _OPTION.fullmatch(text)
    return read_formula(option[1] if option else text)


def as_option(value: Value) -> Value:
    """Return a whole answer that is a lone letter from A to D as that of an option, whose case does
    not matter (E is Euler's number; the options of benchmarks are read by `choices`)."""
    if isinstance(value, Expression) and value.text in _OPTION_LETTERS:
        return Expression(value.text.upper(), value.latex, value.is_formula)
    return value


def read_formula(text: str) -> Expression:
    """Read a text as one formula, whatever it is."""
    compact = _LOOSE_SPACE.sub("", text)
    latex = _kept(text)
    return Expression(compact, latex, _is_formula(latex) and not _MISREAD.search(text))


def _kept(text: str) -> str:
    """Rewrite what the grammar would drop into symbols and factors that it keeps."""
    text = _DERIVATIVE.sub(r" D_{d\1\2\3\4} ", text)
    text = _ACCENT.sub(r" \2_{\1} ", text)
    text = _PRIME.sub(_primed, text)
    text = _BASED.sub(_in_decimal, text)
    if _FUNCTION.search(text):
        text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    else:
        text = text.replace(r"^\circ", "")
    if _BINDER.search(text):
        text = _INDEXED.sub(r" \1(\2) ", text)  # a_n in a sum over n is no constant
    text = _CAPITAL_I.sub("i_{c}", text)  # the grammar's imaginary unit
    return _JUXTAPOSED.sub(r"\\cdot ", text)


def is_angle_of_function(text: str) -> bool:
    """Say whether a formula has a function of angles, whose degrees are no unit of the whole."""
    return _FUNCTION.search(text) is not None


def _primed(match: re.Match[str]) -> str:
    name = match[1].replace("_{", "_{p").rstrip("}") if "_{" in match[1] else match[1] + "_{p"
    return f" {name}{len(match[2])}}} "


def _in_decimal(match: re.Match[str]) -> str:
    value = number.based(match[1], match[2])
    return match[0] if value is None else f"({value})"


def _is_formula(latex: str) -> bool:
    """Say whether the grammar reads all of it, and whether it is worth a child's time."""
    if not latex or len(latex) > MAX_CHARS or "__" in latex or not _FORMULA.fullmatch(latex):
        return False
    commands = _COMMAND.findall(_ENVIRONMENT.sub("", latex))
    if any(command not in _KNOWN for command in commands):
        return False
    if "\\" in commands and not _ENVIRONMENT.search(latex):
        return False
    if any(
        pattern.search(latex)
        for pattern in (_EXPLOSIVE, _SUBSCRIPTED, _TRANSPOSED, _SUBFACTORIAL, _AMBIGUOUS, _FLOOR)
    ):
        return False
    if _DIVISORS.search(latex) and variables(latex):
        return False  # the grammar works out \gcd(m,n) as that of two polynomials
    if any(int(above[:9]) >= int(below[:9]) for above, below in _MIXED.findall(latex)):
        return False
    return nests_within(latex, MAX_NESTING)


def has_variables(value: Value) -> bool:
    """Say whether a value has letters that stand for something unknown, or is no number at all."""
    if not isinstance(value, Expression):
        amount = getattr(value, "amount", value)  # of a quantity
        return has_variables(amount) if amount is not value else not isinstance(value, Number)
    return not value.is_formula or bool(variables(value.latex))


def variables(latex: str) -> set[str]:
    """Return the letters of a formula that stand for something unknown."""
    found: set[str] = set()
    for name in _LETTER.findall(latex):
        found |= ({name} if name[1:] in _GREEK else set()) if name[0] == "\\" else set(name)
    return found - _NOT_VARIABLES


_GREEK = names(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma "
    "tau phi chi psi omega"
)


def same_expression(
    first: Expression | Number, second: Expression | Number, equality: Equality
) -> bool:
    """Compare by value: a number shows most differences, the symbolic comparer decides the rest."""
    left, right = latex_of(first), latex_of(second)
    if not left or not right:
        return False
    if _LETTERS.fullmatch(left) and _LETTERS.fullmatch(right):
        return False  # three letters in another order are another word
    return not differ_clearly(left, right) and equality.same_latex(left, right)


def latex_of(value: Value) -> str:
    """Return a number or formula for the symbolic comparer, "" for anything else."""
    if isinstance(value, Number):
        below = value.value.denominator
        above = value.value.numerator
        if max(above.bit_length(), below.bit_length()) > number.MAX_DECIMAL_BITS:
            return ""
        return str(above) if below == 1 else f"\\frac{{{above}}}{{{below}}}"
    return value.latex if isinstance(value, Expression) and value.is_formula else ""
