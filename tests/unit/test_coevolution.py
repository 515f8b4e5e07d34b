"""The whole loop on in-memory fakes: what it teaches, and that a stop loses and repeats nothing."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rzero_ray.config import Config, load_config
from rzero_ray.curriculum import HELD_OUT
from rzero_ray.driver import coevolve
from rzero_ray.metrics import StageClock
from rzero_ray.phases import Cast
from rzero_ray.records import read_records
from rzero_ray.runstate import Run, check_run_dir, prepare_run_dir
from rzero_ray.tasks import ArithmeticTask
from rzero_ray.types import Candidate, ChallengerSample, Problem, SolverSample, UserError
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver

OVERRIDES = [
    "conf=tiny",
    "num_iterations=2",
    "challenger.num_steps=2",
    "challenger.num_prompts=12",
    "curriculum.num_candidates=30",
    "curriculum.candidates_per_step=20",
    "solver.num_steps=3",
    "solver.num_prompts=4",
    "solver.samples_per_prompt=3",
    "eval.num_samples=2",
]


class SmallTask(ArithmeticTask):
    """Arithmetic with a held-out set of three."""

    def heldout(self) -> tuple[Problem, ...]:
        return tuple(Problem(question=f"{i}+1", answer=str(i + 1)) for i in (1, 2, 3))


class Killed(BaseException):
    """Stands for the end of the process."""


class Attempt:
    """One start of the driver on fakes."""

    def __init__(self, config: Config, root: Path) -> None:
        self.challenger, self.solver = FakePolicy("challenger"), FakePolicy("solver")
        self.observer = SilentObserver()
        self._config, self._root = config, root

    def go(self, kill_at: int | None = None) -> None:
        """Run to the end, or until the `kill_at`-th write to the manifest."""
        with prepare_run_dir(self._config, self._root):
            run = Run(self._config, self._root, Path("/base"), StageClock(), self.observer)
            if kill_at is not None:
                _kill_after(run, kill_at)
            cast = Cast(self.challenger, self.solver, FakeJudge(), SmallTask())
            asyncio.run(coevolve(self._config, cast, run))


def _kill_after(run: Run, count: int) -> None:
    finish, left = run._finish, [count]

    def finish_or_die(key: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        finish(key)

    run._finish = finish_or_die  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(OVERRIDES)


def _rows(root: Path) -> list[dict]:
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_phases_come_in_the_papers_order_and_start_from_the_right_models(config, tmp_path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    steps = [(row["iteration"], row["phase"], row["step"]) for row in _rows(tmp_path)]
    assert steps == [
        (iteration, phase, step)
        for iteration in (1, 2)
        for phase, count in (("challenger", 2), ("curriculum", 2), ("solver", 3))
        for step in range(1, count + 1)
    ]
    assert [row["iteration"] for row in attempt.observer.evaluations] == [0, 1, 2]
    starts = [(p.role, p.iteration, p.initial_model.name) for p in attempt.solver.phases]
    assert starts == [("solver", 1, "base"), ("solver", 2, "solver-iteration-01")]
    starts = [(p.role, p.initial_model.name) for p in attempt.challenger.phases]
    assert starts == [("challenger", "base"), ("challenger", "challenger-iteration-01")]


def test_challenger_learns_from_its_votes(config, tmp_path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    path = tmp_path / "iteration-01/challenger/step-001/rollouts.parquet"
    samples = read_records(path, ChallengerSample)
    assert len(samples) == 12
    malformed = [s for s in samples if s.question is None]
    assert malformed
    assert all(s.reward == 0 and s.num_votes == 0 for s in malformed)
    for sample in samples:
        if sample.question is not None:
            assert len(sample.answers) == sample.num_votes == 10
            p = sample.num_agree / sample.num_votes
            expected = max(0.0, 1 - 2 * abs(p - 0.5) - sample.repetition_share)
            assert sample.reward == pytest.approx(expected)
    taught = attempt.challenger.updates[0][1]
    assert [r.advantage for r in taught] == [s.advantage for s in samples]
    assert sum(r.advantage for r in taught) == pytest.approx(0.0, abs=1e-9)


def test_advantages_are_only_centred_when_the_config_says_so(tmp_path):
    config = load_config(
        [*OVERRIDES, "challenger.normalize_std=false", "solver.normalize_std=false"]
    )
    Attempt(config, tmp_path).go()
    questions = read_records(
        tmp_path / "iteration-01/challenger/step-001/rollouts.parquet", ChallengerSample
    )
    mean = sum(s.reward for s in questions) / len(questions)
    assert [s.advantage for s in questions] == pytest.approx([s.reward - mean for s in questions])
    answers = read_records(tmp_path / "iteration-01/solver/step-001/rollouts.parquet", SolverSample)
    for prompt in range(4):
        group = [s for s in answers if s.prompt_index == prompt]
        mean = sum(s.reward for s in group) / len(group)
        assert [s.advantage for s in group] == pytest.approx([s.reward - mean for s in group])
    assert any(s.advantage for s in questions)
    assert any(s.advantage for s in answers)


def test_solver_trains_on_kept_questions_only_and_never_on_held_out_ones(config, tmp_path):
    Attempt(config, tmp_path).go()
    candidates = [
        candidate
        for step in ("step-001", "step-002")
        for candidate in read_records(
            tmp_path / "iteration-01/curriculum" / step / "candidates.parquet", Candidate
        )
    ]
    assert len(candidates) == 30
    kept = {c.question: c.label for c in candidates if c.dropped is None}
    heldout = {c.question for c in candidates if c.dropped == HELD_OUT}
    assert heldout <= {"1+1", "2+1", "3+1"}
    assert not heldout & set(kept)
    assert all(0.25 <= c.agreement <= 0.75 for c in candidates if c.dropped is None)
    for step in (1, 2, 3):
        path = tmp_path / f"iteration-01/solver/step-00{step}/rollouts.parquet"
        for sample in read_records(path, SolverSample):
            assert kept[sample.question] == sample.label
            assert sample.reward == float(sample.answer == sample.label)


def test_every_sample_has_a_seed_of_its_own(config, tmp_path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    training = [
        request.seed
        for policy in (attempt.challenger, attempt.solver)
        for request in policy.requests
        if request.num_samples not in (1, 2)  # evaluation uses the same seeds each time
    ]
    assert len(set(training)) == len(training)


def test_a_run_killed_at_any_point_ends_as_if_it_never_was(config, tmp_path):
    whole = Attempt(config, tmp_path / "whole")
    whole.go()
    num_writes = len(json.loads((tmp_path / "whole/manifest.json").read_text())["finished"])
    assert num_writes == 1 + 2 * (2 + 1 + 2 + 3 + 1 + 1)
    for kill_at in range(num_writes):
        root = tmp_path / f"killed-{kill_at}"
        first, second = Attempt(config, root), Attempt(config, root)
        with pytest.raises(Killed):
            first.go(kill_at)
        second.go()
        assert _rows(root) == _rows(tmp_path / "whole"), kill_at
        # The update in flight was made on a state that no checkpoint keeps; it is made again.
        done = first.solver.updates + first.challenger.updates
        again = second.solver.updates + second.challenger.updates
        keys = [key for key, _ in done] + [key for key, _ in again]
        assert len(keys) - len(set(keys)) <= 1, kill_at
        assert set(keys) == {k for k, _ in whole.solver.updates + whole.challenger.updates}


def test_with_sparse_checkpoints_updates_are_repeated_from_stored_rollouts(config, tmp_path):
    sparse = replace(config, checkpoint=replace(config.checkpoint, every_steps=2))
    first, second = Attempt(sparse, tmp_path), Attempt(sparse, tmp_path)
    with pytest.raises(Killed):
        first.go(kill_at=6)  # base, 2 challenger steps, phase, 2 curriculum steps; in solver 1
    with pytest.raises(Killed):
        second.go(kill_at=1)  # finishes solver step 1, which has no checkpoint; dies in 2
    third = Attempt(sparse, tmp_path)
    third.go()
    phase = third.solver.phases[0]
    assert (phase.num_finished_steps, phase.checkpoint) == (0, None)
    assert third.solver.updates[0][0] == "iteration-01/solver/step-001"
    sampled = {r.seed for r in third.solver.requests if r.num_samples == 3}
    before = {r.seed for r in second.solver.requests if r.num_samples == 3}
    assert not sampled & before  # the rollouts of steps 1 and 2 came from the disk


def test_another_config_or_a_damaged_manifest_is_refused_and_nothing_is_written(config, tmp_path):
    Attempt(config, tmp_path).go()
    before = {p: p.read_bytes() for p in tmp_path.glob("*.json*")}
    with pytest.raises(UserError, match="another config: seed was 0, now 1"):
        check_run_dir(replace(config, seed=1), tmp_path)
    check_run_dir(replace(config, num_iterations=5), tmp_path)  # a run may be prolonged
    assert {p: p.read_bytes() for p in tmp_path.glob("*.json*")} == before
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        check_run_dir(config, tmp_path)
    manifest.unlink()
    with pytest.raises(UserError, match=r"manifest.json is missing"):
        check_run_dir(config, tmp_path)


def test_a_folder_with_other_files_is_not_taken_for_a_run(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        check_run_dir(config, tmp_path)


def test_two_drivers_cannot_share_a_run(config, tmp_path):
    with prepare_run_dir(config, tmp_path), pytest.raises(UserError, match="in use"):
        prepare_run_dir(config, tmp_path)


def test_a_curriculum_without_questions_skips_training_but_not_the_iteration(config, tmp_path):
    nothing = replace(
        config,
        curriculum=replace(
            config.curriculum, min_agreement=0.5, max_agreement=0.5, min_answered=1.0, num_votes=3
        ),
    )
    attempt = Attempt(nothing, tmp_path)
    attempt.go()
    assert any("no question was kept" in note for note in attempt.observer.notes)
    assert not attempt.solver.updates
    assert [row["iteration"] for row in attempt.observer.evaluations] == [0, 1, 2]
