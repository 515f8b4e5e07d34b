"""What the answers to one question earn, compared with one another (`solver.reward`).

Most rules pay an answer by itself (`rewards.SOLVER_REWARDS`) and compare what they have paid.
`restrain` believes no single label: it looks at all answers of the group.

Shape suffix: G the answers to one question.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rzero_ray.config.method import SolverConfig
from rzero_ray.method.advantages import GroupAdvantages
from rzero_ray.method.rewards import SOLVER_REWARDS
from rzero_ray.types import SolverRewardRule


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredGroup:
    """The answers to one question, as they are rewarded."""

    label: str
    answers: Sequence[str | None]
    """[G] graded answers: the label itself where an answer equals it (`Judge.grade`)."""
    texts: Sequence[str]
    """[G] the whole responses."""
    camps: Sequence[int | None] = ()
    """[G] the number of the distinct answer that each holds, None where it holds none; empty where
    the rule does not read it (`READS_CAMPS`)."""


Credit = tuple[list[float], list[float]]
"""[G] rewards and [G] advantages."""
SolverCredit = Callable[[AnsweredGroup, SolverConfig, GroupAdvantages], Credit]
"""Credits a group under the settings; the last argument compares rewards."""


def answer_weights(counts: Sequence[int], num_answers: int, spread: float) -> list[float]:
    """Return the weight of each distinct answer, which `counts` of `num_answers` responses hold.

    A Gaussian of its share around 1, exp(-(1 - share)^2 / (2 spread^2)), divided by the sum of all:
    it rises with the share, and the smaller `spread`, the more the largest answer has of it.
    """
    exponents = [-((1.0 - n / num_answers) ** 2) / (2.0 * spread**2) for n in counts]
    highest = max(exponents, default=0.0)  # taken out, or all would be 0 at a small spread
    heights = [math.exp(exponent - highest) for exponent in exponents]
    return [height / sum(heights) for height in heights]


def restrain(group: AnsweredGroup, settings: SolverConfig, compare: GroupAdvantages) -> Credit:
    """Credit all distinct answers by how many give them, and punish where nearly none agree.

    Source: RESTRAIN (arXiv 2510.02172). There each distinct answer a_j is taken for the label in
    turn, and the losses are added up with weights: sum of w_j L(x, a_j). Here the advantages are
    added up with the same weights, which is the same gradient for a policy that has not left the
    one that sampled; after that the loss is clipped once, not once for each answer. Where the
    largest answer has less than `vote_floor` of the responses, the rewards are 0 and all advantages
    -`vote_penalty`, as there.

    Left out is the third part, a weight for each question by how much the base model agrees with
    itself on it: R-Zero's band already chooses questions by agreement. Not checked against the
    paper, whose text was not at hand: the shape of the weights beyond that they rise with the
    share, and the values of spread, floor and penalty, which are ours.

    The reward of a response is the weight of its answer. The pseudo-label is not read.
    """
    counts = Counter(camp for camp in group.camps if camp is not None)
    num_answers = len(group.camps)
    if not counts or max(counts.values()) < settings.vote_floor * num_answers:
        return [0.0] * num_answers, [-settings.vote_penalty] * num_answers
    weights = answer_weights(list(counts.values()), num_answers, settings.vote_spread)
    weight_of = dict(zip(counts, weights, strict=True))
    rewards = [0.0 if camp is None else weight_of[camp] for camp in group.camps]
    advantages = [0.0] * num_answers
    for label, weight in weight_of.items():
        compared = compare([float(camp == label) for camp in group.camps])
        advantages = [a + weight * c for a, c in zip(advantages, compared, strict=True)]
    return rewards, advantages


def _each_alone(reward: Callable[[str | None, str, str], float]) -> SolverCredit:
    """Return the rule that pays each answer by itself."""

    def credit(group: AnsweredGroup, settings: SolverConfig, compare: GroupAdvantages) -> Credit:
        rewards = [
            reward(answer, group.label, text)
            for answer, text in zip(group.answers, group.texts, strict=True)
        ]
        return rewards, compare(rewards)

    return credit


SOLVER_CREDITS: dict[SolverRewardRule, SolverCredit] = {
    "restrain": restrain,
    "paper": _each_alone(SOLVER_REWARDS["paper"]),
    "official": _each_alone(SOLVER_REWARDS["official"]),
}
"""The credit of each value of `solver.reward`."""

READS_CAMPS: frozenset[SolverRewardRule] = frozenset({"restrain"})
"""The rules for which the answers of a group are held against one another, not against a label."""
