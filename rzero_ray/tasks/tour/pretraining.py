"""The base model of ``conf=tour``: a Qwen3 of 0.09 M parameters, trained on first use.

What makes it a base on which three roles can be seen to improve: it plans tours that are middling
and differ from sample to sample, wishes for little, and compares tours by their length above all.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks.document_training import batches, cosine, train_step
from rzero_ray.tasks.model_building import (
    ProgressReport,
    build_once,
    build_word_tokenizer,
    new_model,
)
from rzero_ray.tasks.tour.corpus import documents
from rzero_ray.tasks.tour.recipe import TourRecipe, base_model_folder
from rzero_ray.tasks.tour.tours import (
    BETWEEN,
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    PLACES,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    REFEREE_TAG,
    SOLVER_TAG,
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
)
_CHARACTERS: Final = f"{PLACES}12{PROMPT_END}{BETWEEN}"

_EMBEDDING_ROWS: Final = 32
"""More than the 27 tokens; the others never occur."""

_TOKENS_PER_DOCUMENT: Final = 8
"""What a batch's sum of losses is divided by for each document (`train_step`)."""

_PROGRESS_TITLE: Final = "Training the base model of the tours"


def ensure_base_model(cache_dir: Path, recipe: TourRecipe) -> Path:
    """Return the folder of the recipe's base model, training it first if the cache lacks it.

    See `model_building.build_once`. `cache_dir` holds base models; it is created when missing.
    """

    def build() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
        tokenizer = build_tokenizer(recipe.max_positions)
        return _pretrain(recipe, tokenizer), tokenizer

    return build_once(base_model_folder(cache_dir, recipe), recipe, build)


def build_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token for each place, verdict and piece of markup.

    See `model_building.build_word_tokenizer`, also for `max_positions`.
    """
    return build_word_tokenizer(_CHARACTERS, _MARKUP, PROMPT_END, max_positions)


def _pretrain(recipe: TourRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a new model on the recipe's documents. Draws from torch's global random state."""
    model = new_model(recipe, tokenizer, _EMBEDDING_ROWS).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    rng = random.Random(f"tour-{recipe.seed}")
    corpus = batches(rng, documents(rng, recipe.mixture), tokenizer, recipe.batch_size)
    with ProgressReport(_PROGRESS_TITLE, recipe.num_steps) as report:
        for step in range(recipe.num_steps):
            warmup = min(1.0, (step + 1) / recipe.warmup_steps)
            rate = recipe.learning_rate * warmup * cosine(step / recipe.num_steps)
            report.advance(
                train_step(
                    model,
                    optimizer,
                    rate,
                    next(corpus),
                    tokens_per_document=_TOKENS_PER_DOCUMENT,
                    max_grad_norm=recipe.max_grad_norm,
                )
            )
    return model.eval()
