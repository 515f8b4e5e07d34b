"""Going back to earlier models where the Solver agrees less with itself; no label takes part."""

from pathlib import Path

import pytest

from rzero_ray.config.load import load_config
from rzero_ray.method.rollback import standing_after
from rzero_ray.phases import rollback
from rzero_ray.run.parquet import read_records
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import check_task
from rzero_ray.types import Standing, UserError
from tests.unit.test_coevolution import OVERRIDES, Attempt, Killed

ARGUMENTS = [*OVERRIDES, "num_iterations=4", "recipe=rollback", "checkpoint.keep_models.every=0"]
SIGNALS = {0: 0.5, 1: 0.6, 2: 0.57, 3: 0.4, 4: 0.59}
"""Iterations 2 and 3 fall by more than .02 below the first."""


def _watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each iteration measure its signal of `SIGNALS`."""
    stand = rollback._stand

    async def measured(iteration, *rest):
        monkeypatch.setattr(rollback, "mean", lambda values: SIGNALS[iteration])
        return await stand(iteration, *rest)

    monkeypatch.setattr(rollback, "_stand", measured)


def test_models_stand_unless_the_signal_is_too_far_below_the_highest_that_stands():
    found: list[Standing] = []
    for iteration, signal in enumerate((0.5, 0.6, 0.58, 0.55, 0.7, 0.57)):
        found.append(standing_after(found, iteration, signal, 0.03))
    assert [s.good for s in found] == [0, 1, 2, 2, 4, 4]


def test_the_next_iteration_starts_from_the_last_models_that_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _watch(monkeypatch)
    attempt = Attempt(load_config(ARGUMENTS), tmp_path)
    attempt.go()
    starts = [phase.initial_model.name for phase in attempt.solver.phases]
    assert starts == ["base", *["solver-iteration-01"] * 3]
    starts = [phase.initial_model.name for phase in attempt.challenger.phases]
    assert starts == ["base", *["challenger-iteration-01"] * 3]
    good = [
        read_records(tmp_path / f"iteration-0{k}/standing.parquet", Standing)[0].good
        for k in range(5)
    ]
    assert good == [0, 1, 1, 1, 4]
    run = StoredRun(load_config(ARGUMENTS), tmp_path, Path("/base"))
    assert run.current_model("solver").name == run.voter().name == "solver-iteration-04"
    assert sum("the models of iteration 1" in note for note in attempt.observer.notes) == 2


def test_what_was_gone_back_to_is_there_wherever_a_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _watch(monkeypatch)
    config = load_config(ARGUMENTS)
    for key in ("iteration-02", "iteration-03/challenger", "iteration-03"):
        root = tmp_path / key.replace("/", "-")
        with pytest.raises(Killed):
            Attempt(config, root).go(kill_at=key)
        run = StoredRun(config, root, Path("/base"))
        assert run.current_model("solver").is_dir() and run.current_model("challenger").is_dir()
        going_on = Attempt(config, root)
        going_on.go()
        assert going_on.solver.phases[-1].initial_model.name == "solver-iteration-01"
        assert len(list(root.glob("iteration-*/standing.parquet"))) == 5


def test_the_signal_is_the_share_of_the_majority_and_reads_no_reference(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "recipe=rollback"]), tmp_path)
    attempt.go()
    (standing,) = read_records(tmp_path / "iteration-01/standing.parquet", Standing)
    assert 0 < standing.signal <= 1
    assert set(rollback._Answers.__dataclass_fields__) == {"texts"}


def test_a_run_that_never_goes_back_notes_nothing(tmp_path: Path):
    Attempt(load_config(OVERRIDES), tmp_path).go()
    assert not list(tmp_path.glob("iteration-*/standing.parquet"))


def test_going_back_needs_two_models_several_answers_and_prompts():
    with pytest.raises(UserError, match=r"rollback_fall=0\.02 and shared_weights contradict"):
        load_config(["conf=tiny", "recipe=rollback", "ablation=shared_model"])
    with pytest.raises(UserError, match="samples one answer, which agrees with itself"):
        load_config(["conf=tiny", "recipe=rollback", "eval.num_samples=1"])
    with pytest.raises(UserError, match="held-out prompts, which task=math has not"):
        check_task(load_config(["conf=qwen3_4b", "recipe=rollback"]))
