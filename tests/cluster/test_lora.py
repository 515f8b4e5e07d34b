"""LoRA in the DeepSpeed learner, against peft in a plain PyTorch loop."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import peft
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from rzero_ray.config.cluster import LoraConfig
from rzero_ray.config.method import LossConfig
from rzero_ray.types import RunError
from tests.cluster.learner_ranks import (
    OPTIONS,
    completion_logprobs,
    learn_plainly,
    norm_of,
)
from tests.marks import long
from tests.unit.builders import phase_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LORA = LoraConfig(rank=8)
FAST = dataclasses.replace(
    OPTIONS, optimizer=dataclasses.replace(OPTIONS.optimizer, learning_rate=5e-3)
)


def _with_adapter(model: Any) -> Any:
    """Return the model in peft's own wrapper, with the adapter that a rank begins with."""
    torch.manual_seed(zlib.crc32(b"solver 1"))
    settings = peft.LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,  # type: ignore[arg-type]
        target_modules=LORA.targets.split(","),
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, settings)


@pytest.fixture(scope="module")
def with_peft(base_model, scored):
    """Return what two steps of peft's own model come to."""
    merge = lambda model: model.merge_and_unload()  # noqa: E731
    return learn_plainly(base_model, scored, 2, "sequence_mean", _with_adapter, merge)


@pytest.mark.parametrize(
    ("world_size", "stage"),
    [(1, 1), long(2, 3), long(1, 0), long(1, 2), long(1, 3), long(2, 1), long(2, 2)],
)
def test_learning_equals_peft_in_a_plain_loop(
    ranks, scored, base_model, with_peft, world_size, stage
):
    shared = ray.put(scored)
    options = dataclasses.replace(
        OPTIONS, loss=dataclasses.replace(OPTIONS.loss, aggregation="sequence_mean")
    )
    results = ray.get(
        [
            rank.learn.remote(stage, phase_of(base_model), shared, 2, options, lora=LORA)
            for rank in ranks[world_size]
        ],
        timeout=300,
    )
    weights, expected = results[0]["weights"], with_peft.weights
    start = dict(
        AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).named_parameters()
    )
    assert list(weights) == list(start)  # the order in which they are published
    off = norm_of(weights[name] - expected[name].numpy() for name in start)
    way = norm_of((expected[name] - p).detach().numpy() for name, p in start.items())
    assert way > 0.1
    assert off < 1e-3 * way, (off, way)
    for step, report in enumerate(results[0]["reports"]):
        updates = slice(2 * step, 2 * step + 2)
        assert report.loss == pytest.approx(np.mean(with_peft.losses[updates]), abs=1e-5)
        if stage > 0:  # DeepSpeed tells no norm at stage 0
            assert report.grad_norm == pytest.approx(
                np.mean(with_peft.grad_norms[updates]), rel=1e-3
            )


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_policy_without_its_adapter_is_its_own_reference(
    ranks, scored, base_model, tmp_path, stage
):
    """The KL to the start of the phase needs no second model, and equals that of one."""
    rank = ranks[1][0]
    result = ray.get(rank.learn.remote(stage, phase_of(base_model), scored, 2, FAST, lora=LORA))
    assert not ray.get(rank.has_second_model.remote())
    # The same with the anchor named by another path: then a second model is loaded.
    (tmp_path / "base").symlink_to(base_model)
    anchored = phase_of(base_model, anchor=tmp_path / "base")
    other = ray.get(rank.learn.remote(stage, anchored, scored, 2, FAST, lora=LORA))
    assert ray.get(rank.has_second_model.remote())
    assert result["reports"][1].kl > 1e-4
    for one, two in zip(result["reports"], other["reports"], strict=True):
        assert one.kl == pytest.approx(two.kl, rel=1e-4)
        assert one.loss == pytest.approx(two.loss, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (1, 2), (2, 1), (2, 3)])
