"""The learner against a plain PyTorch loop over the same micro-batches, in turn in one process.

The plain loop is what one would write for speed by hand: the same model and attention, no mask, the
head on completion tokens only, cross-entropy, torch's fused AdamW, micro-batches cut and collated
beforehand. Ours cuts them itself, and adds the clipped loss, its metrics and DeepSpeed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from actors.learning.deepspeed_rank import DeepSpeedLearner
from rzero_ray.config.method import LossConfig
from rzero_ray.method.batching import MicroBatch, collate, micro_batches
from tests.bench import learning
from tests.bench.harness import CLOCKS, Figure, device, dtype, ratio_figure, seconds

SETTINGS = learning.SETTINGS | {"kl": "no yes"}
_LOSSES = {"no": learning.NO_KL, "yes": learning.WITH_KL}


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Time updates without and with a KL term; the plain loop then scores with a reference too."""
    learning.set_threads(settings)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in learning.shapes(settings, Path(folder)):
            learner = learning.start_learner(settings, shape.tokens_per_micro_batch)
            for kl in settings["kl"].split():
                figures.append(_compare(learner, shape, _LOSSES[kl], settings))
    return figures


def _compare(
    learner: DeepSpeedLearner,
    shape: learning.Shape,
    loss: LossConfig,
    settings: Mapping[str, str],
) -> Figure:
    learning.start_phase(learner, shape, loss)
    plain = _PlainLoop(shape, loss.kl_coefficient, settings["gradient_checkpointing"] == "true")

    def ours() -> None:
        learner.update(shape.rollouts)
        _wait()

    def theirs() -> None:
        plain.update()
        _wait()

    for side in (ours, theirs):
        side()  # the first update of a phase does less, and buffers are made
    clock = CLOCKS[settings["clock"]]
    pairs = [
        (seconds(ours, clock), seconds(theirs, clock)) for _ in range(int(settings["repeats"]))
    ]
    padded = sum(batch.inputs_BT.numel() for batch in plain.batches) + len(shape.rollouts)
    rate = shape.num_tokens / min(taken for taken, _ in pairs)
    return ratio_figure(
        f"learner, {shape.name}, {'with KL' if loss.kl_coefficient else 'no KL'}, tokens/s",
        pairs,
        "at least .90 of a plain loop",
        f"{shape.details}, {len(plain.batches)} micro-batches with "
        f"{1 - shape.num_tokens / padded:.0%} padding, up to {rate:,.0f} tokens/s; "
        f"{settings['clock']} time",
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _PlainLoop:
    def __init__(
        self, shape: learning.Shape, kl_coefficient: float, gradient_checkpointing: bool
    ) -> None:
        rollouts = shape.rollouts
        lengths = [len(r.prompt_ids) + len(r.token_ids) for r in rollouts]
        weight = 1.0 / sum(len(r.token_ids) for r in rollouts)
        self.batches = [
            collate(
                [rollouts[i] for i in indices],
                [weight] * len(indices),
                torch.device(device()),
            )
            for indices in micro_batches(lengths, shape.tokens_per_micro_batch)
        ]
        self._model = self._load(shape)
        self._reference = self._load(shape) if kl_coefficient else None
        if gradient_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._kl_coefficient = kl_coefficient
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=learning.OPTIMIZER.learning_rate,
            weight_decay=learning.OPTIMIZER.weight_decay,
            fused=True,
        )

    def _load(self, shape: learning.Shape) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(
            shape.model, dtype=getattr(torch, dtype()), attn_implementation="sdpa"
        )
        return model.to(device()).train()

    def update(self) -> None:
        """Take one optimizer step on all batches."""
        for batch in self.batches:
            logprobs = _logprobs(self._model, batch)
            losses = -batch.advantages_N * (logprobs - logprobs.detach()).exp()
            if self._kl_coefficient:
                with torch.no_grad():
                    difference = _logprobs(self._reference, batch)
                difference = difference - logprobs
                losses = losses + self._kl_coefficient * (difference.exp() - difference - 1)
            (losses * batch.weights_N).sum().backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), learning.OPTIMIZER.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()


def _logprobs(model: Any, batch: MicroBatch) -> Tensor:
    hidden = model.model(input_ids=batch.inputs_BT, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch.positions_N])
    return -cross_entropy(logits.float(), batch.tokens_N, reduction="none")
