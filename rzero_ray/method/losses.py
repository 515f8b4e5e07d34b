"""The clipped policy-gradient loss with a KL term, summed over tokens.

Sums of weighted tokens, not means: the weights are fixed once for the whole mini-batch by one of
`AGGREGATIONS`, so the loss is the same however the batch is then cut into micro-batches and ranks.
The official code instead takes the token mean inside each micro-batch of one or two sequences and
then the mean over micro-batches. For one sequence that is `sequence_mean`; for two, a token's
weight depends on which sequence its own was paired with, and it is not offered.

Tensors are [B, T] unless stated; S stands for the sequences of a mini-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rzero_ray.config.method import LossConfig
from rzero_ray.method.batching import MicroBatch
from rzero_ray.types import Rollout, UpdateRule

_MAX_LOG_RATIO = 20.0
"""Bound on log-ratios before exp, as in the official code: exp(20) is outside any clip."""
_MAX_K3 = 10.0
"""Bound on a token's k3, as in the official code; beyond it a token has no KL gradient."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the completion tokens of a micro-batch."""

    loss: Tensor
    """Differentiable scalar: weighted, so that the sum over a mini-batch is its loss."""
    kl: Tensor
    """k3, whichever estimator the loss uses, so that runs compare; divide by tokens for a mean."""
    num_clipped: Tensor


@dataclass(frozen=True, slots=True)
class MismatchSums:
    """How far trainer and sampler are apart: sums over the completion tokens of a micro-batch."""

    importance: Tensor
    num_truncated: Tensor
    kl: Tensor
    """k3 estimate of KL(sampler || trainer), nats."""
    difference: Tensor
    """Absolute difference of log-probabilities, nats."""
    max_difference: Tensor
    """The largest one; no sum."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    weights: Tensor,
    config: LossConfig,
) -> LossSums:
    """Return the weighted sum of GRPO's loss with clip-higher, dual clip and a KL penalty.

    `advantages` is [B, 1]. `importance` multiplies the surrogate, not the KL term, by the truncated
    probability ratio of the trainer to the sampler (`importance_weights`), and is 1 where the two
    agree. `weights` are those of `AGGREGATIONS` on completion tokens and 0 elsewhere.
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
    kl = KL_ESTIMATORS[config.kl_estimator](logprobs, reference_logprobs)
    per_token = importance * surrogate + config.kl_coefficient * kl
    counted = weights > 0
    return LossSums(
        loss=(per_token * weights).sum(),
        kl=(k3_divergence(logprobs, reference_logprobs).detach() * counted).sum(),
        num_clipped=(clipped & counted).sum(),
    )


def imitation_loss(logprobs: Tensor, reference_logprobs: Tensor, weights: Tensor) -> LossSums:
    """Return the weighted sum of the cross-entropy of demonstrated tokens (supervised fine-tuning).

    Its gradient is that of `policy_loss` for advantage 1, on policy, without a KL term.
    """
    counted = weights > 0
    return LossSums(
        loss=-(logprobs * weights).sum(),
        kl=(k3_divergence(logprobs, reference_logprobs).detach() * counted).sum(),
        num_clipped=torch.zeros((), device=logprobs.device),
    )


def k1_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return the k1 estimate of KL(policy || reference): policy - reference.

    Unbiased, of high variance, and of either sign. As a loss its gradient, that of the
    log-probability alone, is zero in expectation: it adds noise and pulls nowhere.
    """
    return logprobs - reference_logprobs


def k2_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return the k2 estimate of KL(policy || reference): (policy - reference)^2 / 2.

    Biased in value, yet the expectation of its gradient is the gradient of the divergence.
    """
    return 0.5 * (logprobs - reference_logprobs).square()


