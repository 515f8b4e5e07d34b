"""A short form of `python -m tests.bench fuzz`: mutated texts crash, hang and escape nothing."""

import pytest

from tests.bench.fuzz import fuzz


@pytest.mark.parametrize(
    ("target", "num_texts"),
    [("parsers", 3_000), pytest.param("grader", 100, marks=pytest.mark.slow)],
)
def test_mutated_texts(target: str, num_texts: int) -> None:
    figure = fuzz(target, num_texts, seed=2)
    assert figure.value >= num_texts
