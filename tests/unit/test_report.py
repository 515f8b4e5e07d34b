"""The summary's numbers are checked by hand; the report shows model text without obeying it."""

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.config import Config
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.heldout import heldout_row
from rzero_ray.run.clock import Lap, StageClock
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.report.candidates import agreement_counts, divide, sample_questions
from rzero_ray.run.report.datatable import table_script
from rzero_ray.run.report.page import make_page
from rzero_ray.run.report.summary import make_summary, reading
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.run import Run
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate, PhaseName, Step
from tests.unit.builders import answered
from tests.unit.fakes import SilentObserver

EVIL = "<script>alert(1)</script><img src=https://evil.example/x.png>\u202e\x1b[31m"


class FixedClock(StageClock):
    """Every row took three seconds and 100 tokens."""

    def take_tokens(self) -> int:
        return 100

    def lap(self) -> Lap:
        return Lap(
            busy={"sampling": 2.0, "learning": 1.5},
            alone={"sampling": 1.5, "learning": 1.0},
            overhead=0.5,
            wall=3.0,
        )


def make_run(root: Path, task: str = "arithmetic") -> Run:
    config = Config(
        name="fake", task=task, run_dir=str(root), num_iterations=2, eval=EvalConfig(num_samples=2)
    )
    prepare_run_dir(config, root)
    return Run(config, root, Path("/models/base"), FixedClock(), SilentObserver())


def score(correct: tuple[bool, bool], cot: tuple[bool, bool]) -> AnsweredProblem:
    answers = tuple("5" if right else "4" for right in correct)
    texts = tuple(
        f"{'2+3;' if has_cot else ''}\\boxed{{{answer}}}"
        for answer, has_cot in zip(answers, cot, strict=True)
    )
    majority = "5" if all(correct) else "4"
    return answered(answers[0], answers, majority, greedy_text=texts[0], texts=texts)


def candidate(question: str | None = "1+2", dropped: str | None = None) -> Candidate:
    return Candidate(
        text=question or EVIL,
        question=question,
        answers=("3", "3", EVIL, None),
        label="3",
        num_agree=2,
        num_votes=3,
        num_tokens=7,
        dropped=dropped,
        truth="3",
    )


def finish(run: Run, iteration: int, phase: PhaseName, index: int, **metrics: Any) -> None:
    run.finish_step(Step(iteration=iteration, phase=phase, index=index), metrics)


def learn(run: Run, iteration: int, phase: PhaseName, rewards: tuple[float, ...]) -> None:
    for index, reward in enumerate(rewards, start=1):
        finish(
            run,
            iteration,
            phase,
            index,
            reward=reward,
            kl=0.01 * index,
            entropy=0.5,
            grad_norm=1.0,
            logprob_difference_mean=1e-7,
            logprob_difference_max=2e-6 * index,
            probe_difference_max=0.0,
        )
        run.add_event("weight sync", max_logprob_difference=1e-6 * index)


def iterate(run: Run, iteration: int, scores: list[AnsweredProblem]) -> None:
    learn(run, iteration, "challenger", (0.2, 0.3, 0.4))
    for index, (kept, right) in enumerate(((3, 1.0), (1, 0.0)), start=1):
        step = Step(iteration=iteration, phase="curriculum", index=index)
        candidates = [candidate(), candidate(EVIL), candidate(None, "malformed")]
        write_candidates(run, step, candidates)
        oracle = {"label_accuracy": right, "label_accuracy_all": 0.5}
        counts = {"kept": kept, "kept_share": kept / 5, "dropped/malformed": 5 - kept}
        run.finish_step(
            step,
            {"agreement": 0.5, "well_formed": 0.8, **counts}
            | (oracle if run.stored.config.task == "arithmetic" else {}),
        )
    learn(run, iteration, "solver", (0.5, 0.6))
    run.finish_iteration(iteration, heldout_row(iteration, scores, run.stored.config.seed))


def write_candidates(run: Run, step: Step, candidates: list[Candidate]) -> None:
    async def make() -> list[Candidate]:
        return candidates

    asyncio.run(run.once(f"{step.key}/candidates", Candidate, make))


BASE = [score((True, False), (True, False)), score((False, False), (False, False))]
BETTER = [score((True, True), (True, True)), score((False, False), (False, False))]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "run")
    run.finish_iteration(0, heldout_row(0, BASE, seed=0))
    iterate(run, 1, BETTER)
    return run


