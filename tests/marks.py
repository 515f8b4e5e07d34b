"""Marks that tests of all folders give to values of their parameters."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Return the values of a parametrized test of which the like is among the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def long(*values: Any) -> Any:
    """Return those of which the like is among the quick or the slow ones."""
    return pytest.param(*values, marks=pytest.mark.long)
