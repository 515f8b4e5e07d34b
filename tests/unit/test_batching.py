import itertools
import random

import torch

from rzero_ray.method.batching import (
    MICRO_BATCH_TOKENS,
    collate,
    micro_batches,
    mini_batches,
    pack,
    packed_batches,
    shard,
)
from tests.unit.builders import rollout


def test_mini_batches_keep_a_prompts_samples_together_and_drop_nothing():
    rollouts = [rollout([0], [0], prompt_index=prompt) for prompt in range(5) for _ in range(2)]
    batches = mini_batches(rollouts, prompts_per_update=2)
    assert [[r.prompt_index for r in batch] for batch in batches] == [
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [4, 4],
    ]


def test_shards_are_a_partition_of_near_equal_parts():
    shards = [shard(range(7), rank, 3) for rank in range(3)]
    assert shards == [[0, 3, 6], [1, 4], [2, 5]]


def test_micro_batches_stay_within_the_token_budget_and_cover_everything():
    lengths = [3, 10, 4, 4, 9, 1]
    batches = micro_batches(lengths, tokens_per_batch=20)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[1, 4], [2, 3, 0, 5]]
    assert all(max(lengths[i] for i in b) * len(b) <= 20 for b in batches)


def test_a_sequence_above_the_budget_is_a_batch_of_its_own():
    assert micro_batches([50, 2], tokens_per_batch=20) == [[0], [1]]


def test_the_cut_costs_least_of_all_cuts_of_the_sorted_sequences():
    rng = random.Random(0)
    for _ in range(20):
        lengths = [rng.choice((1, 50, 300, 900)) + rng.randrange(100) for _ in range(9)]
        ordered, budget = sorted(lengths, reverse=True), 2000

        def cost(cut: list[list[int]]) -> float:
            padded = [max(part) * len(part) for part in cut]
            too_long = any(p > 2000 and len(c) > 1 for p, c in zip(padded, cut, strict=True))
            return float("inf") if too_long else sum(padded) + MICRO_BATCH_TOKENS * len(cut)

        bounds = itertools.product((False, True), repeat=len(lengths) - 1)
        cuts = []
        for ends in bounds:
            places = [0, *(i + 1 for i, end in enumerate(ends) if end), len(lengths)]
            cuts.append([ordered[a:b] for a, b in itertools.pairwise(places)])
        taken = [[lengths[i] for i in batch] for batch in micro_batches(lengths, budget)]
        assert cost(taken) == min(map(cost, cuts))


def test_a_micro_batch_holds_each_completion_token_where_it_is_predicted():
    rollouts = [
        rollout([1, 2], [3, 4, 5], logprobs=[-3, -4, -5], advantage=0.5),
        rollout([6], [7], logprobs=[-7], advantage=-2.0),
    ]
    batch = collate(rollouts, [0.1, 0.0], torch.device("cpu"))
    assert batch.inputs_BT.tolist() == [[1, 2, 3, 4], [6, 0, 0, 0]]
    assert batch.inputs_BT.flatten()[batch.positions_N].tolist() == [2, 3, 4, 6]
    assert batch.tokens_N.tolist() == [3, 4, 5, 7]
    assert batch.sampler_logprobs_N.tolist() == [-3, -4, -5, -7]
    torch.testing.assert_close(batch.weights_N, torch.tensor([0.1, 0.1, 0.1, 0.0]))
    assert batch.advantages_N.tolist() == [0.5, 0.5, 0.5, -2.0]


def test_packed_sequences_lie_one_after_the_other_without_a_token_between():
    rollouts = [
        rollout([1, 2], [3, 4, 5], logprobs=[-3, -4, -5], advantage=0.5),
        rollout([6], [7], logprobs=[-7], advantage=-2.0),
    ]
    batch = pack(rollouts, [0.1, 0.0], torch.device("cpu"))
    assert batch.inputs_BT.tolist() == [[1, 2, 3, 4, 6]]
    assert batch.inputs_BT.flatten()[batch.positions_N].tolist() == [2, 3, 4, 6]
    assert batch.packing is not None
    assert batch.packing.position_ids_1T.tolist() == [[0, 1, 2, 3, 0]]
    assert batch.packing.bounds_S1.tolist() == [0, 4, 5]
    assert batch.packing.longest == 4
    padded = collate(rollouts, [0.1, 0.0], torch.device("cpu"))
    for name in ("tokens_N", "weights_N", "sampler_logprobs_N", "advantages_N"):
        assert torch.equal(getattr(batch, name), getattr(padded, name))


def test_packed_batches_stay_within_the_token_budget_and_cover_everything():
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randrange(1, 130) for _ in range(rng.randrange(1, 40))]
        batches = packed_batches(lengths, tokens_per_batch=100)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        sums = [sum(lengths[i] for i in batch) for batch in batches]
        assert all(
            total <= 100 or len(batch) == 1 for total, batch in zip(sums, batches, strict=True)
        )
        # No two of them would fit into one.
        assert all(a + b > 100 for a, b in itertools.combinations(sums, 2))
