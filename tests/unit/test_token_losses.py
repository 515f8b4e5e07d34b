"""The losses of a micro-batch: which log-probabilities stand for those that are not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rzero_ray.config.method import LossConfig
from rzero_ray.method.batching import MicroBatch, collate, micro_batches_of_rank
from rzero_ray.method.losses import ImitationLosses, PolicyLosses, StepSums, policy_loss
from rzero_ray.types import Rollout

CPU = torch.device("cpu")
CONFIG = LossConfig(kl_coefficient=0.5, importance_cap=2.0)


def _rollouts(*lengths: int) -> list[Rollout]:
    rng = np.random.default_rng(0)
    return [
        Rollout(
            prompt_ids=np.array([1, 2], dtype=np.int32),
            token_ids=rng.integers(0, 9, length).astype(np.int32),
            logprobs=-rng.random(length).astype(np.float32),
            advantage=float(rng.normal()),
            prompt_index=index,
        )
        for index, length in enumerate(lengths)
    ]


@pytest.fixture
def micro() -> MicroBatch:
    return collate(_rollouts(3, 5), [0.5, 0.25], CPU)


def _scores(seed: int) -> torch.Tensor:
    return -torch.rand(8, generator=torch.Generator().manual_seed(seed))


def test_missing_log_probabilities_are_the_policys_own_and_then_the_old_ones(micro: MicroBatch):
    now, old, reference = _scores(1), _scores(2), _scores(3)

    def loss(batch: MicroBatch) -> float:
        return PolicyLosses(batch, CONFIG).sums(now, slice(None)).loss.item()

    with_old = replace(micro, old_logprobs_N=old)
    assert loss(micro) == loss(replace(micro, old_logprobs_N=now, reference_logprobs_N=now))
    assert loss(with_old) == loss(replace(with_old, reference_logprobs_N=old))
    with_both = replace(with_old, reference_logprobs_N=reference)
    assert len({loss(micro), loss(with_old), loss(with_both)}) == 3
    importance = (old - micro.sampler_logprobs_N).exp().clamp(max=2.0)
    by_hand = policy_loss(
        now, old, reference, micro.advantages_N, importance, micro.weights_N, CONFIG
    )
    assert loss(with_both) == pytest.approx(by_hand.loss.item())


def test_parts_of_a_micro_batch_add_up_to_it(micro: MicroBatch):
    now = _scores(1)
    batch = replace(micro, old_logprobs_N=_scores(2), reference_logprobs_N=_scores(3))
    for losses in (PolicyLosses(batch, CONFIG), ImitationLosses(batch)):
        whole = losses.sums(now, slice(None)).loss
        parts = [losses.sums(now[rows], rows).loss for rows in (slice(0, 3), slice(3, 8))]
        torch.testing.assert_close(whole, sum(parts))


def test_only_sampled_tokens_can_differ_from_their_sampler(micro: MicroBatch):
    now, old = _scores(1), _scores(2)
    batch = replace(micro, old_logprobs_N=old)
    sampled = PolicyLosses(batch, CONFIG).mismatch(now)
    expected = (old - micro.sampler_logprobs_N).abs()
    assert sampled.difference.item() == pytest.approx(expected.sum().item())
    assert sampled.max_difference.item() == pytest.approx(expected.max().item())
    assert ImitationLosses(batch).mismatch(now).difference == 0


def test_sums_of_a_step_are_those_of_its_micro_batches(micro: MicroBatch):
    entropies = torch.ones(8)
    filler = replace(micro, weights_N=torch.zeros(8))
    sums = StepSums(CPU)
    for batch in (micro, filler, micro):
        sums.add(PolicyLosses(batch, CONFIG), _scores(1), entropies)
    one = PolicyLosses(micro, CONFIG).mismatch(_scores(1))
    assert sums.sums["entropy"] == 16  # the filler's tokens do not count
    assert sums.sums["difference"].item() == pytest.approx(2 * one.difference.item())
    assert sums.max_difference.item() == pytest.approx(one.max_difference.item())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_batch_and_have_as_many_micro_batches(world_size: int):
    rollouts = _rollouts(9, 1, 7, 3, 3, 8, 2)
    weights = [0.1 * (k + 1) for k in range(len(rollouts))]
    ranks = [
        micro_batches_of_rank(rollouts, weights, rank, world_size, 12, CPU)
        for rank in range(world_size)
    ]
    assert len({len(micros) for micros in ranks}) == 1
    counted = [
        weight for micros in ranks for m in micros for weight in m.weights_N.tolist() if weight > 0
    ]
    expected = [w for r, w in zip(rollouts, weights, strict=True) for _ in r.token_ids]
    assert sorted(counted) == pytest.approx(sorted(expected))
