"""Group-relative advantages (GRPO)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import RunError, Step

_EPSILON = 1e-6
"""Added to the standard deviation, as in the official code."""

GroupAdvantages = Callable[[Sequence[float]], list[float]]
"""Rewards of a group to their advantages: `normalize_group` or `center_group`."""


def normalize_group(rewards_G: Sequence[float]) -> list[float]:
    """Return (r - mean) / (std + 1e-6) with the unbiased standard deviation.

    A group of one, or of equal rewards, has advantages of zero: it teaches nothing.
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if _are_equal(rewards):
        return [0.0] * rewards.size
    centred = rewards - rewards.mean()
    return (centred / (rewards.std(ddof=1) + _EPSILON)).tolist()


def center_group(rewards_G: Sequence[float]) -> list[float]:
    """Return r - mean (Dr. GRPO, arXiv 2503.20783, section 3.2).

    Without the division, questions that are nearly always or never solved weigh no more than the
    others. The official code always divides.
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if _are_equal(rewards):
        return [0.0] * rewards.size
    return (rewards - rewards.mean()).tolist()


def _are_equal(rewards_G: NDArray[np.float64]) -> bool:
    """Return whether a group tells nothing apart: the mean of equal numbers may be another one by
    rounding, and what is left would be taken for advantages. Infinite ones are not equal, so that
    `check_advantages` finds them."""
    return rewards_G.size < 2 or bool(np.ptp(rewards_G) == 0)


def advantages_per_prompt(
    rewards_PG: Sequence[Sequence[float]], of_group: GroupAdvantages
) -> list[list[float]]:
    """Compare each prompt's samples among themselves: the paper and the official code."""
    return [of_group(rewards_G) for rewards_G in rewards_PG]


def advantages_whole_batch(
    rewards_PG: Sequence[Sequence[float]], of_group: GroupAdvantages
) -> list[list[float]]:
    """Compare all samples of the step as one group.

    Meant for the Challenger, whose prompts are all the same text: groups of four are then an
    arbitrary partition, and one group has a baseline of lower variance at no cost.
    """
    flat = iter(of_group([r for rewards_G in rewards_PG for r in rewards_G]))
    return [[next(flat) for _ in rewards_G] for rewards_G in rewards_PG]


def check_advantages(advantages_PG: Sequence[Sequence[float]], step: Step) -> None:
    """Raise RunError when an advantage is not a finite number, before a rollout is kept with it."""
    for prompt, group in enumerate(advantages_PG):
        for value in group:
            if not math.isfinite(value):
                raise RunError(
                    f"iteration {step.iteration}, {step.phase} step {step.index}: an advantage of "
                    f"prompt {prompt} is {value}; its rewards are not finite numbers"
                )
