r"""Decide whether two answers are the same answer, in bounded time, for any text.

An answer is read once into a value of a kind (`forms`, `kinds/`), and the table of kinds says which
can be equal and how they compare. Rational numbers compare exactly. Only formulas go to the
symbolic comparer, always in a child process with limits of processor time, memory and wall-clock
time (`SymbolicComparer`), which is killed when it exceeds them.

Source: R-Zero (arXiv 2508.05004) section 3 needs only "the same answer". The official code compares
with sympy inside the server, under a thread-based timeout that cannot interrupt C code: training
hangs (issue #10 there). Its README blames math-verify; the cause is any unbounded symbolic
comparison in a process that holds state, which is why ours is killable.

What is a convention and not mathematics is stated in `answers/README.md`.
"""

from __future__ import annotations

from functools import lru_cache

from rzero_ray.answers.forms import read
from rzero_ray.answers.kinds.table import MEETS
from rzero_ray.answers.kinds.value import Value
from rzero_ray.answers.symbolic import SymbolicComparer

CPU_BUDGET_S = 7.0
"""Processor seconds that the symbolic comparisons of one vote, or of one set of grades, may take: 8
with the start of another child after the last kill. What is left over is compared by text only."""


def equivalent(a: str, b: str, comparer: SymbolicComparer | None = None) -> bool:
    """Say whether two answers are the same answer by value. Symmetric, bounded in time and memory,
    raises on no text.

    `comparer` gives other limits than the process-wide default one. RuntimeError only when the
    child cannot be started at all (latex2sympy missing): that is the installation's fault.
    """
    return BudgetedEquality(comparer=comparer).equivalent(a, b)


class BudgetedEquality:
    """Equality with one budget of processor time for all of its symbolic comparisons.

    One object serves one vote, so that a question's hostile answers cost its own vote and no other.
    The budget counts what a comparison costs, also where its verdict is remembered: the outcome of
    a vote depends neither on the votes before it nor on how busy the machine is.
    """

    def __init__(
        self, cpu_budget_s: float = CPU_BUDGET_S, comparer: SymbolicComparer | None = None
    ) -> None:
        self.cpu_left_s = cpu_budget_s
        self._comparer = default_comparer() if comparer is None else comparer

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether two answers are the same answer by value."""
        return self.same(read(a), read(b))

    def same(self, a: Value, b: Value) -> bool:
        """Say whether two values are equal by the table of kinds."""
        if a.text == b.text:
            return True
        comparison = MEETS.get((type(a), type(b)))
        return comparison is not None and comparison(a, b, self)

    def same_latex(self, a: str, b: str) -> bool:
        """Say whether two LaTeX formulas are equal by the symbolic comparer, by text only once the
        budget is spent."""
        if a == b or self.cpu_left_s <= 0:
            return a == b
        verdict = self._comparer.judge(a, b, self.cpu_left_s)
        self.cpu_left_s -= verdict.cpu_s
        return verdict.is_equal


@lru_cache(maxsize=1)
def default_comparer() -> SymbolicComparer:
    """Return the process-wide comparer behind `equivalent`, made on first use."""
    return SymbolicComparer()
