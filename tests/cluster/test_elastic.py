"""Engines join and leave a role that samples and learns, on real actors; nobody else waits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray

from actors.cluster import Cluster, gcs_address, start_cluster
from actors.fleet.member import State
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    ActorChange,
    Completion,
    Role,
    SampleRequest,
    Sampling,
    ScaleChange,
    ScaleRequest,
    Step,
    SyncReport,
)
from tests.cluster.conftest import REPOSITORY
from tests.unit import until as waiting
from tests.unit.builders import opposed_rollouts, phase_of

TASK = ArithmeticTask()
until = partial(waiting.until, seconds=180.0)
NEWCOMER = "solver/sampler-1"


class Running:
    """A cluster with one engine a role, each with so little that a second Solver has room."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.cluster = cluster
        self.changes: list[ActorChange] = []
        self.scales: list[ScaleChange] = []
        self.syncs: list[SyncReport] = []
        self.cast: Cast = cluster.cast(
            config,
            TASK,
            StageClock(),
            self.syncs.append,
            on_change=self.changes.append,
            on_scale=self.scales.append,
        )

    def scale(self, number: int) -> None:
        self.cluster.scaling.scale(ScaleRequest(role="solver", least=number, most=number))

    def reasons(self, actor: str, state: State) -> list[str]:
        return [c.reason for c in self.changes if (c.actor, c.state) == (actor, state)]

    def names(self) -> set[str]:
        return {sampler.name for sampler in self.cluster.pool.own("solver")}

    async def sample(self, seed: int) -> list[Completion]:
        sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=48)
        messages = TASK.solver_messages("20+19-18+17-16+15")
        return await self.cast.solver.sample(
            SampleRequest(messages=messages, num_samples=8, seed=seed, sampling=sampling)
        )


def on_cluster(config: Config, model: Path, story: Callable[[Running], object]) -> None:
    small = replace(config.sampler, cpus_per_engine=0.25, max_num_seqs=16)
    config = replace(config, sampler=small)

    async def go() -> None:
        models: dict[Role, Path] = {"challenger": model, "solver": model}
        cluster = await start_cluster(config, disaggregated(config), models, TASK, model)
        try:
            await story(Running(config, cluster))  # type: ignore[misc]
        finally:
            await cluster.close()

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        asyncio.run(go())
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_an_engine_joins_what_is_in_training_without_the_learner_and_leaves_again(
    tiny_config: Config, base_model: Path, tmp_path: Path
):
    async def story(running: Running) -> None:
        solver, learner = running.cast.solver, running.cluster.learner
        await solver.start_phase(phase_of(base_model, final_model=tmp_path / "model"))
        await solver.update(opposed_rollouts(await running.sample(1)), _step(1))
        async with learner.alone():  # it has the learner to do nothing for anybody
            running.scale(2)
            await until(lambda: bool(running.reasons(NEWCOMER, State.HEALTHY)))
        assert running.reasons(NEWCOMER, State.HEALTHY) == ["it holds weights solver-01-001"]
        asked = [asyncio.create_task(running.sample(seed)) for seed in range(10, 26)]
        await until(lambda: all(s.outstanding_samples for s in running.cluster.pool.own("solver")))
        answers = await asyncio.gather(*asked)
        versions = {v.name for of in answers for c in of for v, _, _ in c.weight_versions if v}
        assert versions == {"solver-01-001"}
        # A publication reaches both, and is verified in both.
        report = await solver.update(opposed_rollouts(answers[0]), _step(2))
        assert report.sync.transfer.num_engines == 3  # and the one that the Challenger lends
        running.scale(1)
        await until(lambda: running.names() == {"solver/sampler-0"})
        await solver.update(opposed_rollouts(await running.sample(2)), _step(3))
        await solver.finish_phase(phase_of(base_model, final_model=tmp_path / "model"))
        # One that comes now gets what was saved, from the object store.
        running.scale(2)
        await until(lambda: len(running.reasons(NEWCOMER, State.HEALTHY)) == 2)
        reason = running.reasons(NEWCOMER, State.HEALTHY)[-1]
        assert reason in ("it holds weights solver-01-003", "it holds the weights of its role")
        assert all(len(of) == 8 for of in answers)

    on_cluster(tiny_config, base_model, story)


@pytest.mark.long
def test_a_folder_s_weights_reach_an_engine_that_started_from_another_one(
    tiny_config: Config, base_model: Path, tmp_path: Path
):
    async def story(running: Running) -> None:
        solver, pool = running.cast.solver, running.cluster.pool
        phase = phase_of(base_model, final_model=tmp_path / "model")
        await solver.start_phase(phase)
        await solver.update(opposed_rollouts(await running.sample(1)), _step(1))
        await solver.finish_phase(phase)
        expected = pool.own("solver")[0].expected
        assert expected is not None
        running.cluster.renewal.kept = None  # another role's weights have been published since
        running.scale(2)
        await until(lambda: len(pool.own("solver")) == 2)
        newcomer = pool.own("solver")[1]
        newcomer.model = base_model  # it starts from this folder,
        await until(lambda: newcomer.member.state is State.JOINING and newcomer.member.pid == 0)
        await asyncio.sleep(2)
        newcomer.model = tmp_path / "model"  # and its role has another by then
        await until(lambda: newcomer.member.state is State.HEALTHY)
        found = await newcomer.actor.prompt_logprobs.remote(running.cluster.probes)
        for one, other in zip(found, expected, strict=True):
            assert abs(one - other).max() < 1e-3

    on_cluster(tiny_config, base_model, story)


@pytest.mark.long
def test_the_command_reaches_the_driver(tiny_config: Config, base_model: Path, tmp_path: Path):
    async def story(running: Running) -> None:
        run_dir = tmp_path / "run"
        answering = asyncio.create_task(running.cluster.scaled_by(str(run_dir)))
        address = gcs_address()

        async def scale(*arguments: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "rzero_ray", "scale", *arguments]
            env = os.environ | {"RAY_ADDRESS": address}
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                env=env,
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            return done.returncode, done.stdout + done.stderr

        code, text = await scale(f"run_dir={run_dir}", "solver=1..2")
        assert (code, text) == (0, "solver: 1 to 2 engines wanted, 1 present\n")
        code, text = await scale(f"run_dir={run_dir}", "verifier=1")
        assert code == 2 and "verifier has no engines of its own in this run" in text
        code, text = await scale(f"run_dir={tmp_path / 'other'}", "solver=2")
        assert code == 2 and "no driver of run_dir=" in text
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)

    on_cluster(tiny_config, base_model, story)


def _step(index: int) -> Step:
    return Step(iteration=1, phase="solver", index=index, checkpoint=None)
