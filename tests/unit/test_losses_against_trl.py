"""Our loss and its gradient against TRL's GRPOTrainer on the same tensors.

`GRPOTrainer._compute_loss` runs as it is, on an object that holds the settings it reads and returns
given log-probabilities in place of a model's. TRL's loss `bnpo` is the token mean of one
micro-batch and `dapo` that of the whole batch; here TRL gets one micro-batch, so both are our
`token_mean`. Measured with TRL 1.16.0 in float32: gradients are equal bit by bit, losses within
7.1e-8.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rzero_ray.config.method import LossConfig
from rzero_ray.method.losses import AGGREGATIONS, importance_weights, policy_loss

LENGTHS = (1, 12, 5, 12, 3, 8)
MAX_TOKENS = 16
CAP = 2.0
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Batch:
    """[B, T] tensors of right-padded sequences; advantages are [B, 1]."""

    logprobs: Tensor
    old: Tensor
    reference: Tensor
    sampler: Tensor
    advantages: Tensor
    mask: Tensor


@pytest.fixture(scope="module")
def trl_loss() -> Callable[..., Tensor]:
    """Return TRL's loss; the test is skipped where TRL is not installed."""
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the version of vLLM, which takes no part here
        from trl.trainer.grpo_trainer import GRPOTrainer
    return GRPOTrainer._compute_loss


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Return log-probabilities that differ enough for every clip and cap to cut some tokens."""
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(len(LENGTHS), max(LENGTHS), generator=generator)

    logprobs = -noise(1.0).abs()
    old = logprobs + noise(0.5)
    old[1, :4] = logprobs[1, :4] - 1.5  # ratio 4.5, for the dual clip at 3
    advantages = torch.tensor([[1.3], [-0.7], [0.4], [2.0], [-1.5], [0.0]])
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).float()
    return Batch(logprobs, old, logprobs + noise(0.5), old + noise(0.5), advantages, mask)


def settings_for_trl(
    loss_type: str, config: LossConfig, importance: bool, batch: Batch
) -> SimpleNamespace:
    """Return what `_compute_loss` reads of a trainer: one step of one process."""

    def scores(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return batch.logprobs, torch.zeros_like(batch.logprobs), None

    return SimpleNamespace(
        _get_per_token_logps_and_entropies=scores,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=config.dual_clip or None, steps_per_generation=1
        ),
        aux_loss_enabled=False,
        beta=config.kl_coefficient,
        current_gradient_accumulation_steps=1,
        epsilon_high=config.clip_high,
        epsilon_low=config.clip_low,
        importance_sampling_level="token",
        loss_type=loss_type,
        max_completion_length=MAX_TOKENS,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=importance,
        vllm_importance_sampling_correction=importance,
    )


def value_and_gradient_of_trl(
    trl_loss: Callable[..., Tensor], loss_type: str, config: LossConfig, batch: Batch
) -> tuple[Tensor, Tensor]:
    logprobs = batch.logprobs.clone().requires_grad_()
    ours = Batch(**(vars(batch) | {"logprobs": logprobs}))
    trainer = settings_for_trl(loss_type, config, config.importance_cap > 0, ours)
    ids = torch.zeros(batch.mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": batch.mask,
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": batch.mask.sum(),
        # As GRPOTrainer._generate_and_score_completions has it in the mode token_truncate.
        "importance_sampling_ratio": ((batch.old - batch.sampler) * batch.mask)
        .exp()
        .clamp(max=CAP),
    }
    loss = trl_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient


def value_and_gradient_of_ours(
    config: LossConfig, batch: Batch, micro_batches: list[list[int]]
) -> tuple[Tensor, Tensor]:
    logprobs = batch.logprobs.clone().requires_grad_()
    weights_S = torch.tensor(AGGREGATIONS[config.aggregation](LENGTHS, MAX_TOKENS))
    weights = weights_S[:, None] * batch.mask
    importance = importance_weights(batch.old, batch.sampler, config.importance_cap)
    tensors = (logprobs, batch.old, batch.reference, batch.advantages, importance, weights)
    loss = torch.stack(
        [policy_loss(*(t[rows] for t in tensors), config).loss for rows in micro_batches]
    ).sum()
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient


@pytest.mark.parametrize(
    "micro_batches", [[[0, 1, 2, 3, 4, 5]], [[1, 3], [5, 2], [4], [0]]], ids=["whole", "cut"]
)
@pytest.mark.parametrize("cap", [0.0, CAP], ids=["no-importance", "importance"])
@pytest.mark.parametrize("dual_clip", [0.0, 3.0], ids=["no-dual-clip", "dual-clip"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1], ids=["no-kl", "kl"])
@pytest.mark.parametrize(
    ("aggregation", "loss_type"),
    [
        ("token_mean", "dapo"),
        ("token_mean", "bnpo"),
        ("sequence_mean", "grpo"),
        ("fixed_length", "dr_grpo"),
    ],
)
def test_loss_and_gradient_are_those_of_trl(
    trl_loss, batch, aggregation, loss_type, kl_coefficient, dual_clip, cap, micro_batches
):
    config = LossConfig(
        clip_low=0.2,
        clip_high=0.3,
        dual_clip=dual_clip,
        kl_coefficient=kl_coefficient,
        aggregation=aggregation,
        importance_cap=cap,
    )
    expected_loss, expected_gradient = value_and_gradient_of_trl(trl_loss, loss_type, config, batch)
    loss, gradient = value_and_gradient_of_ours(config, batch, micro_batches)
    assert expected_gradient.abs().max() > 0.01
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=TOLERANCE)


def test_the_batch_reaches_every_branch_of_the_loss(batch):
    ratio = (batch.logprobs - batch.old).exp() * batch.mask
    positive, on = batch.advantages > 0, batch.mask > 0
    assert (positive & (ratio > 1.3)).any()
    assert (on & ~positive & (ratio < 0.8)).any()
    assert ((batch.advantages < 0) & (ratio > 3.0)).any()
    assert (importance_weights(batch.old, batch.sampler, CAP) == CAP).any()
