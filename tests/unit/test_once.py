"""`Run.once`: what was made is used as it is, what is on disk is read, and nobody waits for it."""

import asyncio
import threading
from pathlib import Path

import pytest

from rzero_ray.run import run as run_module
from rzero_ray.run.run import Run
from rzero_ray.types import AuditedLabel
from tests.unit.test_report import make_run

LABELS = [AuditedLabel(question="1+1", label="2", answer=None, verdict="unknown")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def _once(run: Run) -> list[AuditedLabel]:
    async def make() -> list[AuditedLabel]:
        return LABELS

    return asyncio.run(run.once("iteration-01/audit-exact", AuditedLabel, make))


def test_what_was_made_is_not_read_back(run: Run, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "read_records", lambda *_: pytest.fail("it was read"))
        (made,) = _once(run)
    assert made is LABELS[0]
    (read,) = _once(run)
    assert read == LABELS[0]
    assert read is not LABELS[0]


@pytest.mark.parametrize("name", ["write_records", "read_records"])
def test_the_event_loop_goes_on_while_the_disk_is_slow(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
):
    if name == "read_records":
        _once(run)
    real, may_end = getattr(run_module, name), threading.Event()

    def slow(*arguments):
        assert may_end.wait(timeout=30), "the loop stood still"
        return real(*arguments)

    monkeypatch.setattr(run_module, name, slow)

    async def make() -> list[AuditedLabel]:
        return LABELS

    async def others_work() -> None:
        for _ in range(10):
            await asyncio.sleep(0.001)
        may_end.set()

    async def both() -> None:
        once = run.once("iteration-01/audit-exact", AuditedLabel, make)
        assert (await asyncio.gather(once, others_work()))[0] == LABELS

    asyncio.run(both())
