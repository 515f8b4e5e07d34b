r"""Read the answers of benchmarks whose references are no mathematics: options, and plain text.

Like `parsing`, every function is total and linear in the length of the text, and takes the answer
from the last balanced box. Mathematics is graded by `equality.equivalent`.

The official evaluation searches the box for the letters A to J in the order of the alphabet (so
`\boxed{CAT}` is A) and draws a random letter when it finds none. Here a response that names no
option is unanswered.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from rzero_ray.answers.forms import canonical, plain_number
from rzero_ray.answers.parsing import parse_answer

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|texttt|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"(?:option|choice|answer)?\s*[(\[]?([A-Za-z])[)\]]?[.:]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[.):])\s*(\S.*)", re.DOTALL)
_QUOTES = str.maketrans(dict.fromkeys("'\"`\u2018\u2019\u201c\u201d"))


def grade_choice(response: str, reference: str, options: Sequence[str]) -> str | None:
    """Return the letter that the last box chooses, which is `reference` when it is right.

    A box chooses by a letter (`C`, `(C)`, `option C`, `C. text`) or by the text of exactly one
    option. None without a box, and when the box names no option or more than one.
    """
    answer = parse_answer(response)
    return None if answer is None else read_choice(answer, options)


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer names, or None."""
    letters = string.ascii_uppercase[: len(options)]
    text = _plain(answer)
    letter = _LETTER.fullmatch(text)
    if letter is not None and letter[1].upper() in letters:
        return letter[1].upper()
    same = [name for name, option in zip(letters, options, strict=True) if _same(text, option)]
    if same:
        return same[0] if len(same) == 1 else None
    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is None:
        return None
    letter_alone = (both[1] or both[2]).upper()
    named = [name for name, option in zip(letters, options, strict=True) if _same(both[3], option)]
    # "C. text of B" chooses nothing; "C. some other wording" chooses C.
    is_clear = letter_alone in letters and (not named or letter_alone in named)
    return letter_alone if is_clear else None


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
    number = plain_number(text)
    return text if number is None else str(number)


def plurality(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, of equally frequent ones the first in text order."""
    counts = Counter(answer for answer in answers if answer is not None)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else None


def _plain(text: str) -> str:
    """Return the text without math mode and font commands."""
    return _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", text)).replace("$", "").strip()


def _same(text: str, option: str) -> bool:
    first, second = (" ".join(_plain(t).casefold().split()).rstrip(".") for t in (text, option))
    return first == second or canonical(text) == canonical(option)
