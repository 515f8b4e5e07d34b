"""The clipped policy-gradient loss with a KL term, summed over tokens.

Sums, not means: the caller divides by the token count of the whole mini-batch, so that the loss
is the exact token mean over micro-batches and ranks. The official code averages inside each
micro-batch first, which weights tokens by how sequences happened to be batched.

All tensors are [B, T]; `mask` is 1 on completion tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rzero_ray.config import LossConfig

_MAX_LOG_RATIO = 10.0
"""Bound on log-ratios before exp, that of the official code's KL: exp(10) is outside any clip."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over completion tokens; divide by the number of tokens for a mean."""

    loss: Tensor
    """Differentiable scalar."""
    kl: Tensor
    num_clipped: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    mask: Tensor,
    config: LossConfig,
) -> LossSums:
    """Return the summed loss of GRPO with clip-higher, dual clip and a k3 KL penalty.

    `advantages` is [B, 1]. `importance` weights each token by the truncated probability ratio
    of the trainer to the sampler (`importance_weights`), and is 1 where the two agree.
    """
    ratio = (logprobs - old_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    clipped_ratio = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    surrogate = torch.maximum(-advantages * ratio, -advantages * clipped_ratio)
    clipped = (-advantages * clipped_ratio) > (-advantages * ratio)
    if config.dual_clip > 0:
        bound = -advantages * config.dual_clip
        negative = advantages < 0
        clipped = clipped | (negative & (surrogate > bound))
        surrogate = torch.where(negative, torch.minimum(surrogate, bound), surrogate)
    kl = k3_divergence(logprobs, reference_logprobs)
    per_token = importance * surrogate + config.kl_coefficient * kl
    return LossSums(
        loss=(per_token * mask).sum(),
        kl=(kl.detach() * mask).sum(),
        num_clipped=(clipped * mask).sum(),
    )


def k3_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return the k3 estimate exp(d) - d - 1 of KL(policy || reference), d = reference - policy."""
    difference = (reference_logprobs - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return difference.exp() - difference - 1.0


def importance_weights(trainer_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Return min(p_trainer / p_sampler, cap) per token, without gradient; ones when cap is 0."""
    if cap <= 0:
        return torch.ones_like(trainer_logprobs)
    log_ratio = (trainer_logprobs - sampler_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.exp().clamp(max=cap).detach()
