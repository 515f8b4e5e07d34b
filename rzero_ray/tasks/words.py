r"""The words over which BLEU compares questions, in every script.

Source: the paper (section 3.2) compares questions by BLEU and is silent on what a word is; the
official code splits at white space. Then two questions of one template with other numbers are one
token each, and so unlike, in every script that does not put spaces between words, and in formulas
written without spaces: a Challenger under reward leaves English for them.

Here a word is a run of letters in scripts with spaces, one character in scripts without (Han, Kana,
Thai, Lao, Khmer, Burmese and their like), a number, a LaTeX command, or one other symbol.
"""

import re
import unicodedata
from functools import cache

_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan, whose dots part syllables
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese and its extensions
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c"  # radicals, marks, numerals
    "\u3040-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"  # Hiragana, Katakana
    "\u3100-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Ranges of letters of scripts that do not part words by spaces."""

_END_OF_MARKS = 0x1F000
"""The code point from which on there are no letters with combining marks."""


def split_words(text: str) -> list[str]:
    r"""Return the words of a text, after Unicode's compatibility normalisation (NFKC) and without
    characters that only format (zero-width spaces and joiners, direction marks).

    "12+x=30" has five, "How many?" three, "多少个？" four, "\frac{1}{2}" seven.
    """
    return _pattern().findall(_visible(text))


def mask_numbers(text: str) -> str:
    """Return a text with ``#`` in the place of each run of digits."""
    return re.sub(r"\d+", "#", text)


def _visible(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text)
    if normal.isascii():
        return normal
    return "".join(char for char in normal if unicodedata.category(char) != "Cf")


@cache
def _pattern() -> re.Pattern[str]:
    letter = rf"(?:(?![{_WITHOUT_SPACES}])[^\W\d_])"
    word = rf"{letter}(?:{letter}|[{_marks()}])*"
    return re.compile(
        rf"[{_WITHOUT_SPACES}]"
        rf"|{word}(?:['’]{word})*"  # an apostrophe inside a word belongs to it
        r"|\d+(?:\.\d+)?"
        r"|\\[A-Za-z]+"
        r"|\S"
    )


def _marks() -> str:
    """Return all combining marks, which belong to the letter before them, as a set's content."""
    is_mark = [unicodedata.category(chr(c)).startswith("M") for c in range(_END_OF_MARKS)]
    starts = [c for c, mark in enumerate(is_mark) if mark and not is_mark[c - 1]]
    ends = [c for c, mark in enumerate(is_mark) if mark and not is_mark[c + 1]]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))
