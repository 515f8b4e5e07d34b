"""Find the places at which an answer falls into parts: outside of brackets and quotations."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPENING = frozenset({"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"})
_CLOSING = frozenset({")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\end"})


def top_level(text: str) -> list[tuple[int, str]] | None:
    """Return (offset, token) of each token outside brackets, or None where brackets do not balance.

    Kinds of brackets are not matched to each other: [0,1) is an interval.
    """
    outside: list[tuple[int, str]] = []
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0:
            outside.append((match.start(), token))
    return outside if depth == 0 else None


def split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]] | None:
    """Return the stripped parts between top-level separators, and the separators; None where
    brackets do not balance."""
    outside = top_level(text)
    if outside is None:
        return None
    parts, found, start = [], [], 0
    for at, token in outside:
        if token in separators:
            parts.append(text[start:at].strip())
            found.append(token)
            start = at + len(token)
    return [*parts, text[start:].strip()], found
