"""Numbers as tables and sentences show them."""

from __future__ import annotations


def decimals(value: float | None, places: int = 2) -> str:
    """Return a number with a few decimals, without the zero before the point; a dash for None."""
    if value is None:
        return "-"
    text = f"{value:.{places}f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float, places: int = 2) -> str:
    """Return a difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{places}f}"
    return f".{'0' * places}" if float(text) == 0 else text.replace("0.", ".", 1)
