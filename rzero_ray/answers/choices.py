r"""Read the answers of benchmarks whose references are no mathematics: options, and plain text.

Like `parsing`, every function is total and linear in the length of the text, and takes the answer
from the last balanced box. Mathematics is graded by `equality.equivalent`.

The official evaluation searches the box for the letters A to J in the order of the alphabet (so
`\boxed{CAT}` is A) and draws a random letter when it finds none. Here a response that names no
option is unanswered.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from rzero_ray.answers.forms import canonical, plain_number
from rzero_ray.answers.notation import normal
from rzero_ray.answers.parsing import parse_answer

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|texttt|textrm|textsf|mathrm|mathbf|mathsf|boldsymbol|bm|underline|mbox"
    r"|boxed|fbox)\s*\{([^{}]*)\}"
)
_MARKS = re.compile(r"^[\s\"'`*_{\\]+(?![a-zA-Z]{2})|[\s\"'`*_}\\;,.:]+$")
_BRACKETED = (("{", "}"), ("\\{", "\\}"), ("\\(", "\\)"), ("\\[", "\\]"))
_ANNOUNCED = re.compile(
    r"(?:i\s+choose\s+|correct\s*:\s*)|(?:the\s+|my\s+)?(?:final\s+|correct\s+|right\s+)?(?:answer|option|choice)\s*(?:is|=)?\s*:?\s*"
    r"(?:(?:the\s+)?(?:option|choice|letter)\s*:?\s*)?(?=\S)",
    re.IGNORECASE,
)
_LATER_LETTER = re.compile(r"(?<![A-Za-z])([A-Z])(?=[.):\]]|\s*$)")
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:]?")
_LETTER_AND_TEXT = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]]\s*[:.,=-]?|([A-Za-z])\s*[.):,=]|([A-Za-z])\s+-|([A-Z])(?=\s))\s*(\S.*)",
    re.DOTALL,
)
_QUOTES = str.maketrans(dict.fromkeys("'\"`\u2018\u2019\u201c\u201d"))


def grade_choice(response: str, reference: str, options: Sequence[str]) -> str | None:
    """Return the letter that the last box chooses, which is `reference` when it is right.

    A box chooses by a letter (`C`, `(C)`, `option C`, `C. text`) or by the text of exactly one
    option. None without a box, and when the box names no option or more than one.
    """
    answer = parse_answer(response)
    return None if answer is None else read_choice(answer, options)


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer names, or None.

    A lone letter names its option, in any of the usual notations; so does the text of exactly one
    option. A letter with a text names the option only where the text is that option's, or no
    option's and set apart from the letter by brackets or a full stop (`C. some other wording`).
    """
    letters = string.ascii_uppercase[: len(options)]
    text = _plain(answer)
    plain = normal(text)
    announced = _ANNOUNCED.sub("", text, count=1)
    for reading in (text, announced, plain):
        letter = _LETTER.fullmatch(_unmarked(reading))
        if letter is not None and letter[1].upper() in letters:
            return letter[1].upper()
    same = _options_with(text, letters, options)
    if same:
        return same[0] if len(same) == 1 else None
    found = _read_letter_with_text(announced, letters, options)
    return found or _read_letter_with_text(_ANNOUNCED.sub("", plain, count=1), letters, options)


def _read_letter_with_text(text: str, letters: str, options: Sequence[str]) -> str | None:
    both = _LETTER_AND_TEXT.fullmatch(_unmarked(text))
    if both is None:
        return None
    letter = (both[1] or both[2] or both[3] or both[4]).upper()
    if letter not in letters:
        return None
    named = _options_with(both[5], letters, options)
    if named:
        return letter if letter in named else None  # "C. text of B" chooses nothing
    # "C. some other wording" chooses C; "C, D" and "C = 9" name more than C, or something else.
    is_set_apart = both[1] is not None or text.lstrip("*`\"' ")[1:2] in {".", ")"}
    return letter if is_set_apart and not _names_another(both[5], letters) else None


def _names_another(text: str, letters: str) -> bool:
    """Say whether a text names a further letter, at its beginning or like an option."""
    further = re.match(r"[\s,;&/(\[]*(?:and|or)?[\s(\[]*([A-Za-z])(?![A-Za-z])", text)
    if further is not None and further[1] in letters:
        return True
    return any(letter in letters for letter in _LATER_LETTER.findall(text))


def _options_with(text: str, letters: str, options: Sequence[str]) -> list[str]:
    return [name for name, option in zip(letters, options, strict=True) if _same(text, option)]


def _unmarked(text: str) -> str:
    """Return the text without quotation marks, bold type, braces and final punctuation."""
    before = None
    while text != before:
        before = text
        text = _MARKS.sub("", text.strip())
        for opening, closing in _BRACKETED:
            if text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)]
    return text


def grade_text(response: str, reference: str) -> str | None:
    """Return `reference` where the last box matches it, else the box's normal form, None without.

    See `text_form` for what matches.
    """
    answer = parse_answer(response)
    form = None if answer is None else text_form(answer)
    if not form:
        return None
    return reference if form in (text_form(reference), reference) else form


def text_form(answer: str) -> str:
    r"""Return the normal form by which two texts are the same answer.

    The rules are those that BBEH documents (arXiv 2502.19187; `evaluate.py` of its repository),
    made symmetric: first line only; case, bold, quotes, spaces after commas, a final full stop or
    question mark, `\text{}` and dollar signs do not matter; `(a)` is `a`; `[x]` is `x`; numbers
    compare by value.
    """
    text = _plain(answer).casefold().translate(_QUOTES).replace("**", "").strip()
    text = " ".join(text.partition("\n")[0].split()).rstrip(".?").strip()
    text = text.replace(", ", ",")
    if len(text) > 2 and text[0] == "[" and text[-1] == "]":
        text = text[1:-1].strip()
    if len(text) == 3 and text[0] == "(" and text[-1] == ")":
        text = text[1]
    return text if plain_number(text) is None else canonical(text)


def plurality(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, of equally frequent ones the first in text order."""
    counts = Counter(answer for answer in answers if answer is not None)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else None


def _plain(text: str) -> str:
    """Return the text without math mode and font commands, with full-width letters as plain
    ones."""
    text = unicodedata.normalize("NFKC", text)
    text = _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", text)).replace("$", "")
    return re.sub(r"\\q?quad|\\[()\[\]]", " ", text).strip()


def _same(text: str, option: str) -> bool:
    first, second = (" ".join(_plain(t).casefold().split()).rstrip(".") for t in (text, option))
    return first == second or canonical(text) == canonical(option)
