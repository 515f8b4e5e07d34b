"""All roles on one GPU, in bfloat16: sleepers give memory back, weights arrive by CUDA IPC."""

from __future__ import annotations

import pytest
import torch

from rzero_ray.config.layout import resolve_layout
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import obtain_model
from tests.bench.turns import take_turns

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KV_CACHE_GIB = 4.0


@pytest.mark.parametrize("is_eager", ["true", "false"])
def test_turns_on_one_gpu(is_eager: str):
    config = load_config(
        [
            "conf=tiny",
            "layout=colocated",
            "model.dtype=bfloat16",
            "learner.gpus_per_rank=1",
            "learner.zero_stage=2",
            "sampler.gpus_per_engine=1",
            f"sampler.kv_cache_gib={KV_CACHE_GIB}",
            f"sampler.enforce_eager={is_eager}",
        ]
    )
    layout = resolve_layout(config, {"GPU": 1.0})
    assert (layout.num_ranks, layout.weight_backend) == (1, "cuda_ipc")
    taken = take_turns(config, obtain_model(config.model))
    assert len(taken.syncs) == 4  # every one held against weights.max_probe_difference
    of_learner = min(turn.free_bytes for turn in taken.turns if turn.holder == "learner")
    of_samplers = max(turn.free_bytes for turn in taken.turns if turn.holder == "samplers")
    caches = 2 * KV_CACHE_GIB * 2**30
    assert of_learner - of_samplers > 0.9 * caches
