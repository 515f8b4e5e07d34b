"""The whole loop on in-memory fakes: what it teaches, and that a stop loses and repeats nothing."""

import asyncio
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.driver import coevolve
from rzero_ray.method.selection import CROWDED, HELD_OUT, REPEATED, TOO_LONG
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import check_run_dir, hold_run_dir, prepare_run_dir
from rzero_ray.run.parquet import read_records
from rzero_ray.run.run import Run
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Candidate,
    ChallengerSample,
    CurriculumItem,
    Problem,
    SolverSample,
    UserError,
)
from tests.marks import slow
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
    "drift.num_sequences=0",  # the KL to the base, which moves weights, has its own tests
]


class SmallTask(ArithmeticTask):
    """Arithmetic with a held-out set of three."""

    def heldout(self) -> tuple[Problem, ...]:
        return tuple(Problem(question=f"{i}+1", answer=str(i + 1)) for i in (1, 2, 3))

    def strata(self) -> dict[str, tuple[Problem, ...]]:
        return {}


class Killed(BaseException):
    """Stands for the end of the process."""


class Attempt:
    """One start of the driver on fakes."""

    def __init__(self, config: Config, root: Path) -> None:
        self.challenger, self.solver = FakePolicy("challenger"), FakePolicy("solver")
        self.verifier = FakePolicy("verifier")
        self.solver.borrows_from = self.verifier.borrows_from = self.challenger
        self.observer = SilentObserver()
        self._config, self._root = config, root

    def go(self, kill_at: int | str | None = None) -> None:
        """Run to the end, or until the `kill_at`-th write to the manifest, or that of a key."""
        with hold_run_dir(self._config, self._root):
            prepare_run_dir(self._config, self._root)
            run = Run(self._config, self._root, Path("/base"), StageClock(), self.observer)
            if kill_at is not None:
                kill_after(run, kill_at)
            self.challenger.weights = run.stored.current_model("challenger")
            self.solver.weights = run.stored.current_model("solver")
            cast = Cast(self.challenger, self.solver, FakeJudge(), SmallTask(), self.verifier)
            try:
                asyncio.run(coevolve(self._config, cast, run))
            finally:
                run.close()  # what is removed is removed beside the loop


def kill_after(run: Run, kill_at: int | str) -> None:
    finish, left = run.stored.manifest.finish, [kill_at if isinstance(kill_at, int) else math.inf]

    def finish_or_die(key: str, **details: bool) -> None:
        left[0] -= 1
        if left[0] < 0 or key == kill_at:
            raise Killed
        finish(key, **details)

    run.stored.manifest.finish = finish_or_die  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(OVERRIDES)


def _rows(root: Path) -> list[dict]:
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows
    ]


