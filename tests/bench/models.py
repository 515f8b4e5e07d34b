"""`python -m tests.bench.models SHAPE FOLDER`: writes a Qwen3 of random weights to measure with.

It has the tokenizer and chat template of the built-in base model; what it answers means nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rzero_ray.tasks.tiny_model import build_tokenizer

_SHARED: dict[str, Any] = {
    "head_dim": 64,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
}
SHAPES: dict[str, dict[str, Any]] = {
    # Four and sixteen times the built-in base model of `conf=tiny`.
    "1m": {
        "vocab_size": 1_024,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "5m": {
        "vocab_size": 4_096,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "24m": {
        "vocab_size": 16_384,
        "hidden_size": 384,
        "intermediate_size": 1_152,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "94m": {
        "vocab_size": 32_000,
        "hidden_size": 640,
        "intermediate_size": 2_560,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
    },
    # The layers of Qwen3-0.6B; its 151,936 words would be a quarter of the parameters.
    "470m": {
        "vocab_size": 32_000,
        "hidden_size": 1_024,
        "intermediate_size": 3_072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    # Of the very shape of models that users train.
    "qwen3_0.6b": _QWEN3
    | {
        "hidden_size": 1_024,
        "intermediate_size": 3_072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "qwen3_1.7b": _QWEN3
    | {
        "hidden_size": 2_048,
        "intermediate_size": 6_144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "qwen3_4b": _QWEN3
    | {
        "hidden_size": 2_560,
        "intermediate_size": 9_728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
}
"""By about how many parameters it has."""


def write_random_qwen3(
    shape: str, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Qwen3ForCausalLM:
    """Write a model of one of `SHAPES` into a folder; returns it. It is drawn on `device`."""
    config = Qwen3Config(**(_SHARED | SHAPES[shape]))
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)
    build_tokenizer(config.max_position_embeddings).save_pretrained(folder)
    return model


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.models", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    num = write_random_qwen3(options.shape, options.folder).num_parameters()
    print(f"{options.folder}: {num / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
