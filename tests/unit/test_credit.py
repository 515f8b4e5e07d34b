"""What the answers to one question earn: by the label alone, and by all answers of the group."""

import asyncio
from pathlib import Path

import pytest

from rzero_ray.config.load import load_config
from rzero_ray.config.method import SolverConfig
from rzero_ray.method.advantages import center_group, normalize_group
from rzero_ray.method.credit import SOLVER_CREDITS, AnsweredGroup, answer_weights
from rzero_ray.phases.solver import _camps
from rzero_ray.protocols import Cast
from rzero_ray.run.parquet import read_records
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import SolverSample, UserError
from tests.unit.fakes import FakeJudge, FakePolicy
from tests.unit.test_coevolution import OVERRIDES, Attempt


def _group(*camps: int | None) -> AnsweredGroup:
    answers = [None if camp is None else str(camp) for camp in camps]
    return AnsweredGroup(label="0", answers=answers, texts=[""] * len(camps), camps=camps)


def test_by_the_label_alone_an_answer_is_right_or_wrong():
    rewards, advantages = SOLVER_CREDITS["paper"](
        _group(0, 0, 1, None), SolverConfig(), normalize_group
    )
    assert rewards == [1.0, 1.0, 0.0, 0.0]
    assert advantages == normalize_group(rewards)


def test_weights_rise_with_the_share_and_add_up_to_one():
    weights = answer_weights([5, 2, 1], 8, 0.5)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] > weights[1] > weights[2] > 0
    assert answer_weights([5, 2, 1], 8, 0.1)[0] > weights[0]  # nearly all of it
    assert answer_weights([5, 2, 1], 8, 100.0) == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_restraint_adds_up_what_each_answer_would_earn_as_the_label():
    group = _group(0, 0, 0, 0, 1, 1, 2, None)
    settings = SolverConfig(reward="restrain")
    rewards, advantages = SOLVER_CREDITS["restrain"](group, settings, normalize_group)
    weights = answer_weights([4, 2, 1], 8, settings.vote_spread)
    assert rewards == pytest.approx([weights[0]] * 4 + [weights[1]] * 2 + [weights[2], 0.0])
    as_label = [normalize_group([float(c == k) for c in group.camps]) for k in (0, 1, 2)]
    expected = [sum(w * of[g] for w, of in zip(weights, as_label, strict=True)) for g in range(8)]
    assert advantages == pytest.approx(expected)
    assert advantages[0] > advantages[4] and advantages[7] < 0
    assert sum(advantages) == pytest.approx(0.0, abs=1e-9)


def test_restraint_that_only_centres_compares_the_weights():
    group = _group(0, 0, 1, None)
    rewards, advantages = SOLVER_CREDITS["restrain"](
        group, SolverConfig(reward="restrain"), center_group
    )
    assert advantages == pytest.approx(center_group(rewards))


@pytest.mark.parametrize("camps", [(0, 1, 2, 3, 4, 5, 6, None), (None,) * 8])
def test_restraint_punishes_all_where_hardly_any_agree(camps):
    settings = SolverConfig(reward="restrain", vote_floor=0.25, vote_penalty=0.7)
    rewards, advantages = SOLVER_CREDITS["restrain"](_group(*camps), settings, normalize_group)
    assert rewards == [0.0] * 8 and advantages == [-0.7] * 8
    two = SOLVER_CREDITS["restrain"](_group(0, 0, 1, 2, 3, 4, 5, None), settings, normalize_group)
    assert max(two[1]) > 0  # two of eight are the floor


def test_camps_are_counted_by_value_the_largest_first():
    cast = Cast(FakePolicy("challenger"), FakePolicy("solver"), FakeJudge(), ArithmeticTask())
    texts = [rf"\boxed{{{a}}}" for a in ("7", "8", "8.0", "0.5", r"\frac{1}{2}", "8")] + ["no box"]
    assert asyncio.run(_camps(cast, texts)) == [2, 0, 0, 1, 1, 0, None]


def test_a_run_under_restraint_learns_from_all_answers(tmp_path: Path):
    Attempt(load_config([*OVERRIDES, "recipe=restrain"]), tmp_path).go()
    samples = [
        sample
        for path in sorted(tmp_path.glob("iteration-*/solver/step-*/rollouts.parquet"))
        for sample in read_records(path, SolverSample)
    ]
    assert any(0 < sample.reward < 1 for sample in samples)
    minority = [s for s in samples if s.answer not in (None, s.label) and s.reward > 0]
    assert minority


@pytest.mark.parametrize(
    "arguments",
    [["ablation=ground_truth_labels"], ["conf=tiny,labelled_grpo", "labelled.path=tiny"]],
)
def test_restraint_is_refused_where_labels_are_given(arguments: list[str]):
    with pytest.raises(UserError, match="reads no labels"):
        load_config(["conf=tiny", "recipe=restrain", *arguments])


def test_a_small_spread_leaves_the_weight_to_the_largest_answer():
    assert answer_weights([3, 1, 1], 5, 0.01) == pytest.approx([1, 0, 0])
