import numpy as np

from rzero_ray.batching import micro_batches, mini_batches, shard
from rzero_ray.types import Rollout


def _rollout(prompt_index: int) -> Rollout:
    empty = np.zeros(1, dtype=np.int32)
    return Rollout(
        prompt_ids=empty,
        token_ids=empty,
        logprobs=np.zeros(1, dtype=np.float32),
        advantage=0.0,
        prompt_index=prompt_index,
    )


def test_mini_batches_keep_a_prompts_samples_together_and_drop_nothing():
    rollouts = [_rollout(prompt) for prompt in range(5) for _ in range(2)]
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
