"""A node that dies takes a learner rank along: the learner goes on with as many as have places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from actors.cluster import start_cluster
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.config.load import load_config
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import ActorChange, LearnerLostError, Role, Step, UpdateReport
from tests.unit.builders import phase_of, rollout

pytestmark = pytest.mark.long


def test_two_ranks_go_on_as_one_where_the_other_s_node_has_died(base_model: Path, tmp_path: Path):
    config = load_config(
        [
            "conf=tiny",
            f"model.path={base_model}",
            "learner.num_ranks=2",
            "learner.cpus_per_rank=2",  # so that a node has room for one of them
            "reward.cpus_per_worker=0",
            "deadline.placement=15",
        ]
    )
    nodes = Nodes()
    nodes.add_node(num_cpus=3, include_dashboard=False)
    doomed = nodes.add_node(num_cpus=2, include_dashboard=False)
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        asyncio.run(_go_through(config, base_model, tmp_path, lambda: nodes.remove_node(doomed)))
    finally:
        ray.shutdown()
        nodes.shutdown()


async def _go_through(config: Config, model: Path, folder: Path, lose_a_node) -> None:
    task = make_task(config.task)
    models: dict[Role, Path] = {"challenger": model, "solver": model}
    cluster = await start_cluster(config, disaggregated(config), models, task, model)
    changes: list[ActorChange] = []
    try:
        cast = cluster.cast(config, task, StageClock(), lambda sync: None, on_change=changes.append)
        phase = phase_of(model, role="solver", final_model=folder / "model")
        await cast.solver.start_phase(phase)
        first = await _update(cast, folder, 1)
        assert first.saving is not None
        await first.saving  # else the phase would go on from its beginning
        lose_a_node()
        with pytest.raises(LearnerLostError):
            await _update(cast, folder, 2)
        assert len(cluster.learner.ranks) == 1
        again = phase_of(
            model,
            role="solver",
            final_model=folder / "model",
            checkpoint=folder / "step-001",
            num_finished_steps=1,
        )
        await cast.solver.start_phase(again)
        second = await _update(cast, folder, 2)
        await cast.solver.finish_phase(again)
    finally:
        await cluster.close()
    assert np.isfinite(first.learning.loss) and np.isfinite(second.learning.loss)
    assert (folder / "model" / "model.safetensors").is_file()
    dead = {change.actor for change in changes if change.state == "DEAD"}
    assert dead >= {"learner/rank-0", "learner/rank-1"}


async def _update(cast: Cast, folder: Path, index: int) -> UpdateReport:
    step = Step(iteration=1, phase="solver", index=index, checkpoint=folder / f"step-{index:03d}")
    rollouts = [rollout([1, 2], [3, 4], advantage=(-1.0) ** k) for k in range(8)]
    return await cast.solver.update(rollouts, step)
