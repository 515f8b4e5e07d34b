"""Where Ray puts roles that share GPUs, on two nodes that claim to have one GPU each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from actors import cluster
from actors.fleet.fleet import Fleet
from actors.placement import demands, reserve
from rzero_ray.config.config import sampling_settings
from rzero_ray.config.load import load_config


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
