"""Tasks without exact answers: how answers are compared, what a referee is taught, and the loop."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.driver import coevolve_judged
from rzero_ray.evaluation.heldout import read_answered
from rzero_ray.evaluation.quality import RatedRequest
from rzero_ray.method.comparisons import (
    divided_share,
    draw_pairs,
    is_divided,
    make_pairs,
    outcome,
    read_verdict,
    request_reward,
    spread,
    verdict_requests,
    win_shares,
    without_asking,
)
from rzero_ray.phases.comparing import Group, compare_answers
from rzero_ray.phases.referee import in_both_orders
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import hold_run_dir, prepare_run_dir
from rzero_ray.run.parquet import read_records
from rzero_ray.run.report.summary import make_summary
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.run import Run
from rzero_ray.study.arms import Place
from rzero_ray.study.figures import SERIES, read_figures
from rzero_ray.tasks.bouquet import bouquets
from rzero_ray.tasks.registry import BouquetTask
from rzero_ray.types import (
    ChallengerSample,
    Comparison,
    OrderedPair,
    PosedRequest,
    Problem,
    RatedPair,
    SampleRequest,
    SolverSample,
    UserError,
)
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver
from tests.unit.test_coevolution import Killed, kill_after

OVERRIDES = [
    "conf=bouquet",
    "num_iterations=2",
    "challenger.num_steps=2",
    "challenger.num_prompts=6",
    "curriculum.num_candidates=12",
    "referee.num_steps=2",
    "referee.num_prompts=4",
    "solver.num_steps=2",
    "solver.num_prompts=3",
    "solver.samples_per_prompt=4",
    "eval.num_samples=2",
    "eval.num_requests=8",
]
TASK = BouquetTask()


def comparison(verdict: str | None, swapped: str | None) -> Comparison:
    return Comparison(
        prompt_index=0,
        first_index=0,
        second_index=1,
        request="ab",
        first="ab",
        second="a",
        verdict=verdict,
        verdict_swapped=swapped,
    )


class BouquetPolicy(FakePolicy):
    """Binds bouquets, now and then none; as a referee it knows their quality, or says what it is
    told to say."""

    says: str | None = None

    def _text(self, request: SampleRequest, rng: random.Random) -> str:
        is_asked_to_pose = request.messages[0]["content"] == bouquets.CHALLENGER_TAG
        return self._pose(rng) if is_asked_to_pose else self._answer(request, rng)

    def _pose(self, rng: random.Random) -> str:
        request = bouquets.sample_request(rng, rng.randint(1, 4))
        return f"<question>{request + request[:5] * (rng.random() < 0.2)}</question>"

    def _answer(self, request: SampleRequest, rng: random.Random) -> str:
        content = request.messages[-1]["content"]
        if self.role == "referee":
            wishes, _, shown = content.partition("=")
            first, second = (bouquets.quality(wishes, text) for text in shown.split("|"))
            return self.says or rf"\boxed{{{1 + (second > first)}}}"
        return "" if rng.random() < 0.1 else bouquets.sample_bouquet(rng, content, self.skill)


class SmallBouquet(BouquetTask):
    """Bouquets with few held out."""

    def heldout(self) -> tuple[Problem, ...]:
        return super().heldout()[::8]

    def heldout_pairs(self) -> tuple[RatedPair, ...]:
        return super().heldout_pairs()[:6]


class Attempt:
    """One start of the driver on fakes."""

    def __init__(self, config: Config, root: Path) -> None:
        self.challenger, self.solver, self.referee = (
            BouquetPolicy(role) for role in ("challenger", "solver", "referee")
        )
        self.solver.borrows_from = self.challenger
        self.observer = SilentObserver()
        self.config, self.root = config, root

    def run(self) -> Run:
        return Run(self.config, self.root, Path("/base"), StageClock(), self.observer)

    def go(self, kill_at: int | None = None) -> None:
        """Run to the end, or until the `kill_at`-th write to the manifest."""
        with hold_run_dir(self.config, self.root):
            prepare_run_dir(self.config, self.root)
            run = self.run()
            if kill_at is not None:
                kill_after(run, kill_at)
            self.challenger.weights = run.stored.current_model("challenger")
            self.solver.weights = run.stored.current_model("solver")
            cast = Cast(
                self.challenger, self.solver, FakeJudge(), SmallBouquet(), None, self.referee
            )
            asyncio.run(coevolve_judged(self.config, cast, run))
            run.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rzero_ray.driver.open_task", lambda name: SmallBouquet())


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(OVERRIDES)


# Pure functions.


@pytest.mark.parametrize("num_answers", [1, 2, 3, 4, 7, 8])
def test_all_pairs_are_drawn_once_and_fewer_are_spread_evenly(num_answers: int):
    every = draw_pairs(num_answers, 1000, random.Random(0))
    assert len(every) == len(set(every)) == num_answers * (num_answers - 1) // 2
    assert all(first < second for first, second in every)
    some = draw_pairs(num_answers, num_answers, random.Random(1))
    counts = Counter(place for pair in some for place in pair)
    assert not some or max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"\boxed{1}", "1"),
        (r"\boxed{2}", "2"),
        (r"\boxed{3}", None),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        ("1", None),
        ("", None),
        (r"\boxed{first}", None),
        (r"\boxed{1}\boxed{2}", "2"),
    ],
)
def test_a_verdict_is_one_of_two_boxes_or_no_vote(text: str, verdict: str | None):
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("verdict", "swapped", "wins"),
    [
        ("1", "2", 1.0),
        ("2", "1", 0.0),
        ("1", "1", 0.5),
        ("2", "2", 0.5),
        (None, None, 0.5),
        ("1", None, 0.75),
        (None, "1", 0.25),
    ],
)
def test_both_orders_count_and_a_verdict_that_says_nothing_counts_half(verdict, swapped, wins):
    of = comparison(verdict, swapped)
    assert outcome(of) == wins
    assert is_divided(of) == (wins not in (0, 1))


def test_the_divided_share_of_nothing_is_none():
    assert divided_share([]) == 0
    assert divided_share([comparison("1", "1"), comparison("1", "2")]) == 0.5


def test_no_answer_loses_unasked_and_equal_ones_tie():
    assert without_asking("ab", None) == 1
    assert without_asking(None, "ab") == 0
    assert without_asking(None, None) == without_asking("ab", "ab") == 0.5
    assert without_asking("ab", "ba") is None


def test_win_shares_of_a_full_ranking_are_ranks():
    ranking = [(i, k, 1.0) for i in range(4) for k in range(i + 1, 4)]
    assert win_shares(4, ranking) == pytest.approx([1, 2 / 3, 1 / 3, 0])  # (G - rank) / (G - 1)
    assert spread(win_shares(4, ranking)) == pytest.approx(1)
    assert win_shares(3, []) == [0.5] * 3


def test_a_group_in_which_nothing_is_better_has_no_spread():
    assert spread([0.5] * 8) == spread([0.5]) == spread([]) == 0
    assert 0 < spread([0.75, 0.75, 0.25, 0.25]) < 1


def test_a_request_earns_its_spread_less_its_repetition():
    assert request_reward([1, 2 / 3, 1 / 3, 0], 0.25, 1.0) == pytest.approx(0.75)
    assert request_reward([0.5, 0.5], 0.25, 1.0) == 0
    assert request_reward(None, 0.0, 1.0) == 0


def test_pairs_are_ordered_by_construction_and_shown_in_both_orders():
    posed = [
        PosedRequest(request="[red]", answers=("abcd", "defg")),
        PosedRequest(request="[tall]", answers=()),
    ]
    pairs = make_pairs(posed, 3, TASK.spoil, random.Random(0))
    assert {p.better for p in pairs} == {"abcd", "defg"}
    assert all(p.worse != p.better and bouquets.parse_bouquet(p.worse) for p in pairs)
    (shown, first), (swapped, second) = in_both_orders(TASK, pairs[0])
    assert (first, second) == (r"\boxed{1}", r"\boxed{2}")
    assert shown[-1]["content"] == f"[red]={pairs[0].better}|{pairs[0].worse}"
    assert swapped[-1]["content"] == f"[red]={pairs[0].worse}|{pairs[0].better}"


def test_a_referee_is_asked_greedily_and_shortly():
    for request in verdict_requests(TASK, "[red]", "ab", "a", 4):
        assert (request.num_samples, request.sampling.temperature) == (1, 0.0)
        assert request.sampling.max_tokens == 4 and not request.reads_tokens


# Comparing.


def _compare(config: Config, referee: BouquetPolicy, texts: list[str]) -> Group:
    cast = Cast(
        BouquetPolicy("challenger"), BouquetPolicy("solver"), FakeJudge(), TASK, None, referee
    )
    return asyncio.run(compare_answers(config, cast, TASK, 0, "[red]", texts, 7))


def test_a_referee_who_knows_ranks_answers_and_the_empty_one_is_last(config: Config):
    group = _compare(config, BouquetPolicy("referee"), ["abcd", "abc", "", "<question>abcd"])
    assert group.shares_G[0] == 1 and group.shares_G[1] == pytest.approx(2 / 3)
    assert group.shares_G[2] == group.shares_G[3] == pytest.approx(1 / 6)
    assert [(c.first, c.second) for c in group.comparisons] == [("abcd", "abc")]


@pytest.mark.parametrize("says", [r"\boxed{1}", r"\boxed{2}", "no idea", r"\boxed{1}" * 9 + "{"])
def test_a_referee_who_always_says_the_same_decides_nothing(config: Config, says: str):
    referee = BouquetPolicy("referee")
    referee.says = says
    group = _compare(config, referee, ["abcd", "abc", "bcd", "a"])
    assert group.shares_G == [0.5] * 4
    assert len(group.comparisons) == 6 and divided_share(group.comparisons) == 1


def test_answers_that_are_too_long_to_be_shown_together_get_no_vote(config: Config):
    referee = BouquetPolicy("referee")
    referee.longest_prompt = len("[red]=abcd|abc")
    group = _compare(config, referee, ["abcd", "abc", "abcdefgh"])
    assert {(c.verdict, c.verdict_swapped) for c in group.comparisons if "h" in c.second} == {
        (None, None)
    }
    assert group.shares_G == [0.75, 0.25, 0.5]


def test_equal_answers_are_not_compared(config: Config):
    referee = BouquetPolicy("referee")
    assert _compare(config, referee, ["abcd"] * 8).shares_G == [0.5] * 8
    assert not referee.requests


def test_comparisons_are_bounded(config: Config):
    few = load_config([*OVERRIDES, "referee.max_comparisons=5"])
    referee = BouquetPolicy("referee")
    texts = [
        bouquets.sample_bouquet(random.Random(k), "adh", 0) + "abc"[k % 3] * k for k in range(8)
    ]
    assert len(_compare(few, referee, texts).comparisons) <= 5
    assert len(referee.requests) <= 10


def test_a_coin_decides_without_a_referee(config: Config):
    referee = BouquetPolicy("referee")
    tossed = load_config([*OVERRIDES, "ablation=no_referee"])
    group = _compare(tossed, referee, ["abcd", "abc", "bcd", "a"])
    assert not referee.requests and divided_share(group.comparisons) == 0
    assert _compare(tossed, referee, ["abcd", "abc", "bcd", "a"]) == group


# The loop.


def test_all_three_learn_in_turn_each_from_its_own_model(config: Config, tmp_path: Path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["iteration"], r["phase"], r["step"]) for r in rows] == [
        (iteration, phase, step)
        for iteration in (1, 2)
        for phase in ("challenger", "referee", "solver")
        for step in (1, 2)
    ]
    for policy in (attempt.challenger, attempt.referee, attempt.solver):
        starts = [p.initial_model.name for p in policy.phases]
        assert starts == ["base", f"{policy.role}-iteration-01"]
    assert all(
        {"divided", "comparisons", "no_verdict"} <= set(r) for r in rows if r["phase"] != "referee"
    )
    assert all("win_spread" in r for r in rows if r["phase"] == "solver")


def test_what_is_stored_says_how_rewards_came_about(config: Config, tmp_path: Path):
    Attempt(config, tmp_path).go()
    folder = tmp_path / "iteration-01"
    posed = read_records(folder / "requests.parquet", PosedRequest)
    forms = [bouquets.normalize(p.request) for p in posed]
    held_out = {bouquets.normalize(p.question) for p in SmallBouquet().heldout()}
    assert len(set(forms)) == len(forms) > 0 and not held_out & set(forms)
    pairs = read_records(folder / "referee-pairs.parquet", OrderedPair)
    answers = {(p.request, answer) for p in posed for answer in p.answers}
    assert {(p.request, p.better) for p in pairs} <= answers
    samples = read_records(folder / "solver/step-001/rollouts.parquet", SolverSample)
    comparisons = read_records(folder / "solver/step-001/comparisons.parquet", Comparison)
    for prompt in range(3):
        group = [s for s in samples if s.prompt_index == prompt]
        best = max(group, key=lambda s: s.reward)
        qualities = [bouquets.quality(s.question, s.text) for s in group]
        assert bouquets.quality(best.question, best.text) == max(
            qualities
        )  # the fake referee knows
        for c in (c for c in comparisons if c.prompt_index == prompt):
            assert (c.first, c.second) == (
                group[c.first_index].answer,
                group[c.second_index].answer,
            )
    asked = read_records(folder / "challenger/step-001/rollouts.parquet", ChallengerSample)
    assert all(s.reward == 0 and not s.answers for s in asked if s.question is None)
    assert any(s.reward > 0 for s in asked)


def test_no_phase_reads_the_hidden_quality(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def evaluate_nothing(config: Config, iteration: int, *others: object) -> dict:
        none = dict.fromkeys(("num_problems", "greedy", "cot_share", "accuracy_given_cot"), 0)
        return {"iteration": iteration, **none}

    def refuse(self: BouquetTask, request: str, answer: str) -> float:
        raise AssertionError("a phase has read the hidden quality")

    monkeypatch.setattr("rzero_ray.driver.evaluate_quality", evaluate_nothing)
    monkeypatch.setattr(SmallBouquet, "quality", refuse)
    attempt = Attempt(config, tmp_path)
    attempt.go()
    assert len(attempt.solver.updates) == 4


def test_a_frozen_challenger_poses_requests_and_never_learns(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "ablation=frozen_challenger"]), tmp_path)
    attempt.go()
    assert attempt.challenger.requests and not attempt.challenger.phases
    assert attempt.solver.updates and attempt.referee.updates


class Mute(BouquetPolicy):
    """A Challenger that poses nothing well-formed."""

    def _pose(self, rng: random.Random) -> str:
        return "[red]"


def test_without_a_request_nobody_learns_and_the_run_goes_on(config: Config, tmp_path: Path):
    attempt = Attempt(config, tmp_path)
    attempt.challenger = Mute("challenger")
    attempt.solver.borrows_from = attempt.challenger
    attempt.go()
    assert not attempt.solver.updates and not attempt.referee.updates
    assert len(attempt.observer.evaluations) == 3
    assert attempt.observer.evaluations[-1]["requests_well_formed"] == 0


def test_a_frozen_referee_is_asked_and_never_taught(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "ablation=frozen_referee"]), tmp_path)
    attempt.go()
    assert attempt.referee.requests and not attempt.referee.phases
    assert set(map(str, attempt.referee.sampled_from)) == {"/base"}


@pytest.mark.slow
def test_a_run_that_is_stopped_anywhere_ends_as_one_that_is_not(tmp_path: Path):
    config = load_config([*OVERRIDES, "num_iterations=1"])
    whole = Attempt(config, tmp_path / "whole")
    whole.go()
    kill_at, stopped = 0, True
    while stopped:
        attempt = Attempt(config, tmp_path / f"stopped-{kill_at}")
        try:
            attempt.go(kill_at)
            stopped = False
        except Killed:
            Attempt(config, attempt.root).go()
        for name in ("requests", "referee-pairs", "solver/step-002/comparisons", "evaluation"):
            paths = [a.root / "iteration-01" / f"{name}.parquet" for a in (whole, attempt)]
            assert paths[0].read_bytes() == paths[1].read_bytes(), (kill_at, name)
        kill_at += 1
    assert kill_at > 8


def test_the_evaluation_tells_the_hidden_quality_of_all_three(config: Config, tmp_path: Path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    (base, *_) = attempt.observer.evaluations
    rated = read_records(tmp_path / "iteration-00/evaluation.parquet", RatedRequest)
    assert [r.request for r in rated] == [p.question for p in SmallBouquet().heldout()]
    assert all(
        q == bouquets.quality(r.request, t)
        for r in rated
        for q, t in zip(r.qualities, r.texts, strict=True)
    )
    assert base["mean@2"] == pytest.approx(sum(r.mean_quality for r in rated) / len(rated))
    assert base["referee_accuracy"] == 1 and base["referee_divided"] == 0
    assert 0 < base["requests_well_formed"] <= 1
    assert base["requests_middling"] <= base["requests_well_formed"]
    posed = read_records(tmp_path / "iteration-02/posed-evaluation.parquet", RatedRequest)
    assert len(posed) / 8 == attempt.observer.evaluations[-1]["requests_well_formed"]
    by_the_base = [
        weights
        for asked, weights in zip(
            attempt.challenger.requests, attempt.challenger.sampled_from, strict=True
        )
        if asked.messages[0]["content"] == bouquets.SOLVER_TAG
    ]
    assert by_the_base and set(map(str, by_the_base)) == {"/base"}


def test_summary_and_report_of_a_judged_run_speak_of_quality(config: Config, tmp_path: Path):
    attempt = Attempt(config, tmp_path)
    attempt.go()
    stored = attempt.run().stored
    summary = make_summary(stored)
    assert "hidden quality" in summary["reading"]
    assert [row["iteration"] for row in summary["heldout"]] == [0, 1, 2]
    write_report(stored)
    assert "hidden quality" in (tmp_path / "report.html").read_text()


def test_a_comparison_of_right_answers_refuses_qualities(config: Config, tmp_path: Path):
    Attempt(config, tmp_path).go()
    with pytest.raises(UserError, match="holds qualities"):
        read_answered(tmp_path / "iteration-00/evaluation.parquet")


def test_a_study_reads_the_quality_of_all_three(config: Config, tmp_path: Path):
    judged = load_config([*OVERRIDES, f"run_dir={tmp_path}"])
    Attempt(judged, tmp_path).go()
    figures = read_figures(Place("plain", 0, 0), judged)
    assert {"mean", "greedy", "half_a", "half_b", "referee", "middling", "updates"} <= set(
        figures.by_iteration[1]
    )
    assert figures.by_iteration[0]["referee"] == 1
    assert figures.totals["updates"] == 4 and 0 < figures.totals["primary"] <= 1
    assert all(name.partition("/")[0] in SERIES for name in figures.by_iteration[1])


# What does not go together.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["conf=bouquet", "sampler.num_referee=0"], "sampler.num_referee=0"),
        (["conf=bouquet", "voting.ema_decay=0.5"], "voting.ema_decay is about votes"),
        (["conf=bouquet", "recipe=verifier"], "verifier.negatives is about votes"),
        (["conf=bouquet", "challenger.question_format=question_and_answer"], "without answers"),
        (["conf=bouquet", "model.path=tiny"], "knows only task=arithmetic"),
        (["conf=bouquet", "referee.opinon=asked"], "referee.opinion"),
    ],
)
def test_a_judged_run_refuses_what_it_has_no_use_for(arguments: list[str], reason: str):
    with pytest.raises(UserError, match=reason):
        load_config(arguments)


def test_method_and_task_go_together():
    load_config(["conf=bouquet"])
    with pytest.raises(UserError, match=r"^method=coevolution.*use method=judged"):
        load_config(["conf=bouquet", "method=coevolution"])
    with pytest.raises(UserError, match=r"^method=judged.*use method=coevolution or task=bouquet"):
        load_config(["conf=tiny", "method=judged"])
