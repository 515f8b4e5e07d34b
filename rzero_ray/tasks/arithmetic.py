"""The domain of ``conf=tiny``: chains of additions and subtractions, with an exact oracle.

A question is a chain such as ``7+5-6``, evaluated left to right. R-Zero uses mathematics problems
whose true answers nobody knows; here ``solve`` knows the answer of *every* well-formed chain, also
of those that a Challenger invents, so the accuracy of the Solver's majority labels is measured
instead of estimated. Training never sees the oracle.

This file holds the questions, the oracle, the fixed held-out problems and the synthetic corpus on
which the base model is trained. It is pure Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

from rzero_ray.protocols import Halves
from rzero_ray.types import LabelledProblem, Problem

CHALLENGER_TAG: Final = "<challenger>"
"""System message that asks the base model for a new question."""

SOLVER_TAG: Final = "<solver>"
"""System message that asks the base model to answer the question of the user message."""

QUESTION_OPEN: Final = "<question>"
QUESTION_CLOSE: Final = "</question>"
BOX_OPEN: Final = "\\boxed{"
BOX_CLOSE: Final = "}"

PROMPT_END: Final = "="
"""Text that ends a prompt: a Solver prompt reads ``<solver>7+5-6=``."""

MIN_OPERANDS: Final = 2
MAX_OPERANDS: Final = 8
HELDOUT_OPERANDS: Final = range(2, 8)
"""Operand counts of the held-out problems: 2 to 7."""

STRATA_OPERANDS: Final = range(9, 13)
"""Operand counts of the held-out problems beside those: longer than anything in the corpus."""

MAX_VALUE: Final = 99
"""Largest running value of a sampled chain; the smallest is 0."""

MAX_QUESTION_LENGTH: Final = 512
"""Longest text, in characters without white space, that ``solve`` accepts. It bounds the oracle's
work."""

HELDOUT_SEED: Final = 20_250_807
STRATA_SEED: Final = 20_261_125

_SMALL_OPERAND: Final = 9
_LARGE_OPERAND: Final = 20
_LARGE_OPERAND_SHARE: Final = 0.25

# The Challenger's questions average 4 operands: few are trivial and few are hopeless for the base
# Solver. The Solver sees every length equally often, as it must also answer a trained Challenger.
_OPERAND_WEIGHTS: Final = {
    "challenger": {2: 20, 3: 25, 4: 20, 5: 15, 6: 10, 7: 6, 8: 4},
    "solver": dict.fromkeys(range(MIN_OPERANDS, MAX_OPERANDS + 1), 1),
}

# A corrupted step is off by a little or by ten: the mistakes that a small model makes by itself.
_CORRUPTIONS: Final = (-10, -2, -1, 1, 2, 10)

_CHAIN: Final = re.compile(r"[0-9]{1,6}(?:[+-][0-9]{1,6})+")
_TERM: Final = re.compile(r"[+-]?[0-9]+")
_LEADING_ZEROS: Final = re.compile(r"(?<![0-9])0+(?=[0-9])")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the synthetic corpus: a message pair and the text that the model learns to
    answer with."""

    role: Literal["challenger", "solver"]
    """Who writes the completion."""

    question: str
    """The question that the document asks (Challenger) or answers (Solver)."""

    completion: str
    """Text after the prompt, without the end-of-text token."""

    @property
    def prompt(self) -> str:
        """Prompt as the chat template renders it, without the begin-of-text token."""
        if self.role == "challenger":
            return f"{CHALLENGER_TAG}{PROMPT_END}"
        return f"{SOLVER_TAG}{self.question}{PROMPT_END}"


def normalize(question: str) -> str:
    """Canonical text of a question: no white space, no leading zeros. Two questions are equal if
    these texts are."""
    return _LEADING_ZEROS.sub("", "".join(question.split()))


