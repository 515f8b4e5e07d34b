"""The base model of ``conf=tiny``: a Qwen3 of 0.3 M parameters, trained from scratch on first use.

R-Zero starts from a pretrained language model. The tiny experiment needs one that a laptop makes in
two minutes, that downloads nothing, and that R-Zero can improve. ``ensure_base_model`` pretrains it
on the corpus of ``rzero_ray.tasks.arithmetic`` and stores an ordinary Hugging Face folder, so that
everything after it (vLLM, DeepSpeed, the tokenizer's chat template) treats it as any other model.

What makes it a base that self-consistency can improve, rather than just a weak one: it knows two
styles. Most of its samples are direct answers, which are mostly wrong beyond two operands and
scatter over many values; a large minority are chains of thought, which are mostly right and agree
with each other. The majority vote therefore finds the answer of the chains of thought, and the
Solver learns to prefer them. Hence two traps:

- The sampled share of chains of thought decides whether the vote elicits or destroys. Batches of
  near-equal length distort it, since their token-mean losses and their gradient scales weigh short
  and long documents differently. Here documents of all lengths are packed into the rows of every
  batch and the loss is a plain sum over tokens, so the model samples the corpus's share.
- A clean but undertrained base makes systematic mistakes, which become confident wrong majorities.
  Here the base nearly masters its corpus, and the corpus itself is faulty: answers without a chain
  of thought are guesses, and steps are corrupted at random. That also makes the base's accuracy
  depend more on the recipe than on when a particular seed happens to learn to add.

In comments and names, R is the rows of a batch, T the tokens of a row and V the vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks import arithmetic
from rzero_ray.tasks.model_building import (
    BOS_TOKEN,
    EOS_TOKEN,
    IGNORED_LABEL,
    PAD_TOKEN,
    ProgressReport,
    build_once,
    build_word_tokenizer,
    new_model,
    token_id,
)
from rzero_ray.tasks.tiny_recipe import BaseModelRecipe, base_model_folder

# Markup stays visible when special tokens are skipped: the reward reads <question> and \boxed{ in
# the decoded text.
_MARKUP: Final = (
    arithmetic.QUESTION_OPEN,
    arithmetic.QUESTION_CLOSE,
    arithmetic.BOX_OPEN,
    arithmetic.BOX_CLOSE,
    arithmetic.CHALLENGER_TAG,
    arithmetic.SOLVER_TAG,
)
_CHARACTERS: Final = "0123456789+-=;"

# Embedding rows beyond the 24 tokens are never a target, so training drives their probability to
# zero.
_EMBEDDING_ROWS: Final = 32

_DOCUMENTS_PER_CHUNK: Final = 1024
_PROGRESS_TITLE: Final = "Training the tiny base model"


def ensure_base_model(cache_dir: Path, recipe: BaseModelRecipe) -> Path:
    """Return the folder of the recipe's base model, training it first if the cache lacks it.

    The folder appears in one step when it is complete, and a file lock lets only one process build
    it: others wait. Torch's global thread count and random state are as before afterwards.

    Args:
        cache_dir: folder that holds base models; it is created when missing.
        recipe: what to build.

    Returns:
        ``cache_dir/tiny-base-<key>``, a Hugging Face folder with fp32 weights, a tokenizer and a
        chat template.
    """
    folder = base_model_folder(cache_dir, recipe)
    return build_once(folder, recipe, build_tokenizer, _pretrain)


def build_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer: 24 tokens, one for each digit, sign and piece of markup.

    See `model_building.build_word_tokenizer`, also for `max_positions`.
    """
    return build_word_tokenizer(_CHARACTERS, _MARKUP, arithmetic.PROMPT_END, max_positions)


def _pretrain(recipe: BaseModelRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a new model on the recipe's corpus. Draws from torch's global random state."""
    model = new_model(recipe, tokenizer, _EMBEDDING_ROWS).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    scheduler = LambdaLR(optimizer, lambda step: _learning_rate_factor(recipe, step))
    with ProgressReport(_PROGRESS_TITLE, recipe.num_steps) as report:
        for input_ids_RT, positions_RT, labels_RT in _batches(recipe, tokenizer):
            # Without an attention mask, Qwen3 reads the documents' borders off the positions.
            output = model.model(input_ids=input_ids_RT, position_ids=positions_RT, use_cache=False)
            logits_RTV = model.lm_head(output.last_hidden_state)
            total_nats = F.cross_entropy(
                logits_RTV.flatten(0, 1),
                labels_RT.flatten(),
                ignore_index=IGNORED_LABEL,
                reduction="sum",
            )
            # A constant, not the number of labels: every document counts with its own sum.
            (total_nats / labels_RT.numel()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            num_labels = int((labels_RT != IGNORED_LABEL).sum())
            report.advance(total_nats.item() / num_labels)
    return model.eval()


def _learning_rate_factor(recipe: BaseModelRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero at ``num_steps``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.num_steps - recipe.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _batches(
    recipe: BaseModelRecipe, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ``num_steps`` batches of input ids, positions and labels, each int64 ``[R, T]``.

    Whole documents are packed into the rows. Positions restart at 0 with each document. Label t is
    the token after input t; it is ignored in a prompt and in the padding at the end of a row.
    """
    num_rows, row_length = recipe.batch_rows, recipe.row_length
    corpus = _encoded_documents(recipe, tokenizer)
    prompt, completion = next(corpus)
    for _ in range(recipe.num_steps):
        input_ids: list[list[int]] = [[] for _ in range(num_rows)]
        positions: list[list[int]] = [[] for _ in range(num_rows)]
        labels: list[list[int]] = [[] for _ in range(num_rows)]
        while True:
            # The last token of a document is only a label.
            size = len(prompt) + len(completion) - 1
            if size > row_length:
                raise ValueError(f"row_length {row_length} is too short for {size} tokens")
            fitting = (r for r in range(num_rows) if len(input_ids[r]) + size <= row_length)
            row = next(fitting, None)
            if row is None:
                # This document opens the next batch, so that packing drops no long document.
                break
            input_ids[row] += [*prompt, *completion][:-1]
            positions[row] += range(size)
            labels[row] += [IGNORED_LABEL] * (len(prompt) - 1) + completion
            prompt, completion = next(corpus)
        for row in range(num_rows):
            num_missing = row_length - len(input_ids[row])
            input_ids[row] += [token_id(tokenizer, PAD_TOKEN)] * num_missing
            positions[row] += range(num_missing)
            labels[row] += [IGNORED_LABEL] * num_missing
        yield torch.tensor(input_ids), torch.tensor(positions), torch.tensor(labels)


def _encoded_documents(
    recipe: BaseModelRecipe, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the token ids of prompt and completion of the recipe's documents, without end."""
    rng = random.Random(f"corpus-{recipe.seed}")
    excluded = frozenset(problem.question for problem in arithmetic.heldout_problems())
    while True:
        chunk = list(
            arithmetic.documents(
                rng,
                _DOCUMENTS_PER_CHUNK,
                challenger_share=recipe.challenger_share,
                direct_share=recipe.direct_share,
                guess_spread=recipe.guess_spread,
                corruption=recipe.corruption,
                excluded=excluded,
            )
        )
        prompts = tokenizer([BOS_TOKEN + document.prompt for document in chunk])
        completions = tokenizer([document.completion + EOS_TOKEN for document in chunk])
        yield from zip(prompts["input_ids"], completions["input_ids"], strict=True)