def test_summary_numbers(run: Run) -> None:
    summary, page = write_report(run.stored)
    assert json.loads((run.stored.root / "summary.json").read_text()) == summary
    assert page.read_text().startswith("<!doctype html>")
    base, first = summary["heldout"]
    assert (base["mean@2"], base["greedy"], base["maj@2"]) == (0.25, 0.5, 0.0)
    assert (base["cot_share"], base["accuracy_given_cot"]) == (0.25, 1.0)
    assert (first["mean@2"], first["cot_share"], first["accuracy_given_direct"]) == (0.5, 0.5, 0.0)
    assert summary["label_accuracy"] == [0.75]  # (3 x 1.0 + 1 x 0.0) / 4
    assert summary["challenger_reward"] == [[0.2, 0.4]]
    # 3 + 2 + 2 steps and 2 evaluations
    assert summary["tokens_sampled"] == 9 * 100
    assert summary["wall_clock_s"] == {"total": 27.0, "sampling": 18.0, "learning": 13.5}
    assert summary["weight_syncs"] == 5
    assert summary["max_logprob_difference"] == 6e-6
    assert summary["max_logprob_difference_probes"] == 3e-6
    assert (summary["num_iterations"], summary["num_finished_iterations"]) == (2, 1)


def test_reading_divides_the_gain() -> None:
    def row(share: float, given_cot: float, direct: float, iteration: int) -> dict[str, Any]:
        accuracy = share * given_cot + (1 - share) * direct
        return {
            "iteration": iteration,
            "mean@4": accuracy,
            "mean@4_ci95": [accuracy - 0.05, accuracy + 0.05],
            "cot_share": share,
            "accuracy_given_cot": given_cot,
            "accuracy_given_direct": direct,
        }

    # .2 x .8 = .16 to .6 x .9 = .54. Share: .4 x .85 = .34; given CoT: .4 x .1 = .04.
    text = reading([row(0.2, 0.8, 0.0, 0), row(0.6, 0.9, 0.0, 3)], 4)
    assert "mean@4 went from .16 to .54 (+.38)" in text
    assert "+.34 (89%) goes with the chain-of-thought share (.20 to .60)" in text
    assert "+.04 (11%) with accuracy given CoT (.80 to .90)" in text
    assert ".00 with accuracy of direct answers (.00 to .00)" in text
    assert "do not overlap" in text
    noise = reading([row(0.2, 0.8, 0.0, 0), row(0.2, 0.81, 0.0, 3)], 4)
    assert "may be noise" in noise
    assert "%)" not in noise
    # Nobody reasoned at first: the accuracy given CoT is unknown then, not zero.
    first = row(0.0, 0.0, 0.1, 0) | {"accuracy_given_cot": None}
    text = reading([first, row(0.5, 0.9, 0.1, 1)], 4)
    assert "+.40 (100%) goes with the chain-of-thought share (.00 to .50)" in text
    assert ".00 with accuracy given CoT (- to .90)" in text


