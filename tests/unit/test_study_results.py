"""What a study makes of run directories: figures of each, means over bases, comparisons, tables."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.config.config import Config, resolve_run_dir
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.study.arms import Place
from rzero_ray.study.command import main
from rzero_ray.study.figures import RunFigures, read_figures, with_all_shares
from rzero_ray.study.plan import Comparison, Plan
from rzero_ray.study.results import summarize
from rzero_ray.study.tables import make_tables, number, signed
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import Candidate, ChallengerSample, CurriculumItem, UserError, Verdict
from tests.unit.builders import answered
from tests.unit.studies import OVERRIDES, make_runs, study_configs

ARMS = ("plain", "frozen_challenger")
CANDIDATE = Candidate(
    text="",
    question=None,
    answers=("1",) * 4,
    label=None,
    num_agree=4,
    num_votes=4,
    num_tokens=1,
    dropped=None,
    truth=None,
)


def _answers(rights: list[int], questions: list[str]) -> list[AnsweredProblem]:
    """Return problems of which `rights` of 4 sampled answers are right, and the greedy one where
    any is."""
    return [
        answered("5" if n else "4", tuple("5" if k < n else "4" for k in range(4)), "5", question=q)
        for n, q in zip(rights, questions, strict=True)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Place, Config]]:
    root = tmp_path_factory.mktemp("study")
    configs = study_configs(root, ARMS, (0, 1))
    make_runs(configs)
    return root, configs


def _figures(runs, place: Place) -> RunFigures:
    return read_figures(place, runs[1][place])


def test_figures_are_those_of_the_files(runs):
    place = Place("plain", 0, 0)
    root = resolve_run_dir(runs[1][place])
    found = _figures(runs, place)
    assert len(found.by_iteration) == 3
    for iteration, row in enumerate(found.by_iteration):
        problems = read_records(
            root / f"iteration-{iteration:02d}/evaluation.parquet", AnsweredProblem
        )
        rights = [np.mean(problem.correct) for problem in problems]
        assert row["mean"] == pytest.approx(np.mean(rights))
        assert row["half_a"] == pytest.approx(np.mean(rights[::2]))
        assert row["half_b"] == pytest.approx(np.mean(rights[1::2]))
        assert row["greedy"] == np.mean([problem.greedy_correct for problem in problems])
    candidates = read_records(
        root / "iteration-02/curriculum/step-001/candidates.parquet", Candidate
    )
    kept = [c for c in candidates if c.dropped is None]
    posed = [c.question for c in candidates if c.question is not None]
    last = found.by_iteration[2]
    assert last["kept"] == len(kept) > 0
    assert last["labels"] == pytest.approx(np.mean([c.label == c.truth for c in kept]))
    assert last["votes_curriculum"] == sum(len(c.answers) for c in candidates) > 0
    assert last["distinct"] == len(set(posed)) / len(posed)
    assert last["skeletons"] == 1  # the fake poses sums of two numbers alone
    samples = read_records(
        root / "iteration-02/challenger/step-001/rollouts.parquet", ChallengerSample
    )
    assert last["votes_challenger"] == sum(len(s.answers) for s in samples) > 0
    assert last["updates"] == 2 and found.totals["updates"] == 4
    assert "votes_curriculum" not in found.by_iteration[0]


def test_the_headline_is_worked_out_by_hand(tmp_path: Path):
    """Three iterations after the base, of which half A likes the first best."""
    (place, config), *_ = study_configs(tmp_path, ("plain",), (0,)).items()
    config = replace(config, num_iterations=4)
    make_runs({place: config})
    questions = ["1+1", "1+2", "1+2+3", "4+5"]
    rights = [[1, 1, 0, 0], [4, 4, 4, 2], [3, 2, 0, 2], [2, 1, 0, 2], [0, 3, 0, 2]]
    for iteration, of in enumerate(rights):
        path = resolve_run_dir(config) / f"iteration-{iteration:02d}/evaluation.parquet"
        write_records(path, _answers(of, questions), AnsweredProblem)
    found = read_figures(place, config)
    half_b = [(1 + 0) / 8, 6 / 8, 4 / 8, 3 / 8, 5 / 8]
    assert [row["half_b"] for row in found.by_iteration] == half_b
    assert [row["half_a"] for row in found.by_iteration] == [1 / 8, 1.0, 3 / 8, 2 / 8, 0.0]
    totals = found.totals
    assert totals["primary"] == pytest.approx(0.5)
    assert totals["base"] == 0.125 and totals["gain"] == pytest.approx(0.375)
    assert totals["peak_iteration"] == 1 and totals["fall"] == pytest.approx(0.25)
    assert totals["near_peak"] == 0.0
    last = found.by_iteration[-1]
    assert (
        last["mean/2 operands"] == pytest.approx((0 + 3 + 2) / 12)
        and last["mean/3 operands"] == 0.0
    )
    assert last["greedy/2 operands"] == pytest.approx(2 / 3) and last["greedy"] == 0.5


def test_an_arm_that_takes_questions_of_another_has_its_kept_ones(runs, tmp_path: Path):
    """Such a run has no candidates, only what it was given, with true labels."""
    place = Place("plain", 0, 0)
    root = resolve_run_dir(runs[1][place])
    taken = tmp_path / "taken"
    shutil.copytree(root, taken)
    for folder in taken.glob("iteration-*/curriculum"):
        shutil.rmtree(folder)
    config = runs[1][place]
    curriculum = replace(config.curriculum, questions_of=str(root))
    found = read_figures(place, replace(config, run_dir=str(taken), curriculum=curriculum))
    for row, theirs in zip(
        found.by_iteration[1:], _figures(runs, place).by_iteration[1:], strict=True
    ):
        assert (row["kept"], row["labels"]) == (theirs["kept"], theirs["labels"])
        assert "votes_curriculum" not in row and "distinct" not in row
    assert found.totals["votes_curriculum"] == 0


@pytest.mark.parametrize("lines", [0, 3])
def test_a_finished_run_whose_log_lacks_steps_is_left_out(runs, lines: int, tmp_path: Path):
    """Its updates and its hours would count as none."""
    place = Place("plain", 0, 0)
    copy = tmp_path / "run"
    shutil.copytree(resolve_run_dir(runs[1][place]), copy)
    log = copy / "metrics.jsonl"
    kept = log.read_text().splitlines(keepends=True)[:lines]
    log.unlink()
    if kept:
        log.write_text("".join(kept))
    with pytest.raises(UserError, match=r"metrics\.jsonl .*no line of iteration-") as caught:
        read_figures(place, replace(runs[1][place], run_dir=str(copy)))
    assert "\n" not in str(caught.value)


def test_the_share_of_questions_without_an_answer_is_told_and_their_labels_are_wrong(
    runs, tmp_path: Path
):
    place = Place("plain", 0, 0)
    copy = tmp_path / "coins"
    shutil.copytree(resolve_run_dir(runs[1][place]), copy)
    posed = [
        ("coin:7[?1][?2]", "89", None),
        ("coin:1[?1]", "12", None),
        ("addsub:7[+1]", "78", "78"),
    ]
    candidates = [
        replace(CANDIDATE, text=q, question=q, label=label, truth=truth)
        for q, label, truth in posed
    ]
    path = copy / "iteration-01/curriculum/step-001/candidates.parquet"
    write_records(path, [*candidates, replace(candidates[2], dropped="easy")], Candidate)
    found = read_figures(place, replace(runs[1][place], run_dir=str(copy), task="ladder"))
    row = found.by_iteration[1]
    assert row["kept"] == 3 and row["labels"] == pytest.approx(1 / 3)
    assert (row["labels/coin"], row["labels/1"]) == (0.0, 1.0)
    assert (row["share/coin"], row["share/1"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_stratum_that_nobody_keeps_counts_as_none_where_others_keep_it():
    kept = {"kept": 4.0, "share/4-5": 1.0}
    runs = [
        RunFigures(place=Place("plain", base, 0), by_iteration=[{"mean": 0.1}, row], totals={})
        for base, row in enumerate(
            [{"kept": 4.0, "share/coin": 0.5, "share/4-5": 0.5}, kept, {"kept": 0.0}]
        )
    ]
    filled = with_all_shares(runs)
    assert [run.by_iteration[1].get("share/coin") for run in filled] == [0.5, 0.0, None]
    assert [run.by_iteration[0] for run in filled] == [{"mean": 0.1}] * 3
    result = summarize(_plan(["plain"], [0, 1, 2], [0], []), filled, last=3)
    coins = result.arms[0].series["share/coin"]
    assert coins[0] is None and coins[1] is not None
    assert (coins[1].num, coins[1].value) == (2, 0.25)
    titles = [table.title for table in make_tables(_plan(["plain"], [0, 1, 2], [0], []), result)]
    assert "share of the kept questions, stratum coin, by iteration" in titles


# Means and comparisons.


def _run(arm: str, base: int, seed: int, primary: float) -> RunFigures:
    return RunFigures(
        place=Place(arm, base, seed),
        by_iteration=[{"mean": primary}, {"mean": primary, "labels": primary}],
        totals={"primary": primary},
    )


def _plan(arms: list[str], bases: list[int], seeds: list[int], compare: list[str]) -> Plan:
    entry = {"time": "t", "program": "p", "finished_runs": 0, "arms": arms, "bases": bases}
    return Plan.model_validate(
        {
            "format": 1,
            "conf": "tiny",
            "overrides": [],
            "seeds": seeds,
            "primary": "",
            "tests": "",
            "entries": [{**entry, "compare": compare}],
            "settings": {arm: {} for arm in arms},
        }
    )


def test_seeds_are_averaged_within_a_base_and_arms_paired_by_base():
    runs = [
        *(_run("a", base, seed, 0.1 * base + 0.02 * seed) for base in (1, 2, 3) for seed in (0, 1)),
        *(_run("b", base, 0, 0.1 * base + step) for base, step in ((1, 0.03), (2, 0.05), (3, 0.1))),
        _run("b", 1, 1, 0.1 + 0.07),
        _run("b", 9, 0, 5.0),  # a base that a has not finished
    ]
    result = summarize(_plan(["a", "b"], [1, 2, 3, 9], [0, 1], []), runs, last=3)
    a, b = result.arms
    assert (a.num_runs, a.num_planned, a.totals["primary"].num) == (6, 8, 3)
    assert a.totals["primary"].value == pytest.approx(0.21)
    assert b.totals["primary"].num == 4
    (found,) = result.comparisons
    assert found.comparison == Comparison("b", "a", 0)
    # base 1: (.03 + .07) / 2 - .01; bases 2 and 3: seed 0 alone, which both have
    assert found.by_base == pytest.approx({1: 0.04, 2: 0.05, 3: 0.1})
    assert found.primary is not None and found.primary.num_same_sign == 3
    assert found.holm == found.primary.p
    assert found.num_needed is not None and found.num_needed > 3
    labels = a.series["labels"]
    assert labels[0] is None and labels[1] is not None and labels[1].num == 3


def test_holm_is_over_the_comparisons_that_were_planned_together():
    runs = [
        _run(arm, base, 0, value * base)
        for base in (1, 2, 3)
        for arm, value in (("a", 0.1), ("b", 0.2), ("c", 0.15))
    ]
    plan = _plan(["a", "b", "c", "d"], [1, 2, 3], [0], ["b:c"])
    result = summarize(plan, runs, last=3)
    by_name = {str(of.comparison): of for of in result.comparisons}
    assert list(by_name) == ["b - a", "c - a", "d - a", "b - c"]
    missing = by_name["d - a"]
    assert missing.primary is missing.holm is missing.num_needed is None
    assert by_name["b - a"].primary is not None
    assert by_name["b - a"].holm == pytest.approx(4 * (by_name["b - a"].primary.p or 0))
    later = plan.model_copy(
        update={"entries": [*plan.entries, plan.entries[0].model_copy(update={"arms": ["e"]})]}
    )
    grown = summarize(later, runs, last=3)
    assert [of.comparison.family for of in grown.comparisons] == [0, 0, 0, 0, 1]
    assert [of.holm for of in grown.comparisons[:4]] == [of.holm for of in result.comparisons]


def test_numbers_are_written_as_shares_are():
    found = [number(value) for value in (None, 0.354, -0.02, 1.0, 0.0)]
    assert found == ["-", ".354", "-.020", "1.000", ".000"]
    assert number(0.05, 4) == ".0500" and signed(None) == "-"


# The command's files.


@pytest.fixture
def command(runs) -> list[str]:
    root, _ = runs
    return [f"folder={root}", "conf=tiny", f"arms={','.join(ARMS)}", "bases=0,1", *OVERRIDES]


def test_a_finished_study_is_told_without_ray(runs, command, capsys):
    root, configs = runs
    (root / "plan.json").unlink(missing_ok=True)
    write_plan_of(root, configs)
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "4 runs are finished, 0 are to be made" in shown
    assert "| frozen_challenger - plain |" in shown
    stored = json.loads((root / "study.json").read_text())
    assert [arm["num_runs"] for arm in stored["arms"]] == [2, 2]
    frozen = next(run for run in stored["runs"] if run["place"]["arm"] == "frozen_challenger")
    assert frozen["totals"]["votes_challenger"] == 0
    text = (root / "study.md").read_text()
    assert "## Arms" in text and "## Comparisons" in text and "## Plan" in text
    assert "nan" not in text and "None" not in text
    page = (root / "study.html").read_text()
    assert not re.search(r"""(src|href)="(?!#)""", page) and page.count("<svg") >= 3
    HTMLParser().feed(page)
    assert main([f"folder={root}", "report=true"]) == 0
    assert json.loads((root / "study.json").read_text()) == stored


