"""Where a driver looks for a Ray, and what it says where none answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.cluster import connect_ray
from rzero_ray.types import UserError


@pytest.mark.parametrize("given", [None, "", "auto"])
def test_a_note_of_a_ray_that_has_ended_is_one_line(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ray itself would try for minutes, and not say at what."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(UserError, match=r"no Ray answers at 127\.0\.0\.1:1 .*; start one with"):
        connect_ray()
