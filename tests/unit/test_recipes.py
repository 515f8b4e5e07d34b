"""Recipes: what each slot does, alone and in the loop."""

import asyncio
import math
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from rzero_ray.answers.voting import majority_vote
from rzero_ray.config.load import load_config
from rzero_ray.config.method import ChallengerConfig, VotingConfig
from rzero_ray.method import proposer_rewards as pay
from rzero_ray.method.novelty import (
    NO_RECALL,
    Recall,
    multiply_by_coverage,
    recall,
    subtract_similarity,
)
from rzero_ray.method.repetition import skeleton_shares
from rzero_ray.method.rewards import CHALLENGER_REWARDS, Posed
from rzero_ray.method.selection import UNCONFIRMED, replayed
from rzero_ray.phases.asking import NO_VOTES, Votes, vote_unless
from rzero_ray.phases.checking import check_by_halves
from rzero_ray.protocols import Cast
from rzero_ray.run.directory import check_run_dir, check_source, prepare_run_dir
from rzero_ray.run.parquet import read_records
from rzero_ray.run.plan import element_bytes
from rzero_ray.run.retention import plan_disk
from rzero_ray.run.shape import ModelShape
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import ArithmeticTask, LadderTask
from rzero_ray.types import Ballot, Candidate, CurriculumItem, UserError
from tests.unit.fakes import FakeJudge, FakePolicy
from tests.unit.test_coevolution import OVERRIDES, Attempt, Killed

RECIPES = sorted(path.stem for path in Path("conf/recipe").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_laid_over_an_experiment_and_runs(name: str, tmp_path: Path):
    config = load_config([*OVERRIDES, f"recipe={name}"])
    attempt = Attempt(config, tmp_path)
    attempt.go()
    assert len(attempt.observer.evaluations) == 3


def test_a_recipe_comes_after_the_experiment_and_before_an_ablation():
    config = load_config(["conf=tiny", "recipe=pace,ema", "ablation=no_band_filter"])
    assert (config.challenger.reward, config.voting.ema_decay) == ("pace", 0.785)
    assert (config.curriculum.min_agreement, config.curriculum.max_agreement) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipe=pcae"], "no recipe/pcae.yaml in conf/; the nearest is pace"),
        (["recipe=pace", "challenger.reward=paper"], "contradicts recipe=pace"),
        (["challenger.novelty=coverage"], "need a memory"),
        (["recipe=r_diverse", "pipeline.staleness=1"], "needs the step before to be finished"),
        (["challenger.reward=pace", "challenger.reward_floor=0.9"], "is not below reward_peak"),
        (["challenger.start_from=base", "shared_weights=true"], "contradict each other"),
        (["curriculum.questions_of=/x"], "set curriculum.labels=oracle"),
    ],
)
def test_slots_that_do_not_fit_are_one_line(arguments: list[str], message: str):
    with pytest.raises(UserError, match=message) as caught:
        load_config(["conf=tiny", *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("paid", "expected"),
    [
        (pay.pace(0.59, 0.6, 0.85), 0.0),
        (pay.pace(0.68, 0.6, 0.85), 0.8),
        (pay.pace(0.85, 0.6, 0.85), 1.0),
        (pay.pace(0.925, 0.6, 0.85), 0.5),
        (pay.pace(1.0, 0.6, 0.85), 0.0),
        (pay.absolute_zero(0.25), 0.75),
        (pay.absolute_zero(0.0), 0.0),
        (pay.absolute_zero(1.0), 0.0),
        (pay.some_but_not_all(1, 10), 0.0),
        (pay.some_but_not_all(2, 10), 1.0),
        (pay.some_but_not_all(10, 10), 0.0),
        (pay.spell(0.5), 1.0),
        (pay.spell(0.5 + 1 / 6), math.exp(-0.5)),
        (pay.spell(1.0), 0.0),
        (pay.darc(0.3, 0.5), 0.8),
        (pay.darc(0.0, 0.5), -0.1),
        (pay.multi_agent_evolve(0.4, 0.8), 0.8),
        (pay.proposer_solver(0.5), 1.0),
        (pay.proposer_solver(0.9), 0.36),
        (pay.pasodoble(0.2, 1.0), 0.0),
        (pay.pasodoble(0.5, 0.3), 0.0),
        (pay.pasodoble(0.5, 0.8), 0.76),
    ],
)
def test_what_the_family_pays(paid: float, expected: float):
    assert paid == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "malformed"), [("absolute_zero", -1.0), ("spell", -1.0), ("pace", 0.0), ("darc", 0.0)]
)
def test_a_malformed_question_earns_what_its_method_says(rule, malformed: float):
    assert CHALLENGER_REWARDS[rule](Posed(None, 0.5), ChallengerConfig(), VotingConfig()) == (
        malformed
    )


