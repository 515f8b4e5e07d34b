"""Rewards of the two roles (paper, sections 3.2 and 3.4), and the official code's other ones.

Each has two forms. `challenger_reward` and `solver_reward` are the paper's, and what `paper` and
`recommended` use; the functions named `official` are what the official code does, for the preset
`official_code`. `CHALLENGER_REWARDS` and `SOLVER_REWARDS` say which value of the configuration
names which.
"""

from collections.abc import Callable
from typing import Literal

from rzero_ray.answers.parsing import has_think_format

RewardRule = Literal["paper", "official"]

MALFORMED_REWARD = 0.0
"""What a question without its tags or its boxed answer earns: the paper's format check."""

OFFICIAL_MALFORMED_REWARD = -1.0
"""The same in the official code, before the penalty is subtracted."""

OFFICIAL_FORMAT_WEIGHT = 0.1
"""Part of the Solver's reward that the official code gives for format alone."""


def uncertainty(agreement: float) -> float:
    """Return 1 - 2|p - 1/2| in [0, 1] for the majority's share p of the votes."""
    return 1.0 - 2.0 * abs(agreement - 0.5)


def challenger_reward(agreement: float | None, repetition_share: float, weight: float) -> float:
    """Return max(0, uncertainty - weight x share of the batch in the question's cluster).

    `agreement` is None for a malformed question, which earns 0: a negative reward for malformed
    questions was seen elsewhere to drive a proposer into silence.
    """
    if agreement is None:
        return MALFORMED_REWARD
    return max(0.0, uncertainty(agreement) - weight * repetition_share)


def challenger_reward_official(
    agreement: float | None, repetition_share: float, weight: float
) -> float:
    """Return min(p, 1 - p) - weight x share, and -1 - weight x share for a malformed question.

    Half of the paper's scale, so that the same weight penalises repetition twice as much; and
    nothing is cut off at 0.
    """
    score = OFFICIAL_MALFORMED_REWARD if agreement is None else min(agreement, 1.0 - agreement)
    return score - weight * repetition_share


def solver_reward(answer: str | None, label: str, text: str = "") -> float:
    """Return 1 when the graded answer is the pseudo-label, else 0; `text` does not count."""
    return 1.0 if answer == label else 0.0


def solver_reward_official(answer: str | None, label: str, text: str = "") -> float:
    """Return 0.9 x accuracy + 0.1 x format of the whole response `text` (`has_think_format`)."""
    accuracy = (1.0 - OFFICIAL_FORMAT_WEIGHT) * solver_reward(answer, label)
    return accuracy + OFFICIAL_FORMAT_WEIGHT * has_think_format(text)


CHALLENGER_REWARDS: dict[RewardRule, Callable[[float | None, float, float], float]] = {
    "paper": challenger_reward,
    "official": challenger_reward_official,
}
"""The reward of each value of `challenger.reward`."""

SOLVER_REWARDS: dict[RewardRule, Callable[[str | None, str, str], float]] = {
    "paper": solver_reward,
    "official": solver_reward_official,
}
"""The reward of each value of `solver.reward`."""
