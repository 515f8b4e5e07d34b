"""Rewards of the two roles (paper, sections 3.2 and 3.4), the official code's, ours, and those of
related methods (`proposer_rewards`).

The formulas are functions of numbers. `CHALLENGER_REWARDS` and `SOLVER_REWARDS` say which one each
value of the configuration names, and what of a vote goes into it:

    paper        max(0, uncertainty of p - penalty), p = `voting.share` of the votes
    official     min(p, 1 - p) - penalty, not cut off at 0
    discounted   max(0, answered share x uncertainty of the answered votes - penalty), and 0 where
                 fewer than `voting.min_answered` hold an answer: what `recommended` uses

The last is there because a question on which the Solver fails to answer is not one on which its
answers disagree: two equal answers and eight unanswered votes must not earn the full reward.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rzero_ray.answers.parsing import has_think_format
from rzero_ray.answers.voting import MAJORITY_SHARES
from rzero_ray.config.method import ChallengerConfig, VotingConfig
from rzero_ray.method import proposer_rewards
from rzero_ray.method.novelty import NO_RECALL, Recall
from rzero_ray.types import Ballot, RewardRule, SolverRewardRule

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


def challenger_reward_discounted(
    agreement: float | None, answered: float, repetition_share: float, weight: float
) -> float:
    """Return max(0, answered x uncertainty - weight x share), for the share `answered` of votes
    that hold an answer and the majority's share `agreement` of those; 0 for a malformed
    question."""
    if agreement is None:
        return MALFORMED_REWARD
    return max(0.0, answered * uncertainty(agreement) - weight * repetition_share)


def solver_reward(answer: str | None, label: str, text: str = "") -> float:
    """Return 1 when the graded answer is the pseudo-label, else 0; `text` does not count."""
    return 1.0 if answer == label else 0.0


def solver_reward_official(answer: str | None, label: str, text: str = "") -> float:
    """Return 0.9 x accuracy + 0.1 x format of the whole response `text` (`has_think_format`)."""
    accuracy = (1.0 - OFFICIAL_FORMAT_WEIGHT) * solver_reward(answer, label)
    return accuracy + OFFICIAL_FORMAT_WEIGHT * has_think_format(text)


def _share(ballot: Ballot | None, voting: VotingConfig) -> float | None:
    """Return the majority's share by `voting.share`; None for a malformed question."""
    if ballot is None:
        return None
    share = MAJORITY_SHARES[voting.share]
    return share(ballot.num_agree, ballot.num_votes, len(ballot.answers))


@dataclass(frozen=True, slots=True)
class Posed:
    """A question as its reward sees it."""

    ballot: Ballot | None
    """The votes on it; None when it is malformed."""
    repeated: float
    """The share of the batch in its cluster."""
    recall: Recall = NO_RECALL
    """What the memory of earlier questions says of it."""


ChallengerReward = Callable[[Posed, ChallengerConfig, VotingConfig], float]
"""The reward of a question under the settings."""


def _paper(posed: Posed, settings: ChallengerConfig, voting: VotingConfig) -> float:
    share = _share(posed.ballot, voting)
    return challenger_reward(share, posed.repeated, settings.repetition_weight)


def _official(posed: Posed, settings: ChallengerConfig, voting: VotingConfig) -> float:
    share = _share(posed.ballot, voting)
    return challenger_reward_official(share, posed.repeated, settings.repetition_weight)


def _discounted(posed: Posed, settings: ChallengerConfig, voting: VotingConfig) -> float:
    ballot = posed.ballot
    if ballot is None or ballot.answered < voting.min_answered:
        return MALFORMED_REWARD
    return challenger_reward_discounted(
        ballot.agreement, ballot.answered, posed.repeated, settings.repetition_weight
    )


def _penalised(
    score: Callable[[float, Ballot, Posed, ChallengerConfig], float],
    malformed: float = MALFORMED_REWARD,
    least: float = -math.inf,
) -> ChallengerReward:
    """Return the reward max(least, score of the majority's share p - weight x share of the batch);
    a malformed question earns `malformed`."""

    def reward(posed: Posed, settings: ChallengerConfig, voting: VotingConfig) -> float:
        share = _share(posed.ballot, voting)
        if posed.ballot is None or share is None:
            return malformed
        penalty = settings.repetition_weight * posed.repeated
        return max(least, score(share, posed.ballot, posed, settings) - penalty)

    return reward


CHALLENGER_REWARDS: dict[RewardRule, ChallengerReward] = {
    "paper": _paper,
    "official": _official,
    "discounted": _discounted,
    "pace": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.pace(
            p, settings.reward_floor, settings.reward_peak
        ),
        least=0.0,
    ),
    "absolute_zero": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.absolute_zero(p),
        malformed=proposer_rewards.ABSOLUTE_ZERO_MALFORMED,
    ),
    "sqlm": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.some_but_not_all(
            ballot.num_agree, len(ballot.answers)
        )
    ),
    "spell": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.spell(p),
        malformed=proposer_rewards.SPELL_MALFORMED,
    ),
    "darc": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.darc(p, settings.reward_peak)
    ),
    "multi_agent_evolve": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.multi_agent_evolve(p, ballot.answered)
    ),
    "proposer_solver": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.proposer_solver(p)
    ),
    "pasodoble": _penalised(
        lambda p, ballot, posed, settings: proposer_rewards.pasodoble(p, 1.0 - posed.recall.nearest)
    ),
}
"""The reward of each value of `challenger.reward`."""

SOLVER_REWARDS: dict[SolverRewardRule, Callable[[str | None, str, str], float]] = {
    "paper": solver_reward,
    "official": solver_reward_official,
}
"""The reward of each value of `solver.reward` that pays an answer by itself (`credit` has all)."""
