"""What a run shows while it goes on, read by a real Prometheus (Debian's package)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.metrics import COUNTERS, GAUGES
from tests.cluster.conftest import REPOSITORY, driver_command
from tests.faults.runs import SHORT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs Debian's package prometheus"
    ),
]

_RUN_S = 400.0


def queries() -> list[str]:
    """Return what the panels of the dashboard ask, for all runs."""
    dashboard = json.loads((REPOSITORY / "launch/grafana/rzero.json").read_text())
    targets = [t for panel in dashboard["panels"] for t in panel.get("targets", ())]
    return [target["expr"].replace("$run", ".+") for target in targets]


@contextmanager
def prometheus(folder: Path, nodes: Path) -> Iterator[str]:
    """Have a Prometheus with the configuration that is shipped, which scrapes `nodes`."""
    config = (REPOSITORY / "launch/prometheus.yml").read_text()
    shipped = "/tmp/ray/prom_metrics_service_discovery.json"
    assert shipped in config
    (folder / "prometheus.yml").write_text(config.replace(shipped, str(nodes)))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait()


def answer(server: str, query: str) -> list[dict]:
    """Return the series that Prometheus has for a query now."""
    url = f"{server}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]["result"]
    except ConnectionError:
        return []
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return []  # it starts
        raise


def test_every_panel_of_the_dashboard_has_data_in_a_run(base_model: Path, tmp_path: Path):
    ray_folder = Path(tempfile.mkdtemp(prefix="rm"))  # a path of a socket may not be long
    overrides = [f"model.path={base_model}", f"run_dir={tmp_path / 'seen'}"]
    driver = subprocess.Popen(
        driver_command([*SHORT, *overrides]),
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(ray_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    silent, names, engines = set(queries()), set(), set()
    nodes = ray_folder / "ray/prom_metrics_service_discovery.json"
    try:
        with prometheus(tmp_path, nodes) as server:
            deadline = time.monotonic() + _RUN_S
            while driver.poll() is None and (silent or not engines):
                assert time.monotonic() < deadline, f"no data for {silent}"
                silent -= {query for query in silent if answer(server, query)}
                names |= {s["metric"]["__name__"] for s in answer(server, '{run="seen"}')}
                tokens = answer(server, "ray_vllm_generation_tokens_total")
                engines |= {series["metric"]["model_name"] for series in tokens}
                time.sleep(2)
        said, _ = driver.communicate(timeout=_RUN_S)
    finally:
        driver.kill()
        driver.wait()
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert driver.returncode == 0, said
    assert not silent, f"no data for {silent}"
    assert engines == {"challenger/sampler-0", "solver/sampler-0"}
    gauges = {f"ray_{metric.name}" for metric in GAUGES}
    assert names <= gauges | {f"ray_{metric.name}_total" for metric in COUNTERS}
    assert len(names) > 25
