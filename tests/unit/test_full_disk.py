"""A disk that fills up: one line that says so, and the run goes on once there is room.

Writes fail as on a full disk from a moment on that the test chooses.
"""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from rzero_ray.__main__ import main
from rzero_ray.config.command import run_command
from rzero_ray.disk import files
from rzero_ray.disk.errors import disk_error
from tests.unit.test_damage import OVERRIDES, OfModels, without_engines

__all__ = ["without_engines"]


class FullDisk:
    """Lets a number of writes through, then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_left: int | None = None
        self.num_written = 0
        fsync = os.fsync

        def write_or_fail(descriptor: int) -> None:
            self.num_written += 1
            if self.num_left is not None:
                self.num_left -= 1
                if self.num_left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(files.os, "fsync", write_or_fail)


def _updates(root: Path) -> list[str]:
    finished = json.loads((root / "manifest.json").read_text())["finished"]
    return [key for key in finished if "/solver/step" in key or "/challenger/step" in key]


@pytest.mark.slow
def test_a_disk_that_fills_at_any_moment_is_one_line_and_loses_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    disk = FullDisk(monkeypatch)
    OfModels(tmp_path / "whole").go()
    expected = _updates(tmp_path / "whole")
    rows = (tmp_path / "whole/metrics.jsonl").read_text().count("\n")
    moments = random.Random(0).sample(range(4, disk.num_written), 10)
    for moment in moments:
        root = tmp_path / f"full-at-{moment}"
        disk.num_left = moment
        assert main(["train", *OVERRIDES, f"run_dir={root}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("rzero_ray: failed: no space left on the disk of"), error
        assert error.count("\n") == 1
        disk.num_left = None
        assert main(["train", *OVERRIDES, f"run_dir={root}"]) == 0
        assert capsys.readouterr().err == ""
        assert _updates(root) == expected
        assert (root / "metrics.jsonl").read_text().count("\n") == rows
        assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space left on the disk of /x"),
        (errno.EROFS, "/x is on a disk that can only be read"),
        (errno.EACCES, "no permission for /x"),
    ],
)
def test_what_a_disk_refuses_is_one_line(number: int, text: str, capsys):
    def work(arguments: list[str]) -> None:
        raise OSError(number, os.strerror(number), "/x")

    assert run_command([], str, work, "the same command resumes the run") == 1
    assert capsys.readouterr().err.startswith(f"rzero_ray: failed: {text}")


def test_a_bug_keeps_its_traceback():
    def work(arguments: list[str]) -> None:
        try:
            Path("/nowhere/at/all").read_text()
        except OSError:
            raise KeyError("bug")  # noqa: B904

    with pytest.raises(KeyError):
        run_command([], str, work)
    assert disk_error(OSError(errno.ECONNREFUSED, "refused")) is None
