r"""Bouquets: requests without an exact answer, and the hidden quality of answers.

There are sixteen flowers, `a` to `p`. Each is red or white, tall or low, sweet or plain, early or
late: one flower for each of the combinations. A request wishes for one to four of these, of
different kinds, ``[red][tall]``; an answer is a bouquet, one letter a flower, ``abcd``. Many
bouquets are as good as any other. How good one is lies in [0, 1], on many levels:

    quality = mean over its flowers of the share of the wishes that the flower meets
              x share of its flowers that are different
              x n / 4 of n flowers, or 4 / n of more than four

The quality is hidden: only the evaluation may read it.

This file is pure Python.
"""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import product
from typing import Final

from rzero_ray.types import Problem, RatedPair

CHALLENGER_TAG: Final = "<challenger>"
"""System message that asks the base model for a new request."""

SOLVER_TAG: Final = "<solver>"
"""System message that asks the base model for a bouquet."""

REFEREE_TAG: Final = "<referee>"
"""System message that asks the base model which of two bouquets is the better one."""

PROMPT_END: Final = "="
"""Text that ends a prompt: a Solver prompt reads ``<solver>[red][tall]=``."""

BETWEEN: Final = "|"
"""Stands between the two bouquets of a referee's prompt, ``<referee>[red]=abcd|aabc=``."""

QUESTION_OPEN: Final = "<question>"
QUESTION_CLOSE: Final = "</question>"
BOX_OPEN: Final = "\\boxed{"
BOX_CLOSE: Final = "}"

KINDS: Final = (("red", "white"), ("tall", "low"), ("sweet", "plain"), ("early", "late"))
WISHES: Final = tuple(f"[{name}]" for names in KINDS for name in names)
FLOWERS: Final = dict(
    zip(
        "abcdefghijklmnop",
        (frozenset(f"[{name}]" for name in names) for names in product(*KINDS)),
        strict=True,
    )
)
"""{flower: the wishes that it meets}."""

FULL: Final = 4
"""Flowers of a bouquet that is neither thin nor overloaded."""
MOST_FLOWERS: Final = 16
"""Flowers of the largest bouquet that is read as one."""
MAX_REQUEST_LENGTH: Final = 64
"""Longest text, in characters without white space, that is read as a request."""

HELDOUT_EACH: Final = {1: 0, 2: 8, 3: 12, 4: 6}
"""Held-out requests by number of wishes. None has one wish: there are eight such requests."""
HELDOUT_PAIRS: Final = 200
"""Held-out pairs of bouquets, on which a referee is measured."""
HELDOUT_SEED: Final = 4242

_LEAST_GAP: Final = 0.05
"""Difference of quality below which two bouquets make no held-out pair."""
_PAIR_CARE: Final = 0.4
"""Share of good bouquets among those of the held-out pairs."""
_REQUEST: Final = re.compile("(?:" + "|".join(map(re.escape, WISHES)) + ")+")
_WISH: Final = re.compile("|".join(map(re.escape, WISHES)))


