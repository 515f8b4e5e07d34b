"""The planner's activations against what PyTorch keeps of a decoder layer for the backward pass."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, Qwen3Config

from rzero_ray.run.plan import layer_activations
from rzero_ray.run.shape import model_shape

NUM_TOKENS = 64


def _kept(config: Qwen3Config, dtype: torch.dtype, is_adapter: bool) -> int:
    """Return the bytes kept in a forward pass, each storage once, parameters apart."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    if is_adapter:
        model.requires_grad_(False)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        inject_adapter_in_model(LoraConfig(r=1, target_modules=targets), model)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # held, or another could take the place of one seen

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        identity = tensor.untyped_storage()._cdata
        if identity not in parameters:
            kept[identity] = tensor
        return tensor

    tokens = torch.zeros(1, NUM_TOKENS, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=tokens, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("is_adapter", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("hidden", "heads", "kv_heads", "head_dim", "inner"),
    [(256, 4, 2, 64, 768), (128, 8, 1, 32, 128), (512, 2, 2, 128, 1024)],
)
def test_the_plan_counts_what_a_layer_keeps(
    hidden, heads, kv_heads, head_dim, inner, dtype, is_adapter
):
    config, another = (
        Qwen3Config(
            vocab_size=32,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
        )
        for layers in (2, 3)
    )
    kept = _kept(another, dtype, is_adapter) - _kept(config, dtype, is_adapter)
    shape = model_shape(config.to_dict())
    assert shape is not None
    planned = NUM_TOKENS * layer_activations(shape, dtype.itemsize, is_adapter=is_adapter)
    assert kept == pytest.approx(planned, rel=0.05)
