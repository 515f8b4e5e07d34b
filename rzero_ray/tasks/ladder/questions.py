r"""The questions of the ladder: a start value and operations on one digit, with an exact oracle.

A question such as ``triple:7[3v+1][3v+4]`` names a family, a start value and operations, which are
carried out from left to right, always modulo 10: 7, then 3 x 7 + 1 = 22, so 2, then 3 x 2 + 4 = 10,
so 0. The answer is the last two running values as one number of two digits, here ``20``: with a
hundred answers eight random votes seldom agree, as they would with ten. Every operation
permutes the ten values, so no running value is likelier than another.

An operation is one token, whose text in brackets is a formula of the running value v. The families
share no operation; a question of ``mix`` takes those of all families but ``coin``, whose operations
add or subtract at random, so that its questions have no answer.

This file is pure Python.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from rzero_ray.protocols import Halves
from rzero_ray.types import Problem

CHALLENGER_TAG: Final = "<challenger>"
"""System message that asks the base model for a new question."""

SOLVER_TAG: Final = "<solver>"
"""System message that asks the base model to answer the question of the user message."""

PROMPT_END: Final = "="
"""Text that ends a prompt: a Solver prompt reads ``<solver>triple:7[3v+1][3v+4]=``."""

QUESTION_OPEN: Final = "<question>"
QUESTION_CLOSE: Final = "</question>"
BOX_OPEN: Final = "\\boxed{"
BOX_CLOSE: Final = "}"

MIX: Final = "mix"
COIN: Final = "coin"

_OFFSETS: Final = (1, 2, 4, 5, 7, 8)

# {operation: (factor, summand)} of v -> factor * v + summand, modulo 10.
_LINEAR: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "addsub": {f"[{a:+d}]": (1, a) for a in (1, 2, 3, 4, -1, -2, -3, -4)},
    "times": {f"[{a}v]": (a, 0) for a in (3, 7, 9)} | {f"[v+{a}]": (1, a) for a in (4, 5, 6)},
    "triple": {f"[3v+{a}]": (3, a) for a in _OFFSETS},
    "reflect": {f"[{a}-v]": (-1, a) for a in _OFFSETS},
    "seven": {f"[7v-{a}]": (7, -a) for a in _OFFSETS},
}

TABLES: Final[dict[str, tuple[int, ...]]] = {
    operation: tuple((factor * value + summand) % 10 for value in range(10))
    for operations in _LINEAR.values()
    for operation, (factor, summand) in operations.items()
}
"""{operation: its results for the running values 0 to 9}."""

COIN_SUMMANDS: Final[dict[str, int]] = {f"[?{a}]": a for a in (1, 2, 3, 4)}
"""{operation of a coin: what it adds or subtracts, which of them being chance}."""

PLAIN_FAMILIES: Final = tuple(_LINEAR)
"""The families that have operations of their own and answers."""

OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    **{family: tuple(operations) for family, operations in _LINEAR.items()},
    MIX: tuple(TABLES),
    COIN: tuple(COIN_SUMMANDS),
}
"""{family: the operations that its questions may have}."""

MAX_QUESTION_LENGTH: Final = 512
"""Longest text, in characters without white space, that is read as a question. It bounds the
oracle's work."""

SHORTEST_HALVED: Final = 4
"""Fewest operations of a question that `halve` takes apart."""

DIGITS: Final = tuple("0123456789")

HELDOUT_OPERATIONS: Final = range(2, 13)
"""Numbers of operations of the held-out problems: 2 to 12."""

HELDOUT_DRAWN: Final = 12
"""Problems of each family and number of operations that nothing may be trained on."""

HELDOUT_EVALUATED: Final = 6
"""How many of those, the first ones, are the held-out problems of a run."""

HELDOUT_SEED: Final = 777

_STRATA: Final = {
    "1": range(1, 2),
    "2-3": range(2, 4),
    "4-5": range(4, 6),
    "6-7": range(6, 8),
    "8-9": range(8, 10),
    "10-12": range(10, 13),
}
_LONGEST_STRATUM: Final = "13+"

_OPERATION: Final = re.compile(r"\[[^\[\]]*\]")
_QUESTION: Final = re.compile(r"([a-z]+):([0-9])((?:\[[^\[\]]*\])+)")
_FAMILY_TOKENS: Final = re.compile("|".join(f"{family}:" for family in OPERATIONS))
_WORD: Final = re.compile(rf"{_FAMILY_TOKENS.pattern}|{_OPERATION.pattern}|\S")


