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
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

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

_BATCHES_PER_POOL: Final = 8
"""Batches that are cut from one pool of documents, sorted by length so that little is padded."""

_TOKENS_PER_DOCUMENT: Final = 12
"""The losses of a batch are summed and divided by this many tokens a document, whatever their
number is: every document counts with its own sum."""

_TOKENS_AROUND_STEPS: Final = 8
"""Tokens of an answer beside its steps, with room for one step too many: start, box, end."""

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
    batches = _batches(rng, school, tokenizer, recipe.school_batch_size)
    for step in range(stage.num_steps):
        if step == school_steps:
            batches = _batches(rng, stage.mixture, tokenizer, recipe.batch_size)
        warmup = min(1.0, (step + 1) / recipe.warmup_steps)
        done = (step + min(step, school_steps)) / (stage.num_steps + school_steps)
        rate = stage.learning_rate * warmup * _cosine(done)
        report.advance(_train_step(model, optimizer, rate, next(batches), recipe))


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
        batches = _batches(rng, mixture, tokenizer, recipe.batch_size)
        for at in range(tuning.cycle_steps):
            step += 1
            factor = min(1.0, step / recipe.warmup_steps) * _cosine(at / tuning.cycle_steps)
            rate = tuning.learning_rate * factor
            report.advance(_train_step(model, optimizer, rate, next(batches), recipe))
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


def _cosine(done: float) -> float:
    """Return what a learning rate is multiplied by when this share of its steps is done."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


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
