"""Two hosts that share no disk: the learner stays where the run is, engines get all they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.hosted import HostedRun, head_address, start_ray
from tests.faults.namespaces import Host, hosts, why_not
from tests.faults.runs import SHORT, last_line
from tests.faults.watched import WatchedRun

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

_SETTINGS = (
    *SHORT,
    "num_iterations=1",
    "checkpoint.keep_models.every=1",
    "learner.cpus_per_rank=1",  # all that the driver's host has, so that engines are on the other
)
_RESOURCES = ((1, 3 << 30), (3, 6 << 30))
_END_S = 420.0


@dataclass
class Site:
    """Two hosts with one Ray, and the folders that only the first one sees."""

    made: list[Host]
    folder: Path
    base_model: Path
    token: str

    def run(self, name: str, *settings: str) -> tuple[WatchedRun, int | None]:
        """Have a run go to its end; returns it and its exit code."""
        run = HostedRun(
            self.folder / "runs" / name,
            (*_SETTINGS, *settings),
            head_address(self.made),
            host=self.made[0],
            token=self.token,
        )
        watched = WatchedRun(run, self.folder / f"{name}.log")
        watched.start()
        return watched, watched.await_end(_END_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("no-common-disk")
    (folder / "runs").mkdir()
    with hosts(2, folder / "disks") as made:
        run = HostedRun(folder / "runs", host=made[0])
        start_ray(made, run.environment(), folder / "ray", _RESOURCES)
        yield Site(made, folder, base_model, run.token)


@contextmanager
def _parted(site: Site) -> Iterator[None]:
    """Have the second host see nothing of the run and its model in the block."""
    hidden = [site.folder / "runs", site.base_model]
    for folder in hidden:
        site.made[1].hide(folder)
    yield
    for folder in hidden:
        site.made[1].show(folder)


@pytest.fixture(scope="module")
def parted(site: Site) -> WatchedRun:
    """Return a run without a common disk, which has gone to its end."""
    with _parted(site):
        watched, code = site.run("parted")
    assert code == 0, watched.last_words()
    return watched


def _rows(watched: WatchedRun) -> list[dict[str, float]]:
    """Return the figures of a run's steps, without those that depend on the clock."""
    lines = (watched.run.root / "metrics.jsonl").read_text().splitlines()
    return [
        {
            name: value
            for name, value in json.loads(line).items()
            if isinstance(value, int | float) and "second" not in name and "per_s" not in name
        }
        for line in lines
    ]


def test_a_learner_without_room_where_the_run_is_is_one_line(site: Site):
    with _parted(site):
        watched, code = site.run("small", "learner.cpus_per_rank=2")
    said = last_line(watched.log.read_text())
    assert code == 2
    assert said.startswith("rzero_ray: error: learner/rank-0 needs ")
    assert f"which only node {site.made[0].address} sees, without room for 2 CPU" in said


def test_engines_on_another_host_get_their_weights_from_the_learner(site: Site, parted: WatchedRun):
    states: dict[str, list[str]] = {}
    where = {}
    for event in parted.events():
        if event["event"] == "actor":
            states.setdefault(event["actor"], []).append(event["state"])
            where[event["actor"]] = event["node"]
    here, there = (host.address for host in site.made)
    assert where["learner/rank-0"] == here
    for name in ("challenger/sampler-0", "solver/sampler-0"):
        assert where[name] == there
        assert states[name] == ["STALE", "HEALTHY"]


def test_the_figures_are_those_of_a_run_with_a_common_disk(site: Site, parted: WatchedRun):
    common, code = site.run("common")
    assert code == 0, common.last_words()
    for mine, other in zip(_rows(common), _rows(parted), strict=True):
        assert mine == pytest.approx(other, abs=1e-4), mine
