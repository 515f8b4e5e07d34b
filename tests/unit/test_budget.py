"""A run ends at a finished step when its budget is spent, and goes on when it is raised."""

from pathlib import Path

import pytest

from rzero_ray.config.command import run_command
from rzero_ray.config.load import load_config
from rzero_ray.run.budget import check_budget
from rzero_ray.run.clock import Lap, StageClock
from rzero_ray.run.directory import check_run_dir
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import BudgetSpentError
from tests.unit.test_coevolution import OVERRIDES, Attempt, _rows


@pytest.fixture(autouse=True)
def every_row_costs(monkeypatch: pytest.MonkeyPatch):
    """Each row with seconds stands for 100 tokens and half an hour."""
    lap = Lap(busy={}, alone={}, overhead=0.0, wall=1800.0)
    monkeypatch.setattr(StageClock, "take_tokens", lambda self: 100)
    monkeypatch.setattr(StageClock, "lap", lambda self: lap)


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        ("max_tokens=450", "max_tokens=450 is spent: 500 sampled tokens are recorded; raise it"),
        ("max_hours=2.5", "max_hours=2.5 is spent: 2.50 hours of work are recorded; raise it"),
    ],
)
def test_a_spent_budget_ends_the_run_at_a_step_and_raised_it_goes_on(
    budget: str, line: str, tmp_path: Path
):
    whole = Attempt(load_config(OVERRIDES), tmp_path / "whole")
    whole.go()
    root = tmp_path / "run"
    first = Attempt(load_config([*OVERRIDES, budget]), root)
    with pytest.raises(BudgetSpentError, match=line) as caught:
        first.go()
    assert "\n" not in str(caught.value)
    # The base's evaluation and four steps.
    assert [(r["phase"], r["step"]) for r in _rows(root)] == [
        ("challenger", 1),
        ("challenger", 2),
        ("curriculum", 1),
        ("curriculum", 2),
    ]
    again = Attempt(load_config([*OVERRIDES, budget]), root)
    with pytest.raises(BudgetSpentError):
        again.go()
    assert not again.challenger.updates and not again.solver.updates
    key = budget.partition("=")[0]
    for raised in (f"{key}=100000", f"{key}=0"):
        config = load_config([*OVERRIDES, raised])
        check_run_dir(config, root)
        Attempt(config, root).go()
        assert _rows(root) == _rows(tmp_path / "whole")


def test_a_run_that_is_done_has_no_budget_to_overrun(tmp_path: Path):
    config = load_config([*OVERRIDES, "max_tokens=1000000"])
    Attempt(config, tmp_path).go()
    Attempt(load_config([*OVERRIDES, "max_tokens=1"]), tmp_path).go()
    with pytest.raises(BudgetSpentError):
        check_budget(load_config(["max_tokens=1"]), StoredRun(config, tmp_path, Path("/base")))


def test_a_spent_budget_is_one_line_and_exit_code_3(capsys: pytest.CaptureFixture[str]):
    def work(_: list[str]) -> None:
        raise BudgetSpentError("max_hours=1 is spent")

    assert run_command([], str, work, "the same command resumes the run") == 3
    assert capsys.readouterr().err == "rzero_ray: ended: max_hours=1 is spent\n"
