"""Rollouts travel to the learner as a few arrays and arrive as they were."""

import pickle

import numpy as np
import pytest

from actors.learning.rollouts import PackedRollouts, pack_rollouts, unpack_rollouts
from rzero_ray.method.batching import micro_batches_of_rank
from rzero_ray.types import Rollout
from tests.unit.builders import rollout


def _step() -> list[Rollout]:
    """Three prompts, two of them of the same tokens; one answer is a single token."""
    prompts = [[1, 2, 3], [4], [1, 2, 3]]
    rng = np.random.default_rng(0)
    return [
        rollout(
            prompts[index],
            rng.integers(0, 9, length),
            logprobs=-rng.random(length),
            advantage=float(rng.normal()),
            prompt_index=index,
        )
        for index in range(3)
        for length in (5, 1, 3)
    ]


def _plain(of: Rollout) -> tuple:
    arrays = (of.prompt_ids, of.token_ids, of.logprobs)
    numbers = [(array.dtype.str, array.tolist()) for array in arrays]
    return *numbers, of.advantage, of.prompt_index, type(of.advantage), type(of.prompt_index)


def _travel(packed: PackedRollouts) -> PackedRollouts:
    """Return what a rank finds in Ray's shared memory, which can only be read."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(packed, 5, buffer_callback=buffers.append)
    assert len(buffers) == 8
    return pickle.loads(data, buffers=[memoryview(bytes(buffer.raw())) for buffer in buffers])


def test_rollouts_arrive_as_they_were():
    sent = _step()
    packed = pack_rollouts(sent)
    assert packed.prompt_ids.tolist() == [1, 2, 3, 4]  # once each
    arrived = unpack_rollouts(_travel(packed))
    assert not arrived[0].token_ids.flags.writeable
    assert list(map(_plain, arrived)) == list(map(_plain, sent))
    assert all(np.shares_memory(r.token_ids, arrived[0].token_ids.base) for r in arrived)


@pytest.mark.filterwarnings("error")  # torch warns of memory that can only be read
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_cuts_the_same_micro_batches_of_them(rank: int):
    import torch

    sent = _step()
    arrived = unpack_rollouts(_travel(pack_rollouts(sent)))
    expected, found = (
        micro_batches_of_rank(of, [0.5] * len(of), rank, 2, 12, torch.device("cpu"))
        for of in (sent, arrived)
    )
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("inputs_BT", "positions_N", "tokens_N", "weights_N", "advantages_N"):
            assert torch.equal(getattr(one, name), getattr(other, name))
