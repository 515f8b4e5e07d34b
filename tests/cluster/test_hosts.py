"""A host is cut off with the learner on it, and is back later: a row of `tests.faults hosts`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.hosts import run_case
from tests.faults.namespaces import why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


def test_a_learner_that_was_cut_off_is_replaced_and_changes_nothing(tmp_path: Path):
    outcome = run_case("cut-learner", tmp_path)
    assert outcome.good, outcome.told
