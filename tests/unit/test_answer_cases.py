"""Pairs of answers with verdicts: eleven graders' test cases, mutations of gold answers, probes."""

from collections.abc import Iterator

import pytest

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.symbolic import SymbolicComparer
from tests.answer_pairs import read_rows

MAX_WRONGLY_EQUAL = 10
MAX_WRONGLY_DIFFERENT = 45


@pytest.fixture(scope="module")
def comparer() -> Iterator[SymbolicComparer]:
    shared = SymbolicComparer(cpu_limit_s=20.0)  # the verdicts, not the speed of this machine
    yield shared
    shared.close()


def test_the_table(comparer: SymbolicComparer) -> None:
    """`answer-cases.tsv` holds 1,297 pairs. Where we decide otherwise, it is a convention that
    `answer-conventions.tsv` names with its reason."""
    rows = read_rows("answer-cases.tsv")
    assert len(rows) == 1_297
    decided_otherwise = set()
    for a, b, verdict in rows:
        is_equal = equivalent(a, b, comparer)
        assert is_equal == equivalent(b, a, comparer), (a, b)
        if is_equal != (verdict == "equal"):
            decided_otherwise.add((a, b, verdict))
    conventions = {row[:3]: row[3] for row in read_rows("answer-conventions.tsv")}
    assert decided_otherwise == set(conventions)
    assert all(conventions.values())
    verdicts = [verdict for *_, verdict in conventions]
    assert verdicts.count("different") <= MAX_WRONGLY_EQUAL
    assert verdicts.count("equal") <= MAX_WRONGLY_DIFFERENT


@pytest.mark.parametrize(("a", "b", "verdict"), read_rows("answer-kinds.tsv"))
def test_kinds(a: str, b: str, verdict: str, comparer: SymbolicComparer) -> None:
    """Pairs kind by kind: what has no grammar, what differs by little, what is written in many
    ways."""
    assert equivalent(a, b, comparer) == equivalent(b, a, comparer) == (verdict == "equal")
