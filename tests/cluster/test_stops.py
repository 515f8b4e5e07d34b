"""A real run that is stopped by a signal leaves nothing, and nothing of it is open to others."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rzero_ray.config.load import load_config
from rzero_ray.run.inspection import check_files
from tests.cluster.conftest import REPOSITORY, driver_command
from tests.faults.runs import SHORT, interrupt_ignored, mapped, shared_memory
from tests.marks import long

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SMALL = [*SHORT, "num_iterations=9"]  # it does not end by itself
SECRET = "sk-a-secret-of-nobody"
STAGED = "/memfd:rzero-weights"  # without a name in any folder: gone with the last who holds it


@pytest.fixture(params=[signal.SIGTERM, long(signal.SIGINT)])
def running(
    request: pytest.FixtureRequest, base_model: Path, tmp_path: Path
) -> Iterator[tuple[signal.Signals, subprocess.Popen[str], Path]]:
    """Start a run as a script does with `&`: with Ctrl-C ignored."""
    with interrupt_ignored():
        process = subprocess.Popen(
            driver_command([*SMALL, f"model.path={base_model}", f"run_dir={tmp_path / 'run'}"]),
            cwd=REPOSITORY,
            env=os.environ | {"RAY_ADDRESS": "local", "RZERO_ENDPOINT_KEY": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    yield request.param, process, tmp_path / "run"
    process.kill()


def _wait_for_steps(process: subprocess.Popen[str], root: Path) -> None:
    deadline = time.monotonic() + 300
    manifest = root / "manifest.json"
    while not manifest.exists() or "challenger/step-001" not in manifest.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no step within five minutes"
        time.sleep(0.2)


def test_a_signal_ends_a_run_in_order_and_leaves_nothing_behind(running):
    sent, process, root = running
    _wait_for_steps(process, root)
    family = psutil.Process(process.pid).children(recursive=True)
    me = psutil.Process(process.pid)
    ports = [
        c.laddr for p in [me, *family] for c in p.net_connections("inet") if c.status == "LISTEN"
    ]
    open_to_others = [a for a in ports if a.ip not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")]
    assert ports and not open_to_others
    assert not any(SECRET in str(p.environ()) for p in family if p.status() != "zombie")

    assert any(str(path).startswith(STAGED) for path in mapped(family))
    segments = shared_memory([me, *family])
    started = time.monotonic()
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == 130
    assert err.splitlines()[-1] == "rzero_ray: stopped; the same command resumes the run"
    assert "Traceback" not in err
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert gone and not alive
    assert not [path for path in segments if path.exists()]
    assert not check_files(load_config([*SMALL, f"run_dir={root}"]), root)  # it can be taken up
    assert (root / "report.html").exists()