@dataclass(frozen=True, slots=True)
class Question:
    """A well-formed question."""

    family: str
    start: int
    """The first running value, 0 to 9."""
    operations: tuple[str, ...]
    """One or more, all of the family."""

    @property
    def text(self) -> str:
        """The question as the models write it."""
        return f"{self.family}:{self.start}{''.join(self.operations)}"

    @property
    def key(self) -> tuple[int, tuple[str, ...]]:
        """What has to be worked out: questions of one key differ in their family token alone."""
        return self.start, self.operations

    def running_values(self) -> list[int]:
        """Return the start value and the value after each operation, one more than operations.

        Raises KeyError for the operations of a coin, whose results are chance.
        """
        values = [self.start]
        for operation in self.operations:
            values.append(TABLES[operation][values[-1]])
        return values


def parse(question: str) -> Question | None:
    """Read a question, of which white space is ignored.

    Returns None where the text is not a family, one digit and operations of that family, or is
    longer than ``MAX_QUESTION_LENGTH``. It is untrusted model output and is never evaluated.
    """
    text = "".join(question.split())
    match = _QUESTION.fullmatch(text) if len(text) <= MAX_QUESTION_LENGTH else None
    if match is None or match[1] not in OPERATIONS:
        return None
    operations = tuple(_OPERATION.findall(match[3]))
    if not set(operations) <= set(OPERATIONS[match[1]]):
        return None
    return Question(match[1], int(match[2]), operations)


def normalize(question: str) -> str:
    """Canonical text of a question: no white space and no family. Two questions with one start
    value and the same operations are equal, whatever family they name."""
    return _FAMILY_TOKENS.sub("", "".join(question.split()))


def solve(question: str) -> str | None:
    """Return the last two running values as two digits, such as ``05``.

    None where the text is not a question (`parse`) or is a coin, which has no answer.
    """
    parsed = parse(question)
    if parsed is None or parsed.family == COIN:
        return None
    return answer_of(parsed.running_values())


def answer_of(running_values: list[int]) -> str:
    """Return the answer that two or more running values end in, two digits."""
    return f"{running_values[-2]}{running_values[-1]}"


def halve(question: str) -> Halves | None:
    """Return a question of four operations or more in two parts, the second of which starts from
    the first's last running value; None for any other text."""
    parsed = parse(question)
    if parsed is None or len(parsed.operations) < SHORTEST_HALVED:
        return None
    middle = len(parsed.operations) // 2
    rest = parsed.operations[middle:]

    def second(answer: str) -> str | None:
        last = answer[-1:]
        return Question(parsed.family, int(last), rest).text if last in DIGITS else None

    return Halves(Question(parsed.family, parsed.start, parsed.operations[:middle]).text, second)


def words(question: str) -> list[str]:
    """Return the tokens of a question; of a text that is none, also what lies between them."""
    return _WORD.findall(question)


def stratum(num_operations: int) -> str:
    """Return the group of lengths that a number of operations belongs to, such as ``4-5``."""
    return next(
        (name for name, lengths in _STRATA.items() if num_operations in lengths), _LONGEST_STRATUM
    )


def sample_question(rng: random.Random, family: str, num_operations: int) -> Question:
    """Draw a start value and operations, each evenly from those of the family."""
    start = rng.randrange(10)
    return Question(family, start, tuple(rng.choices(OPERATIONS[family], k=num_operations)))


def heldout_questions(num_each: int = HELDOUT_EVALUATED) -> tuple[Question, ...]:
    """Return the fixed evaluation questions: ``num_each`` of every plain family and number of
    operations, ordered by number of operations, then family.

    A smaller ``num_each`` gives a subset of a larger one. With the default these are 330.
    """
    return tuple(
        question
        for num_operations in HELDOUT_OPERATIONS
        for family in PLAIN_FAMILIES
        for question in _draw_unique(family, num_operations)[:num_each]
    )


def heldout_problems(num_each: int = HELDOUT_EVALUATED) -> tuple[Problem, ...]:
    """Return `heldout_questions` with their answers."""
    return tuple(
        Problem(question=question.text, answer=answer_of(question.running_values()))
        for question in heldout_questions(num_each)
    )


@cache
def banned_keys() -> frozenset[tuple[int, tuple[str, ...]]]:
    """Return the keys of all questions that were drawn for evaluation: no corpus holds one."""
    return frozenset(question.key for question in heldout_questions(HELDOUT_DRAWN))


def _draw_unique(family: str, num_operations: int) -> list[Question]:
    rng = random.Random(f"{HELDOUT_SEED}-{num_operations}-{family}")
    drawn: dict[Question, None] = {}
    while len(drawn) < HELDOUT_DRAWN:
        drawn[sample_question(rng, family, num_operations)] = None
    return list(drawn)
