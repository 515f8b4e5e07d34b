r"""Rewrite the notation of an answer that carries no meaning, and keep what does.

Spacing, math mode, colours, bold type, Unicode look-alikes, missing braces (`\frac12`, `x^2`) and
names for one thing (`\leq` and `\le`) go; primes, subscripts, units and what stands in `\text{}`
stay, because the kinds (`answers/kinds`) tell answers apart by them. Pure text work, linear in the
length of the answer; nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rzero_ray.answers.characters import in_ascii
from rzero_ray.answers.commands import rewritten

MAX_LAYERS = 8
"""Layers of braces, quotations and punctuation that are taken off."""

_Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_DOUBLED = re.compile(
    r"\\\\(?=(?:[dtc]?frac|sqrt|left|right|boxed|text|pi|le|ge|cdot|times|begin)(?![a-z]))"
)
_BEFORE: tuple[_Rewrite, ...] = (
    (re.compile(r"^\s*(\*{1,2}|`{1,3}|\"|')(?=\S)(.*\S)\1\s*$", re.DOTALL), r"\2"),
    (re.compile(r"^(?:\\\$|\$)(.*)\\\$$", re.DOTALL), r"\1"),
    (re.compile(r"(?<!\\)\$"), ""),
    (re.compile(r"\*\*(?=[\w({-])"), "^"),
    (re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!)\s*(?=\d{3})"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<![\\a-zA-Z])sqrt(?=[({])|\u221a(?=\()"), r"\\sqrt"),
    (re.compile(r"\\sqrt\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*([0-9]+|[a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"(\\sqrt\[[34]\])\s*([0-9]+|[a-zA-Z])"), r"\1{\2}"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])"), r"\\infty "),
)
_AFTER: tuple[_Rewrite, ...] = (
    (re.compile(r"\\not ?="), r"\\ne "),
    (re.compile(r"\\not ?\\in(?![a-z])"), r"\\notin "),
    (re.compile(r"\^\{ ?\\text\{(st|nd|rd|th)\} ?\}"), r" \\text{\1} "),
    (
        re.compile(r"\\text\{([a-z]+)\} ?/ ?(?:\\text\{([a-z]+)\}|([a-z])(?![a-z]))"),
        r"\\text{\1/\2\3}",
    ),
    # 1,000 is a number wherever it stands, but in brackets of its own, where it is a pair.
    (
        re.compile(
            r"(?<![\d,.([{_])(\d{1,3}(?:,\d{3})+)(?!\d|,\S)"
            r"|(?<![\d,._])(\d{1,3}(?:,\d{3})+)(?!\d|[)\]}\\]|,\S)"
        ),
        lambda m: m[0].replace(",", ""),
    ),
    (re.compile(r"(?<![a-zA-Z])C_\{([0-9]+)\}\^\{([0-9]+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?:\{\})?_\{([0-9]+)\}C_\{([0-9]+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=[a-zA-Z]) +(?=[\^_])"), ""),
    (re.compile(r"(?<=\}) +(?=[\^_])"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<=[0-9]) ([a-z]) ?/ ?([a-z]) ?(?=\^|$)"), r" \1/\2"),
)
_ASIDE = re.compile(
    r"^(?:\\text\{(?:the |my )?(?:final )?answer(?: is)?:? ?\}"
    r"|(?:the |my )?(?:final )?answer(?: is)?:? )\s*(?=.)"
    r"|^(?:=|\\approx|\\sim(?![a-z]))\s*(?=.)",
    re.IGNORECASE,
)
_QUOTED_MARK = re.compile(r"\\text\{[.,;:]?\}$")
_OUTER_TEXT = re.compile(r"\\text\{([^{}\\]*)\}")


def normal(answer: str) -> str:
    """Return the answer in the normal notation. Normal notation stays as it is."""
    text = in_ascii(answer)
    if r"\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)  # a backslash that was escaped twice
    for pattern, replacement in _BEFORE:
        text = pattern.sub(replacement, text)
    text = rewritten(text)
    for pattern, replacement in _AFTER:
        text = pattern.sub(replacement, text)
    return _strip(text)


def _strip(text: str) -> str:
    """Drop what surrounds the answer: punctuation, an opening such as "the answer is", braces, a
    quotation."""
    before = None
    for _ in range(MAX_LAYERS):
        if text == before:
            break
        before = text
        text = _without_ending(text.strip())
        text = _ASIDE.sub("", text)
        if text[:1] == "{" and _closes_at(text) == len(text) - 1:
            if "," in text:
                break  # braces around a list are a set
            text = text[1:-1]
        elif quoted := _OUTER_TEXT.fullmatch(text):
            content = _ASIDE.sub("", quoted[1])
            if _is_phrase(content):
                return f"\\text{{{content}}}"
            text = content
    return text


def _without_ending(text: str) -> str:
    """Drop punctuation, line breaks and blanks at the end; three dots say something."""
    for _ in range(MAX_LAYERS):
        bare = text.rstrip(" ,;:?")
        if bare.endswith(".") and not bare.endswith(".."):
            bare = bare[:-1]
        bare = bare.removesuffix("\\\\").removesuffix("\\") if not bare.endswith("\\}") else bare
        bare = _QUOTED_MARK.sub("", bare)
        if bare == text:
            break
        text = bare
    return text


def _is_phrase(text: str) -> bool:
    """Say whether a quotation is words alone, which would be a product of letters without it."""
    words = text.split()
    return (
        bool(words)
        and all(map(str.isalpha, words))
        and len(text) > 1
        and not {"and", "or"} & {*words}
    )


def _closes_at(text: str) -> int:
    depth = 0
    for at, char in enumerate(text):
        if text[at - 1 : at] == "\\":
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return at
    return -1
