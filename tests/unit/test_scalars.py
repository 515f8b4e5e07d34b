"""Scalars land under their tag and at the step of the whole run."""

import resource
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from rzero_ray.run.observers import Observers
from rzero_ray.run.tensorboard import ScalarLog
from tests.unit.fakes import SilentObserver


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, round(float(make_ndarray(e.tensor_proto)), 6)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_steps_go_on_over_iterations(tmp_path: Path) -> None:
    log = ScalarLog(tmp_path)
    for iteration in (1, 2):
        log.start_phase(iteration, "solver", 2, 0)
        for step in (1, 2):
            row = {"iteration": iteration, "phase": "solver", "step": step}
            log.finish_step(row | {"reward": 0.25 * step, "seconds": {"wall": 1.5}})
    log.finish_iteration({"iteration": 2, "greedy": 0.5, "mean@8_ci95": [0.4, 0.6]})
    assert read_scalars(tmp_path / "tensorboard") == {
        "solver/reward": [(1, 0.25), (2, 0.5), (3, 0.25), (4, 0.5)],
        "solver/seconds/wall": [(1, 1.5), (2, 1.5), (3, 1.5), (4, 1.5)],
        "heldout/greedy": [(2, 0.5)],
    }


def test_a_full_disk_is_an_error_of_the_row_that_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere: list[object] = []
    monkeypatch.setattr(threading, "excepthook", elsewhere.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = ScalarLog(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            for iteration in range(200):
                log.finish_iteration({"iteration": iteration, "greedy": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not elsewhere


def test_observers_hear_everything() -> None:
    first, second = SilentObserver(), SilentObserver()
    both = Observers(first, second)
    both.start_phase(1, "solver", 15, 3)
    both.finish_step({"step": 4})
    both.finish_iteration({"iteration": 1})
    both.note("hello")
    for heard in (first, second):
        assert heard.phases == [(1, "solver", 15, 3)]
        assert heard.rows == [{"step": 4}]
        assert heard.evaluations == [{"iteration": 1}]
        assert heard.notes == ["hello"]
