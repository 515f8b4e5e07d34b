"""Marks that tests of both folders give to their parameters."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any, id: str | None = None) -> Any:
    """Return the values of a parametrized test of which the like is among the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)
