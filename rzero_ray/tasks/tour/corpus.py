r"""The documents from which the base model of the tours learns to wish, to plan, and to compare.

A Challenger document states a request, ``<question>gbk</question>``; some are malformed. A Solver
document plans a tour with more or less care. A referee document says which of two tours is better,
``\boxed{1}`` or ``\boxed{2}``, as a superficial reader would: mostly the longer one. That is a bias
which a judge from a language model has (verbosity), and which it can unlearn, because a part of the
documents goes by the quality.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rzero_ray.tasks.tour.tours import (
    BETWEEN,
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    FEWEST_WISHES,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    REFEREE_TAG,
    SOLVER_TAG,
    banned_requests,
    normalize,
    quality,
    sample_request,
    sample_tour,
    spoil,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which documents there are. Weights of numbers of wishes begin at two."""

    challenger_share: float = 0.12
    """Share of Challenger documents."""
    solver_share: float = 0.43
    """Share of Solver documents; the rest are a referee's."""
    challenger_weights: tuple[float, ...] = (0.5, 0.28, 0.12, 0.06, 0.03, 0.01)
    solver_weights: tuple[float, ...] = (0.2, 0.2, 0.18, 0.15, 0.12, 0.08, 0.05, 0.02)
    malformed_share: float = 0.2
    """Share of Challenger documents that name a place twice."""
    care: float = 0.3
    """Share of faultless tours."""
    fair_share: float = 0.25
    """Share of referee documents that go by the quality."""

    def __post_init__(self) -> None:
        for name in ("challenger_share", "solver_share", "malformed_share", "care", "fair_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)}")
        if self.challenger_share + self.solver_share > 1.0:
            raise ValueError("challenger_share and solver_share are more than all documents")


def documents(rng: random.Random, mixture: Mixture) -> Iterator[tuple[str, str]]:
    """Yield documents without end: a prompt as the chat template renders it, without the
    begin-of-text token, and what follows it, without the end-of-text token."""
    while True:
        kind = rng.random()
        if kind < mixture.challenger_share:
            yield f"{CHALLENGER_TAG}{PROMPT_END}", _wish(rng, mixture)
        elif kind < mixture.challenger_share + mixture.solver_share:
            request = _draw(rng, mixture.solver_weights)
            yield f"{SOLVER_TAG}{request}{PROMPT_END}", sample_tour(rng, request, mixture.care)
        else:
            yield _compare(rng, mixture)


def _wish(rng: random.Random, mixture: Mixture) -> str:
    request = _draw(rng, mixture.challenger_weights)
    if rng.random() < mixture.malformed_share:
        at = rng.randrange(len(request))
        request = request[:at] + rng.choice(request) + request[at:]
    return f"{QUESTION_OPEN}{request}{QUESTION_CLOSE}"


def _compare(rng: random.Random, mixture: Mixture) -> tuple[str, str]:
    request = _draw(rng, mixture.solver_weights)
    first = sample_tour(rng, request, mixture.care)
    other = spoil(first, rng) if rng.random() < 0.5 else sample_tour(rng, request, mixture.care)
    tours = [first, first if other is None else other]
    rng.shuffle(tours)
    if rng.random() < mixture.fair_share:
        scores = [quality(request, tour) for tour in tours]
    else:
        scores = [float(len(tour)) for tour in tours]
    better = rng.choice((1, 2)) if scores[0] == scores[1] else 1 + (scores[1] > scores[0])
    prompt = f"{REFEREE_TAG}{request}{PROMPT_END}{tours[0]}{BETWEEN}{tours[1]}{PROMPT_END}"
    return prompt, f"{BOX_OPEN}{better}{BOX_CLOSE}"


def _draw(rng: random.Random, weights: tuple[float, ...]) -> str:
    """Draw a request that is not held out."""
    while True:
        counts = range(FEWEST_WISHES, FEWEST_WISHES + len(weights))
        (num_wishes,) = rng.choices(counts, weights)
        request = sample_request(rng, num_wishes)
        if normalize(request) not in banned_requests():
            return request