def test_a_checkpoint_is_the_adapter_and_goes_on_bit_for_bit(
    ranks, scored, base_model, tmp_path, world_size, stage
):
    group, shared = ranks[world_size], ray.put(scored)
    phase = phase_of(base_model)
    whole = ray.get([r.learn.remote(stage, phase, shared, 3, lora=LORA) for r in group])
    ray.get([r.learn.remote(stage, phase, shared, 2, lora=LORA) for r in group])
    checkpoint, model = tmp_path / "step-002", tmp_path / "model"
    ray.get([r.save.remote(checkpoint, model) for r in group])
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    trained = sum(
        p.numel()
        for p in _with_adapter(AutoModelForCausalLM.from_pretrained(base_model)).parameters()
        if p.requires_grad
    )
    assert size < 4 * 4 * trained + 200_000  # weights, master, two moments, and what names them
    assert size < (base_model / "model.safetensors").stat().st_size
    phase = phase_of(base_model, checkpoint=checkpoint, num_finished_steps=2)
    resumed = ray.get([r.learn.remote(stage, phase, shared, 1, lora=LORA) for r in group])
    for name, expected in whole[0]["weights"].items():
        np.testing.assert_array_equal(resumed[0]["weights"][name], expected)
    with pytest.raises(RunError, match="step-002 is not of this model"):
        wider = dataclasses.replace(LORA, rank=16)
        ray.get([r.learn.remote(stage, phase, shared, 1, lora=wider) for r in group])


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 3])
def test_a_finished_phase_leaves_the_merged_model_and_the_adapter(
    ranks, scored, base_model, tmp_path, stage
):
    rank, folder = ranks[1][0], tmp_path / "model"
    result = ray.get(rank.learn.remote(stage, phase_of(base_model), scored, 3, FAST, lora=LORA))
    ray.get(rank.save.remote(tmp_path / "step-003", folder))
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    beside = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    with torch.no_grad():
        for rollout in scored[:4]:
            one, other = (completion_logprobs(model, rollout) for model in (merged, beside))
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    # The next phase starts from the merged model with a fresh adapter, which changes nothing yet.
    again = ray.get(
        rank.learn.remote(stage, phase_of(folder, iteration=2), scored, 0, FAST, lora=LORA)
    )
    for name, weight in result["weights"].items():
        np.testing.assert_array_equal(again["weights"][name], weight)


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_in_bfloat16_what_is_published_gives_the_learners_log_probabilities(
    ranks, scored, base_model, tmp_path, stage
):
    """The bound of the probe: merged and rounded once, the model is the one that is trained."""
    no_kl = dataclasses.replace(FAST, loss=LossConfig(kl_coefficient=0.0))
    rank, folder = ranks[1][0], tmp_path / "model"
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16)
    start = torch.from_numpy(scored[0].prompt_ids[:3]).long()[None]
    # As in a run the probe is of text that the model writes: of others bfloat16 keeps too little.
    ids = base.generate(start, max_new_tokens=24, do_sample=False, eos_token_id=None)
    batch = [
        dataclasses.replace(scored[0], prompt_ids=ids[0].numpy().astype(np.int32)),
        *scored[1:],
    ]
    learned = rank.learn.remote(
        stage, phase_of(base_model), batch, 6, no_kl, lora=LORA, dtype="bfloat16"
    )
    probe = ray.get(learned)["probe"]
    ray.get(rank.save.remote(tmp_path / "step-006", folder))
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        of_merged, of_base = (
            torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
            .gather(-1, ids[0, 1:, None])[:, 0]
            .numpy()
            for model in (merged, base)
        )
    assert np.abs(probe - of_merged).mean() < 0.05  # weights.max_probe_difference of bfloat16
    assert np.abs(probe - of_base).mean() > 0.1  # it has learned something by then


@pytest.mark.parametrize("target", ["c_attn", "norm", "lm_head", "embed_tokens", "mlp"])
def test_what_is_no_linear_layer_of_the_decoder_is_named(ranks, scored, base_model, target: str):
    lora = LoraConfig(rank=4, targets=f"q_proj,{target}")
    with pytest.raises(RunError, match=rf"learner\.lora\.targets: .* no linear layer {target}"):
        ray.get(ranks[1][0].learn.remote(1, phase_of(base_model), scored, 1, lora=lora))
