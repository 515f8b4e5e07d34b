"""Where Ray puts roles: on nodes that claim to have GPUs, on those that see the run's folders, and
ranks on one node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from ray.util.placement_group import placement_group, remove_placement_group

from actors import cluster
from actors.fleet.fleet import Fleet
from actors.nodes import Disk, Node, find_disk, living_nodes
from actors.placement import Places, demands, reserve
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.config.layout import disaggregated
from rzero_ray.config.load import load_config
from rzero_ray.types import UserError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


class Where:
    """An actor that knows where it is."""

    def place(self) -> tuple[str, tuple[str, ...]]:
        context = ray.get_runtime_context()
        return context.get_node_id(), tuple(context.get_accelerator_ids()["GPU"])


@pytest.fixture
def two_nodes() -> Iterator[None]:
    nodes = Nodes()
    for _ in range(2):
        nodes.add_node(num_cpus=4, num_gpus=1, include_dashboard=False)
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()


def test_each_gpu_gets_a_rank_and_an_engine_of_each_role(two_nodes: None):
    config = load_config(
        [
            "conf=qwen3_4b",
            "sampler.cpus_per_engine=1",
            "learner.cpus_per_rank=1",
            "reward.num_workers=2",
            "weights.backend=object_store",
        ]
    )
    layout = cluster.choose_layout(config)
    assert layout.describe().startswith("layout colocated: 2 GPUs, the roles on their own would")
    needed = demands(config, layout)
    fleet = Fleet(sampling_settings(config), layout, asyncio.run(reserve(needed, 30.0)), needed)
    actor: Any = ray.remote(Where)
    names = [demand.actor for demand in needed]
    actors = [actor.options(**fleet.maker.placed(name, {})).remote() for name in names]
    places = dict(zip(names, ray.get([a.place.remote() for a in actors], timeout=60), strict=True))
    devices = set()
    for k in range(2):
        roles = ("challenger/sampler", "solver/sampler", "learner/rank")
        (place,) = {places[f"{role}-{k}"] for role in roles}
        devices.add(place)
        assert len(place[1]) == 1
    assert len(devices) == 2
    assert not any(places[f"reward/worker-{k}"][1] for k in range(2))


def _ranks_of_two_cpus(num_ranks: int) -> Config:
    return load_config(
        ["conf=tiny", f"learner.num_ranks={num_ranks}", "learner.cpus_per_rank=2", "name=placement"]
    )


def _where_ranks_are(config: Config, places: Places) -> list[str]:
    actor: Any = ray.remote(Where)
    ranks = [demand for demand in demands(config, disaggregated(config)) if demand.needs_disk]
    actors = [
        actor.options(scheduling_strategy=places.strategy(rank.place), num_cpus=2).remote()
        for rank in ranks
    ]
    found = [node for node, _ in _all_at(actors)]
    for one in actors:
        ray.kill(one)
    return found


def _all_at(actors: Sequence[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return ray.get([actor.place.remote() for actor in actors], timeout=60)


@pytest.fixture
def two_nodes_of_four_cpus() -> Iterator[list[Node]]:
    nodes = Nodes()
    for _ in range(2):
        nodes.add_node(num_cpus=4, include_dashboard=False)
    ray.init(address=nodes.address, log_to_driver=False)
    yield living_nodes()
    ray.shutdown()
    nodes.shutdown()


def _wait_until_all_is_free() -> None:
    """Wait until Ray has what was given up: on a busy machine processes take seconds to end."""
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_ranks_are_together_where_a_node_has_room_and_where_the_disk_is_seen(
    two_nodes_of_four_cpus: list[Node], tmp_path: Path, base_model: Path, caplog
):
    config = _ranks_of_two_cpus(2)
    needed = demands(config, disaggregated(config))
    seen = asyncio.run(find_disk([base_model], tmp_path / "run", 60.0))
    assert seen is None  # they are on one machine
    assert list(tmp_path.iterdir()) == []
    for node in two_nodes_of_four_cpus:
        places = asyncio.run(reserve(needed, 30.0, Disk(tmp_path, [node])))
        assert _where_ranks_are(config, places) == [node.id] * 2
        places.close()
        _wait_until_all_is_free()
    assert caplog.text == ""
    # Others have one CPU of each node: no node has room for both ranks.
    others = placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    assert others.wait(30)
    places = asyncio.run(reserve(needed, 60.0))
    assert len(set(_where_ranks_are(config, places))) == 2
    assert "no node has room for all 2 learner ranks" in caplog.text
    places.close()
    remove_placement_group(others)


def test_a_learner_without_room_where_its_disk_is_seen_is_told_at_once(
    two_nodes_of_four_cpus: list[Node],
):
    config = _ranks_of_two_cpus(3)
    first, _ = two_nodes_of_four_cpus
    with pytest.raises(UserError) as caught:
        needed = demands(config, disaggregated(config))
        asyncio.run(reserve(needed, 30.0, Disk(Path("/run"), [first])))
    assert f"/run, which only node {first.address} sees, without room for 6 CPU" in str(
        caught.value
    )
