"""A study as a user runs it: stopped in the middle of a run, taken up, and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rzero_ray.study.arms import PLAIN, load_arm
from tests.cluster.conftest import REPOSITORY, run_driver
from tests.faults.runs import SHORT

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ARMS = (PLAIN, "frozen_challenger+ground_truth_labels")
OVERRIDES = [*SHORT[1:], "num_iterations=1"]
START_LIMIT_S = 300.0


def _command(root: Path, *others: str) -> list[str]:
    return [sys.executable, "-m", "rzero_ray", "study", f"folder={root}", *others]


@pytest.fixture(scope="module")
def study(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return the folder of a study that was stopped while its second run was at work, and what
    both commands have said."""
    root = tmp_path_factory.mktemp("studies") / "study"
    environment = os.environ | {"RAY_ADDRESS": "local"}
    new = [SHORT[0], f"arms={','.join(ARMS)}", "bases=0", "seeds=0,1", *OVERRIDES]
    first = subprocess.Popen(
        _command(root, *new),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    second_run = root / "runs" / f"{ARMS[1]}-base-0-seed-0" / "manifest.json"
    deadline = time.monotonic() + START_LIMIT_S
    try:
        while not second_run.exists() or "iteration-01/curriculum" not in second_run.read_text():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline, "no second run in time"
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        said, error = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, error
    assert error.splitlines()[-1] == "rzero_ray: stopped; the same command goes on"
    again = subprocess.run(
        _command(root), cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    return root, said, again.stdout


def test_a_stopped_study_goes_on_where_it_was(study: tuple[Path, str, str]):
    root, first, second = study
    assert "0 runs are finished, 4 are to be made" in first
    assert "1 runs are finished, 3 are to be made" in second
    updates = load_arm(PLAIN, SHORT[0].partition("=")[2], OVERRIDES).solver.num_steps
    for arm in ARMS:
        for seed in (0, 1):
            lines = (root / f"runs/{arm}-base-0-seed-{seed}/metrics.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert [r["step"] for r in rows if r["phase"] == "solver"] == [*range(1, updates + 1)]
            assert any(r["phase"] == "challenger" for r in rows) == (arm == PLAIN)


def test_a_run_on_kept_actors_is_the_run_of_a_driver(study: tuple[Path, str, str], tmp_path: Path):
    """Nothing of the runs before is left in engines, prefix cache, learner or seeds: what was
    sampled, scored and learned is the same to the last bit."""
    kept = study[0] / f"runs/{PLAIN}-base-0-seed-1"  # the second run of its actors
    alone = tmp_path / "alone"
    done = run_driver([SHORT[0], *OVERRIDES, "seed=1", f"run_dir={alone}"], timeout_s=300)
    assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.parquet"))
    assert len(files) > 5 and files == sorted(p.relative_to(kept) for p in kept.rglob("*.parquet"))
    for name in files:
        assert pq.read_table(alone / name).equals(pq.read_table(kept / name)), name


def test_the_results_are_told(study: tuple[Path, str, str]):
    root, _, shown = study
    assert f"| {ARMS[1]} - {PLAIN} |" in shown
    stored = json.loads((root / "study.json").read_text())
    assert [arm["num_runs"] for arm in stored["arms"]] == [2, 2]
    assert stored["arms"][1]["totals"]["votes_challenger"]["value"] == 0
    assert "kl_solver" in stored["arms"][0]["series"]
    assert (root / "study.html").read_text().count("<svg") >= 3
