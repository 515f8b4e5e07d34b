"""Text of a model as a page shows it: whole and over several lines, and never obeyed."""

from __future__ import annotations

_MOST_CHARACTERS = 20_000
_NEVER = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character that is not printable."""
_MARKS = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n", "\t": "\N{RIGHTWARDS ARROW}"}


def visible(text: str, limit: int = _MOST_CHARACTERS) -> str:
    """Return model text with its lines, cut, without control or direction-changing characters.

    It is no HTML yet: the templates escape it.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else _NEVER for c in text[:limit])
    left = len(text) - limit
    return shown if left <= 0 else f"{shown}\n... and {left:,} characters more"


def visible_piece(text: str) -> str:
    """Return the text of one token, whose line ends and tabs are made visible as well."""
    return "".join(_MARKS.get(c) or (c if c.isprintable() else _NEVER) for c in text)
