"""A Ray that the driver starts runs actors beside other work of the machine, not behind it."""

import os
import subprocess
import sys

import pytest

from tests.cluster.conftest import REPOSITORY

_SCRIPT = """
import os
import ray
from actors.cluster import connect_ray
connect_ray()
print(ray.get(ray.remote(lambda: os.nice(0)).options(num_cpus=0).remote()) - os.nice(0))
"""


@pytest.mark.slow
def test_actors_of_a_ray_of_the_drivers_own_are_as_nice_as_the_driver():
    environment = {k: v for k, v in os.environ.items() if k != "RAY_worker_niceness"}
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=REPOSITORY,
        env=environment | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.strip() == "0"