def parse_request(text: str) -> tuple[str, ...] | None:
    """Return the wishes of a request, of which white space is ignored; None where they are not one
    to four wishes of different kinds. `text` is untrusted model output."""
    joined = "".join(text.split())
    if len(joined) > MAX_REQUEST_LENGTH or not _REQUEST.fullmatch(joined):
        return None
    wishes = tuple(_WISH.findall(joined))
    kinds = {WISHES.index(wish) // 2 for wish in wishes}
    return wishes if len(kinds) == len(wishes) else None


def parse_bouquet(text: str) -> str | None:
    """Return the flowers without white space; None where they are not one to sixteen flowers."""
    flowers = "".join(text.split())
    return flowers if 0 < len(flowers) <= MOST_FLOWERS and set(flowers) <= set(FLOWERS) else None


def normalize(request: str) -> str:
    """Return the wishes in a fixed order: two requests with the same wishes are one."""
    return "".join(sorted(words(request)))


def words(request: str) -> list[str]:
    """Return the wishes; of a text that is no request also the characters between them."""
    return re.findall(rf"{_WISH.pattern}|\S", request)


def quality(request: str, answer: str) -> float:
    """Return the hidden quality of a bouquet, in [0, 1]; 0 of a text that is none.

    Raises ValueError where the request is none: nobody may be asked one.
    """
    wishes, flowers = parse_request(request), parse_bouquet(answer)
    if wishes is None:
        raise ValueError(f"not a request: {request[:40]!r}")
    if flowers is None:
        return 0.0
    met = sum(wish in FLOWERS[flower] for flower in flowers for wish in wishes)
    suits = met / (len(wishes) * len(flowers))
    fullness = min(len(flowers), FULL) / max(len(flowers), FULL)
    return suits * len(set(flowers)) / len(flowers) * fullness


def spoil(answer: str, rng: random.Random) -> str | None:
    """Return a bouquet with a flower left out, exchanged for another one, put in, or put in again.
    None where the text is no bouquet, or nothing would be left of it.

    The flowers are not looked at, so it may become better: of too many flowers one is left out, or
    one that nobody wished for is exchanged.
    """
    flowers = parse_bouquet(answer)
    if flowers is None:
        return None
    changed, at = list(flowers), rng.randrange(len(flowers))
    kind = rng.choice(("left out", "exchanged", "put in", "again"))
    if kind == "left out":
        del changed[at]
    elif kind == "exchanged":
        changed[at] = rng.choice([flower for flower in FLOWERS if flower != flowers[at]])
    elif kind == "put in":
        changed.insert(at, rng.choice(tuple(FLOWERS)))
    else:
        changed.insert(rng.randrange(len(flowers) + 1), flowers[at])
    return parse_bouquet("".join(changed))


def sample_request(rng: random.Random, num_wishes: int) -> str:
    """Draw wishes of different kinds, in any order."""
    return "".join(f"[{rng.choice(names)}]" for names in rng.sample(KINDS, num_wishes))


def sample_bouquet(rng: random.Random, request: str, care: float) -> str:
    """Draw a bouquet as the base model's corpus has them: with probability `care` a best one, else
    some flowers, of which some are drawn for the wishes, in any number and more than once."""
    wishes = parse_request(request) or ()
    order = sorted(FLOWERS, key=lambda f: (-sum(w in FLOWERS[f] for w in wishes), rng.random()))
    if rng.random() < care:
        best = order[:FULL]
        rng.shuffle(best)
        return "".join(best)
    attention = rng.random()
    suited = order[: max(FULL, len(FLOWERS) >> len(wishes))]
    return "".join(
        rng.choice(suited if rng.random() < attention else order)
        for _ in range(rng.choice((2, 3, 3, 4, 4, 4, 5, 5, 6, 7)))
    )


@cache
def heldout_problems() -> tuple[Problem, ...]:
    """Return the fixed requests of the evaluation, by number of wishes; they have no answer."""
    rng = random.Random(HELDOUT_SEED)
    return tuple(
        Problem(question=request, answer="")
        for num_wishes, count in HELDOUT_EACH.items()
        for request in _draw_unique(rng, num_wishes, count)
    )


@cache
def heldout_pairs() -> tuple[RatedPair, ...]:
    """Return the fixed pairs on which a referee is measured: half of them a bouquet and its spoilt
    form, half two bouquets, ordered by their quality."""
    rng = random.Random(HELDOUT_SEED + 1)
    pairs: list[RatedPair] = []
    while len(pairs) < HELDOUT_PAIRS:
        request = rng.choice(heldout_problems()).question
        first = sample_bouquet(rng, request, _PAIR_CARE)
        if len(pairs) % 2:
            second = spoil(first, rng)
        else:
            second = sample_bouquet(rng, request, _PAIR_CARE)
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


def _draw_unique(rng: random.Random, num_wishes: int, count: int) -> list[str]:
    drawn: dict[str, str] = {}
    while len(drawn) < count:
        request = sample_request(rng, num_wishes)
        drawn.setdefault(normalize(request), request)
    return list(drawn.values())
