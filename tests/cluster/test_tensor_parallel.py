"""An engine that is cut into two workers does what a whole one does. No Ray here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from actors.sampling.options import EngineOptions
from actors.sampling.tokenization import ChatTokenizer
from actors.weights.object_store import cut_buckets
from actors.weights.staging import StagingArea
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import SampleRequest, Sampling, WeightVersion
from tests.cluster.test_engines import in_child

pytestmark = pytest.mark.long  # two workers that import vLLM, on two cores

TASK = ArithmeticTask()
PROMPT = list(range(4, 24))


@pytest.fixture(scope="module")
def four_heads(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of random weights with 4 heads: the tiny model has 3."""
    folder = tmp_path_factory.mktemp("four-heads") / "model"
    config = AutoConfig.from_pretrained(base_model)
    config.update(
        {
            "hidden_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 256,
        }
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_model).save_pretrained(folder)
    return folder


def _use(model: Path, num_workers: int) -> dict[str, Any]:
    """Score, sample, take new weights, score again."""
    from actors.sampling.vllm_engine import VllmEngine

    tokenizer, area = ChatTokenizer(model), StagingArea()
    engine = VllmEngine(
        EngineOptions(
            model=str(model),
            dtype="float32",
            max_model_len=192,
            max_num_seqs=64,
            kv_cache_bytes=1 << 26,
            gpu_memory_utilization=0.8,
            enforce_eager=True,
            on_cpu=True,
            in_process=num_workers == 1,
            weight_backend="object_store",
            tensor_parallel=num_workers,
        )
    )
    request = SampleRequest(
        messages=TASK.solver_messages(TASK.heldout()[0].question),
        num_samples=1,
        seed=0,
        sampling=Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=24),
    )
    generator = torch.Generator().manual_seed(1)
    moved: Any = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(model / "model.safetensors").items()
    }

    async def look() -> tuple[np.ndarray, list[int]]:
        scores = await engine.prompt_logprobs(PROMPT)
        prompt_ids = tokenizer.render(request.messages)
        (completion,) = await engine.generate(prompt_ids, request, tokenizer)
        return scores, completion.token_ids.tolist()

    async def go() -> dict[str, Any]:
        await engine.connect({})
        before = await look()
        await engine.pause()
        await engine.start_weight_update()
        for layout, parts in cut_buckets(moved.items(), torch.float32, 1 << 18):
            await engine.update_weights(layout.update_info(area.write(0, layout, parts)))
        version = WeightVersion(role="solver", iteration=1, num_steps=1)
        await engine.finish_weight_update(version)
        await engine.resume()
        return {"before": before, "after": await look()}

    found = asyncio.run(go())
    area.close()
    engine.shutdown()
    return found


def test_two_workers_score_and_sample_as_one_does(four_heads: Path):
    one, two = (in_child(_use, four_heads, num_workers) for num_workers in (1, 2))
    for moment in ("before", "after"):
        (scores, tokens), (scores_of_two, tokens_of_two) = one[moment], two[moment]
        np.testing.assert_allclose(scores_of_two, scores, rtol=0, atol=1e-5)
        assert tokens_of_two == tokens
    assert np.abs(one["before"][0] - one["after"][0]).max() > 0.01
