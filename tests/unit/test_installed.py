"""What an installed wheel can do in a folder that holds nothing: the presets travel with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content, as an installation would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "rzero_ray", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_dry_run_needs_no_checkout(site: Path, tmp_path: Path):
    done = _run(site, tmp_path, "train", "conf=tiny", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "num_iterations: 3" in done.stdout and "learner/rank" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_presets_and_ablations_are_found_by_name(site: Path, tmp_path: Path):
    names = ["conf=qwen3_8b,labelled_grpo", "algorithm=paper", "ablation=no_band_filter"]
    done = _run(site, tmp_path, "train", *names, "labelled.path=missing.jsonl", "--dry-run")
    assert done.returncode == 2 and "missing.jsonl: no such file" in done.stderr
    done = _run(site, tmp_path, "train", "conf=tinny", "--dry-run")
    assert done.returncode == 2 and "the nearest is tiny" in done.stderr


@pytest.mark.parametrize(
    ("folder", "name"), [("serving/templates", "style.css"), ("static", "questions.js")]
)
def test_what_pages_are_made_of_travels_with_it(site: Path, folder: str, name: str):
    folder = f"rzero_ray/run/report/{folder}"
    names = sorted(path.name for path in (ROOT / folder).iterdir())
    assert name in names
    assert sorted(path.name for path in (site / folder).iterdir()) == names


def test_the_wheel_names_the_command(site: Path):
    (entry,) = site.glob("*.dist-info/entry_points.txt")
    assert "rzero = rzero_ray.__main__:main" in entry.read_text()
