"""Equality of answers beside math-verify's: 1,297 pairs with verdicts, by kind."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from math_verify import parse, verify

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.forms import read
from rzero_ray.answers.symbolic import SymbolicComparer
from tests.answer_pairs import read_rows
from tests.bench.harness import Figure


@dataclass
class _Count:
    """What one grader makes of the pairs of one kind."""

    num_pairs: int = 0
    wrongly_equal: int = 0
    wrongly_different: int = 0
    seconds: float = field(default=0.0)

    def __str__(self) -> str:
        return (
            f"{self.wrongly_equal} wrongly equal, {self.wrongly_different} wrongly different, "
            f"{1_000 * self.seconds / max(self.num_pairs, 1):.1f} ms a pair"
        )


def run() -> list[Figure]:
    """Judge every pair by both graders; a kind is that of the pair's first answer."""
    pairs = read_rows("answer-cases.tsv")
    comparer = SymbolicComparer()
    comparer.compare("x+1", "x+2")  # starts the child
    ours = _judge(pairs, lambda a, b: equivalent(a, b, comparer))
    comparer.close()
    logging.disable(logging.CRITICAL)
    theirs = _judge(pairs, _math_verify)
    logging.disable(logging.NOTSET)
    return [
        Figure(
            name=f"answers, {kind}",
            value=(ours[kind].wrongly_equal + ours[kind].wrongly_different) / ours[kind].num_pairs,
            unit="wrong",
            target="10 wrongly equal, 45 wrongly different" if kind == "all" else "",
            details=f"{ours[kind].num_pairs} pairs: {ours[kind]}; math-verify: {theirs[kind]}",
        )
        for kind in sorted(ours, key=lambda kind: -ours[kind].num_pairs)
    ]


def _math_verify(a: str, b: str) -> bool:
    return verify(parse(f"${a}$"), parse(f"${b}$"))


def _judge(pairs: list[tuple[str, ...]], same: Callable[[str, str], bool]) -> dict[str, _Count]:
    counts: dict[str, _Count] = defaultdict(_Count)
    for a, b, verdict in pairs:
        start = time.perf_counter()
        is_equal = same(a, b)
        taken = time.perf_counter() - start
        for kind in ("all", type(read(a)).__name__):
            count = counts[kind]
            count.num_pairs += 1
            count.seconds += taken
            count.wrongly_equal += is_equal and verdict == "different"
            count.wrongly_different += not is_equal and verdict == "equal"
    return counts
