"""A preflight on a real cluster: a model that can start the loop, and one of random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.cluster.conftest import REPOSITORY


def _preflight(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rzero_ray", "preflight", "conf=tiny", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def random_model(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of the tiny one's shape that has learned nothing."""
    folder = tmp_path_factory.mktemp("random") / "model"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_model).save_pretrained(folder)
    return folder


@pytest.mark.long
def test_a_model_of_random_weights_is_refused(random_model: Path, tmp_path: Path):
    said = _preflight(f"model.path={random_model}", f"run_dir={tmp_path / 'run'}")
    assert said.returncode == 1, said.stderr
    (line,) = [text for text in said.stderr.splitlines() if "cannot start the loop" in text]
    assert "of 128 questions are well formed" in line
    assert "Traceback" not in said.stderr


@pytest.mark.long
def test_the_tiny_model_may_start_and_is_told_what_it_takes(base_model: Path, tmp_path: Path):
    said = _preflight(f"model.path={base_model}", f"run_dir={tmp_path / 'run'}")
    assert said.returncode == 0, said.stderr
    assert "The whole run, estimated" in said.stdout
    assert "If they stay" in said.stdout