def test_a_memory_sees_copies_the_usual_and_crowded_kinds():
    def skeleton(text: str) -> str:
        return f"{len(text.split())} words"

    remembered = ["a b", "a b", "c d", "e f g"]
    same, new = recall(["a b", "x y z"], remembered, str.split, skeleton)
    assert same.nearest == pytest.approx(1.0) and same.typical == pytest.approx(0.5)
    assert same.crowding == pytest.approx(3 / 2)  # three of two words; two kinds of four
    assert (new.nearest, new.typical) == (0.0, 0.0)
    assert new.crowding == pytest.approx(1 / 2)
    assert recall(["a"], [], str.split, skeleton) == [NO_RECALL]
    assert recall([""], ["a"], str.split, skeleton)[0].nearest == 0.0


def test_a_large_memory_is_compared_in_parts():
    remembered = [f"{k} plus {k + 1}" for k in range(50)]
    questions = [f"{k} plus {k + 1} minus" for k in range(200)]
    together = recall(questions, remembered, str.split, str)
    alone = [recall([q], remembered, str.split, str)[0] for q in questions]
    assert [r.nearest for r in together] == pytest.approx([r.nearest for r in alone])
    assert [r.typical for r in together] == pytest.approx([r.typical for r in alone])
    tracemalloc.start()
    recall(["a b"] * 2000, ["a c"] * 5000, str.split, str)  # 80 MB for all pairs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


def test_novelty_takes_from_copies_and_gives_to_rare_kinds():
    assert subtract_similarity(1.0, Recall(1.0, 0.5, 1.0)) == pytest.approx(1 - 0.25 - 0.125)
    assert subtract_similarity(1.0, Recall(0.4, 0.2, 1.0)) == 1.0
    assert multiply_by_coverage(0.5, Recall(0, 0, 0.0)) == pytest.approx(3.0)
    assert multiply_by_coverage(0.5, Recall(0, 0, 20.0)) == pytest.approx(0.5)


def test_pasodoble_pays_for_distance_to_the_nearest_remembered_question():
    votes = Ballot(answers=("7",) * 10, label="7", num_agree=5, num_votes=10)
    settings, voting = ChallengerConfig(repetition_weight=0.0), VotingConfig()
    reward = CHALLENGER_REWARDS["pasodoble"]
    assert reward(Posed(votes, 0.0, Recall(0.2, 0, 0)), settings, voting) == pytest.approx(0.76)
    assert reward(Posed(votes, 0.0, Recall(0.8, 0, 0)), settings, voting) == 0.0


def test_skeletons_cluster_what_is_of_one_form():
    task = ArithmeticTask()
    questions = ["7+5", "1+22", "7-5", "7+5+1"]
    shares = skeleton_shares(questions, 0.5, lambda q: [task.skeleton(q)])
    assert shares == [0.5, 0.5, 0.25, 0.25]


def test_replay_is_its_share_of_all_and_nothing_of_nothing():
    new = [CurriculumItem(question=f"{k}+1", label="1", agreement=0.5) for k in range(7)]
    old = [CurriculumItem(question="9+9", label="18", agreement=0.5)]
    mixed = replayed(new, old, 0.3, random.Random(0))
    assert mixed[:7] == new and mixed[7:] == old * 3
    assert replayed([], old, 0.3, random.Random(0)) == []
    assert replayed(new, [], 0.3, random.Random(0)) == new


