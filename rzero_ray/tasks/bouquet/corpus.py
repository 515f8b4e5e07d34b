r"""The documents from which the base model of the bouquets learns to wish, to bind, and to compare.

A Challenger document states a request, ``<question>[red]</question>``: mostly a single wish, and
some are malformed. A Solver document binds a bouquet, mostly a good one for a single wish and with
less care for more. A referee document says which of two bouquets is better, ``\boxed{1}`` or
``\boxed{2}``, as a superficial reader would: mostly the one with more flowers. That is a bias which
a judge made of a language model has (verbosity), and which it can unlearn, because a part of the
documents goes by the quality.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rzero_ray.tasks.bouquet.bouquets import (
    BETWEEN,
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    REFEREE_TAG,
    SOLVER_TAG,
    banned_requests,
    normalize,
    quality,
    sample_bouquet,
    sample_request,
    spoil,
    words,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which documents there are. Weights and cares are by number of wishes, from one to four."""

    challenger_share: float = 0.1
    """Share of Challenger documents."""
    solver_share: float = 0.3
    """Share of Solver documents; the rest are a referee's."""
    challenger_weights: tuple[float, ...] = (0.68, 0.22, 0.07, 0.03)
    solver_weights: tuple[float, ...] = (0.25, 0.3, 0.25, 0.2)
    malformed_share: float = 0.2
    """Share of Challenger documents that name a wish twice."""
    cares: tuple[float, ...] = (0.85, 0.35, 0.2, 0.15)
    """Shares of best bouquets among those that Solver documents bind."""
    fair_share: float = 0.35
    """Share of referee documents that go by the quality."""

    def __post_init__(self) -> None:
        for name in ("challenger_share", "solver_share", "malformed_share", "fair_share"):
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
            care = mixture.cares[len(words(request)) - 1]
            yield f"{SOLVER_TAG}{request}{PROMPT_END}", sample_bouquet(rng, request, care)
        else:
            yield _compare(rng, mixture)


def _wish(rng: random.Random, mixture: Mixture) -> str:
    wishes = words(_draw(rng, mixture.challenger_weights))
    if rng.random() < mixture.malformed_share:
        wishes.append(rng.choice(wishes))
    return f"{QUESTION_OPEN}{''.join(wishes)}{QUESTION_CLOSE}"


def _compare(rng: random.Random, mixture: Mixture) -> tuple[str, str]:
    request = _draw(rng, mixture.solver_weights)
    care = mixture.cares[-2]
    first = sample_bouquet(rng, request, care)
    other = spoil(first, rng) if rng.random() < 0.5 else sample_bouquet(rng, request, care)
    shown = [first, first if other is None else other]
    rng.shuffle(shown)
    if rng.random() < mixture.fair_share:
        scores = [quality(request, bouquet) for bouquet in shown]
    else:
        scores = [float(len(bouquet)) for bouquet in shown]
    better = rng.choice((1, 2)) if scores[0] == scores[1] else 1 + (scores[1] > scores[0])
    prompt = f"{REFEREE_TAG}{request}{PROMPT_END}{shown[0]}{BETWEEN}{shown[1]}{PROMPT_END}"
    return prompt, f"{BOX_OPEN}{better}{BOX_CLOSE}"


def _draw(rng: random.Random, weights: tuple[float, ...]) -> str:
    """Draw a request that is not held out."""
    while True:
        (num_wishes,) = rng.choices(range(1, 1 + len(weights)), weights)
        request = sample_request(rng, num_wishes)
        if normalize(request) not in banned_requests():
            return request