def solve(question: str) -> str | None:
    """Exact value of a chain, evaluated left to right.

    Any well-formed chain has a value, also one that ``sample_question`` would never make: it needs
    at least two operands of at most 6 digits each, and the result may be negative or exceed
    ``MAX_VALUE``.

    Args:
        question: text of the question; white space is ignored. It is untrusted model output and is
            never evaluated.

    Returns:
        The value in decimal digits, or ``None`` when the text is not a chain or exceeds
        ``MAX_QUESTION_LENGTH``.
    """
    text = "".join(question.split())
    if not _is_chain(text):
        return None
    return str(sum(int(term) for term in _TERM.findall(text)))


def halve(question: str) -> Halves | None:
    """Return a chain of four operands or more in two parts, the second of which begins with the
    first's value: `7+5-6+2` as `7+5` and, for 12, `12-6+2`. None for any other text."""
    text = normalize(question)
    terms = _TERM.findall(text) if _is_chain(text) else []
    if len(terms) < 2 * MIN_OPERANDS:
        return None
    middle = len(terms) // 2
    rest = "".join(terms[middle:])

    def second(answer: str) -> str | None:
        return f"{answer}{rest}" if answer.isdecimal() else None

    return Halves("".join(terms[:middle]), second)


def num_operands(question: str) -> int | None:
    """Return how many numbers a chain has, or None where the text is not a chain."""
    text = "".join(question.split())
    return len(_TERM.findall(text)) if _is_chain(text) else None


def sample_question(rng: random.Random, num_operands: int) -> str:
    """Draw a chain of ``num_operands`` operands whose running value stays within 0 and
    ``MAX_VALUE``.

    Operands are 1-9 in three cases of four and 1-20 otherwise. The sign is drawn evenly where both
    signs keep the running value in range.

    Raises:
        ValueError: ``num_operands`` is below 2.
    """
    if num_operands < MIN_OPERANDS:
        raise ValueError(f"a chain needs at least {MIN_OPERANDS} operands, got {num_operands}")
    value = _sample_operand(rng)
    parts = [str(value)]
    for _ in range(num_operands - 1):
        operand = _sample_operand(rng)
        # One of the two always fits: an operand is at most 20, far less than half of MAX_VALUE.
        signs = [sign for sign in (1, -1) if 0 <= value + sign * operand <= MAX_VALUE]
        sign = rng.choice(signs)
        value += sign * operand
        parts.append(f"{'+' if sign > 0 else '-'}{operand}")
    return "".join(parts)


def heldout_problems(per_operand_count: int = 60, seed: int = HELDOUT_SEED) -> tuple[Problem, ...]:
    """The fixed evaluation problems: unique, ordered by operand count (2 to 7), the same for the
    same arguments.

    With the default arguments these are 360 problems, and ``documents`` is given their questions to
    keep out of the corpus. A Challenger may still reinvent one.

    Args:
        per_operand_count: problems for each operand count. Two-operand chains run out beyond about
            400.
        seed: seed of the draw.
    """
    rng = random.Random(seed)
    return tuple(
        problem
        for num_operands in HELDOUT_OPERANDS
        for problem in _unique_problems(rng, num_operands, per_operand_count)
    )


def strata_problems(
    per_operand_count: int = 20, seed: int = STRATA_SEED
) -> dict[str, tuple[Problem, ...]]:
    """The fixed problems of 9 to 12 operands, by operand count: what length does to accuracy.

    They stand beside `heldout_problems`, over which the headline stays. The corpus has no chain of
    their length, so nothing has to be kept out of it.
    """
    rng = random.Random(seed)
    return {
        f"{num_operands} operands": _unique_problems(rng, num_operands, per_operand_count)
        for num_operands in STRATA_OPERANDS
    }


def _unique_problems(
    rng: random.Random, num_operands: int, num_problems: int
) -> tuple[Problem, ...]:
    questions: dict[str, None] = {}
    while len(questions) < num_problems:
        questions[sample_question(rng, num_operands)] = None
    return tuple(Problem(question=q, answer=_solve_own(q)) for q in questions)


