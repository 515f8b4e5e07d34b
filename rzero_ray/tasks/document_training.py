"""How a built-in base model learns documents: batches of whole documents, and one optimizer step.

In comments and names, B is the documents of a batch, T their tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks.model_building import (
    BOS_TOKEN,
    EOS_TOKEN,
    IGNORED_LABEL,
    PAD_TOKEN,
    encode,
    token_id,
)

_BATCHES_PER_POOL: Final = 8
"""Batches that are cut from one pool of documents, sorted by length so that little is padded."""


def cosine(done: float) -> float:
    """Return what a learning rate is multiplied by when this share of its steps is done."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def train_step(
    model: Qwen3ForCausalLM,
    optimizer: torch.optim.AdamW,
    learning_rate: float,
    batch: tuple[Tensor, Tensor],
    *,
    tokens_per_document: int,
    max_grad_norm: float,
) -> float:
    """Take one optimizer step; returns the loss in nats per learned token.

    The losses of a batch are summed and divided by `tokens_per_document` for each document,
    whatever their number is: every document counts with its own sum.
    """
    input_ids_BT, labels_BT = batch
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # Padding is at the end, where a causal model needs no mask.
    hidden_BTD = model.model(input_ids=input_ids_BT, use_cache=False).last_hidden_state
    is_learned_BT = labels_BT != IGNORED_LABEL
    logits_NV = model.lm_head(hidden_BTD[is_learned_BT])
    total_nats = F.cross_entropy(logits_NV, labels_BT[is_learned_BT], reduction="sum")
    (total_nats / (len(labels_BT) * tokens_per_document)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total_nats.item() / len(logits_NV)


def batches(
    rng: random.Random,
    documents: Iterator[tuple[str, str]],
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of input ids and labels, each int64 ``[B, T]``, without end.

    `documents` are prompts, without the begin-of-text token, with what follows them, without the
    end-of-text token. Label t is the token after input t; it is ignored in a prompt and in the
    padding at the end.
    """
    while True:
        pool = list(islice(documents, batch_size * _BATCHES_PER_POOL))
        prompts = encode(tokenizer, [BOS_TOKEN + prompt for prompt, _ in pool])
        completions = encode(tokenizer, [completion + EOS_TOKEN for _, completion in pool])
        pairs = sorted(
            zip(prompts, completions, strict=True), key=lambda pair: len(pair[0]) + len(pair[1])
        )
        cut = [pairs[at : at + batch_size] for at in range(0, len(pairs), batch_size)]
        rng.shuffle(cut)
        for batch in cut:
            yield _collate(batch, token_id(tokenizer, PAD_TOKEN))


def _collate(pairs: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids, labels = [], []
    for prompt, completion in pairs:
        padding = longest - len(prompt) - len(completion)
        input_ids.append([*prompt, *completion[:-1], *[pad_id] * padding])
        labels.append(
            [*[IGNORED_LABEL] * (len(prompt) - 1), *completion, *[IGNORED_LABEL] * padding]
        )
    return torch.tensor(input_ids), torch.tensor(labels)
