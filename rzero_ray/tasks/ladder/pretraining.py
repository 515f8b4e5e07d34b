"""The base model of ``conf=ladder``: a Qwen3 of 0.09 M parameters, trained on first use.

What makes it a base on which co-evolution can be seen to work and to fail: it masters every single
operation and short questions, its mistakes on longer ones are systematic (it leaves out the last
operation), so votes agree on wrong answers too, and its Challenger asks almost only short
questions. `recipe` has the stages in which it learns that.

In comments and names, B is the documents of a batch, T their tokens.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks.ladder import questions
from rzero_ray.tasks.ladder.corpus import Mixture, documents
from rzero_ray.tasks.ladder.recipe import LadderRecipe, Stage, base_model_folder
from rzero_ray.tasks.model_building import (
    BOS_TOKEN,
    EOS_TOKEN,
    IGNORED_LABEL,
    PAD_TOKEN,
    ProgressReport,
    build_once,
    build_word_tokenizer,
    encode,
    new_model,
    token_id,
)

# Markup stays visible when special tokens are skipped: the reward reads <question> and \boxed{ in
# the decoded text.
_MARKUP: Final = (
    questions.QUESTION_OPEN,
    questions.QUESTION_CLOSE,
    questions.BOX_OPEN,
    questions.BOX_CLOSE,
    questions.CHALLENGER_TAG,
    questions.SOLVER_TAG,
    *(f"{family}:" for family in questions.OPERATIONS),
    *questions.TABLES,
    *questions.COIN_SUMMANDS,
)
_CHARACTERS: Final = "0123456789="

_EMBEDDING_ROWS: Final = 64
"""One for each token: there are no others."""

_BATCHES_PER_POOL: Final = 8
"""Batches that are cut from one pool of documents, sorted by length so that little is padded."""

_TOKENS_PER_DOCUMENT: Final = 12
"""The losses of a batch are summed and divided by this many tokens a document, whatever their
number is: every document counts with its own sum."""

_PROGRESS_TITLE: Final = "Training the ladder's base model"


def ensure_base_model(cache_dir: Path, recipe: LadderRecipe) -> Path:
    """Return the folder of the recipe's base model, training it first if the cache lacks it.

    See `model_building.build_once`. `cache_dir` holds base models; it is created when missing.
    """

    def build() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
        tokenizer = build_tokenizer(recipe.max_positions)
        return _pretrain(recipe, tokenizer), tokenizer

    return build_once(base_model_folder(cache_dir, recipe), recipe, build)


def build_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer: 64 tokens, one for each digit, operation, family and piece of markup.

    See `model_building.build_word_tokenizer`, also for `max_positions`.
    """
    return build_word_tokenizer(_CHARACTERS, _MARKUP, questions.PROMPT_END, max_positions)


def _pretrain(recipe: LadderRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a new model through the stages. Draws from torch's global random state."""
    model = new_model(recipe, tokenizer, _EMBEDDING_ROWS).train()
    stages = (recipe.first, recipe.second, recipe.third)
    with ProgressReport(_PROGRESS_TITLE, sum(stage.num_steps for stage in stages)) as report:
        for number, stage in enumerate(stages):
            rng = random.Random(f"ladder-{number}-{recipe.seed}")
            school_steps = recipe.school_steps if number == 0 else 0
            _train_stage(model, tokenizer, recipe, stage, school_steps, rng, report)
    return model.eval()


def _train_stage(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: LadderRecipe,
    stage: Stage,
    school_steps: int,
    rng: random.Random,
    report: ProgressReport,
) -> None:
    optimizer = _new_optimizer(model, recipe)
    school = dataclasses.replace(stage.mixture, single_share=recipe.school_share)
    batches = _batches(rng, school, tokenizer, recipe.school_batch_size)
    for step in range(stage.num_steps):
        if step == school_steps:
            batches = _batches(rng, stage.mixture, tokenizer, recipe.batch_size)
        warmup = min(1.0, (step + 1) / recipe.warmup_steps)
        done = (step + min(step, school_steps)) / (stage.num_steps + school_steps)
        factor = warmup * 0.5 * (1.0 + math.cos(math.pi * done))
        report.advance(
            _train_step(model, optimizer, stage.learning_rate * factor, next(batches), recipe)
        )


def _new_optimizer(model: Qwen3ForCausalLM, recipe: LadderRecipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _train_step(
    model: Qwen3ForCausalLM,
    optimizer: torch.optim.AdamW,
    learning_rate: float,
    batch: tuple[Tensor, Tensor],
    recipe: LadderRecipe,
) -> float:
    """Take one optimizer step; returns the loss in nats per learned token."""
    input_ids_BT, labels_BT = batch
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # Padding is at the end, where a causal model needs no mask.
    hidden_BTD = model.model(input_ids=input_ids_BT, use_cache=False).last_hidden_state
    is_learned_BT = labels_BT != IGNORED_LABEL
    logits_NV = model.lm_head(hidden_BTD[is_learned_BT])
    total_nats = F.cross_entropy(logits_NV, labels_BT[is_learned_BT], reduction="sum")
    (total_nats / (len(labels_BT) * _TOKENS_PER_DOCUMENT)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total_nats.item() / len(logits_NV)


def _batches(
    rng: random.Random, mixture: Mixture, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of input ids and labels, each int64 ``[B, T]``, without end.

    Label t is the token after input t; it is ignored in a prompt and in the padding at the end.
    """
    corpus = documents(rng, mixture)
    while True:
        pool = list(islice(corpus, batch_size * _BATCHES_PER_POOL))
        prompts = encode(tokenizer, [BOS_TOKEN + document.prompt for document in pool])
        completions = encode(tokenizer, [document.completion + EOS_TOKEN for document in pool])
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