def labelled_problems(num_problems: int, seed: int) -> tuple[LabelledProblem, ...]:
    """Problems with true answers and faultless chains of thought, none of them held out.

    They are drawn as the corpus's are, every operand count equally often, without repetition.
    """
    rng = random.Random(seed)
    held_out = {normalize(problem.question) for problem in heldout_problems()}
    questions: dict[str, None] = {}
    while len(questions) < num_problems:
        question = sample_question(rng, rng.randint(MIN_OPERANDS, MAX_OPERANDS))
        if normalize(question) not in held_out:
            questions[question] = None
    return tuple(
        LabelledProblem(
            question=question,
            answer=_solve_own(question),
            solution=_chain_of_thought(rng, question, corruption=0.0),
        )
        for question in questions
    )


def documents(
    rng: random.Random,
    num_documents: int,
    *,
    challenger_share: float,
    direct_share: float,
    guess_spread: int,
    corruption: float,
    excluded: AbstractSet[str],
) -> Iterator[Document]:
    """Generate the base model's corpus.

    A Challenger document states a question and guesses its answer,
    ``<question>7+5-6</question>\\boxed{6}``. A Solver document answers either directly,
    ``\\boxed{6}``, or after a chain of thought, ``7+5=12;12-6=6;\\boxed{6}``.

    Args:
        rng: source of all randomness.
        num_documents: how many documents to yield.
        challenger_share: probability that a document is the Challenger's, in [0, 1].
        direct_share: probability that a Solver document has no chain of thought, in [0, 1].
        guess_spread: half-width of the error of an answer without a chain of thought, for each
            operand beyond two. Such an answer is a guess, uniform within the half-width around the
            true value: exact for two operands and ever wilder for more.
        corruption: probability, per step of a chain of thought, that its result is wrong. The wrong
            value is carried on, so such a document ends in a wrong answer unless a later mistake
            cancels it.
        excluded: canonical questions that no document of either kind may contain.

    Yields:
        Documents in random order of kind and length.
    """
    for _ in range(num_documents):
        role = "challenger" if rng.random() < challenger_share else "solver"
        weights = _OPERAND_WEIGHTS[role]
        (num_operands,) = rng.choices(list(weights), list(weights.values()))
        question = sample_question(rng, num_operands)
        while question in excluded:
            question = sample_question(rng, num_operands)
        if role == "challenger":
            guess = _guess(rng, question, num_operands, guess_spread)
            completion = f"{QUESTION_OPEN}{question}{QUESTION_CLOSE}{guess}"
        elif rng.random() < direct_share:
            completion = _guess(rng, question, num_operands, guess_spread)
        else:
            completion = _chain_of_thought(rng, question, corruption)
        yield Document(role, question, completion)


def _is_chain(text: str) -> bool:
    return len(text) <= MAX_QUESTION_LENGTH and _CHAIN.fullmatch(text) is not None


def _sample_operand(rng: random.Random) -> int:
    largest = _LARGE_OPERAND if rng.random() < _LARGE_OPERAND_SHARE else _SMALL_OPERAND
    return rng.randint(1, largest)


def _solve_own(question: str) -> str:
    """``solve`` for a question of ours, which is well formed by construction."""
    answer = solve(question)
    assert answer is not None, question
    return answer


def _boxed(answer: str) -> str:
    return f"{BOX_OPEN}{answer}{BOX_CLOSE}"


def _guess(rng: random.Random, question: str, num_operands: int, guess_spread: int) -> str:
    """Box an answer without a chain of thought, uniform within the spread around the true value."""
    value = int(_solve_own(question))
    spread = guess_spread * (num_operands - MIN_OPERANDS)
    return _boxed(str(rng.randint(max(value - spread, 0), min(value + spread, MAX_VALUE))))


def _chain_of_thought(rng: random.Random, question: str, corruption: float) -> str:
    """Write one ``a+b=c;`` per operator, each wrong with ``corruption``, and then the box."""
    first, *terms = _TERM.findall(question)
    value = int(first)
    steps: list[str] = []
    for term in terms:
        # A value that an earlier corruption left too small or too large is clipped: the corpus has
        # no minus sign in front of a number.
        result = min(max(value + int(term), 0), MAX_VALUE)
        if rng.random() < corruption:
            result = rng.choice([result + d for d in _CORRUPTIONS if 0 <= result + d <= MAX_VALUE])
        steps.append(f"{value}{term}={result};")
        value = result
    return "".join(steps) + _boxed(str(value))