def test_phases_come_in_the_papers_order_and_start_from_the_right_models(config, tmp_path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    steps = [(row["iteration"], row["phase"], row["step"]) for row in _rows(tmp_path)]
    assert steps == [
        (iteration, phase, step)
        for iteration in (1, 2)
        for phase, count in (("challenger", 2), ("curriculum", 2), ("solver", 3), ("drift", 1))
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


def test_early_stopping_changes_no_outcome_and_spares_votes(config, tmp_path):
    found = {}
    for name, on in (("full", False), ("early", True)):
        curriculum = replace(config.curriculum, early_stopping=on)
        Attempt(replace(config, curriculum=curriculum), tmp_path / name).go()
        found[name] = _candidates(tmp_path / name, "01") + _candidates(tmp_path / name, "02")
    for full, early in zip(found["full"], found["early"], strict=True):
        assert (early.question, early.dropped) == (full.question, full.dropped)
        assert early.answers == full.answers[: len(early.answers)]
        if full.dropped is None:
            assert early.label == full.label
    rows = [row for row in _rows(tmp_path / "early") if row["phase"] == "curriculum"]
    posed = [c for c in found["early"] if c.question is not None]
    assert sum(row["voted"] for row in rows) == sum(bool(c.answers) for c in posed)
    assert sum(row["voted"] for row in rows) < len(posed)  # some were held out, or asked before
    saved = 1 - sum(len(c.answers) for c in posed) / (10 * len(posed))
    assert saved > 0.05
    shares = [row["votes_saved_share"] for row in rows]
    assert min(shares) <= saved <= max(shares)
    assert all(row["vote_tokens_saved_share"] > 0 for row in rows)
    full_rows = [row for row in _rows(tmp_path / "full") if row["phase"] == "curriculum"]
    assert {row["votes_saved_share"] for row in full_rows} == {0}
    assert {row["vote_tokens_saved_share"] for row in full_rows} == {0}
    for early, full in zip(rows, full_rows, strict=True):
        keys = [key for key in full if key.startswith(("dropped/", "kept"))]
        assert [early[key] for key in keys] == [full[key] for key in keys]
        assert early["label_accuracy"] == full["label_accuracy"]


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


@pytest.mark.parametrize(
    ("arguments", "writes_per_iteration"),
    [
        # Steps of the Challenger, its phase, the curriculum, the Solver, its phase, the monitors,
        # the iteration.
        ([], [2 + 1 + 2 + 3 + 1 + 1 + 1] * 2),
        slow(["drift.num_sequences=5", "audit.oracle=exact"], [2 + 1 + 2 + 1 + 3 + 1 + 1 + 1] * 2),
        # Enough questions after 2 of 4 curriculum steps, some dropped for what the first one kept.
        slow(
            [
                "curriculum.candidates_per_step=8",
                "curriculum.num_wanted=7",
                "curriculum.max_per_cluster=2",
                "curriculum.cluster_threshold=0.8",
            ],
            [2 + 1 + 2 + 3 + 1 + 1 + 1] * 2,
        ),
        slow(["ablation=frozen_challenger", "drift.num_sequences=5"], [2 + 3 + 1 + 1 + 1] * 2),
        slow(["ablation=shared_model", "drift.num_sequences=5"], [2 + 1 + 2 + 3 + 1 + 1 + 1] * 2),
    ],
)
def test_a_run_killed_at_any_point_ends_as_if_it_never_was(
    arguments: list[str], writes_per_iteration: list[int], tmp_path
):
    config = load_config([*OVERRIDES, *arguments])
    whole = Attempt(config, tmp_path / "whole")
    whole.go()
    num_writes = len(json.loads((tmp_path / "whole/manifest.json").read_text())["finished"])
    assert num_writes == 1 + sum(writes_per_iteration)
    # The variants differ in few places: every third moment will do for them.
    for kill_at in range(0, num_writes, 3 if arguments else 1):
        root = tmp_path / f"killed-{kill_at}"
        first, second = Attempt(config, root), Attempt(config, root)
        with pytest.raises(Killed):
            first.go(kill_at)
        second.go()
        assert _rows(root) == _rows(tmp_path / "whole"), kill_at
        # Every request was answered with the same weights as without the stop.
        for role in ("challenger", "solver"):
            answered = getattr(whole, role).weights_by_request(tmp_path / "whole")
            for attempt in (first, second):
                assert getattr(attempt, role).weights_by_request(root) <= answered, kill_at
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
    with pytest.raises(UserError, match=r"manifest.json is damaged .it is missing"):
        check_run_dir(config, tmp_path)


def test_a_folder_with_other_files_is_not_taken_for_a_run(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        check_run_dir(config, tmp_path)


def test_two_drivers_cannot_share_a_run(config, tmp_path):
    with (
        hold_run_dir(config, tmp_path),
        pytest.raises(UserError, match="in use"),
        hold_run_dir(config, tmp_path),
    ):
        pass


def test_a_curriculum_without_questions_skips_training_but_not_the_iteration(config, tmp_path):
    nothing = replace(
        config,
        curriculum=replace(config.curriculum, min_agreement=0.5, max_agreement=0.5, num_votes=3),
        voting=replace(config.voting, min_answered=1.0),
    )
    attempt = Attempt(nothing, tmp_path)
    attempt.go()
    assert any("no question was kept" in note for note in attempt.observer.notes)
    assert not attempt.solver.updates
    assert [row["iteration"] for row in attempt.observer.evaluations] == [0, 1, 2]


def test_a_frozen_challenger_poses_every_curriculum_and_never_learns(tmp_path):
    config = load_config([*OVERRIDES, "ablation=frozen_challenger"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    assert not attempt.challenger.phases
    assert set(attempt.challenger.sampled_from) == {Path("/base")}
    # The Solver had its engines in the first iteration; they got the base model back.
    assert attempt.challenger.loads == [Path("/base")]
    assert {row["phase"] for row in _rows(tmp_path)} == {"curriculum", "solver", "drift"}
    curricula = [{c.text for c in _candidates(tmp_path, iteration)} for iteration in ("01", "02")]
    assert curricula[0] != curricula[1]


def test_two_models_need_no_weights_beside_those_of_their_phases(config, tmp_path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    assert attempt.challenger.loads == attempt.solver.loads == []


def test_a_shared_model_goes_from_role_to_role(tmp_path):
    config = load_config([*OVERRIDES, "ablation=shared_model"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    names = ["challenger-iteration-01", "solver-iteration-01", "challenger-iteration-02"]
    posed, answered = (
        [p.initial_model.name for p in x.phases] for x in (attempt.challenger, attempt.solver)
    )
    assert posed == ["base", names[1]]
    assert answered == [names[0], names[2]]
    # A curriculum is voted on by the model that poses it, which only the Challenger's engines had.
    assert [model.name for model in attempt.solver.loads] == [names[0], names[2]]
    models = [w.name for w in attempt.solver.sampled_from if isinstance(w, Path)]
    order = [name for name, before in zip(models, ["", *models], strict=False) if name != before]
    # The base is evaluated and votes in the Challenger's phase, the model of that phase on the
    # curriculum and answers the Solver's first step, the Solver's model is evaluated, and so on.
    assert order == ["base", names[0], names[1], names[2], "solver-iteration-02"]


def test_a_curriculum_ends_when_enough_questions_are_kept(tmp_path):
    config = load_config(
        [*OVERRIDES, "curriculum.candidates_per_step=6", "curriculum.num_wanted=8"]
    )
    attempt = Attempt(config, tmp_path)
    attempt.go()
    for iteration in ("01", "02"):
        steps = sorted((tmp_path / f"iteration-{iteration}/curriculum").glob("step-*"))
        kept = [
            sum(c.dropped is None for c in read_records(s / "candidates.parquet", Candidate))
            for s in steps
        ]
        assert 1 < len(steps) < 5
        assert sum(kept[:-1]) < 8 <= sum(kept)
    assert sum("questions kept in" in note for note in attempt.observer.notes) == 2


def test_repeats_and_crowded_clusters_are_dropped_across_steps_and_counted(tmp_path):
    config = load_config(
        [
            *OVERRIDES,
            "num_iterations=1",
            "curriculum.num_candidates=60",
            "curriculum.max_per_cluster=2",
            "curriculum.cluster_threshold=0.9",
        ]
    )
    Attempt(config, tmp_path).go()
    candidates = _candidates(tmp_path, "01")
    items = read_records(tmp_path / "iteration-01/curriculum.parquet", CurriculumItem)
    questions = [item.question for item in items]
    assert len(set(questions)) == len(questions)
    assert questions == [c.question for c in candidates if c.dropped is None]
    reasons = [c.dropped for c in candidates]
    assert CROWDED in reasons[20:] and REPEATED in reasons[20:]
    counted = [row.get(f"dropped/{CROWDED}", 0) for row in _rows(tmp_path) if "kept" in row]
    assert sum(counted) == reasons.count(CROWDED)


def test_labels_of_the_oracle_are_the_true_answers(tmp_path):
    config = load_config([*OVERRIDES, "num_iterations=1", "ablation=ground_truth_labels"])
    Attempt(config, tmp_path).go()
    items = read_records(tmp_path / "iteration-01/curriculum.parquet", CurriculumItem)
    task = SmallTask()
    assert items and all(item.label == task.solve(item.question) for item in items)
    kept = [c for c in _candidates(tmp_path, "01") if c.dropped is None]
    assert any(c.label != c.truth for c in kept)  # the majority was wrong here


def test_the_official_code_runs_with_its_own_rules(tmp_path):
    config = load_config([*OVERRIDES, "num_iterations=1", "algorithm=official_code"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    path = tmp_path / "iteration-01/challenger/step-001/rollouts.parquet"
    samples = read_records(path, ChallengerSample)
    for sample in samples:
        if sample.question is None:
            # Malformed questions are in the batch, each as a cluster of its own.
            assert sample.repetition_share == pytest.approx(1 / len(samples))
            assert sample.reward == pytest.approx(-1 - 1 / len(samples))
        else:
            p = sample.num_agree / sample.num_votes
            assert sample.reward == pytest.approx(min(p, 1 - p) - sample.repetition_share)
    votes = [r for r in attempt.solver.requests if r.num_samples == 10]
    assert {(r.sampling.top_k, r.sampling.top_p) for r in votes} == {(40, 1.0)}
    answers = read_records(tmp_path / "iteration-01/solver/step-001/rollouts.parquet", SolverSample)
    assert {a.reward for a in answers} <= {0.0, 0.9}  # no answer has the <think> format


def _candidates(root: Path, iteration: str) -> list[Candidate]:
    paths = sorted((root / f"iteration-{iteration}/curriculum").glob("step-*/candidates.parquet"))
    return [candidate for path in paths for candidate in read_records(path, Candidate)]


@pytest.mark.parametrize(("ahead", "mean_staleness"), [(0, 0.0), (1, 2 / 3), (2, 1.0)])
def test_rollouts_are_at_most_as_stale_as_configured(tmp_path, ahead, mean_staleness):
    """Of three steps, the first is on policy; the others are sampled `ahead` updates early."""
    config = load_config([*OVERRIDES, f"pipeline.staleness={ahead}"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    rows = [row for row in _rows(tmp_path) if row["phase"] == "solver" and row["iteration"] == 1]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert max(row["staleness"] for row in rows) == ahead
    assert sum(row["staleness"] for row in rows) / 3 == pytest.approx(mean_staleness)
    assert len(attempt.solver.updates) == 2 * 3


def test_staleness_needs_the_importance_correction():
    with pytest.raises(UserError, match="importance_cap"):
        load_config([*OVERRIDES, "pipeline.staleness=1", "solver.loss.importance_cap=0"])


@pytest.mark.parametrize("early_stopping", ["true", "false"])
def test_a_question_that_leaves_the_solver_no_room_is_dropped_and_ends_nothing(
    tmp_path, monkeypatch, early_stopping
):
    config = load_config([*OVERRIDES, f"curriculum.early_stopping={early_stopping}"])
    attempt = Attempt(config, tmp_path)
    attempt.solver.longest_prompt = 3

    def pose(rng: random.Random) -> str:
        first = rng.choice([7, 77])
        return f"<question>{first}+{rng.randint(1, 9)}</question>\\boxed{{0}}"

    monkeypatch.setattr(attempt.challenger, "_pose", pose)
    attempt.go()

    samples = read_records(
        tmp_path / "iteration-01/challenger/step-001/rollouts.parquet", ChallengerSample
    )
    long = [s for s in samples if s.too_long]
    assert 0 < len(long) < len(samples)
    assert all("77+" in s.text and s.question is None and not s.answers for s in long)
    assert {s.reward for s in long} == {0.0}
    row = next(row for row in _rows(tmp_path) if row["phase"] == "challenger")
    assert row["too_long"] == len(long) / len(samples)
    assert row["well_formed"] == pytest.approx(1 - row["too_long"])

    candidates = read_records(
        tmp_path / "iteration-01/curriculum/step-001/candidates.parquet", Candidate
    )
    assert {"77+" in c.text for c in candidates if c.dropped == TOO_LONG} == {True}
    assert not any("77+" in c.text for c in candidates if c.dropped != TOO_LONG)
    row = next(row for row in _rows(tmp_path) if row["phase"] == "curriculum")
    assert row["dropped/too long"] == sum(c.dropped == TOO_LONG for c in candidates)


def test_samples_from_before_the_reason_existed_are_read(tmp_path):
    attempt = Attempt(load_config(OVERRIDES), tmp_path)
    attempt.go()
    path = tmp_path / "iteration-01/challenger/step-001/rollouts.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("too_long"), path)
    assert not any(s.too_long for s in read_records(path, ChallengerSample))
