"""Counting votes: 20,000 answers of ordinary mixes on one worker, caches cold."""

from __future__ import annotations

import random

from rzero_ray.answers import closed_form, forms
from rzero_ray.answers.equality import BudgetedEquality
from rzero_ray.answers.kinds import number
from rzero_ray.answers.symbolic import SymbolicComparer
from rzero_ray.answers.voting import majority_vote
from tests.bench.harness import Figure, seconds

NUM_ANSWERS = 20_000
VOTES_PER_QUESTION = 10


def run() -> list[Figure]:
    """Time plain numbers, and a mix in which every fifth question is answered in LaTeX."""
    return [
        _measure("votes, plain numbers", latex_share=0.0),
        _measure("votes, a fifth in LaTeX", latex_share=0.2),
    ]


def _measure(name: str, latex_share: float) -> Figure:
    rng = random.Random(0)
    ballots = [_ballot(rng, latex_share) for _ in range(NUM_ANSWERS // VOTES_PER_QUESTION)]
    comparer = SymbolicComparer()
    comparer.compare("x+1", "x+2")  # starts the child: once per worker, not once per vote
    before = comparer.num_compared
    for cache in (forms._read_cached, number.exact, closed_form._evaluate):
        cache.cache_clear()

    def count() -> None:
        for ballot in ballots:
            majority_vote(ballot, BudgetedEquality(comparer=comparer).equivalent)

    taken = seconds(count)
    sent = comparer.num_compared - before
    comparer.close()
    return Figure(
        name=name,
        value=taken,
        unit="s",
        target="at most 10 s",
        details=f"{NUM_ANSWERS:,} answers, {sent:,} comparisons reached the child",
    )


def _ballot(rng: random.Random, latex_share: float) -> list[str | None]:
    """Return ten answers to one question: a few values, each in some of its notations."""
    in_latex = rng.random() < latex_share
    values = [_latex_value(rng) if in_latex else _plain_value(rng) for _ in range(3)]
    return [
        None if rng.random() < 0.05 else rng.choice(rng.choices(values, (6, 2, 1))[0])
        for _ in range(VOTES_PER_QUESTION)
    ]


def _plain_value(rng: random.Random) -> list[str]:
    n, d = rng.randint(-50, 5000), rng.choice((2, 4, 5))
    return rng.choice(
        [[str(n), f"{n}.0", f"${n}$"], [f"\\frac{{{n}}}{{{d}}}", f"{n}/{d}", f"{n / d}"]]
    )


def _latex_value(rng: random.Random) -> list[str]:
    a, b, c = rng.randint(2, 30), rng.choice((2, 3, 5, 6, 7)), rng.randint(2, 9)
    return rng.choice(
        [
            [f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}", f"{a} \\sqrt{b}"],
            [f"\\frac{{\\sqrt{{{b}}}}}{{{c}}}", f"\\dfrac{{\\sqrt{{{b}}}}}{{{c}}}"],
            [f"\\frac{{{a}\\pi}}{{{c}}}", f"\\frac{{{a}}}{{{c}}}\\pi"],
            [f"x^{{2}}+{a}x+{c}", f"{c}+{a}x+x^2"],
            [f"({a}, \\sqrt{{{b}}})", f"\\left({a},\\sqrt{{{b}}}\\right)"],
            [f"{a}\\sqrt{{{b}}}+{c}", f"{c}+{a}\\sqrt{{{b}}}"],
        ]
    )