def write_plan_of(root: Path, configs: dict[Place, Config]) -> None:
    """Write the plan that a command would have written before these runs."""
    from rzero_ray.study.arms import load_arm
    from rzero_ray.study.plan import Asked, extend, resolve, write_plan

    arms = list(dict.fromkeys(place.arm for place in configs))
    bases = list(dict.fromkeys(place.base for place in configs))
    asked = resolve(
        Asked(conf="tiny", overrides=OVERRIDES, arms=arms, bases=bases, seeds=[0], compare=[]),
        None,
    )
    configs_of_arms = {arm: load_arm(arm, "tiny", OVERRIDES) for arm in arms}
    write_plan(root, extend(None, asked, configs_of_arms, lambda: 0))


def test_a_label_that_a_verifier_does_not_believe_is_not_counted(runs, tmp_path: Path):
    place = Place("plain", 0, 0)
    judged = tmp_path / "judged"
    shutil.copytree(resolve_run_dir(runs[1][place]), judged)
    items = read_records(judged / "iteration-01/curriculum.parquet", CurriculumItem)
    verdicts = [
        Verdict(question=item.question, label=item.label, num_judged=1, num_right=int(k == 0))
        for k, item in enumerate(items)
    ]
    write_records(judged / "iteration-01/verdicts.parquet", verdicts, Verdict)
    found = read_figures(place, replace(runs[1][place], run_dir=str(judged)))
    truth = ArithmeticTask().solve(items[0].question)
    assert found.by_iteration[1]["kept"] == 1 < len(items)
    assert found.by_iteration[1]["labels"] == float(items[0].label == truth)
