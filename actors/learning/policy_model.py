"""The model as the learner calls it: it scores chosen tokens instead of returning all logits.

A causal language model of Hugging Face whose decoder is its `base_model` and whose head is a
bias-free linear layer `lm_head`, as Qwen3 and Llama are. N stands for the chosen tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from actors.learning.attention import register_varlen
from rzero_ray.method.batching import Packing
from rzero_ray.method.logprobs import TokenLoss, score_and_lose, score_tokens
from rzero_ray.types import RunError


class PolicyModel(nn.Module):
    """Wraps `causal_lm`, whose parameters keep their names below it."""

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        head: Any = causal_lm.lm_head
        assert head.bias is None, "a head with a bias would need its gradient too"
        causal_lm.lm_head = _Head(head.weight)
        self.causal_lm = causal_lm

    @classmethod
    def load(
        cls, path: Path, dtype: torch.dtype, device: torch.device, attention: str = "sdpa"
    ) -> PolicyModel:
        """Load a folder in Hugging Face format onto `device`; `attention` as transformers knows it.

        Micro-batches have to be laid out for it (`actors.learning.attention.batch_layout`). Raises
        RunError where it is of a package that is not installed.
        """
        register_varlen()
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, attn_implementation=attention
            )
        except ImportError as error:
            raise RunError(
                f"learner.attention={attention} cannot be used on this node "
                f"({' '.join(str(error).split())}); install its package, or set "
                "learner.attention=auto"
            ) from None
        return cls(model.to(device))

    def forward(
        self,
        inputs_BT: Tensor,
        positions_N: Tensor,
        tokens_N: Tensor,
        temperature: float,
        token_loss: TokenLoss | None = None,
        allowed_A: Tensor | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor, ...]:
        """Return (logprobs_N, entropies_N), or (loss, logprobs_N, entropies_N) with `token_loss`.

        `allowed_A` are the tokens of which the distribution is, None for all.

        `positions_N` counts through the flattened `inputs_BT`; the token predicted there is the one
        of `tokens_N`. Sequences are padded on the right with any token: no position attends to a
        later one, so no mask is needed, and without one attention takes its fast causal path. Or
        they are packed into one row, and `packing` tells them apart.
        """
        decoder: Any = self.causal_lm.base_model
        bounds = {} if packing is None else _as_arguments(packing)
        hidden_BTD = decoder(input_ids=inputs_BT, use_cache=False, **bounds).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, positions_N)
        return self.causal_lm.lm_head(hidden_ND, tokens_N, temperature, token_loss, allowed_A)


def _as_arguments(packing: Packing) -> dict[str, Any]:
    """Return a packing in the words of transformers.

    Implementations for sequences of different lengths go by their bounds. The others make a mask of
    the positions that begin anew, which costs the square of the row.
    """
    return {
        "position_ids": packing.position_ids_1T,
        "cu_seq_lens_q": packing.bounds_S1,
        "cu_seq_lens_k": packing.bounds_S1,
        "max_length_q": packing.longest,
        "max_length_k": packing.longest,
    }


class _Head(nn.Module):
    """The output head under its own name; ZeRO stage 3 gathers its weight for the whole call."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self,
        hidden_ND: Tensor,
        tokens_N: Tensor,
        temperature: float,
        token_loss: TokenLoss | None,
        allowed_A: Tensor | None,
    ) -> tuple[Tensor, ...]:
        if token_loss is None:
            return score_tokens(hidden_ND, self.weight, tokens_N, temperature, allowed_A)
        return score_and_lose(hidden_ND, self.weight, tokens_N, temperature, token_loss, allowed_A)
