"""Signals end a command the same way wherever it runs; output that nobody takes is one line, and
an end leaves nothing behind."""

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
    return _doing(WORK[work])


def _doing(work: str) -> list[str]:
    """Return the command of a process that does `work` as the project's commands do theirs."""
    body = "\n".join(f"    {line}" for line in work.split("\n"))
    code = (
        "import asyncio, sys, time\nfrom rzero_ray.config.command import run_command\n"
        f"def work(_):\n{body}\nsys.exit(run_command([], str, work, 'go on'))"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT], ids=lambda s: s.name
)
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_a_command_in_order(work: str, sent: signal.Signals, ignored: bool):
    inherited = dict.fromkeys((signal.SIGINT, signal.SIGQUIT), signal.SIG_IGN) if ignored else {}
    inherited[signal.SIGHUP] = signal.SIG_DFL  # `nohup` may have started the tests
    before = {number: signal.signal(number, handler) for number, handler in inherited.items()}
    try:  # what is ignored here is ignored there, as in what a script starts with `&`
        process = subprocess.Popen(
            _command(work), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert (process.returncode, err) == (130, "rzero_ray: stopped; go on\n")
    assert ("in order" in out) == (work == "loop")


def test_what_nohup_has_started_outlives_its_terminal():
    code = _doing("import signal; signal.raise_signal(signal.SIGHUP); print('goes on')")
    done = subprocess.run(["nohup", *code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_ends_as_ever(streams: str):
    """A service may start a command so."""
    refuse = "from rzero_ray.types import UserError; print('x'); raise UserError('é is wrong')"
    for work, code in (("print('x')", 0), (refuse, 2)):
        command = ["bash", "-c", f'"$0" "$@" {streams}', *_doing(work)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert code == 0 or "2>" in streams or done.stderr == "rzero_ray: error: é is wrong\n"


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_ends_early_ends_the_command_in_one_line(lines: int):
    """As `| head -1` does; a few lines reach the reader when the command has ended."""
    command = ["bash", "-c", '"$0" "$@" | true; exit ${PIPESTATUS[0]}']
    work = f"time.sleep(0.5)\nprint('line\\n' * {lines})"
    done = subprocess.run(
        [*command, *_doing(work)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    line = "rzero_ray: stopped: nobody reads the output any more; go on\n"
    assert (done.returncode, done.stderr) == (130, line)


def test_a_stream_that_lacks_a_character_gets_another():
    done = subprocess.run(
        _doing("print('été')"),
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"?t?\n")


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


def test_what_was_kept_from_the_collector_is_collected_at_the_end():
    """Else libraries that count what is left of them print pages of leaks."""
    code = (
        "from rzero_ray.driver import keep_imports\n"
        "class Counted:\n"
        "    def __del__(self): print('collected')\n"
        "kept = Counted(); kept.itself = kept\n"
        "keep_imports()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "collected"), done.stderr
