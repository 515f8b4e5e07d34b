"""A run whose machine is lost goes on from its copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rzero_ray.disk.store import Store
from tests.cluster.conftest import run_driver
from tests.faults.runs import SHORT

pytestmark = pytest.mark.long


def _finished(root: Path) -> list[str]:
    return json.loads((root / "manifest.json").read_text())["finished"]


def test_a_run_goes_on_from_its_copy_where_its_directory_is_gone(base_model: Path, tmp_path: Path):
    root, address = tmp_path / "run", f"file://{tmp_path}/copies"
    copy = tmp_path / "copies" / "run"
    command = [*SHORT, f"model.path={base_model}", f"run_dir={root}", f"storage_path={address}"]
    first = run_driver([*command, "num_iterations=1"], timeout_s=400)
    assert first.returncode == 0, first.stderr[-2000:]
    assert _finished(copy) == _finished(root)
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    names = {name for name in names if "/." not in f"/{name}"}
    assert Store(str(copy), "storage_path").sizes().keys() - {".writer"} == names
    shutil.rmtree(root)
    second = run_driver([*command, "num_iterations=2"], timeout_s=400)
    assert second.returncode == 0, second.stderr[-2000:]
    assert f"run directory {root} taken from {address}/run: " in second.stdout
    before = _finished(copy)
    assert "iteration-02" in before and before == _finished(root)
    starts = [json.loads(line) for line in (root / "events.jsonl").read_text().splitlines()]
    assert len([event for event in starts if event["event"] == "start"]) == 2
