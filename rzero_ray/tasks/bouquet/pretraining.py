"""The base model of ``conf=bouquet``: a Qwen3 of 0.09 M parameters, trained on first use.

What makes it a base on which three roles can be seen to improve: it binds bouquets that are
middling and differ from sample to sample, wishes for little, and prefers large bouquets.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks.bouquet.bouquets import (
    BETWEEN,
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    FLOWERS,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    REFEREE_TAG,
    SOLVER_TAG,
    WISHES,
)
from rzero_ray.tasks.bouquet.corpus import documents
from rzero_ray.tasks.bouquet.recipe import BouquetRecipe, base_model_folder
from rzero_ray.tasks.document_training import batches, cosine, train_step
from rzero_ray.tasks.model_building import (
    ProgressReport,
    build_once,
    build_word_tokenizer,
    new_model,
)

# Markup stays visible when special tokens are skipped: the phases read <question> and \boxed{ in
# the decoded text.
_MARKUP: Final = (
    QUESTION_OPEN,
    QUESTION_CLOSE,
    BOX_OPEN,
    BOX_CLOSE,
    CHALLENGER_TAG,
    SOLVER_TAG,
    REFEREE_TAG,
    *WISHES,
)
_CHARACTERS: Final = f"{''.join(FLOWERS)}12{PROMPT_END}{BETWEEN}"

_EMBEDDING_ROWS: Final = 64
"""More than the 39 tokens; the others never occur."""

_TOKENS_PER_DOCUMENT: Final = 8
"""What a batch's sum of losses is divided by for each document (`train_step`)."""

_PROGRESS_TITLE: Final = "Training the base model of the bouquets"


def ensure_base_model(cache_dir: Path, recipe: BouquetRecipe) -> Path:
    """Return the folder of the recipe's base model, training it first if the cache lacks it.

    See `model_building.build_once`. `cache_dir` holds base models; it is created when missing.
    """
    folder = base_model_folder(cache_dir, recipe)
    return build_once(folder, recipe, build_tokenizer, _pretrain)


def build_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token for each place, verdict and piece of markup.

    See `model_building.build_word_tokenizer`, also for `max_positions`.
    """
    return build_word_tokenizer(_CHARACTERS, _MARKUP, PROMPT_END, max_positions)


def _pretrain(recipe: BouquetRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a new model through the stages. Draws from torch's global random state."""
    model = new_model(recipe, tokenizer, _EMBEDDING_ROWS).train()
    stages = (recipe.first, recipe.second)
    with ProgressReport(_PROGRESS_TITLE, sum(stage.num_steps for stage in stages)) as report:
        for number, stage in enumerate(stages):
            optimizer = torch.optim.AdamW(
                model.parameters(),
                betas=(recipe.beta1, recipe.beta2),
                weight_decay=recipe.weight_decay,
                fused=True,
            )
            rng = random.Random(f"bouquet-{number}-{recipe.seed}")
            corpus = batches(rng, documents(rng, stage.mixture), tokenizer, recipe.batch_size)
            for step in range(stage.num_steps):
                warmup = min(1.0, (step + 1) / recipe.warmup_steps)
                loss = train_step(
                    model,
                    optimizer,
                    stage.learning_rate * warmup * cosine(step / stage.num_steps),
                    next(corpus),
                    tokens_per_document=_TOKENS_PER_DOCUMENT,
                    max_grad_norm=recipe.max_grad_norm,
                )
                report.advance(loss)
    return model.eval()
