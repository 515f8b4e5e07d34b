r"""Words: names, choices, letter strings, sentences. They equal words of the same text only.

Text in `\text{}` of two letters or more is words; so are bare words of four letters, two capitals
in a row (`HTH`, `XI`), letters between digits (`3R2`) and any sentence. Fewer bare letters may be a
product of variables. Case does not matter, but where it may carry meaning: in strings of capitals
only (`AB` is not `ab`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.commands import names
from rzero_ray.answers.kinds.value import ReadPart, Value

_WORDS = re.compile(r"[^\W\d_]+(?:[ '/&.,-]+[^\W\d_]+)*\.?")
_SHORT = frozenset({"yes", "no", "odd", "dne", "all", "not", "or", "and", "none", "red"})
_MIN_CHARS = 4
_CAPITALS = re.compile(r"[A-Z]{2,}")
_MAX_CAPITALS = 4
"""Longer words in capitals are written loudly, not in code."""

_QUOTED = re.compile(r"\\text\{([^{}]*)\}")
_PROSE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}(?: [a-zA-Z]{2,})+|(?<![\\a-zA-Z])[a-z]{3,} \d")
_CODE = re.compile(
    r"[0-9]*(?:[A-Z]+[0-9]+)+[A-Z]*|[0-9]+[a-zA-Z] ?[0-9]+|[0-9]+ [a-zA-Z] [0-9]+"
    r"|(?:[A-Z]+ [0-9]+ ?){2,}"
)
_LITTLE_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?:by|in|of|vs|is|to|at|on|out|per|from|with|than|as|if|so|for|or|and)(?![a-zA-Z])"
)
_DROPPED = re.compile(r"\\text|[{}]")
_FUNCTION_NAMES = names(
    "sin cos tan cot sec csc log exp max min gcd lcm arcsin arccos arctan sinh cosh tanh"
)


@dataclass(frozen=True, slots=True)
class Words(Value):
    """Text that is compared as text."""


def read(text: str, read_part: ReadPart) -> Words | None:
    """Read what is said in words rather than in mathematics."""
    quoted = _QUOTED.fullmatch(text)
    content = quoted[1] if quoted else text
    if _is_words(content, is_quoted=quoted is not None) or _is_sentence(text):
        return words(content)
    return None


def words(text: str) -> Words:
    """Return text as words: without quotation, with single spaces, in lower case."""
    plain = " ".join(_DROPPED.sub(" ", text).split())
    is_code = _CAPITALS.fullmatch(plain.replace(" ", "")) and len(plain) <= _MAX_CAPITALS
    if is_code and plain.casefold() not in _SHORT:
        return Words(plain)
    return Words(plain.casefold().rstrip("."))


def _is_words(text: str, is_quoted: bool) -> bool:
    if _CODE.fullmatch(text):
        return True
    if not _WORDS.fullmatch(text) or text.casefold() in _FUNCTION_NAMES:
        return False
    if is_quoted or _CAPITALS.fullmatch(text) or text.casefold() in _SHORT:
        return len(text) > 1
    return not text.isascii() or max(map(len, re.split(r"[^\w]+", text))) >= _MIN_CHARS


def _is_sentence(text: str) -> bool:
    """Say whether words and mathematics are mixed, which no grammar of formulas reads."""
    bare = _QUOTED.sub(" ", text)
    if _PROSE.search(bare) or (" " in bare and _LITTLE_WORD.search(bare)):
        return True
    if "_{\\text" in text.replace(" ", ""):
        return False
    return any(len(match) > 3 for match in _QUOTED.findall(text)) and bool(
        re.search(r"\\text\{[^{}]*\}(?=\s*[^\s])", text)
    )
