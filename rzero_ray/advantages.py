"""Group-relative advantages (GRPO)."""

from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-6
"""Added to the standard deviation, as in the official code."""


def normalize_group(rewards_G: Sequence[float]) -> list[float]:
    """Return (r - mean) / (std + 1e-6) with the unbiased standard deviation.

    A group of one, or of equal rewards, has advantages of zero: it teaches nothing.
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if rewards.size < 2:
        return [0.0] * rewards.size
    centred = rewards - rewards.mean()
    return (centred / (rewards.std(ddof=1) + _EPSILON)).tolist()


def normalize_per_prompt(rewards_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Normalise each prompt's samples among themselves: the paper and the official code."""
    return [normalize_group(rewards_G) for rewards_G in rewards_PG]


def normalize_whole_batch(rewards_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Normalise all samples of the step as one group.

    Meant for the Challenger, whose prompts are all the same text: groups of four are then an
    arbitrary partition, and one group has a baseline of lower variance at no cost.
    """
    flat = iter(normalize_group([r for rewards_G in rewards_PG for r in rewards_G]))
    return [[next(flat) for _ in rewards_G] for rewards_G in rewards_PG]
