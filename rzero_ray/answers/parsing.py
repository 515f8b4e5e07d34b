r"""Parse what the two policies write: questions, boxed answers, and nothing else.

Model output is untrusted text under optimisation pressure, so every function here is total:
malformed text is `None`, never an exception, and every function is linear in the length of the text
(no backtracking regex, no recursion).

A model may think between `<think>` and `</think>` before it answers. What it thinks is no answer
and no question: every reader here takes what `spoken` returns.

Source: R-Zero (arXiv 2508.05004) section 3 (format check of the Challenger) and its appendix of
prompts: the Challenger writes a `<question>` block and then a `\boxed{}` answer, the Solver reasons
and then writes a `\boxed{}` answer.
"""

import re
from dataclasses import dataclass

from rzero_ray.answers.forms import canonical, is_nothing

MAX_QUESTION_CHARS = 8_000
"""Longest accepted question in characters: about the paper's prompt budget of 2,048 tokens at 4
characters a token."""

_QUESTION_OPEN = "<question>"
_QUESTION_CLOSE = "</question>"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"

# One token of TeX that matters for brace matching. An escaped character (`\{`, `\\`) is consumed
# whole, so it can neither open nor close a group.
_BRACE_TOKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)

# What may stand between boxes that are one list: separators, spacing and math mode, nothing else.
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$~]|\\[,:! ()\[\]]|[,;&]|\\q?quad|\\;|\\text\s*\{[\s,]*(?:and|or)?[\s,]*\}"
    r"|(?:and|or)\b|[a-zA-Z](?:_\w)?\s*=)*"
)
_SEPARATOR = re.compile(r"[,;&]|and|or|quad")
_MAX_GAP_CHARS = 80
"""Longest text between two boxes of one list."""

_NOT_A_BOX = -1


@dataclass(frozen=True, slots=True)
class Challenge:
    """One question invented by the Challenger, with the answer it claims."""

    question: str
    """The question, stripped; never empty."""

    answer: str | None
    """The Challenger's own boxed answer, stripped. It is a format requirement only: the
    pseudo-label is the Solver's."""


@dataclass(frozen=True, slots=True)
class _Box:
    """Offsets of one balanced box: `text[start:end]` is the whole command, `text[inner:end - 1]`
    its contents."""

    start: int
    inner: int
    end: int


def spoken(text: str) -> str:
    """Return what a text says outside its thoughts: what follows the last closed thought, up to a
    thought that is not closed.

    The whole text where it has no tags. A thought that was cut off says nothing, whatever boxes it
    holds; a closing tag alone ends a thought that the prompt has opened.
    """
    close_at = text.rfind(_THINK_CLOSE)
    start = 0 if close_at < 0 else close_at + len(_THINK_CLOSE)
    open_at = text.find(_THINK_OPEN, start)
    return text[start:] if open_at < 0 else text[start:open_at]


def _last_question_span(text: str) -> tuple[int, int] | None:
    """Offsets (open, close) of the tags of the last pair, or None."""
    last_close = text.rfind(_QUESTION_CLOSE)
    if last_close < 0:
        return None
    open_at = text.rfind(_QUESTION_OPEN, 0, last_close)
    if open_at < 0:
        return None
    # Stray closing tags may follow the pair: the pair ends at the first of them.
    return open_at, text.find(_QUESTION_CLOSE, open_at)


def _question_in(text: str, span: tuple[int, int]) -> str | None:
    question = text[span[0] + len(_QUESTION_OPEN) : span[1]].strip()
    return question if 0 < len(question) <= MAX_QUESTION_CHARS else None


def parse_question(text: str) -> str | None:
    """Return the stripped text inside the last well-formed `<question>...</question>` pair that the
    text says outside its thoughts (`spoken`).

    None when there is no pair, or the last pair is empty or longer than `MAX_QUESTION_CHARS`. The
    last pair counts because a draft may precede it. This is the lenient check, and in effect the
    official code's: that code also asks for a box, but its box reader returns the (truthy) string
    "None" for a missing one, so only the tag is ever enforced.
    """
    text = spoken(text)
    span = _last_question_span(text)
    return None if span is None else _question_in(text, span)


def _boxes(text: str) -> list[_Box]:
    """Find all balanced boxes, in one pass with a stack of open groups, in the order in which they
    start."""
    boxes: list[_Box] = []
    open_boxes: list[
        tuple[int, int]
    ] = []  # (start, inner) per open group; start is _NOT_A_BOX for a plain group
    for match in _BRACE_TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            open_boxes.append((_NOT_A_BOX, _NOT_A_BOX))
        elif token == "}":
            if not open_boxes:
                continue  # a stray closing brace ends nothing
            start, inner = open_boxes.pop()
            if start != _NOT_A_BOX:
                boxes.append(_Box(start, inner, match.end()))
        elif token[-1] == "{" and len(token) > 2:  # `\boxed{`, not the escaped brace `\{`
            open_boxes.append((match.start(), match.end()))
    return sorted(boxes, key=lambda box: box.start)


