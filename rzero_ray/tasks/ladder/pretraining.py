"""The base model of ``conf=ladder``: a Qwen3 of 0.09 M parameters, trained on first use.

What makes it a base on which co-evolution can be seen to work and to fail: it masters every single
operation and short questions, its mistakes on longer ones are systematic (it leaves out the last
operation), so votes agree on wrong answers too, and its Challenger asks almost only short
questions. `recipe` has the stages in which it learns that.

In comments and names, B is the documents of a batch, T their tokens.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from rzero_ray.tasks.document_training import batches, cosine, train_step
from rzero_ray.tasks.ladder.corpus import Mixture, documents
from rzero_ray.tasks.ladder.questions import (
    BOX_CLOSE,
    BOX_OPEN,
    CHALLENGER_TAG,
    COIN_SUMMANDS,
    OPERATIONS,
    PROMPT_END,
    QUESTION_CLOSE,
    QUESTION_OPEN,
    SOLVER_TAG,
    TABLES,
    Question,
    answer_of,
)
from rzero_ray.tasks.ladder.recipe import LadderRecipe, Stage, base_model_folder
from rzero_ray.tasks.ladder.tuning import is_on_target, steer, validation_questions
from rzero_ray.tasks.model_building import (
    BOS_TOKEN,
    ProgressReport,
    build_once,
    build_word_tokenizer,
    new_model,
)

# Markup stays visible when special tokens are skipped: the reward reads <question> and \boxed{ in
# the decoded text.
_MARKUP: Final = (
    QUESTION_OPEN,
    QUESTION_CLOSE,
    BOX_OPEN,
    BOX_CLOSE,
    CHALLENGER_TAG,
    SOLVER_TAG,
    *(f"{family}:" for family in OPERATIONS),
    *TABLES,
    *COIN_SUMMANDS,
)
_CHARACTERS: Final = "0123456789="

_EMBEDDING_ROWS: Final = 64
"""One for each token: there are no others."""

_TOKENS_PER_DOCUMENT: Final = 12
"""What a batch's sum of losses is divided by for each document (`train_step`)."""

_TOKENS_AROUND_STEPS: Final = 8
"""Tokens of an answer beside its steps, with room for one step too many: start, box, end."""

_PROGRESS_TITLE: Final = "Training the ladder's base model"


def ensure_base_model(cache_dir: Path, recipe: LadderRecipe) -> Path:
    """Return the folder of the recipe's base model, training it first if the cache lacks it.

    See `model_building.build_once`. `cache_dir` holds base models; it is created when missing.
    """
    folder = base_model_folder(cache_dir, recipe)
    return build_once(folder, recipe, build_tokenizer, _pretrain)


def build_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer: 64 tokens, one for each digit, operation, family and piece of markup.

    See `model_building.build_word_tokenizer`, also for `max_positions`.
    """
    return build_word_tokenizer(_CHARACTERS, _MARKUP, PROMPT_END, max_positions)


def _pretrain(recipe: LadderRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a new model through the stages. Draws from torch's global random state."""
    model = new_model(recipe, tokenizer, _EMBEDDING_ROWS).train()
    most_steps = recipe.first.num_steps + recipe.second.num_steps
    most_steps += recipe.tuning.max_cycles * recipe.tuning.cycle_steps
    with ProgressReport(_PROGRESS_TITLE, most_steps) as report:
        for number, stage in enumerate((recipe.first, recipe.second)):
            rng = random.Random(f"ladder-{number}-{recipe.seed}")
            school_steps = recipe.school_steps if number == 0 else 0
            _train_stage(model, tokenizer, recipe, stage, school_steps, rng, report)
        _tune(model, tokenizer, recipe, random.Random(f"ladder-tuning-{recipe.seed}"), report)
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
    corpus = _batches(rng, school, tokenizer, recipe.school_batch_size)
    for step in range(stage.num_steps):
        if step == school_steps:
            corpus = _batches(rng, stage.mixture, tokenizer, recipe.batch_size)
        warmup = min(1.0, (step + 1) / recipe.warmup_steps)
        done = (step + min(step, school_steps)) / (stage.num_steps + school_steps)
        rate = stage.learning_rate * warmup * cosine(done)
        report.advance(_step(model, optimizer, rate, next(corpus), recipe))


