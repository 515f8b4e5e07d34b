import math

import pytest
import torch

from rzero_ray.config import LossConfig
from rzero_ray.logprobs import token_entropies, token_logprobs
from rzero_ray.losses import importance_weights, k3_divergence, policy_loss

NO_KL = LossConfig(clip_low=0.2, clip_high=0.3, dual_clip=3.0, kl_coefficient=0.0)


def _loss(ratio: float, advantage: float, config: LossConfig = NO_KL, mask: float = 1.0):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    zero = torch.zeros(1, 1)
    parts = policy_loss(
        logprobs, zero, zero, torch.tensor([[advantage]]), zero + 1, zero + mask, config
    )
    parts.loss.backward()
    assert logprobs.grad is not None
    return parts.loss.item(), logprobs.grad.item(), parts.num_clipped.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: the gradient is -advantage
        (1.2, 1.0, -1.2, -1.2, 0),  # inside the band
        (1.5, 1.0, -1.3, 0.0, 1),  # above 1 + clip_high
        (0.5, 1.0, -0.5, -0.5, 0),  # a good action made rarer is not clipped
        (0.5, -1.0, 0.8, 0.0, 1),  # below 1 - clip_low
        (2.0, -1.0, 2.0, 2.0, 0),  # a bad action made likelier is punished ...
        (5.0, -1.0, 3.0, 0.0, 1),  # ... up to the dual clip
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss, gradient, clipped):
    got = _loss(ratio, advantage)
    assert got == pytest.approx((loss, gradient, clipped), abs=1e-6)


def test_masked_tokens_count_for_nothing():
    assert _loss(1.1, 1.0, mask=0.0) == (0.0, 0.0, 0.0)


def test_kl_term_has_the_value_and_gradient_of_k3():
    config = LossConfig(kl_coefficient=0.5)
    loss, gradient, _ = _loss(2.0, 0.0, config)
    # d = log(1/2): exp(d) - d - 1 = 0.5 + log 2 - 1, and its derivative by logprob is 1 - exp(d)
    assert loss == pytest.approx(0.5 * (math.log(2) - 0.5), abs=1e-6)
    assert gradient == pytest.approx(0.5 * 0.5, abs=1e-6)


def test_k3_estimates_the_divergence_it_is_named_for():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    expectation = (policy * k3_divergence(policy.log(), reference.log())).sum()
    torch.testing.assert_close(expectation, exact)


def test_importance_weights_are_truncated_ratios_without_gradient():
    trainer = torch.tensor([math.log(0.5), math.log(0.9), -1.0], requires_grad=True)
    sampler = torch.tensor([math.log(0.4), math.log(0.1), -1.0])
    weights = importance_weights(trainer, sampler, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.25, 2.0, 1.0]))
    assert not weights.requires_grad
    assert importance_weights(trainer, sampler, cap=0.0).tolist() == [1.0, 1.0, 1.0]


def test_logprobs_and_entropies_of_known_distributions():
    logits = torch.tensor([[[0.0, math.log(3.0)], [1.0, 1.0]]])
    tokens = torch.tensor([[1, 0]])
    torch.testing.assert_close(
        token_logprobs(logits, tokens, 1.0), torch.tensor([[0.75, 0.5]]).log()
    )
    hot = token_logprobs(logits, tokens, temperature=0.5)
    torch.testing.assert_close(hot[0, 0], torch.tensor(0.9).log())
    entropy = token_entropies(logits, 1.0)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropy, torch.tensor([[expected, math.log(2.0)]]))
