"""What the built-in base models share: tokenizer, untrained model, progress, and a folder that
appears in one step.

The recipes and corpora are the tasks' own: `tiny_model` and `ladder.pretraining`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

BOS_TOKEN: Final = "<bos>"
EOS_TOKEN: Final = "<eos>"
PAD_TOKEN: Final = "<pad>"
UNK_TOKEN: Final = "<unk>"
_SPECIAL: Final = (PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN)

IGNORED_LABEL: Final = -100
"""The label of a token that is not learned."""

# Two threads that share their cores with other busy processes mostly wait for each other: on a busy
# 2-core machine they took 0.47 s a step where one thread took 0.06 s.
_NUM_THREADS: Final = 1

_PLAIN_PROGRESS_INTERVAL_S: Final = 10.0


class Recipe(Protocol):
    """The part of a recipe that says which model is built, and from which random numbers."""

    @property
    def seed(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def init_std(self) -> float: ...


def build_once(
    model_dir: Path,
    recipe: Any,
    build_tokenizer: Callable[[int], PreTrainedTokenizerFast],
    pretrain: Callable[[Any, PreTrainedTokenizerFast], Qwen3ForCausalLM],
) -> Path:
    """Return `model_dir`, after building the model that it lacks.

    The folder appears in one step when it is complete, and a file lock lets only one process build
    it: others wait. Torch's global thread count and random state are as before afterwards.

    Args:
        model_dir: the recipe's folder; the folder around it is created when missing.
        recipe: a `Recipe`, a dataclass that is written beside the model.
        build_tokenizer: makes the tokenizer, from the recipe's `max_positions`.
        pretrain: makes the model from the recipe, from torch's random state after its seed.

    Returns:
        `model_dir`: a Hugging Face folder with fp32 weights, a tokenizer and a chat template.
    """
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(model_dir.with_suffix(".lock")):
        if model_dir.is_dir():
            return model_dir
        # Only the owner of the lock writes here, so what is there was left by a killed build.
        building_dir = model_dir.with_suffix(".building")
        shutil.rmtree(building_dir, ignore_errors=True)
        num_threads = torch.get_num_threads()
        try:
            torch.set_num_threads(_NUM_THREADS)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                tokenizer = build_tokenizer(recipe.max_positions)
                model = pretrain(recipe, tokenizer)
        finally:
            torch.set_num_threads(num_threads)
        model.save_pretrained(building_dir)
        tokenizer.save_pretrained(building_dir)
        recipe_json = json.dumps(dataclasses.asdict(recipe), indent=2)
        (building_dir / "base_recipe.json").write_text(recipe_json + "\n", encoding="utf-8")
        os.replace(building_dir, model_dir)
    return model_dir


def build_word_tokenizer(
    words: Sequence[str], markup: Sequence[str], prompt_end: str, max_positions: int
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of four special tokens, single characters and pieces of markup.

    White space vanishes, any other unknown character is ``<unk>``, and decoding joins the tokens
    without spaces. Only bos, eos, pad and unk are special. No token is added around an encoded
    text: the chat template writes ``<bos>``.

    Args:
        words: tokens of one character.
        markup: tokens of several characters; none may be the start of one after it.
        prompt_end: text that the chat template puts where the model goes on.
        max_positions: longest sequence, in tokens, that the model takes.
    """
    ids = {token: number for number, token in enumerate((*_SPECIAL, *words, *markup))}
    core = Tokenizer(WordLevel(ids, unk_token=UNK_TOKEN))
    core.normalizer = Replace(Regex(r"\s+"), "")
    core.pre_tokenizer = Split(Regex("|".join([*map(re.escape, markup), "."])), "isolated")
    core.decoder = Fuse()
    chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}" + prompt_end + "{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        unk_token=UNK_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=max_positions,
        chat_template=chat_template,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the number of a token of the vocabulary."""
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text."""
    return cast(list[list[int]], tokenizer(list(texts))["input_ids"])


def new_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, num_rows: int
) -> Qwen3ForCausalLM:
    """Make an untrained model. Draws its weights from torch's global random state.

    Args:
        recipe: the shape of the model.
        tokenizer: whose special tokens the model knows.
        num_rows: rows of the embedding. Those beyond the tokenizer's tokens are never a target, so
            training drives their probability to zero.
    """
    bos, eos, pad = (token_id(tokenizer, token) for token in (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN))
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=num_rows,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_key_value_heads,
            head_dim=recipe.head_dim,
            max_position_embeddings=recipe.max_positions,
            initializer_range=recipe.init_std,
            tie_word_embeddings=True,
            dtype=torch.float32,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    )
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
    return model


class ProgressReport:
    """Progress of a pretraining: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, title: str, num_steps: int) -> None:
        self._title = title
        self._num_steps = num_steps
        self._num_done = 0
        self._last_line_time = time.monotonic()
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.2f}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=num_steps, loss=math.nan)

    def __enter__(self) -> Self:
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {self._num_steps} steps")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, loss: float) -> None:
        """Count one finished step. ``loss`` is in nats per completion token."""
        self._num_done += 1
        self._progress.update(self._task, completed=self._num_done, loss=loss)
        now = time.monotonic()
        is_due = now - self._last_line_time >= _PLAIN_PROGRESS_INTERVAL_S
        if is_due and not self._console.is_terminal:
            self._last_line_time = now
            steps = f"{self._num_done}/{self._num_steps} steps"
            self._console.print(f"{self._title}: {steps}, loss {loss:.2f}")

    def say(self, text: str) -> None:
        """Print a line about the model in the making."""
        self._console.print(f"{self._title}: {text}", highlight=False)
