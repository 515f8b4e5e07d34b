"""Counting votes: 20,000 answers of ordinary mixes on one worker, caches cold."""

from __future__ import annotations

import random
import resource

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
        *(_measure_hostile(name, answers) for name, answers in HOSTILE.items()),
    ]


HOSTILE = {
    "antiderivatives": [rf"\int \sqrt{{x^{{{k}}}+ix+1}}dx" for k in range(1, 11)],
    "integrals": [rf"\int_0^1 \sqrt{{x^{{{k}}}+x+1}}dx" for k in range(1, 11)],
    "inequalities": [rf"x^{{{k}}}+x^3-5x+1>\sin x" for k in range(5, 15)],
}
"""Ten answers to one question, each of which costs a symbolic comparer all it has."""


def _measure_hostile(name: str, answers: list[str]) -> Figure:
    """Count one vote's processor time, the child's included, and what the next vote waits for."""
    comparer = SymbolicComparer()
    comparer.compare("x+1", "x+2")
    before = _cpu_s()
    majority_vote(answers, BudgetedEquality(comparer=comparer).equivalent)
    next_s = seconds(
        lambda: majority_vote(
            [r"\sqrt{8}", r"2\sqrt{2}"], BudgetedEquality(comparer=comparer).equivalent
        )
    )
    comparer.close()  # a child's time is known once it has ended
    start_s = _start_s()
    return Figure(
        name=f"votes, ten hostile {name}",
        value=_cpu_s() - before - start_s,
        unit="s",
        target="at most 8 s of processor time",
        details=f"{comparer.num_killed} kills; the honest vote behind it takes {next_s:.2g} s",
    )


def _start_s() -> float:
    """Return the processor time of a child that only starts."""
    before = _cpu_s()
    comparer = SymbolicComparer()
    comparer.compare("x+1", "x+2")
    comparer.close()
    return _cpu_s() - before


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