class Elements(HTMLParser):
    """Collects the elements of a page, and what they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]


def test_report_is_one_file_and_model_text_is_inert(run: Run) -> None:
    step = Step(iteration=2, phase="curriculum", index=1)
    write_candidates(run, step, [candidate("9" * 1_000_000)])
    whole = make_page(run.stored, make_summary(run.stored))
    page = whole.replace(table_script(), "")
    assert "9" * 300 in page
    assert "9" * 301 not in page
    elements = Elements()
    elements.feed(page)
    assert not {"img", "link", "iframe"} & set(elements.tags)
    assert elements.tags.count("script") == 1 and '<script type="module"></script>' in page
    assert all(link.startswith("#") for link in elements.links)
    assert not re.search(r"url\((?!#|data:image/png)|@import", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not {"\u202e", "\x1b"} & set(page)
    assert "http://" not in page
    ids = re.findall(r"url\(#([^)]+)\)", page)
    assert all(f'id="{name}"' in page for name in ids)


def test_a_run_that_stopped_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    summary = make_summary(run.stored)
    assert summary["heldout"] == []
    assert summary["max_logprob_difference"] is None
    assert "Configuration" in make_page(run.stored, summary)


def test_a_run_that_stopped_half_way(run: Run) -> None:
    learn(run, 2, "challenger", (0.1,))
    with (run.stored.root / "events.jsonl").open("a") as stream:
        stream.write('{"event": "weight s')
    summary = make_summary(run.stored)
    assert summary["label_accuracy"] == [0.75, None]
    assert summary["challenger_reward"] == [[0.2, 0.4], [0.1, 0.1]]
    assert summary["weight_syncs"] == 6
    page = make_page(run.stored, summary).replace(table_script(), "")
    assert "1 of 2 iterations" in page
    assert page.count("<svg") == 8


def test_without_an_oracle_and_without_heldout_problems(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", task="math")
    run.finish_iteration(0, heldout_row(0, [], seed=0))
    iterate(run, 1, [])
    summary = make_summary(run.stored)
    assert summary["label_accuracy"] == [None]
    assert summary["heldout"] == []
    page = make_page(run.stored, summary)
    assert "Label accuracy" not in page
    assert "<th>truth" not in page


def test_strata_stand_beside_the_headline(tmp_path: Path):
    run = make_run(tmp_path / "run")
    figures = {"num_problems": 20, "greedy": 0.25, "mean@2": 0.125}
    run.finish_iteration(0, {**heldout_row(0, BASE, 0), "strata": {"9 operands": figures}})
    page = make_page(run.stored, make_summary(run.stored))
    assert "<th>9 operands (n = 20)</th>" in page
    assert "<td>base</td><td>.25 / .12</td>" in page


def _many_iterations(root: Path, count: int) -> Run:
    """Return a run of which so many curricula are on disk, of two steps each."""
    run = make_run(root)
    for iteration in range(1, count + 1):
        for index in (1, 2):
            step = Step(iteration=iteration, phase="curriculum", index=index)
            kept = [candidate(f"{iteration}+{index}+{k}") for k in range(9)]
            dropped = [candidate(f"{iteration}*{index}*{k}", "above the band") for k in range(9)]
            write_candidates(run, step, [*kept, *dropped, candidate(None, "malformed")])
    return run


def test_a_long_run_is_told_by_its_first_its_last_and_a_few_iterations_between(tmp_path: Path):
    run = _many_iterations(tmp_path / "short", 12)
    page = make_page(run.stored, make_summary(run.stored))
    assert re.findall(r">iteration (\d+)</text>", page) == ["1", "3", "5", "8", "10", "12"]
    run = _many_iterations(tmp_path / "long", 30)
    page = make_page(run.stored, make_summary(run.stored))
    assert page.count("<image ") == 2  # a picture with a row an iteration, and its scale
    # Every iteration has its questions, the same number.
    rows = re.findall(r'<td class="figure" data-name="iteration">(\d+)</td>', page)
    assert [*dict.fromkeys(rows)] == [str(iteration) for iteration in range(30, 0, -1)]
    assert set(Counter(rows).values()) == {38}


def test_the_same_number_of_each_outcome_is_shown_and_what_some_leave_goes_to_others():
    assert divide(12, {"a": 100, "b": 100, "c": 100}) == {"a": 4, "b": 4, "c": 4}
    assert divide(12, {None: 100, "b": 2, "c": 3}) == {None: 7, "b": 2, "c": 3}
    assert divide(50, {None: 3, "b": 2}) == {None: 3, "b": 2}
    assert sum(divide(10, dict.fromkeys("abc", 9)).values()) == 10
    assert set(divide(2, dict.fromkeys("abcd", 9)).values()) == {0, 1}


def test_questions_are_drawn_over_all_steps_with_the_runs_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = _many_iterations(tmp_path / "run", 2).stored
    monkeypatch.setattr("rzero_ray.run.report.candidates.MOST_SHOWN", 24)
    first, second = sample_questions(run)
    assert (first.num_questions, second.num_questions) == (38, 38)
    outcomes = [of.dropped for of in first.questions]
    assert outcomes == [None] * 5 + ["above the band"] * 5 + ["malformed"] * 2
    texts = [of.text for of in first.questions]
    assert len(set(texts[:10])) == 10
    assert {text[:3] for text in texts[:10]} == {"1+1", "1+2", "1*1", "1*2"}
    again = [of.text for of in sample_questions(run)[0].questions]
    assert again == texts
    other = StoredRun(replace(run.config, seed=1), run.root, run.base_model)
    assert [of.text for of in sample_questions(other)[0].questions] != texts
    page = make_page(run, make_summary(run))
    assert "24 of 76 questions" in page


def test_agreements_are_counted_by_iteration_over_questions_with_a_vote(tmp_path: Path):
    run = _many_iterations(tmp_path / "run", 2)
    step = Step(iteration=3, phase="curriculum", index=1)
    unanswered = replace(candidate(), answers=(None,), num_agree=0, num_votes=0)
    write_candidates(run, step, [unanswered])
    counts = agreement_counts(run.stored, np.array([0.0, 0.5, 0.75, 1.0]))
    assert {iteration: list(of) for iteration, of in counts.items()} == {
        1: [0, 38, 0],  # two of three answered votes agree
        2: [0, 38, 0],
    }