def _tune(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: LadderRecipe,
    rng: random.Random,
    report: ProgressReport,
) -> None:
    """Train in cycles, each with a mixture that follows from what the last one has made of the
    base, until it is on target."""
    tuning = recipe.tuning
    questions = validation_questions(tuning)
    optimizer = _new_optimizer(model, recipe)
    mixture, step = tuning.mixture, 0
    for cycle in range(1, tuning.max_cycles + 1):
        corpus = _batches(rng, mixture, tokenizer, recipe.batch_size)
        for at in range(tuning.cycle_steps):
            step += 1
            factor = min(1.0, step / recipe.warmup_steps) * cosine(at / tuning.cycle_steps)
            rate = tuning.learning_rate * factor
            report.advance(_step(model, optimizer, rate, next(corpus), recipe))
        accuracies = _measure(model, tokenizer, questions, tuning.num_samples)
        told = ", ".join(f"{accuracy:.2f} at {k}" for k, accuracy in accuracies.items())
        if cycle >= tuning.min_cycles and is_on_target(accuracies, tuning):
            report.say(f"on target after {cycle} cycles of tuning (accuracy {told} operations)")
            return
        mixture = steer(mixture, accuracies, tuning)
    report.say(
        f"not on target after {tuning.max_cycles} cycles of tuning (accuracy {told} operations); "
        "it stays as it is"
    )


@torch.no_grad()
def _measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    by_length: dict[int, list[Question]],
    num_samples: int,
) -> dict[int, float]:
    """Return {length: share of right answers}, sampled at temperature 1 from torch's random state.

    An answer is right when its text ends in the box with the oracle's answer.
    """
    asked = [question for of_length in by_length.values() for question in of_length]
    prompts = [f"{BOS_TOKEN}{SOLVER_TAG}{question.text}{PROMPT_END}" for question in asked]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        num_return_sequences=num_samples,
        max_new_tokens=2 * max(by_length) + _TOKENS_AROUND_STEPS,
    )
    model.eval()
    sequences = cast(Any, model).generate(**encoded, generation_config=settings)
    model.train()
    texts = tokenizer.batch_decode(sequences[:, encoded["input_ids"].shape[1] :], True)
    expected = [
        f"{BOX_OPEN}{answer_of(question.running_values())}{BOX_CLOSE}"
        for question in asked
        for _ in range(num_samples)
    ]
    marks = [text.endswith(box) for text, box in zip(texts, expected, strict=True)]
    accuracies, at = {}, 0
    for length, of_length in by_length.items():
        count = len(of_length) * num_samples
        accuracies[length] = sum(marks[at : at + count]) / count
        at += count
    return accuracies


def _new_optimizer(model: Qwen3ForCausalLM, recipe: LadderRecipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _step(
    model: Qwen3ForCausalLM,
    optimizer: torch.optim.AdamW,
    learning_rate: float,
    batch: tuple[Tensor, Tensor],
    recipe: LadderRecipe,
) -> float:
    """Take one optimizer step; returns the loss in nats per learned token."""
    return train_step(
        model,
        optimizer,
        learning_rate,
        batch,
        tokens_per_document=_TOKENS_PER_DOCUMENT,
        max_grad_norm=recipe.max_grad_norm,
    )


def _batches(
    rng: random.Random, mixture: Mixture, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the mixture's documents, without end (`document_training.batches`)."""
    corpus = ((document.prompt, document.completion) for document in documents(rng, mixture))
    return batches(rng, corpus, tokenizer, batch_size)
