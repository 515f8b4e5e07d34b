"""What the cluster tests share: the built-in base model, which is made once per machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import obtain_model
from tests.cluster.learner_ranks import plain_loop, ranks, rollouts, scored  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def base_model() -> Path:
    """Return the folder of the built-in base model of seed 0."""
    return obtain_model(load_config(["conf=tiny"]).model)


@pytest.fixture(scope="session")
def tiny_config(base_model: Path) -> Config:
    """Return `conf=tiny` on the built base model."""
    return load_config(["conf=tiny", f"model.path={base_model}"])


def driver_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a driver, as a user types it."""
    return [sys.executable, "-m", "rzero_ray.driver", *arguments]


def run_driver(arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a driver to its end on a Ray of its own."""
    return subprocess.run(
        driver_command(arguments),
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
