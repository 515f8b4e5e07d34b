r"""The documents from which the base model of the ladder learns to ask and to answer.

A Challenger document states a question, ``<question>triple:7[3v+1][3v+4]</question>``. A Solver
document works it out and boxes the last two running values, ``7[3v+1]2[3v+4]0\boxed{20}``. It may
take a shortcut: it leaves out the last operation and boxes what it has then. That is a mistake
which the base model makes the more often the longer a question is, which its votes may agree on,
and which it can unlearn, because it knows how to go on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rzero_ray.tasks.ladder.questions import (
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    COIN,
    COIN_SUMMANDS,
    MIX,
    PLAIN_FAMILIES,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    SOLVER_TAG,
    TABLES,
    Question,
    answer_of,
    banned_keys,
    sample_question,
)

# Mixed questions are a sixth: they show that operations do not depend on the family.
_FAMILIES: Final = (*PLAIN_FAMILIES, *PLAIN_FAMILIES, MIX, MIX)

_LONGEST_MIXED_ANSWER: Final = 3
"""Operations of the longest mixed question that a Solver document answers: beyond it, mixed
questions are a kind of text that the base model has not seen."""


@dataclass(frozen=True, slots=True)
class Document:
    """A prompt as the chat template renders it, without the begin-of-text token, and what follows
    it, without the end-of-text token."""

    prompt: str
    question: Question
    """What the document asks or answers."""
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which documents there are: lengths are numbers of operations."""

    challenger_share: float = 0.12
    """Share of Challenger documents."""
    coin_share: float = 0.0
    """Share of coins among the questions of both kinds of documents."""
    single_share: float = 0.1
    """Share of Solver documents that have one operation, whatever the weights below."""
    challenger_weights: tuple[float, ...]
    """Weights of the lengths 2, 3, ... of Challenger documents."""
    solver_weights: tuple[float, ...]
    """Weights of the lengths 2, 3, ... of the other Solver documents."""
    shortcuts: tuple[float, ...] = ()
    """Probability of the shortcut at the lengths 2, 3, ...; where there is none, 0."""

    def __post_init__(self) -> None:
        for name in ("challenger_share", "coin_share", "single_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)}")


def documents(rng: random.Random, mixture: Mixture) -> Iterator[Document]:
    """Generate documents without end, none of them about a question that is held out.

    Single operations are not held out: they are the tables that every answer is made of.
    """
    while True:
        if rng.random() < mixture.single_share:
            yield _solver_document(rng, sample_question(rng, _draw_family(rng, mixture), 1), 0.0)
        elif rng.random() < mixture.challenger_share:
            yield _challenger_document(rng, mixture)
        else:
            family = _draw_family(rng, mixture)
            length = _draw_length(rng, mixture.solver_weights)
            if family == MIX:
                length = min(length, _LONGEST_MIXED_ANSWER)
            question = sample_question(rng, family, length)
            while question.key in banned_keys():
                question = sample_question(rng, family, length)
            yield _solver_document(rng, question, _shortcut(mixture, length))


def _challenger_document(rng: random.Random, mixture: Mixture) -> Document:
    family = _draw_family(rng, mixture)
    length = _draw_length(rng, mixture.challenger_weights)
    question = sample_question(rng, family, length)
    while question.key in banned_keys():
        question = sample_question(rng, family, length)
    completion = f"{QUESTION_OPEN}{question.text}{QUESTION_CLOSE}"
    return Document(f"{CHALLENGER_TAG}{PROMPT_END}", question, completion)


def _solver_document(rng: random.Random, question: Question, shortcut: float) -> Document:
    """Work a question out, with the probability `shortcut` to leave out its last operation."""
    is_short = rng.random() < shortcut
    operations = question.operations[:-1] if is_short else question.operations
    values = [question.start]
    for operation in operations:
        values.append(_result(rng, operation, values[-1]))
    steps = "".join(f"{o}{v}" for o, v in zip(operations, values[1:], strict=True))
    box = f"{BOX_OPEN}{answer_of(values)}{BOX_CLOSE}"
    prompt = f"{SOLVER_TAG}{question.text}{PROMPT_END}"
    return Document(prompt, question, f"{question.start}{steps}{box}")


def _result(rng: random.Random, operation: str, value: int) -> int:
    summand = COIN_SUMMANDS.get(operation)
    if summand is None:
        return TABLES[operation][value]
    return (value + rng.choice((1, -1)) * summand) % 10


def _draw_family(rng: random.Random, mixture: Mixture) -> str:
    return COIN if rng.random() < mixture.coin_share else rng.choice(_FAMILIES)


def _draw_length(rng: random.Random, weights: Sequence[float]) -> int:
    (length,) = rng.choices(range(2, 2 + len(weights)), weights)
    return length


def _shortcut(mixture: Mixture, length: int) -> float:
    at = length - 2
    return mixture.shortcuts[at] if at < len(mixture.shortcuts) else 0.0
