"""SIGTERM and SIGINT end a command the same way, also where a shell has Ctrl-C ignored."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.test_installed import ROOT

WORK = {
    "plain": "print('ready', flush=True); time.sleep(60)",
    "loop": (
        "async def go():\n"
        "    try:\n        print('ready', flush=True); await asyncio.sleep(60)\n"
        "    finally:\n        print('in order', flush=True)\n"
        "asyncio.run(go())"
    ),
}


def _command(work: str) -> list[str]:
    body = "\n".join(f"    {line}" for line in WORK[work].split("\n"))
    code = (
        "import asyncio, sys, time\nfrom rzero_ray.config.command import run_command\n"
        f"def work(_):\n{body}\nsys.exit(run_command([], str, work, 'go on'))"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_a_command_in_order(work: str, sent: signal.Signals, ignored: bool):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:  # what is ignored here is ignored there, as in what a script starts with `&`
        process = subprocess.Popen(
            _command(work), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        if ignored:
            signal.signal(signal.SIGINT, before)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert (process.returncode, err) == (130, "rzero_ray: stopped; go on\n")
    assert ("in order" in out) == (work == "loop")


def test_the_token_of_a_local_ray_is_readable_by_its_owner_alone(tmp_path: Path):
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    token = tmp_path / ".ray/auth_token"
    for _ in range(2):
        subprocess.run(["bash", "launch/token.sh"], cwd=ROOT, env=environment, check=True)
        assert token.read_text() and stat.S_IMODE(token.stat().st_mode) == 0o600
        token.chmod(0o644)  # as Ray leaves it
