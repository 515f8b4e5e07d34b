"""All roles on one GPU, in bfloat16: sleepers give memory back, weights arrive by CUDA IPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import ray
import torch

from rzero_ray.config.load import load_config
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Phase,
    Role,
    Rollout,
    SampleRequest,
    Sampling,
    Step,
    SyncReport,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KV_CACHE_GIB = 4.0
CONFIG = load_config(
    [
        "conf=tiny",
        "layout=colocated",
        "model.dtype=bfloat16",
        "learner.gpus_per_rank=1",
        "learner.zero_stage=2",
        "sampler.gpus_per_engine=1",
        f"sampler.kv_cache_gib={KV_CACHE_GIB}",
        "sampler.enforce_eager=false",
    ]
)
TASK = ArithmeticTask()
REQUEST = SampleRequest(
    messages=TASK.solver_messages("7+5-6"),
    num_samples=8,
    seed=0,
    sampling=Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=64),
)


def test_turns_on_one_gpu(tmp_path: Path):
    from actors.cluster import choose_layout, start_cluster

    free: list[tuple[str, int]] = []
    syncs: list[SyncReport] = []
    base_model = obtain_model(CONFIG.model)
    models: dict[Role, Path] = {"challenger": base_model, "solver": base_model}
    phase = Phase(
        iteration=1,
        role="solver",
        initial_model=base_model,
        checkpoint=None,
        num_finished_steps=0,
        final_model=tmp_path / "final",
    )

    async def go() -> None:
        layout = choose_layout(CONFIG)
        assert (layout.num_ranks, layout.weight_backend) == (1, "cuda_ipc")
        cluster = await start_cluster(
            CONFIG,
            layout,
            models,
            TASK,
        )
        cast = cluster.cast(
            CONFIG,
            TASK,
            StageClock(),
            syncs.append,
            lambda holder: free.append((holder, torch.cuda.mem_get_info()[0])),
        )
        try:
            solver = cast.solver
            await solver.start_phase(phase)
            for index in (1, 2):
                completions = await solver.sample(REQUEST)
                rollouts = [
                    Rollout(
                        prompt_ids=c.prompt_ids,
                        token_ids=c.token_ids,
                        logprobs=c.logprobs,
                        advantage=(-1.0) ** k,
                        prompt_index=0,
                    )
                    for k, c in enumerate(completions)
                ]
                await solver.update(rollouts, Step(iteration=1, phase="solver", index=index))
            await solver.finish_phase(phase)
            await cast.challenger.hold(base_model)
            await cast.challenger.sample(REQUEST)
        finally:
            await cluster.close()

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        asyncio.run(go())
    finally:
        ray.shutdown()
    assert len(syncs) == 4  # every one held against weights.max_probe_difference
    of_learner = min(size for holder, size in free if holder == "learner")
    of_samplers = max(size for holder, size in free if holder == "samplers")
    caches = 2 * KV_CACHE_GIB * 2**30
    assert of_learner - of_samplers > 0.9 * caches
