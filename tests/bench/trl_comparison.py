"""Optimizer steps against TRL's GRPOTrainer: same model, rollouts, advantages, loss and AdamW.

Both get the same finished rollouts, in turn in one process, and are timed from lists of tokens to
stepped weights. TRL runs its own trainer, given the rollouts by its `rollout_func`; it pads them to
the longest, and its time includes decoding the texts and calling a reward function, some
milliseconds. At the end both have taken the same updates: the weights say so. Sampling is not in
these figures; `trl_steps` has whole steps.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from actors.learning.deepspeed_rank import DeepSpeedLearner
from rzero_ray.config.method import LossConfig
from tests.bench import learning
from tests.bench.harness import CLOCKS, Figure, device, dtype, ratio_figure

SETTINGS = learning.SETTINGS | {"trl_batches": "1,4"}
"""`trl_batches`: into how many micro-batches TRL cuts a step; each is tried, its fastest counts."""


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Compare without and with a KL term on the tiny shape, with one on the long-tailed shape."""
    learning.set_threads(settings)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in learning.shapes(settings, Path(folder)):
            for loss in (learning.NO_KL, learning.WITH_KL):
                figures.append(_against_fastest(shape, loss, settings))
    return figures


def _against_fastest(
    shape: learning.Shape, loss: LossConfig, settings: Mapping[str, str]
) -> Figure:
    target = "at least 2.5 times TRL's" if shape.name == "long-tailed" else "at least TRL's"
    figures = []
    for parts in map(int, settings["trl_batches"].split(",")):
        pairs, difference = _compare(shape, loss, parts, settings)
        kl = "with KL" if loss.kl_coefficient else "no KL"
        figures.append(
            ratio_figure(
                f"optimizer steps, {shape.name}, {kl}, against TRL",
                pairs,
                target,
                f"{shape.details}, TRL in {parts} micro-batch{'es' * (parts > 1)}, weights "
                f"{difference:.1%} of the way apart; {settings['clock']} time",
            )
        )
    return min(figures, key=lambda figure: figure.value)


def _compare(
    shape: learning.Shape, loss: LossConfig, parts: int, settings: Mapping[str, str]
) -> tuple[list[tuple[float, float]], float]:
    """Return (ours, TRL's) seconds of steps, and how far the weights are apart afterwards."""
    # TRL's trainer is made before ours joins a process group, which TRL would otherwise join too.
    clock = _Clock(shape, CLOCKS[settings["clock"]])
    rewards: list[float | None] = [float(r.advantage > 0) for r in shape.rollouts]
    trainer = make_trainer(
        shape.model,
        [{"prompt": "1+1"}] * len(shape.rollouts),
        loss,
        num_generations=sum(r.prompt_index == 0 for r in shape.rollouts),
        max_tokens=max(len(r.token_ids) for r in shape.rollouts),
        num_steps=int(settings["repeats"]) + _WARM_UP,
        parts=parts,
        reward=lambda completions, **_: rewards,
        callbacks=[clock],
        rollout_func=clock.rollouts,
    )
    learner = learning.start_learner(settings, shape.tokens_per_micro_batch)
    learning.start_phase(learner, shape, loss)
    clock.learner = learner
    trainer.train()
    return clock.pairs[_WARM_UP:], _difference(shape, trainer.model, learner)


_WARM_UP = 1
"""Steps that do not count: the first of a phase does less, and makes buffers."""


@dataclass
class _Clock(TrainerCallback):
    """Is asked by TRL for the rollouts of each step; takes our own step first, then TRL's time."""

    shape: learning.Shape
    now: Callable[[], float]
    learner: DeepSpeedLearner | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)
    _ours: float = 0.0
    _start: float = 0.0

    def rollouts(self, prompts: list[str], trainer: Any) -> dict[str, list]:
        """Return the shape's rollouts, as TRL's `rollout_func` does."""
        assert self.learner is not None
        start = self.now()
        self.learner.update(self.shape.rollouts)
        _wait()
        self._ours = self.now() - start
        self._start = self.now()
        rollouts = self.shape.rollouts
        return {
            "prompt_ids": [r.prompt_ids.tolist() for r in rollouts],
            "completion_ids": [r.token_ids.tolist() for r in rollouts],
            "logprobs": [r.logprobs.tolist() for r in rollouts],
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _wait()
        self.pairs.append((self._ours, self.now() - self._start))


def make_trainer(
    model_path: Path,
    prompts: Sequence[Mapping[str, Any]],
    loss: LossConfig,
    *,
    num_generations: int,
    max_tokens: int,
    num_steps: int,
    parts: int,
    reward: Callable[..., list[float | None]],
    callbacks: list[TrainerCallback],
    trainer_class: Any = None,
    **options: Any,
) -> Any:
    """Return TRL's GRPOTrainer: one optimizer step per `prompts`, which has a row per rollout, in
    `parts` micro-batches. `options` are the trainer's own."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # of an earlier learner of ours
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the version of vLLM, which takes no part here
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer
    config = GRPOConfig(
        output_dir=str(model_path / "trl"),
        use_cpu=device() == "cpu",
        bf16=dtype() == "bfloat16",
        per_device_train_batch_size=len(prompts) // parts,
        gradient_accumulation_steps=parts,
        num_generations=num_generations,
        max_completion_length=max_tokens,
        max_steps=num_steps,
        beta=loss.kl_coefficient,
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        loss_type="dapo",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        learning_rate=learning.OPTIMIZER.learning_rate,
        weight_decay=learning.OPTIMIZER.weight_decay,
        lr_scheduler_type="constant",
        max_grad_norm=learning.OPTIMIZER.max_grad_norm,
        optim="adamw_torch_fused",
        logging_steps=1_000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=getattr(torch, dtype()), attn_implementation="sdpa"
    )
    return (trainer_class or GRPOTrainer)(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([dict(prompt) for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(model_path),
        callbacks=callbacks,
        **options,
    )


def _difference(shape: learning.Shape, theirs: Any, ours: DeepSpeedLearner) -> float:
    """Return |ours - TRL's| / |TRL's - start| over all weights."""
    start: Any = AutoModelForCausalLM.from_pretrained(shape.model, dtype=torch.float32)
    starts, ends = dict(start.named_parameters()), dict(theirs.named_parameters())
    apart = way = 0.0
    for name, weight in ours:
        end = ends[name].detach().float().cpu()
        apart += float((weight.float().cpu() - end).square().sum())
        way += float((end - starts[name].detach()).square().sum())
    return (apart / way) ** 0.5


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
