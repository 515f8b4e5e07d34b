r"""Write an answer's characters in ASCII LaTeX: look-alikes, symbols, digits of other scripts."""

from __future__ import annotations

import re
import unicodedata

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi pi rho sigma "
    "tau upsilon phi chi psi omega"
)
_GREEK_CAPITALS = "gamma delta theta lamda xi pi sigma upsilon phi psi omega"


def _greek() -> dict[str, str]:
    names = {name: name.replace("lamda", "lambda") for name in _GREEK.split()}
    small = {
        unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): f"\\{latex} "
        for name, latex in names.items()
    }
    capital = {
        unicodedata.lookup(f"GREEK CAPITAL LETTER {name.upper()}"): f"\\{names[name].title()} "
        for name in _GREEK_CAPITALS.split()
    }
    return small | capital


def _vulgar_fractions() -> dict[str, str]:
    fractions = {}
    for char in map(chr, [*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189]):
        parts = unicodedata.decomposition(char).removeprefix("<fraction>").split()
        above, _, below = "".join(chr(int(part, 16)) for part in parts).partition("\u2044")
        fractions[char] = f"\\frac{{{above}}}{{{below}}}"
    return fractions


_CHARACTERS = str.maketrans(
    {
        **_greek(),
        **_vulgar_fractions(),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f", ""),
        **{"\u2018": "'", "\u2019": "'", "\u2032": "'", "\u2033": "''", "\u3002": "."},
        **{"\u201c": '"', "\u201d": '"', "\u2044": "/", "\u2215": "/", "\u00f7": "/"},
        **{"\u27e8": r"\langle ", "\u27e9": r"\rangle ", "\u2223": r"\mid ", "\u2016": r"\|"},
        **{"\u230a": r"\lfloor ", "\u230b": r"\rfloor ", "\u2308": r"\lceil "},
        **{"\u2309": r"\rceil ", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot "},
        **{"\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u222a": r"\cup ", "\u2229": r"\cap "},
        **{"\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx "},
        **{"\u00b1": r"\pm ", "\u2213": r"\mp ", "\u2205": r"\emptyset ", "\u2208": r"\in "},
        **{"\u2209": r"\notin ", "\u2216": r"\setminus ", "\u2261": r"\equiv "},
        **{"\u2245": r"\cong ", "\u223c": r"\sim ", "\u2220": r"\angle ", "\u25b3": r"\triangle "},
        **{"\u22a5": r"\perp ", "\u2225": r"\parallel ", "\u2282": r"\subset "},
        **{"\u2286": r"\subseteq ", "\u2192": r"\to ", "\u21d2": r"\Rightarrow "},
        **{"\u21d4": r"\iff ", "\u2227": r"\land ", "\u2228": r"\lor ", "\u00ac": r"\neg "},
        **{"\u2200": r"\forall ", "\u2203": r"\exists ", "\u2211": r"\sum ", "\u220f": r"\prod "},
        **{
            "\u222b": r"\int ",
            "\u2202": r"\partial ",
            "\u221b": r"\sqrt[3]",
            "\u221c": r"\sqrt[4]",
        },
        **{letter: f"\\mathbb{{{name}}}" for letter, name in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},
    }
)
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_SUBSCRIPTS = re.compile("[\u2080-\u2089]+")
_FOREIGN_DIGIT = re.compile(r"[^\W0-9_a-zA-Z]")


def in_ascii(text: str) -> str:
    """Write look-alikes, symbols and digits of other scripts in ASCII LaTeX."""
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = _SUBSCRIPTS.sub(lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    return _FOREIGN_DIGIT.sub(
        lambda char: str(unicodedata.digit(char[0])) if char[0].isdecimal() else char[0], text
    )
