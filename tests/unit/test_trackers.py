"""Weights & Biases in its offline mode, and MLflow on its own local store."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.showing import TrackersConfig
from rzero_ray.config.sources import flatten
from rzero_ray.run import trackers as module
from rzero_ray.run.trackers import check_trackers, opened_trackers
from rzero_ray.types import UserError


def _tell(wanted: TrackersConfig, root: Path, *steps: int) -> None:
    root.mkdir(exist_ok=True)
    with opened_trackers(wanted, Config(), root) as tracked:
        (tracker,) = tracked
        for iteration in steps:
            tracker.start_phase(iteration, "solver", 1, 0)
            row = {"iteration": iteration, "phase": "solver", "step": 1, "reward": iteration / 4}
            tracker.finish_step(row)
            tracker.finish_iteration({"iteration": iteration, "mean@8": 0.5})


def test_mlflow_has_curves_and_config_and_a_resumed_run_goes_on(tmp_path: Path):
    mlflow = pytest.importorskip("mlflow")
    wanted = TrackersConfig(mlflow=f"sqlite:///{tmp_path / 'store.db'}", experiment="e")
    _tell(wanted, tmp_path / "run", 1, 2)
    _tell(wanted, tmp_path / "run", 3)
    client = mlflow.MlflowClient(wanted.mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    history = client.get_metric_history(run.info.run_id, "solver/reward")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    history = client.get_metric_history(run.info.run_id, "heldout/mean_at_8")
    assert [m.step for m in history] == [1, 2, 3]
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    expected = {key: str(value)[:500] for key, value in flatten(asdict(Config())).items()}
    assert run.data.params == expected


def test_wandb_keeps_all_of_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    _tell(TrackersConfig(wandb="project"), tmp_path / "run", 1, 2)
    wandb.teardown()  # W&B's own process closes the file, which `finish` does not wait for
    (path,) = (tmp_path / "run").rglob("*.wandb")
    rows, names = [], set()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            names.add((record.run.project, record.run.display_name, record.run.run_id))
        if record.HasField("history"):
            items = record.history.item
            rows.append({(i.key or "/".join(i.nested_key)): i.value_json for i in items})
    assert len(names) == 1 and next(iter(names))[:2] == ("project", "run")
    assert next(iter(names))[2] == (tmp_path / "run/wandb_run_id").read_text()
    rewards = [(r["solver/total_step"], r["solver/reward"]) for r in rows if "solver/reward" in r]
    assert rewards == [("1", "0.25"), ("2", "0.5")]
    assert [r["heldout/mean@8"] for r in rows if "heldout/mean@8" in r] == ["0.5", "0.5"]


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file of W&B: seven bytes, then the log format of LevelDB."""
    block, place, parts = 32_768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:  # no header fits: the block's end is padding
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_a_package_that_is_not_there_is_one_line_before_anything_starts(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for wanted in (TrackersConfig(wandb="p"), TrackersConfig(mlflow="file:///x")):
        with pytest.raises(UserError, match=r"which is not installed: pip install (wandb|mlflow)"):
            check_trackers(wanted)
    check_trackers(TrackersConfig())


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path: Path):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    wanted = TrackersConfig(mlflow=f"sqlite:///{tmp_path}/file/store.db")
    with (
        pytest.raises(UserError, match="a tracker cannot be begun"),
        opened_trackers(wanted, Config(), tmp_path),
    ):
        pass


def test_what_a_tracker_raises_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture):
    class Broken(module.Tracker):
        name = "Broken"

        def send(self, group: str, numbers: dict[str, float], step: int) -> None:
            raise OSError("no network")

    tracker = Broken()
    for step in (1, 2):
        tracker.finish_step({"iteration": 1, "phase": "solver", "step": step, "reward": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        "Broken takes no figures: no network"
    ]


def test_where_none_is_wanted_none_is_imported(tmp_path: Path):
    with opened_trackers(TrackersConfig(), Config(), tmp_path) as tracked:
        assert tracked == []
