"""How one step's rollouts are cut into mini-batches, shards and micro-batches."""

from collections.abc import Sequence
from typing import TypeVar

from rzero_ray.types import Rollout

T = TypeVar("T")


def mini_batches(rollouts: Sequence[Rollout], prompts_per_update: int) -> list[list[Rollout]]:
    """Cut rollouts by prompt into the batches of successive optimizer steps.

    The last batch may be smaller: nothing is dropped (the official code drops it, and crashes
    when fewer prompts exist than one batch).
    """
    batches: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        batches.setdefault(rollout.prompt_index // prompts_per_update, []).append(rollout)
    return [batches[index] for index in sorted(batches)]


def shard(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """Return every `world_size`-th item from `rank` on; shards differ by one item at most."""
    return list(items[rank::world_size])


def micro_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group sequence indices so that (sequences x longest) stays within `tokens_per_batch`.

    Sequences of near length go together, so little is padded. A sequence longer than the budget
    is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else []
        if batch and lengths[batch[0]] * (len(batch) + 1) <= tokens_per_batch:
            batch.append(index)
        else:
            batches.append([index])
    return batches
