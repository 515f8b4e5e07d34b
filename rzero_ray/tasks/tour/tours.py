r"""Tours of places on a line: requests without an exact answer, and the hidden quality of answers.

Twelve places, `a` to `l`, lie on a line a step apart. A request names two to nine of them that
somebody wishes to see, `gbk`; an answer is the order of stops of a tour, `bgk`. Many tours are
good: `kgb` is as short, and `bdgk` is hardly worse. How good one is lies in [0, 1], on many levels:

    quality = share of the wishes that are seen
              x distance between the outermost wishes / (distance walked + superfluous stops)

where the denominator is at least the numerator, and a stop is superfluous that nobody wished for or
that was seen before. The quality is hidden: only the evaluation may read it.

This file is pure Python.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from typing import Final

from rzero_ray.types import Problem, RatedPair

CHALLENGER_TAG: Final = "<challenger>"
"""System message that asks the base model for a new request."""

SOLVER_TAG: Final = "<solver>"
"""System message that asks the base model for a tour."""

REFEREE_TAG: Final = "<referee>"
"""System message that asks the base model which of two tours is the better one."""

PROMPT_END: Final = "="
"""Text that ends a prompt: a Solver prompt reads ``<solver>gbk=``."""

BETWEEN: Final = "|"
"""Stands between the two tours of a referee's prompt, ``<referee>gbk=bgk|gbk=``."""

QUESTION_OPEN: Final = "<question>"
QUESTION_CLOSE: Final = "</question>"
BOX_OPEN: Final = "\\boxed{"
BOX_CLOSE: Final = "}"

PLACES: Final = "abcdefghijkl"
FEWEST_WISHES: Final = 2
MOST_WISHES: Final = 9
MOST_STOPS: Final = 20
"""Stops of the longest tour that is read as one."""

HELDOUT_WISHES: Final = range(2, 9)
HELDOUT_EACH: Final = 10
"""Held-out requests of each number of wishes."""
HELDOUT_PAIRS: Final = 200
"""Held-out pairs of tours, on which a referee is measured."""
HELDOUT_SEED: Final = 4242

_LEAST_GAP: Final = 0.02
"""Difference of quality below which two tours make no held-out pair."""
_PAIR_WISHES: Final = range(3, 8)
_CARE: Final = 0.3
"""Share of faultless tours among those of the held-out pairs."""


def parse_request(text: str) -> str | None:
    """Return the wishes without white space; None where they are not two to nine different places.

    `text` is untrusted model output.
    """
    wishes = "".join(text.split())
    if not FEWEST_WISHES <= len(wishes) <= MOST_WISHES or len(set(wishes)) < len(wishes):
        return None
    return wishes if set(wishes) <= set(PLACES) else None


def parse_tour(text: str) -> str | None:
    """Return the stops without white space; None where they are not one to twenty places."""
    stops = "".join(text.split())
    return stops if 0 < len(stops) <= MOST_STOPS and set(stops) <= set(PLACES) else None


def normalize(request: str) -> str:
    """Return the wishes in the order of the line: two requests with the same wishes are one."""
    return "".join(sorted("".join(request.split())))


def quality(request: str, answer: str) -> float:
    """Return the hidden quality of a tour, in [0, 1]; 0 of a text that is none.

    Raises ValueError where the request is none: nobody may be asked one.
    """
    wishes, stops = parse_request(request), parse_tour(answer)
    if wishes is None:
        raise ValueError(f"not a request: {request[:40]!r}")
    if stops is None:
        return 0.0
    wished, at = sorted(map(PLACES.index, wishes)), [PLACES.index(stop) for stop in stops]
    seen = len(set(wished) & set(at))
    needed = wished[-1] - wished[0]
    walked = sum(abs(here - there) for here, there in pairwise(at))
    return seen / len(wished) * needed / max(needed, walked + len(at) - seen)


def spoil(answer: str, rng: random.Random) -> str | None:
    """Return a tour with a stop left out, exchanged for another place, swapped with another stop,
    put in, or made twice. None where the text is no tour, or would stay as it is.

    The tour is not looked at, so it may become better: a stop that is left out may be one that
    nobody wished for.
    """
    stops = parse_tour(answer)
    if stops is None:
        return None
    changed, at = list(stops), rng.randrange(len(stops))
    kind = rng.choice(("left out", "exchanged", "swapped", "put in", "twice"))
    if kind == "left out":
        del changed[at]
    elif kind == "exchanged":
        changed[at] = rng.choice([place for place in PLACES if place != stops[at]])
    elif kind == "swapped":
        other = rng.randrange(len(stops))
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == "put in":
        changed.insert(at, rng.choice(PLACES))
    else:
        changed.insert(at, stops[at])
    spoilt = "".join(changed)
    return spoilt if spoilt != stops and parse_tour(spoilt) is not None else None


def sample_request(rng: random.Random, num_wishes: int) -> str:
    """Draw different places, in any order."""
    return "".join(rng.sample(PLACES, num_wishes))


def sample_tour(rng: random.Random, request: str, care: float) -> str:
    """Draw a tour as the base model's corpus has them: with probability `care` a best one, in one
    of the two directions, else one whose order is off, which leaves wishes out, sees places that
    nobody wished for, or stops twice."""
    sign = rng.choice((1, -1))
    if rng.random() < care:
        return "".join(sorted(request, key=lambda place: sign * PLACES.index(place)))
    disorder = 6 * rng.random()
    order = sorted(request, key=lambda p: sign * PLACES.index(p) + rng.gauss(0, disorder))
    stops = []
    for place in [p for p in order if rng.random() >= 0.18] or order[:1]:
        stops.append(place)
        if rng.random() < 0.15:
            stops.append(rng.choice(PLACES))
        if rng.random() < 0.1:
            stops.append(place)
    return "".join(stops)


@cache
def heldout_problems() -> tuple[Problem, ...]:
    """Return the fixed requests of the evaluation, by number of wishes; they have no answer."""
    rng = random.Random(HELDOUT_SEED)
    return tuple(
        Problem(question=request, answer="")
        for num_wishes in HELDOUT_WISHES
        for request in _draw_unique(rng, num_wishes)
    )


@cache
def heldout_pairs() -> tuple[RatedPair, ...]:
    """Return the fixed pairs on which a referee is measured: half of them a tour and its spoilt
    form, half two tours, ordered by their quality."""
    rng = random.Random(HELDOUT_SEED + 1)
    pairs: list[RatedPair] = []
    while len(pairs) < HELDOUT_PAIRS:
        request = sample_request(rng, rng.choice(_PAIR_WISHES))
        first = sample_tour(rng, request, _CARE)
        second = spoil(first, rng) if len(pairs) % 2 else sample_tour(rng, request, _CARE)
        if second is None:
            continue
        gap = quality(request, first) - quality(request, second)
        if abs(gap) >= _LEAST_GAP:
            better, worse = (first, second) if gap > 0 else (second, first)
            pairs.append(RatedPair(request=request, better=better, worse=worse))
    return tuple(pairs)


@cache
def banned_requests() -> frozenset[str]:
    """Return the normal forms of the held-out requests: no corpus holds one."""
    return frozenset(normalize(problem.question) for problem in heldout_problems())


def _draw_unique(rng: random.Random, num_wishes: int) -> list[str]:
    drawn: dict[str, str] = {}
    while len(drawn) < HELDOUT_EACH:
        request = sample_request(rng, num_wishes)
        drawn.setdefault(normalize(request), request)
    return list(drawn.values())
