"""`python -m tests.bench.models SHAPE FOLDER`: writes a Qwen3 of random weights to measure with.

It has the built-in base model's tokenizer and chat template; what it answers means nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tests.bench.harness import tiny_model

_SHARED: dict[str, Any] = {
    "head_dim": 64,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
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
}
"""By about how many parameters it has."""


def write_random_qwen3(shape: str, folder: Path) -> Qwen3ForCausalLM:
    """Write a model of one of `SHAPES` into a folder, in float32; returns it."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**(_SHARED | SHAPES[shape])))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(folder)
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
