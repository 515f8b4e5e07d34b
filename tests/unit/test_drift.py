"""Every drift figure against numbers worked out by hand."""

import math
import random
import time

import numpy as np
import pytest

from rzero_ray.config.audits import DriftConfig
from rzero_ray.evaluation.drift.figures import (
    WrittenAnswer,
    answer_figures,
    crossed,
    distinct_share,
    gini,
    is_degenerate,
    is_refusal,
    kl_to_base,
    question_figures,
    script_change,
    script_shares,
    spread,
)


def _floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _sample(text: str, num_tokens: int, answer: str | None) -> WrittenAnswer:
    tokens = np.zeros(num_tokens, dtype=np.int32)
    return WrittenAnswer(token_ids=tokens, text=text, answer=answer)


def test_kl_of_two_tokens_is_the_mean_log_ratio():
    # The policy gives the two sampled tokens .5 and .8, the base .25 and .4: a ratio of 2 each.
    policy = [np.log(_floats(0.5, 0.8))]
    base = [np.log(_floats(0.25, 0.4))]
    kl = kl_to_base(policy, base)
    assert kl.value == pytest.approx(math.log(2))
    assert kl.standard_error == pytest.approx(0.0, abs=1e-6)
    assert kl.num_tokens == 2


def test_kl_weighs_tokens_not_sequences_and_states_its_error():
    # One sequence of one token at 1 nat, one of three tokens at 0: 1 nat over 4 tokens.
    kl = kl_to_base([_floats(-1.0), _floats(-1, -1, -1)], [_floats(-2.0), _floats(-1, -1, -1)])
    assert kl.value == pytest.approx(0.25)
    # Residuals 1 - .25 x 1 and 0 - .25 x 3 over 4 tokens.
    assert kl.standard_error == pytest.approx(math.sqrt(0.75**2 + 0.75**2) / 4)


def test_kl_estimates_the_true_divergence_of_two_coins():
    rng = np.random.default_rng(0)
    heads = rng.random((4000, 5)) < 0.8
    policy = np.where(heads, math.log(0.8), math.log(0.2)).astype(np.float32)
    base = np.where(heads, math.log(0.5), math.log(0.5)).astype(np.float32)
    kl = kl_to_base(list(policy), list(base))
    truth = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert abs(kl.value - truth) < 4 * kl.standard_error < 0.02


def test_kl_of_nothing_is_nothing():
    assert kl_to_base([], []).num_tokens == 0


def test_gini_by_hand():
    assert gini([5, 5, 5, 5]) == pytest.approx(0.0)
    assert gini([1, 3]) == pytest.approx(0.25)  # |1-3| x 2 pairs / (2 x 2 x 4)
    assert gini([0, 0, 0, 8]) == pytest.approx(0.75)  # 1 - 1/n
    assert gini([3, 1]) == gini([1, 3])
    assert gini([]) == 0.0


def test_distinct_shares_by_hand():
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct_share(texts, 1) == pytest.approx(2 / 5)
    assert distinct_share(texts, 2) == pytest.approx(2 / 3)  # ab, ba, ab
    assert distinct_share(texts, 3) == 1.0
    assert distinct_share(texts, 4) == 0.0


def test_scripts_are_shares_of_letters():
    shares = script_shares(["ab 12+3", "вг", "中文字x"])
    assert shares == {"LATIN": 3 / 8, "CJK": 3 / 8, "CYRILLIC": 2 / 8}
    assert script_shares(["1+2=3"]) == {}


def test_a_change_of_script_is_the_mass_that_moved():
    assert script_change({"LATIN": 1.0}, {"LATIN": 0.75, "CJK": 0.25}) == pytest.approx(0.25)
    assert script_change({"LATIN": 1.0}, {"CJK": 1.0}) == 1.0
    assert script_change({}, {"CJK": 1.0}) is None


@pytest.mark.parametrize("text", ["I’m sorry, but", "As an AI, I", "抱歉，我无法"])
def test_refusals(text):
    assert is_refusal(text)


def test_an_answer_is_no_refusal():
    assert not is_refusal("We cannot divide by zero, so x = 3 and \\boxed{3}.")


def test_a_loop_is_degenerate_and_prose_is_not():
    prose = (
        "We set x to the number of apples. Then twice x and five more make 21, so 2x = 16 and x is "
        "8. Checking: 2 * 8 + 5 = 21 holds. Therefore the number of apples is \\boxed{8}."
    )
    rng = random.Random(0)
    chain = ";".join(
        f"{rng.randint(1, 99)}+{rng.randint(1, 9)}={rng.randint(1, 99)}" for _ in "x" * 200
    )
    for honest in (prose, chain, "11111", ""):
        assert not is_degenerate(honest)
    assert is_degenerate("7+5=12;" * 16)
    assert is_degenerate(prose + " So the answer is eight, which is right." * 80)


def test_texts_of_megabytes_cost_nothing():
    start = time.monotonic()
    text = "ж" * 5_000_000
    assert script_shares([text]) == {"CYRILLIC": 1.0}
    assert is_degenerate(text) and not is_refusal(text)
    assert time.monotonic() - start < 2.0


def test_figures_of_answers_by_hand():
    samples = [
        _sample("7+5=12;\\boxed{12}", 4, "12"),
        _sample("I'm sorry", 2, None),
        _sample("1+1=2;" * 30, 10, None),
        _sample("\\boxed{3}", 8, "3"),
    ]
    figures = answer_figures(samples, max_tokens=10)
    assert figures.answer_tokens == 6.0
    assert figures.unanswered == 0.5
    assert figures.truncated == figures.refusals == figures.degenerate == 0.25
    assert figures.answer_scripts == {"LATIN": 1.0}


def test_figures_of_questions_by_hand():
    figures = question_figures(["a b", "a b", "c d", "x"], [7, 7, 2, 9], str.split)
    assert figures.clusters == 0.75
    assert figures.gini == pytest.approx(gini([1, 1, 2]))
    assert figures.distinct_1 == pytest.approx(5 / 7)
    assert figures.distinct_2 == pytest.approx(2 / 3)


def test_thresholds_say_what_is_beyond_them_and_nothing_else():
    config = DriftConfig()
    row = {"kl_solver": 0.6, "kl_challenger": 0.4, "answer_length_ratio": 0.4, "gini": None}
    assert [(t.figure, t.key) for t in crossed(row, config)] == [
        ("kl_solver", "max_kl"),
        ("answer_length_ratio", "min_length_ratio"),
    ]
    assert not crossed({}, config)
    assert not crossed({"clusters": 0.2, "unanswered": 0.2}, config)  # at the limit is not beyond


def test_a_bounded_choice_is_spread_over_all():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread("abc", 5) == ["a", "b", "c"]
