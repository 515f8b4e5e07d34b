import numpy as np
import pytest

from rzero_ray.config.method import ChallengerConfig, VotingConfig
from rzero_ray.method.advantages import (
    advantages_per_prompt,
    advantages_whole_batch,
    center_group,
    normalize_group,
)
from rzero_ray.method.rewards import (
    CHALLENGER_REWARDS,
    Posed,
    challenger_reward,
    challenger_reward_discounted,
    challenger_reward_official,
    solver_reward,
    solver_reward_official,
    uncertainty,
)
from rzero_ray.types import Ballot, RewardRule


@pytest.mark.parametrize(
    ("agreement", "expected"), [(0.5, 1.0), (0.0, 0.0), (1.0, 0.0), (0.75, 0.5), (0.3, 0.6)]
)
def test_uncertainty_is_largest_at_one_half(agreement: float, expected: float):
    assert uncertainty(agreement) == pytest.approx(expected)


def test_challenger_reward_subtracts_the_repetition_share_and_is_never_negative():
    assert challenger_reward(0.5, 0.25, weight=1.0) == pytest.approx(0.75)
    assert challenger_reward(0.5, 0.25, weight=2.0) == pytest.approx(0.5)
    assert challenger_reward(1.0, 0.25, weight=1.0) == 0.0


def test_solver_reward_is_binary_and_an_unanswered_sample_earns_nothing():
    assert [solver_reward(answer, "7") for answer in ("7", "8", None)] == [1.0, 0.0, 0.0]


def test_group_is_normalised_with_the_unbiased_standard_deviation():
    # mean 0.5, deviations +-0.5, unbiased variance 4 x 0.25 / 3
    deviation = np.sqrt(1 / 3)
    expected = [0.5 / (deviation + 1e-6), -0.5 / (deviation + 1e-6)] * 2
    assert normalize_group([1, 0, 1, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("rewards", [[], [0.3], [1.0, 1.0, 1.0], [0.1] * 3])
def test_a_group_without_contrast_teaches_nothing(rewards: list[float]):
    assert normalize_group(rewards) == [0.0] * len(rewards)
    assert center_group(rewards) == [0.0] * len(rewards)


def test_a_centred_group_keeps_the_scale_of_its_rewards():
    assert center_group([1, 0, 0, 0]) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_whole_batch_and_per_prompt_differ_as_they_should():
    rewards_PG = [[1.0, 1.0], [0.0, 0.0]]
    assert advantages_per_prompt(rewards_PG, normalize_group) == [[0.0, 0.0], [0.0, 0.0]]
    whole = advantages_whole_batch(rewards_PG, normalize_group)
    assert whole[0] == pytest.approx([0.866024, 0.866024], abs=1e-5)
    assert whole[1] == pytest.approx([-0.866024, -0.866024], abs=1e-5)
    assert advantages_whole_batch(rewards_PG, center_group) == [[0.5, 0.5], [-0.5, -0.5]]


@pytest.mark.parametrize(
    ("agreement", "share", "expected"),
    [(0.5, 0.0, 0.5), (0.5, 0.25, 0.25), (0.8, 0.5, -0.3), (1.0, 0.1, -0.1), (None, 0.25, -1.25)],
)
def test_official_challenger_reward_is_half_the_scale_and_may_be_negative(
    agreement: float | None, share: float, expected: float
):
    assert challenger_reward_official(agreement, share, weight=1.0) == pytest.approx(expected)


def test_a_malformed_question_earns_nothing_in_the_paper():
    assert challenger_reward(None, 0.25, weight=1.0) == 0.0


def test_official_solver_reward_gives_a_tenth_for_tags_that_nobody_asks_for():
    thought, plain = r"<think>1+1</think> So \boxed{7}", r"So \boxed{7}"
    assert solver_reward_official("7", "7", thought) == pytest.approx(1.0)
    assert solver_reward_official("7", "7", plain) == pytest.approx(0.9)
    assert solver_reward_official("8", "7", thought) == pytest.approx(0.1)
    assert solver_reward_official(None, "7", "no box") == 0.0
    assert solver_reward("7", "7", thought) == 1.0


def ballot(num_agree: int, num_votes: int, num_samples: int = 10) -> Ballot:
    answers = ("7",) * num_votes + (None,) * (num_samples - num_votes)
    return Ballot(answers=answers, label="7", num_agree=num_agree, num_votes=num_votes)


@pytest.mark.parametrize(
    ("rule", "voting", "votes", "expected"),
    [
        # Two equal answers and eight unanswered: no disagreement, so no reward by any rule of ours.
        ("paper", VotingConfig(share="all"), ballot(2, 2), 0.4),  # p = 2/10
        ("paper", VotingConfig(share="answered"), ballot(1, 2), 1.0),  # what it was: p = 1/2
        ("paper", VotingConfig(share="all"), ballot(1, 2), 0.2),  # p = 1/10
        ("paper", VotingConfig(share="all"), ballot(5, 10), 1.0),
        ("discounted", VotingConfig(min_answered=0.0), ballot(1, 2), 0.2),  # 2/10 x 1
        ("discounted", VotingConfig(min_answered=0.0), ballot(2, 2), 0.0),  # all agree
        ("discounted", VotingConfig(min_answered=0.5), ballot(1, 2), 0.0),  # too few answered
        ("discounted", VotingConfig(min_answered=0.5), ballot(4, 8), 0.8),  # 8/10 x 1
        ("discounted", VotingConfig(min_answered=0.5), ballot(5, 10), 1.0),
        ("discounted", VotingConfig(), None, 0.0),
        ("official", VotingConfig(), ballot(5, 10), 0.5),
        ("official", VotingConfig(), None, -1.0),
    ],
)
def test_what_a_vote_earns(rule: RewardRule, voting: VotingConfig, votes, expected: float):
    reward = CHALLENGER_REWARDS[rule](Posed(votes, 0.0), ChallengerConfig(), voting)
    assert reward == pytest.approx(expected)


@pytest.mark.parametrize("rule", CHALLENGER_REWARDS)
def test_every_reward_subtracts_the_weighted_repetition_share(rule: RewardRule):
    settings = ChallengerConfig(repetition_weight=0.5)
    plain, repeated = (
        CHALLENGER_REWARDS[rule](Posed(ballot(7, 10), share), settings, VotingConfig())
        for share in (0.0, 0.4)
    )
    assert plain - repeated == pytest.approx(0.2)


def test_a_discounted_reward_is_never_negative():
    assert challenger_reward_discounted(0.5, 0.6, 0.9, weight=1.0) == 0.0
