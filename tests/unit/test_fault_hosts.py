"""Hosts made of namespaces, the table's rows about them, and what a stale writer may not change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults import hosts as table
from tests.faults.hosted import health_checks
from tests.faults.hosts import CASES, SETTINGS, Loss, replaced
from tests.faults.namespaces import Host, hosts, why_not
from tests.faults.stale import StaleWriter, kept
from tests.faults.table import chosen

needs_namespaces = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_rows_are_named_by_how_they_begin_and_others_are_refused():
    assert chosen(SETTINGS["cases"], CASES) == list(CASES)
    assert chosen("killed", CASES) == ["killed-engine", "killed-learner"]
    assert chosen("cut-engine,whole", CASES) == ["cut-engine", "whole"]
    with pytest.raises(ValueError, match="there are whole, "):
        chosen("drowned", CASES)


def test_where_no_hosts_can_be_made_one_line_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    (row,) = table.run(SETTINGS)
    assert row.good and row.told.startswith("SKIPPED: no ip")


def test_a_node_that_is_cut_off_is_given_up_after_a_blip_of_15_s_and_within_half_a_minute():
    found = {name.removeprefix("RAY_health_check_"): int(n) for name, n in health_checks().items()}
    one_check = found["period_ms"] + found["timeout_ms"]
    assert 15_000 + one_check <= found["failure_threshold"] * one_check <= 30_000


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    with hosts(3, tmp_path_factory.mktemp("hosts")) as made:
        yield made


def _says(host: Host, command: str, tmp_path: Path) -> str:
    log = tmp_path / "said"
    with log.open("w") as stream:
        environment = {"PATH": os.environ["PATH"]}
        process = host.start(["bash", "-c", command], tmp_path, environment, stream)
    process.wait(timeout=20)
    return log.read_text().strip()


@needs_namespaces
def test_a_host_has_its_name_address_disks_and_processes(three: list[Host], tmp_path: Path):
    for host in three:
        assert _says(host, "hostname; pwd", tmp_path).split() == [
            f"rzero-host{host.number}",
            str(tmp_path),
        ]
        assert _says(host, "touch /tmp/ray/mine /dev/shm/mine; ls /tmp/ray", tmp_path) == "mine"
        assert _says(host, "getent hosts $(hostname)", tmp_path).split()[0] == host.address
        assert host.work() == []
    three[0].process(1)
    with pytest.raises(psutil.NoSuchProcess):
        three[0].process(10**6)


@needs_namespaces
def test_a_host_can_be_cut_off_and_be_back(three: list[Host], tmp_path: Path):
    script = "import socket; socket.create_connection(('10.77.0.2', 9), timeout=1)"
    ask = f'{sys.executable} -c "{script}" 2>&1 | tail -n 1'
    assert "refused" in _says(three[0], ask, tmp_path)
    three[1].unplug()
    assert "refused" not in _says(three[0], ask, tmp_path)
    three[1].plug_in()
    deadline = time.monotonic() + 10
    while "refused" not in _says(three[0], ask, tmp_path):
        assert time.monotonic() < deadline


@needs_namespaces
def test_all_of_a_host_ends_at_once_and_nothing_outlasts_whoever_made_it(tmp_path: Path):
    script = f"""
import os, signal
from pathlib import Path
from tests.faults.namespaces import hosts
folder = Path({str(tmp_path)!r})
with hosts(2, folder) as made, (folder / "log").open("w") as log:
    for host in made:
        host.start(["bash", "-c", "setsid sleep 300 & sleep 300"], folder, os.environ, log)
    while sum(len(host.work()) for host in made) < 6:
        pass
    made[0].kill()
    while made[0].processes():
        pass
    print(*(p.pid for p in made[1].processes()), made[0].switch, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 6
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline


@needs_namespaces
def test_an_actor_is_replaced_by_another_life_on_another_host(three: list[Host]):
    def line(seconds: float, state: str, life: int, node: str) -> dict[str, object]:
        return {
            "event": "actor",
            "actor": "learner/rank-0",
            "time": seconds,
            "state": state,
            "life": life,
            "node": node,
        }

    loss = Loss(10.0, three[1], ["learner/rank-0"])
    here, elsewhere = three[1].address, three[2].address
    lost = [line(1.0, "HEALTHY", 1, here), line(12.0, "SUSPECT", 1, here)]
    dead = line(35.0, "DEAD", 1, here)
    assert replaced(lost, "learner/rank-0", loss) is None
    assert replaced([*lost, dead], "learner/rank-0", loss) is None
    assert replaced([*lost, dead, line(50.0, "HEALTHY", 2, here)], "learner/rank-0", loss) is None
    told = replaced([*lost, dead, line(50.0, "HEALTHY", 2, elsewhere)], "learner/rank-0", loss)
    assert told is not None and "DEAD after 25.0 s, life 2 on 10.77.0.3 after 40.0 s" in told


_WRITES = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "part-0").write_text("12345")
(folder / "being-written").touch()
time.sleep(1.0)
(folder / "part-1").write_text("12345")
if len(sys.argv) > 2:
    Path(sys.argv[2]).write_text("of the stale one")
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("does_harm", [False, True])
def test_a_stale_writer_is_caught_in_the_act(tmp_path: Path, does_harm: bool):
    step = "iteration-01/challenger/step-001"
    checkpoint, model = tmp_path / "checkpoints" / step, tmp_path / "models/solver-iteration-00"
    for folder in (checkpoint, model):
        folder.mkdir(parents=True)
        (folder / "state").write_text("of the run")
    content = {"format": 1, "finished": ["iteration-00", step], "checkpoint": step}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert list(kept(tmp_path)) == [checkpoint / "state"]
    attempt = checkpoint.with_name(".step-002.abc-1.attempt")
    words = [sys.executable, "-c", _WRITES, str(attempt)]
    words += [str(checkpoint / "state")] if does_harm else []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        stale = StaleWriter(tmp_path, psutil.Process(process.pid))
        stale.stop_while_it_writes(within_s=20)
        time.sleep(1.5)
        assert not (attempt / "part-1").exists()
        stale.go_on()
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        stale.look()
        process.kill()
    assert stale.has_changed_nothing() is not does_harm
    assert f"left: checkpoints/{attempt.relative_to(tmp_path / 'checkpoints')} (10 bytes)" in str(
        stale
    )