def test_the_solver_is_taught_earlier_questions_again(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "recipe=replay", "solver.num_prompts=40"]), tmp_path)
    attempt.go()
    kept = [
        {i.question for i in read_records(tmp_path / f"iteration-0{k}/curriculum.parquet", _ITEM)}
        for k in (1, 2)
    ]
    asked = {
        r.messages[-1]["content"]
        for r, weights in zip(attempt.solver.requests, attempt.solver.sampled_from, strict=True)
        if r.reads_tokens and str(weights).startswith("iteration-02/solver")
    }
    assert asked & (kept[0] - kept[1])


_ITEM = CurriculumItem


def test_an_average_of_solvers_votes_in_both_phases_and_is_measured_by_none(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "recipe=ema"]), tmp_path)
    attempt.go()
    first, second = (tmp_path / f"models/solver-average-iteration-0{k}" for k in (1, 2))
    assert [a[:2] for a in attempt.solver.averages] == [
        (Path("/base"), tmp_path / "models/solver-iteration-01"),
        (first, tmp_path / "models/solver-iteration-02"),
    ]
    assert second.is_dir() and not first.exists()
    votes = {
        str(weights)
        for r, weights in zip(attempt.solver.requests, attempt.solver.sampled_from, strict=True)
        if r.num_samples == 10
    }
    assert votes == {"/base", str(first)}
    assert attempt.solver.sampled_from[-1] == tmp_path / "models/solver-iteration-02"


def test_a_run_that_stops_before_its_average_writes_it_when_it_goes_on(tmp_path: Path):
    config = load_config([*OVERRIDES, "recipe=ema"])
    stopped = Attempt(config, tmp_path)
    stopped.solver.fails_to_average = True
    with pytest.raises(RuntimeError):
        stopped.go()
    going_on = Attempt(config, tmp_path)
    going_on.go()
    assert len(going_on.solver.averages) == 2
    assert len(going_on.observer.evaluations) == 2


def test_what_votes_is_there_wherever_a_run_was_stopped(tmp_path: Path):
    config = load_config([*OVERRIDES, "recipe=ema"])
    stopped = Attempt(config, tmp_path)
    with pytest.raises(Killed):
        stopped.go(kill_at="iteration-02")
    run = StoredRun(config, tmp_path, Path("/base"))
    assert (tmp_path / "models/solver-average-iteration-02").is_dir()
    assert run.voter().name == "solver-average-iteration-01" and run.voter().is_dir()
    Attempt(config, tmp_path).go()
    run = StoredRun(config, tmp_path, Path("/base"))
    assert run.averages() == [run.voter()]


def test_room_is_asked_for_two_averages():
    shape = ModelShape(
        num_parameters=1000, num_layers=1, hidden_size=8, vocab_size=8, kv_elements=8
    )
    without, config = (load_config(["conf=tiny", *more]) for more in ([], ["recipe=ema"]))
    more = plan_disk(config, shape).models - plan_disk(without, shape).models
    assert more == 2 * shape.num_parameters * element_bytes(config)


@pytest.mark.parametrize(
    ("recipe", "second_start"),
    [("challenger_from_base", "base"), ("challenger_from_solver", "solver-iteration-01")],
)
def test_where_the_challenger_starts(recipe: str, second_start: str, tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, f"recipe={recipe}"]), tmp_path)
    attempt.go()
    assert [p.initial_model.name for p in attempt.challenger.phases] == ["base", second_start]


def test_a_frozen_challenger_may_spend_its_votes_on_rejection(tmp_path: Path):
    limits = ["curriculum.candidates_per_step=10", "curriculum.num_candidates=400"]
    arguments = [a for a in OVERRIDES if not a.startswith("curriculum.")]
    config = load_config([*arguments, *limits, "challenger.frozen=true", "curriculum.max_voted=30"])
    Attempt(config, tmp_path).go()
    steps = sorted(tmp_path.glob("iteration-01/curriculum/step-*/candidates.parquet"))
    candidates = [c for path in steps for c in read_records(path, Candidate)]
    voted = [c for c in candidates if c.answers]
    assert 30 <= len(voted) < 40 < len(candidates)
    before = {c.question for c in candidates[:10]}
    assert all(not c.answers for c in candidates[10:] if c.question in before)


