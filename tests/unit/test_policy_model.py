"""The learner's model on padded and packed sequences against Hugging Face on single ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from actors.learning.attention import VARLEN, varlen_attention
from actors.learning.policy_model import PolicyModel
from rzero_ray.method.batching import PACKED, PADDED, collate
from rzero_ray.types import Rollout, RunError
from tests.unit.builders import rollout

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS = {
    "qwen3-tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    # Shorter than the sequences, which would else see everything.
    "mistral-windowed": MistralConfig(**SIZES, tie_word_embeddings=False, sliding_window=4),
}


@pytest.fixture(params=CONFIGS)
def folder(request, tmp_path: Path) -> Path:
    """Return a model with weights large enough for every token to matter."""
    config: PreTrainedConfig = CONFIGS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(tmp_path)
    return tmp_path


def _rollouts() -> list[Rollout]:
    rng = np.random.default_rng(0)
    return [
        rollout(rng.integers(0, VOCAB, prompt), rng.integers(0, VOCAB, completion))
        for prompt, completion in ((3, 9), (5, 1), (1, 4), (7, 12))
    ]


def _attend_one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    longest_q: int,
    longest_k: int,
    *,
    window_size: tuple[int, int],
    scale: float,
    enable_gqa: bool,
) -> Tensor:
    """Stand in for `varlen_attn`, which no CPU has: the same, one sequence after the other."""
    assert bounds_q.dtype == torch.int32
    before, after = window_size
    assert after == 0
    lengths = bounds_q.diff().tolist()
    assert (bounds_k.diff().tolist(), longest_q, longest_k) == (lengths, *[max(lengths)] * 2)
    parts = zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True)
    heads_first = [[part.transpose(0, 1)[None] for part in of_one] for of_one in parts]
    attended = [
        scaled_dot_product_attention(
            q, k, v, _seen(q.shape[2], before), scale=scale, enable_gqa=enable_gqa
        )
        for q, k, v in heads_first
    ]
    return torch.cat([one[0].transpose(0, 1) for one in attended])


def _seen(length: int, before: int) -> Tensor:
    """Return which tokens each one of a sequence sees: itself and so many before it (-1: all)."""
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    return seen if before < 0 else seen.triu(-before)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("attention", "layout"),
    [("sdpa", PADDED), ("sdpa", PACKED), ("eager", PACKED), (VARLEN, PACKED)],
)
def test_padded_and_packed_scores_and_gradients_are_those_of_single_sequences(
    folder, attention, layout, recomputed, monkeypatch
):
    monkeypatch.setattr(varlen, "varlen_attn", _attend_one_by_one)
    policy = PolicyModel.load(folder, torch.float32, torch.device("cpu"), attention)
    if recomputed:
        policy.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rollouts = _rollouts()
    batch = layout.collate(rollouts, [1.0, -2.0, 3.0, 0.5], torch.device("cpu"))
    loss, scores, _ = policy(
        batch.inputs_BT,
        batch.positions_N,
        batch.tokens_N,
        temperature=0.8,
        token_loss=lambda logprobs, rows: (batch.weights_N[rows] * logprobs).sum(),
        packing=batch.packing,
    )
    loss.backward()
    expected = []
    for one in rollouts:
        ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.token_ids])).long()
        log_p = torch.log_softmax(plain(input_ids=ids[None]).logits[0, :-1] / 0.8, dim=-1)
        picked = log_p.gather(-1, ids[1:, None])[:, 0]
        expected.append(picked[len(one.prompt_ids) - 1 :])
    torch.testing.assert_close(scores, torch.cat(expected).detach(), rtol=0, atol=1e-5)
    (batch.weights_N * torch.cat(expected)).sum().backward()
    gradients = {name: p.grad for name, p in policy.causal_lm.named_parameters()}
    assert gradients.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        gradient, expected_gradient = gradients[name], parameter.grad
        assert gradient is not None and expected_gradient is not None
        size = expected_gradient.norm()
        assert size > 1e-3, name
        assert (gradient - expected_gradient).norm() < 1e-4 * size, name


def test_rows_without_bounds_are_sequences_of_their_own(folder, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", _attend_one_by_one)
    models = [
        PolicyModel.load(folder, torch.float32, torch.device("cpu"), attention)
        for attention in ("sdpa", VARLEN)
    ]
    batch = collate(_rollouts(), [1.0] * 4, torch.device("cpu"))
    expected, scores = (
        model(batch.inputs_BT, batch.positions_N, batch.tokens_N, temperature=1.0)[0]
        for model in models
    )
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("of_model", "what"),
    [({"softcap": 50.0}, "caps its scores"), ({"s_aux": torch.zeros(4)}, "has attention sinks")],
)
def test_scores_that_the_kernel_does_not_know_are_refused(of_model, what):
    part = torch.zeros(1, 4, 3, 8)
    with pytest.raises(RunError, match=rf"{what}, which learner\.attention=varlen does not do"):
        varlen_attention(torch.nn.Identity(), part, part, part, None, **of_model)


def test_an_attention_whose_package_is_missing_is_told_in_one_line(folder):
    with pytest.raises(RunError, match="install its package, or set ") as e:
        PolicyModel.load(folder, torch.bfloat16, torch.device("cpu"), "flash_attention_2")
    assert "\n" not in str(e.value)