def _answer_boxes(text: str) -> list[_Box]:
    """Return the boxes that hold the answer: the last one with content, and those before it that
    make a list with it. None where no box has content."""
    boxes = _boxes(text)
    while boxes and is_nothing(text[boxes[-1].inner : boxes[-1].end - 1]):
        boxes.pop()
    found = boxes[-1:]
    for box in reversed(boxes[:-1]):
        if not _is_list_gap(text, box.end, found[0].start):
            break
        found.insert(0, box)
    return [box for box in found if not is_nothing(text[box.inner : box.end - 1])]


def _is_list_gap(text: str, start: int, end: int) -> bool:
    """Say whether boxes with this text between them are items of one list."""
    if not 0 < end - start <= _MAX_GAP_CHARS:
        return False
    gap = text[start:end]
    return bool(_SEPARATOR.search(gap)) and _BETWEEN_BOXES.fullmatch(gap) is not None


def parse_answer(text: str) -> str | None:
    r"""Return the stripped contents of the last balanced `\boxed{...}` (`\fbox`, `\framebox`) with
    content that the text says outside its thoughts (`spoken`).

    None when there is none, when all are empty (dots and spacing are nothing), or when no box is
    balanced (a completion cut off inside its box). "Last" is by the position of the command, so of
    nested boxes the inner one counts. Nested and escaped braces are respected. Boxes with nothing
    but commas, "and", "or" and spacing between them are one list: `\boxed{1}, \boxed{2}` is `1, 2`.

    The official evaluation takes the first box, greedily to the end of the line; a chain of thought
    often boxes intermediate results, so we take the last balanced one.
    """
    return _boxed(spoken(text))


def fault_in(answer: str) -> str | None:
    """Return what is wrong with an answer that a file or a person gives, as what follows the answer
    in a line; None where it can be compared with others.

    It is put into a box, from which it must come out whole.
    """
    if "####" in answer:
        return "holds a whole solution; only what follows #### is the answer"
    if not _braces_match(answer):
        return "has braces that do not match"
    return "says nothing" if parse_answer(f"\\boxed{{{answer}}}") is None else None


def _braces_match(answer: str) -> bool:
    """Return whether a box around the answer ends where the answer does."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", answer, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _boxed(text: str) -> str | None:
    """Return the stripped contents of the boxes that hold the answer, wherever they stand."""
    contents = [text[box.inner : box.end - 1].strip() for box in _answer_boxes(text)]
    if len({canonical(content) for content in contents}) == 1:
        return contents[-1]  # one answer, boxed again
    return ", ".join(contents) or None


def parse_challenge(text: str) -> Challenge | None:
    r"""Return the question and the boxed answer that follows it, or None when either is missing.

    This is the format check the paper states for the Challenger (section 3): both blocks, in that
    order. The official code enforces the `<question>` tag alone; `parse_question` reproduces that.
    """
    text = spoken(text)
    span = _last_question_span(text)
    if span is None:
        return None
    question = _question_in(text, span)
    answer = _boxed(text[span[1] + len(_QUESTION_CLOSE) :])
    if question is None or answer is None:
        return None
    return Challenge(question, answer)


def parse_strict_question(text: str) -> str | None:
    """Return the question of `parse_challenge`: only one that an answer follows."""
    challenge = parse_challenge(text)
    return None if challenge is None else challenge.question


def has_think_format(text: str) -> bool:
    r"""Say whether the text is `<think>...</think>...\boxed{...}`: the official code's format.

    Its Solver prompt never asks for the tags, so a model that does not write them by itself never
    has this format.
    """
    text = text.strip()
    close_at = text.find(_THINK_CLOSE)
    if not text.startswith(_THINK_OPEN) or close_at < 0:
        return False
    return _boxed(text[close_at + len(_THINK_CLOSE) :]) is not None


def has_chain_of_thought(text: str) -> bool:
    """Say whether anything but white space precedes the final balanced box that is said outside the
    thoughts (or is there at all, when no box is); tags of a thought do not count, what they enclose
    does."""
    said = spoken(text)
    boxes = _answer_boxes(said)
    if boxes:
        # What is said is one piece of the text, and begins where its last closed thought ends.
        close_at = text.rfind(_THINK_CLOSE)
        begin = 0 if close_at < 0 else close_at + len(_THINK_CLOSE)
        text = text[: begin + boxes[0].start]
    return bool(text.replace(_THINK_OPEN, "").replace(_THINK_CLOSE, "").strip())