def k3_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference): exp(d) - d - 1, d = reference - policy.

    The official code's `low_var_kl`, with its bounds (J. Schulman, "Approximating KL divergence").
    Unbiased below the bound and never negative; the expectation of its gradient is that of
    KL(reference || policy).
    """
    difference = (reference_logprobs - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return (difference.exp() - difference - 1.0).clamp(max=_MAX_K3)


def every_update(batch: Sequence[Rollout], config: LossConfig) -> bool:
    """Return that a mini-batch becomes an optimizer step, whatever it holds.

    As in the official code and in other frameworks. One without a gradient moves the weights, too:
    AdamW goes on by the moments of the steps before, and decays.
    """
    return True


def with_gradient(batch: Sequence[Rollout], config: LossConfig) -> bool:
    """Return whether a mini-batch can have a gradient: an advantage that is not 0, or a KL term.

    Without one no step is made, and moments, weights and warm-up stay as they are. It is told from
    the whole mini-batch, so all ranks decide alike.
    """
    return config.kl_coefficient > 0 or any(rollout.advantage != 0 for rollout in batch)


UPDATE_RULES: dict[UpdateRule, Callable[[Sequence[Rollout], LossConfig], bool]] = {
    "every": every_update,
    "with_gradient": with_gradient,
}
"""Whether a mini-batch becomes an optimizer step, by `OptimizerConfig.updates`."""


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1_divergence,
    "k2": k2_divergence,
    "k3": k3_divergence,
}
"""The estimator of each value of `LossConfig.kl_estimator`."""


def token_mean(lengths_S: Sequence[int], max_tokens: int) -> list[float]:
    """Weigh all tokens of a mini-batch alike (DAPO, section 3.3): 1 / their number."""
    return [1.0 / max(sum(lengths_S), 1)] * len(lengths_S)


def sequence_mean(lengths_S: Sequence[int], max_tokens: int) -> list[float]:
    """Weigh all sequences alike (GRPO as published): 1 / (S x the sequence's length).

    A token of a long sequence counts less, so a long wrong answer is punished less per token.
    """
    return [1.0 / (len(lengths_S) * max(length, 1)) for length in lengths_S]


def fixed_length(lengths_S: Sequence[int], max_tokens: int) -> list[float]:
    """Weigh all tokens alike whatever the batch (Dr. GRPO, section 3.1): 1 / (S x max_tokens).

    Free of the length bias of the other two; the loss and its gradient shrink with the share of
    `max_tokens` that sequences use, so compare learning rates with that in mind.
    """
    return [1.0 / (len(lengths_S) * max_tokens)] * len(lengths_S)


AGGREGATIONS: dict[str, Callable[[Sequence[int], int], list[float]]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}
"""The rule of each value of `LossConfig.aggregation`: from the completion lengths of the whole
mini-batch and the longest completion allowed to the [S] weights that a sequence's tokens have."""


def importance_weights(trainer_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Return min(p_trainer / p_sampler, cap) per token, without gradient; ones when cap is 0.

    Truncated importance sampling for engines whose numerics differ. It presumes that the sampler
    reports the distribution it drew from, and the trainer the same one: with top_p below 1 (or
    top_k on) the sampler renormalises over the kept tokens and the trainer does not, so the ratio
    is biased: too low by the factor of the probability kept. The paper trains with top_p 0.99.
    """
    if cap <= 0:
        return torch.ones_like(trainer_logprobs)
    return _probability_ratio(trainer_logprobs, sampler_logprobs).clamp(max=cap)


def mismatch_sums(
    trainer_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float
) -> MismatchSums:
    """Return how trainer and sampler differ on the tokens where `mask` is 1.

    With top_p below 1 every figure holds the bias that `importance_weights` tells of.
    """
    difference = (trainer_logprobs - sampler_logprobs).abs() * mask
    ratio = _probability_ratio(trainer_logprobs, sampler_logprobs)
    truncated = ratio > cap if cap > 0 else torch.zeros_like(ratio)
    importance = importance_weights(trainer_logprobs, sampler_logprobs, cap)
    return MismatchSums(
        importance=(importance * mask).sum(),
        num_truncated=(truncated * mask).sum(),
        kl=(k3_divergence(sampler_logprobs, trainer_logprobs).detach() * mask).sum(),
        difference=difference.sum().detach(),
        max_difference=difference.max().detach(),
    )


def _probability_ratio(trainer_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    log_ratio = (trainer_logprobs - sampler_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.exp().detach()


class TokenLosses(Protocol):
    """The losses of a micro-batch's tokens, each from its own log-probability."""

    @property
    def micro(self) -> MicroBatch: ...

    def sums(self, logprobs: Tensor, rows: slice) -> LossSums:
        """Return the sums over the tokens `rows`, whose log-probabilities are given."""
        ...

    def mismatch(self, logprobs_N: Tensor) -> MismatchSums:
        """Return how the policy that the step began with and the sampler differ."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyLosses:
    """`policy_loss` on a micro-batch."""

    micro: MicroBatch
    config: LossConfig

    def sums(self, logprobs: Tensor, rows: slice) -> LossSums:
        """See `TokenLosses`."""
        old = _old(self.micro, logprobs, rows)
        sampler = self.micro.sampler_logprobs_N[rows]
        return policy_loss(
            logprobs,
            old,
            _reference(self.micro, logprobs, rows),
            self.micro.advantages_N[rows],
            importance_weights(old, sampler, self.config.importance_cap),
            self.micro.weights_N[rows],
            self.config,
        )

    def mismatch(self, logprobs_N: Tensor) -> MismatchSums:
        """See `TokenLosses`."""
        return mismatch_sums(
            _old(self.micro, logprobs_N, slice(None)),
            self.micro.sampler_logprobs_N,
            (self.micro.weights_N > 0).float(),
            self.config.importance_cap,
        )


@dataclass(frozen=True, slots=True)
class ImitationLosses:
    """`imitation_loss` on a micro-batch."""

    micro: MicroBatch

    def sums(self, logprobs: Tensor, rows: slice) -> LossSums:
        """See `TokenLosses`."""
        reference = _reference(self.micro, logprobs, rows)
        return imitation_loss(logprobs, reference, self.micro.weights_N[rows])

    def mismatch(self, logprobs_N: Tensor) -> MismatchSums:
        """Return agreement: nobody sampled the demonstrations, so no sampler can differ."""
        own = logprobs_N.detach()
        return mismatch_sums(own, own, (self.micro.weights_N > 0).float(), 0.0)


def _old(micro: MicroBatch, logprobs: Tensor, rows: slice) -> Tensor:
    """Return the old log-probabilities: the policy's own where it is still the one of then."""
    return logprobs.detach() if micro.old_logprobs_N is None else micro.old_logprobs_N[rows]


def _reference(micro: MicroBatch, logprobs: Tensor, rows: slice) -> Tensor:
    """Return the reference's log-probabilities, or the old ones that stand for them."""
    if micro.reference_logprobs_N is None:
        return _old(micro, logprobs, rows)
    return micro.reference_logprobs_N[rows]


class StepSums:
    """Sums over the completion tokens of all micro-batches of a step."""

    def __init__(self, device: torch.device) -> None:
        self.sums: dict[str, Tensor] = {}
        self.max_difference = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, losses: TokenLosses, logprobs_N: Tensor, entropies_N: Tensor) -> None:
        """Add a micro-batch, whose tokens had these log-probabilities and entropies."""
        loss, mismatch = losses.sums(logprobs_N, slice(None)), losses.mismatch(logprobs_N)
        parts = {
            "loss": loss.loss.detach(),
            "kl": loss.kl,
            "clipped": loss.num_clipped,
            "entropy": (entropies_N * (losses.micro.weights_N > 0)).sum(),
            "importance": mismatch.importance,
            "truncated": mismatch.num_truncated,
            "mismatch_kl": mismatch.kl,
            "difference": mismatch.difference,
        }
        for name, part in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + part.double()
        self.max_difference = torch.maximum(self.max_difference, mismatch.max_difference.double())
