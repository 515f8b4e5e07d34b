"""What the learner's benchmarks share: shapes, rollouts, and our learner in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

from actors.learning.deepspeed_rank import DeepSpeedLearner
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.process import held_port
from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.types import Rollout
from tests.bench.harness import device, dtype, tiny_model
from tests.bench.models import write_random_qwen3
from tests.unit.builders import phase_of

SETTINGS = {
    "model": "",  # a folder in Hugging Face format in place of both shapes
    "rollouts": "32",
    "samples_per_prompt": "4",
    "prompt_tokens": "48",
    "max_tokens": "512",
    "tokens_per_micro_batch": "8192",
    "gradient_checkpointing": "false",
    "repeats": "5",
    "threads": "0",  # of torch; 0 is its own choice
    "clock": "wall",  # or cpu: see harness.CLOCKS
}
"""Sizes are those of the long-tailed shape and of `model`."""
OPTIMIZER = OptimizerConfig(learning_rate=1e-5, weight_decay=0.01, warmup_updates=0)
NO_KL = LossConfig(clip_low=0.2, clip_high=0.3, dual_clip=0.0, kl_coefficient=0.0, importance_cap=0)
WITH_KL = LossConfig(
    clip_low=0.2, clip_high=0.3, dual_clip=0.0, kl_coefficient=0.01, importance_cap=0
)


@dataclass(frozen=True)
class Shape:
    """A model, and the rollouts of one optimizer step."""

    name: str
    model: Path
    rollouts: list[Rollout]
    tokens_per_micro_batch: int

    @property
    def num_tokens(self) -> int:
        """Of prompts and completions, without padding."""
        return sum(len(r.prompt_ids) + len(r.token_ids) for r in self.rollouts)

    @property
    def details(self) -> str:
        longest = max(len(r.token_ids) for r in self.rollouts)
        mean = np.mean([len(r.token_ids) for r in self.rollouts])
        return f"{len(self.rollouts)} rollouts of {mean:.0f} tokens on average, {longest} at most"


def shapes(settings: Mapping[str, str], folder: Path) -> list[Shape]:
    """Return the tiny and the long-tailed shape, or that of `model`; files go into `folder`."""
    group, prompt_tokens = int(settings["samples_per_prompt"]), int(settings["prompt_tokens"])
    lengths = log_normal_lengths(int(settings["rollouts"]), int(settings["max_tokens"]))
    budget = int(settings["tokens_per_micro_batch"])
    if settings["model"]:
        model = Path(settings["model"])
        rollouts = make_rollouts(model, lengths, group, prompt_tokens)
        return [Shape(model.name, model, rollouts, budget)]
    tiny, long_tailed = tiny_model(), folder
    write_random_qwen3("24m", folder)
    return [
        Shape("tiny", tiny, make_rollouts(tiny, [16] * 256, 8, 8), 8192),
        Shape(
            "long-tailed",
            long_tailed,
            make_rollouts(long_tailed, lengths, group, prompt_tokens),
            budget,
        ),
    ]


def endless(model: Path, folder: Path) -> Path:
    """Copy a model into `folder` with another end token, which it never writes: `<unk>`.

    Its answers then run to the limit that they are given.
    """
    shutil.copytree(model, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = tokenizer.unk_token
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["eos_token_id"] = tokenizer.unk_token_id
        (folder / name).write_text(json.dumps(settings))
    return folder


def log_normal_lengths(count: int, longest: int) -> list[int]:
    """Return `count` quantiles of a log-normal distribution, cut to 16 .. `longest`.

    Its median is 3/16 of the longest and sigma .9, so that a few completions reach the end.
    """
    normal = NormalDist(np.log(longest * 3 / 16), 0.9)
    quantiles = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    return [int(np.clip(np.exp(q), 16, longest)) for q in quantiles]


def make_rollouts(
    model: Path, lengths: Sequence[int], group: int, prompt_tokens: int
) -> list[Rollout]:
    """Return rollouts of random tokens, whose lengths are shuffled over prompts.

    Advantages are normalised in each group of `group` as GRPO does; the sampler's log-probabilities
    are not used by the losses here.
    """
    rng = np.random.default_rng(0)
    vocab_size = AutoConfig.from_pretrained(model).vocab_size
    rewards = np.tile(np.arange(group) % 2, len(lengths) // group).reshape(-1, group)
    deviations = rewards - rewards.mean(axis=1, keepdims=True)
    advantages = (deviations / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)).ravel()
    prompts = [
        rng.integers(4, vocab_size, prompt_tokens).astype(np.int32) for _ in range(len(rewards))
    ]
    return [
        Rollout(
            prompt_ids=prompts[index // group],
            token_ids=rng.integers(4, vocab_size, length).astype(np.int32),
            logprobs=np.zeros(length, dtype=np.float32),
            advantage=float(advantages[index]),
            prompt_index=index // group,
        )
        for index, length in enumerate(rng.permutation(lengths))
    ]


def set_threads(settings: Mapping[str, str]) -> None:
    """Give torch the threads asked for; both sides of a comparison then use them."""
    if int(settings["threads"]):
        torch.set_num_threads(int(settings["threads"]))


def start_learner(settings: Mapping[str, str], budget: int, **changes: Any) -> DeepSpeedLearner:
    """Return our learner as one rank in this process: in bfloat16 on a GPU, float32 on a CPU.

    `changes` are of its options.
    """
    meeting_point = held_port("127.0.0.1")
    options = LearnerOptions(
        rank=0,
        world_size=1,
        device=device(),
        dtype=dtype(),
        zero_stage=1,
        tokens_per_micro_batch=budget,
        num_threads=torch.get_num_threads(),
        gradient_checkpointing=settings["gradient_checkpointing"] == "true",
        reference="device",
        weight_backend="object_store",
    )
    address = meeting_point.getsockname()
    return DeepSpeedLearner(replace(options, **changes), *address, meeting_point)


def start_phase(learner: DeepSpeedLearner, shape: Shape, loss: LossConfig) -> None:
    """Let the learner load the shape's model; all rollouts make one optimizer step."""
    options = PhaseOptions(
        optimizer=OPTIMIZER,
        loss=loss,
        prompts_per_update=len(shape.rollouts),
        temperature=1.0,
        max_tokens=max(len(r.token_ids) for r in shape.rollouts),
    )
    learner.start_phase(phase_of(shape.model), options)
