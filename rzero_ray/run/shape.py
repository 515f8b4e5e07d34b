"""The shape of a model, read off its `config.json`: what memory, time and cutting it depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rzero_ray.config.config import Config
from rzero_ray.disk.files import damaged, read_json
from rzero_ray.tasks.base_model import ModelSettings
from rzero_ray.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What memory depends on, of a decoder as in Llama and Qwen3."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    kv_elements: int
    """Keys and values of one token in all layers."""
    num_heads: int = 0
    """Attention heads; 0 where they are not known."""
    num_kv_heads: int = 0
    """Those of keys and values."""
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The linear layers of a decoder layer, with the widths that go in and come out."""


def model_shape(settings: Mapping[str, Any]) -> ModelShape | None:
    """Return the shape of the model whose `config.json` this is.

    None where it is no dense decoder as in Llama and Qwen3: its parameters would be counted wrong.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    is_other = "num_experts" in settings or "num_local_experts" in settings
    if is_other or any(key not in settings for key in (*needed, "num_attention_heads")):
        return None
    vocab, hidden, inner, layers = (settings[key] for key in needed)
    heads = settings["num_attention_heads"]
    head_dim = settings.get("head_dim") or hidden // heads
    kv_heads = settings.get("num_key_value_heads") or heads
    sizes = (vocab, hidden, inner, layers, heads, head_dim, kv_heads)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"one of {sizes} is no count")
    kv_width = kv_heads * head_dim
    linears = {
        "q_proj": (hidden, heads * head_dim),
        "k_proj": (hidden, kv_width),
        "v_proj": (hidden, kv_width),
        "o_proj": (heads * head_dim, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    query_key_norms = 2 * head_dim if settings.get("model_type") == "qwen3" else 0
    layer = sum(i * o for i, o in linears.values()) + 2 * hidden + query_key_norms
    embeddings = vocab * hidden * (1 if settings.get("tie_word_embeddings") else 2)
    return ModelShape(
        num_parameters=embeddings + layers * layer + hidden,
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        kv_elements=2 * layers * kv_width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        linears=linears,
    )


def _known(
    model_type: str, vocab: int, hidden: int, inner: int, layers: int, heads: int, is_tied: bool
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": is_tied,
    }


KNOWN_MODELS = {
    "Qwen/Qwen3-4B-Base": _known("qwen3", 151_936, 2_560, 9_728, 36, 32, True),
    "Qwen/Qwen3-8B-Base": _known("qwen3", 151_936, 4_096, 12_288, 36, 32, False),
    # Llama-3.2-3B and Llama-3.1-8B, trained further.
    "OctoThinker/OctoThinker-3B-Hybrid-Base": _known("llama", 128_256, 3_072, 8_192, 28, 24, True),
    "OctoThinker/OctoThinker-8B-Hybrid-Base": _known(
        "llama", 128_256, 4_096, 14_336, 32, 32, False
    ),
}
"""What matters of the `config.json` of models of `conf/`, for a plan before any download."""


def find_shape(name: str, folder: Path | None) -> ModelShape | None:
    """Return the shape of `model.path`: of its folder where it is on this machine, else by name."""
    if folder is not None:
        path = folder / "config.json"
        settings = read_json(path, ModelSettings)
        try:
            return model_shape(settings)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise damaged(path, f"its sizes are no numbers: {error}") from None
    settings = KNOWN_MODELS.get(name)
    return None if settings is None else model_shape(settings)


def checked_shape(config: Config, base_model: Path | None) -> ModelShape | None:
    """Return the base model's shape where it is known, after holding the config against it."""
    shape = find_shape(config.model.path, base_model)
    if shape is not None:
        check_shape(config, shape)
    return shape


def check_shape(config: Config, shape: ModelShape) -> None:
    """Raise UserError where engines or learner cannot hold the model as they are configured."""
    parts, path = config.sampler.tensor_parallel, config.model.path
    if shape.num_heads % parts:
        raise UserError(
            f"sampler.tensor_parallel={parts} does not divide the {shape.num_heads} attention "
            f"heads of model.path={path}; choose a number that does"
        )
    kv_heads = shape.num_kv_heads or parts
    if kv_heads % parts and parts % kv_heads:  # they are divided, or each is copied
        raise UserError(
            f"sampler.tensor_parallel={parts} and the {kv_heads} heads for keys and values of "
            f"model.path={path} do not divide each other; choose a number that does"
        )
    targets = config.learner.lora.targets.split(",") if config.learner.lora.rank else []
    for target in (t for t in targets if shape.linears and t not in shape.linears):
        raise UserError(
            f"learner.lora.targets: {target} is no linear layer of model.path={path}'s decoder; it "
            f"has {', '.join(shape.linears)}"
        )
