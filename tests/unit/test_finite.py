"""What is not a finite number ends a run in one line, before anything of the step is kept."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rzero_ray.config.load import load_config
from rzero_ray.method import rewards
from rzero_ray.method.advantages import check_advantages
from rzero_ray.method.finite import check_finite
from rzero_ray.types import RunError, Step, UserError, WeightVersion
from tests.unit.fakes import fake_report
from tests.unit.test_coevolution import OVERRIDES, Attempt

STEP = Step(iteration=2, phase="solver", index=7)
VERSION = WeightVersion(role="solver", iteration=2, num_steps=7)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "entropy", "kl", "importance_mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_report_that_is_not_finite_names_its_step_and_figure(name: str, value: float):
    report = fake_report(VERSION, 1).learning
    check_finite(report, STEP)
    with pytest.raises(RunError, match=f"iteration 2, solver step 7: {name}={value}") as found:
        check_finite(replace(report, **{name: value}), STEP)
    assert "\n" not in str(found.value)


def test_a_loss_without_a_kl_term_has_no_kl():
    check_finite(replace(fake_report(VERSION, 1).learning, kl=None), STEP)


def test_an_advantage_that_is_not_finite_names_its_prompt():
    check_advantages([[0.5, -0.5], [0.0]], STEP)
    with pytest.raises(RunError, match="iteration 2, solver step 7: an advantage of prompt 1 is"):
        check_advantages([[0.5, -0.5], [math.nan]], STEP)


def test_a_reward_that_is_not_finite_ends_the_run_before_its_rollouts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(rewards.CHALLENGER_REWARDS, "discounted", lambda *_: math.inf)
    attempt = Attempt(load_config(OVERRIDES), tmp_path)
    with pytest.raises(RunError, match="iteration 1, challenger step 1: an advantage"):
        attempt.go()
    assert not list(tmp_path.rglob("rollouts.parquet"))
    assert not attempt.challenger.updates


@pytest.mark.parametrize(
    "key", ["challenger.sampling.temperature", "solver.sampling.temperature", "eval.temperature"]
)
@pytest.mark.parametrize("value", ["0", "0.005", "3", "-1", ".nan", ".inf"])
def test_a_temperature_that_gives_no_distribution_is_refused(key: str, value: str):
    with pytest.raises(UserError, match=rf"{key}=\S+ must be from 0.01 to 2"):
        load_config(["conf=tiny", f"{key}={value}"])