def test_a_yoked_run_is_taught_anothers_questions_with_their_true_answers(tmp_path: Path):
    Attempt(load_config(OVERRIDES), tmp_path / "first").go()
    yoked = [
        "challenger.frozen=true",
        "curriculum.labels=oracle",
        f"curriculum.questions_of={tmp_path / 'first'}",
    ]
    attempt = Attempt(load_config([*OVERRIDES, *yoked]), tmp_path / "second")
    attempt.go()
    assert not attempt.challenger.requests
    for k in (1, 2):
        theirs, ours = (
            read_records(tmp_path / run / f"iteration-0{k}/curriculum.parquet", CurriculumItem)
            for run in ("first", "second")
        )
        assert [i.question for i in ours] == [i.question for i in theirs]
        assert all(i.label == ArithmeticTask().solve(i.question) for i in ours)


def test_a_yoked_run_needs_the_other_before_anything_is_started(tmp_path: Path):
    config = load_config(["conf=tiny", "ablation=yoked"])
    with pytest.raises(UserError, match="questions_of=rzero is no run directory"):
        check_source(config)
    Attempt(load_config(OVERRIDES), tmp_path).go()
    check_source(replace(config, curriculum=replace(config.curriculum, questions_of=str(tmp_path))))


@pytest.mark.parametrize(("before", "now"), [("", "/x"), ("/x", "")])
def test_a_run_does_not_begin_or_cease_to_take_questions(before: str, now: str, tmp_path: Path):
    config = load_config([*OVERRIDES, "challenger.frozen=true", "curriculum.labels=oracle"])
    old, new, moved = (
        replace(config, curriculum=replace(config.curriculum, questions_of=source))
        for source in (before, now, "/moved")
    )
    prepare_run_dir(old, tmp_path)
    with pytest.raises(UserError, match=r"curriculum.questions_of was"):
        check_run_dir(new, tmp_path)
    if before:
        check_run_dir(moved, tmp_path)


def _candidate(question: str, label: str, dropped: str | None = None) -> Candidate:
    return Candidate(
        text=question,
        question=question,
        answers=(label,) * 4,
        label=label,
        num_agree=4,
        num_votes=4,
        num_tokens=1,
        dropped=dropped,
        truth=None,
    )


def test_a_label_is_kept_where_two_halves_give_it():
    async def vote(question: str, seed: int) -> Votes:
        ballot = majority_vote([ArithmeticTask().solve(question)] * 4, str.__eq__)
        return Votes(ballot, ("text",) * 4, 20)

    candidates = [
        _candidate("7+5-6+2", "8"),
        _candidate("7+5-6+2", "9"),
        _candidate("7+5", "9"),  # too short to be taken apart
        _candidate("7+5-6+2", "9", dropped="repeated"),
        _candidate("1-9+6+2", "0"),  # its first half is negative, which no chain begins with
    ]
    cast = Cast(FakePolicy("challenger"), FakePolicy("solver"), FakeJudge(), ArithmeticTask())
    checked = asyncio.run(check_by_halves(candidates, cast, vote, lambda *place: 0))
    assert [c.dropped for c in checked] == [None, UNCONFIRMED, None, "repeated", UNCONFIRMED]
    assert [c.check_votes for c in checked] == [8, 8, 0, 0, 4]
    assert checked[2:4] == candidates[2:4]


def test_no_vote_is_taken_on_what_is_hopeless():
    async def vote(question: str, seed: int) -> Votes:
        return Votes(majority_vote(["1"], str.__eq__), ("1",), 3)

    picky = vote_unless(lambda question: question == "old", vote)
    assert asyncio.run(picky("new", 0)).num_tokens == 3
    assert asyncio.run(picky("old", 0)) == NO_VOTES


def test_halves_need_a_task_that_has_them():
    from rzero_ray.tasks.registry import check_halves

    config = load_config(["conf=tiny", "recipe=halves"])
    check_halves(config)
    with pytest.raises(UserError, match="task=math has not"):
        check_halves(replace(config, task="math"))


def test_a_task_may_refuse_a_text_that_has_not_the_form_of_its_questions():
    task = LadderTask()
    assert task.is_question("triple:7[3v+1][3v+4]") and task.is_question("mix:7[3v+1][+4]")
    for text in ("triple:7", "triple:7[+4]", "triple:73[3v+1]", "[3v+1]7", "triple:7[3v+1]mix:"):
        assert not task.is_question(text)
    assert ArithmeticTask().is_question("7+")
