"""When a disturbed run counts as one that was left alone: each thing that is off makes it BAD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.account import Account
from tests.faults.replay import Replayed

EQUAL = Replayed("iteration-01/solver", 2, is_equal=True, difference=0.0)
WHOLE = Account(
    code=0,
    is_complete=True,
    lost=[],
    doubled=[],
    replayed=[EQUAL, EQUAL],
    num_phases=2,
    left=[],
)


def test_a_run_that_ended_as_if_left_alone_is_whole():
    assert WHOLE.is_whole
    assert str(WHOLE) == ("finished (code 0), 0 lost, 0 doubled, 2 of 2 phases reproduced, 0 left")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"code": 1}, "NOT finished (code 1)"),
        ({"code": None}, "NOT finished (code None)"),
        ({"is_complete": False}, "NOT finished (code 0)"),
        ({"lost": ["iteration-01/solver/step-001"]}, "1 lost"),
        ({"doubled": ["1/solver/1"]}, "1 doubled"),
        ({"replayed": [EQUAL]}, "1 of 2 phases reproduced"),
        ({"replayed": [EQUAL, replace(EQUAL, is_equal=False)]}, "1 of 2 phases reproduced"),
        ({"left": ["rzero-0123"]}, "1 left"),
    ],
)
def test_each_thing_that_is_off_makes_it_bad_and_is_told(change: dict[str, Any], told: str):
    account = replace(WHOLE, **change)
    assert not account.is_whole and told in str(account)
