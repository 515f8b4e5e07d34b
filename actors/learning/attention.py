"""The attention of the learner's model, by the names of transformers, and one that PyTorch brings.

An implementation that takes sequences of different lengths in one row, told by where each begins,
is given micro-batches without padding. The others are given rows of one length, where the causal
path of `sdpa` is the fastest there is without such a kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen
from transformers import AttentionInterface

from rzero_ray.method.batching import PACKED, PADDED, BatchLayout
from rzero_ray.types import RunError

VARLEN = "varlen"
"""PyTorch's own FlashAttention over sequences of different lengths: CUDA, 16 bits, and no package
beside torch."""
_TAKE_PACKED = (VARLEN, "flash_attention_2", "flash_attention_3")


def batch_layout(attention: str) -> BatchLayout:
    """Return how sequences are laid into micro-batches for an implementation."""
    return PACKED if attention in _TAKE_PACKED else PADDED


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence; transformers' interface of an attention function.

    Shapes: queries [rows, heads, T, head size], keys and values with their own number of heads,
    the result [rows, T, heads, head size]. `cu_seq_lens_q` [S + 1] says where the S sequences begin
    in the flattened rows, and where the last ends; without it each row is a sequence. With a
    `sliding_window` a token sees so many tokens, itself among them. Raises RunError for a model
    that changes its scores in a way that the kernel does not know: ignored, the learner would train
    another model than the engines sample from.
    """
    assert attention_mask is None, "sequences are told apart by where they begin"
    for what, value_of_model in (("caps its scores", softcap), ("has attention sinks", s_aux)):
        if value_of_model is not None:
            raise RunError(
                f"this model {what}, which learner.attention={VARLEN} does not do; install "
                "FlashAttention and set learner.attention=flash_attention_2 or flash_attention_3"
            )
    num_rows, num_heads, length, head_size = query.shape
    if cu_seq_lens_q is None or max_length_q is None:
        ends = torch.arange(num_rows + 1, dtype=torch.int32, device=query.device)
        cu_seq_lens_q, max_length_q = ends * length, length
    attended = varlen.varlen_attn(
        _tokens_first(query),
        _tokens_first(key),
        _tokens_first(value),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        # Before the token itself (-1: all), and nothing after it.
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        scale=scaling,
        enable_gqa=key.shape[1] != num_heads,
    )
    assert isinstance(attended, Tensor)
    return attended.view(num_rows, length, num_heads, head_size), None


def _tokens_first(part: Tensor) -> Tensor:
    """Return [rows, heads, T, head size] as [rows x T, heads, head size]."""
    return part.transpose(1, 2).flatten(0, 1)


def register_varlen() -> None:
    """Let models be loaded with it by its name."""
    AttentionInterface.register(VARLEN, varlen_attention)
