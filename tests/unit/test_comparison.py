"""Runs side by side: the figures are those that one works out by hand, what cannot be compared is
refused in one line, and names and texts of runs are never more than text."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.__main__ import main
from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.heldout import heldout_row, read_answered
from rzero_ray.evaluation.statistics import bootstrap_interval
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.parquet import write_records
from rzero_ray.run.report.comparison.differences import differences, scores_of
from rzero_ray.run.report.comparison.page import make_comparison
from rzero_ray.run.report.comparison.plots import comparison_plots
from rzero_ray.run.report.comparison.runs import open_runs
from rzero_ray.run.report.serving.application import Browser
from rzero_ray.run.run import Run
from rzero_ray.types import iteration_key
from tests.unit.builders import answered
from tests.unit.chromium import PHONE, Tab, chromium
from tests.unit.fakes import SilentObserver
from tests.unit.long_runs import make_long_run
from tests.unit.studies import OVERRIDES, make_run
from tests.unit.test_report_browser import TOKEN, serving
from tests.unit.test_report_page import HOSTILE

Marks = Sequence[tuple[bool, ...]]
"""By problem, which sampled answers are right; the first stands for the greedy one, too."""
START: Marks = [(True, False), (False, False), (True, True), (False, False)]
WORSE: Marks = [(True, False), (False, True), (True, True), (False, False)]
BETTER: Marks = [(True, True), (True, False), (True, True), (False, True)]


def problems(marks: Marks) -> list[AnsweredProblem]:
    return [
        answered(
            "5" if right[0] else "4",
            tuple("5" if of else "4" for of in right),
            "5" if all(right) else "4",
            question=f"{number}+1",
        )
        for number, right in enumerate(marks)
    ]


def evaluated(root: Path, evaluations: Sequence[list[AnsweredProblem]], **changes) -> Path:
    """Make a run that has these evaluations, the base model's first."""
    config = Config(task="arithmetic", run_dir=str(root), num_iterations=2)
    usual = {"name": root.name, "eval": EvalConfig(num_samples=2)}
    config = replace(config, **{**usual, **changes})
    prepare_run_dir(config, root)
    run = Run(config, root, Path("/base"), StageClock(), SilentObserver())
    for iteration, of in enumerate(evaluations):
        write_records(answers(root, iteration), of, AnsweredProblem)
        run.finish_iteration(iteration, heldout_row(iteration, of, config.seed))
    return root


def answers(root: Path, iteration: int) -> Path:
    return root / iteration_key(iteration) / "evaluation.parquet"


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return evaluated(tmp_path / "a", [problems(START), problems(WORSE)])


@pytest.fixture
def b(tmp_path: Path) -> Path:
    made = [problems(START), problems(BETTER), problems(BETTER)]
    return evaluated(tmp_path / "b", made, seed=7)


def compare(*arguments: str | Path) -> int:
    return main(["report", *map(str, arguments)])


def page_of(root: Path) -> str:
    return unescape((root / "comparison.html").read_text())


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    part = page[page.index(heading) :]
    part = part[: part.index("</table>")]
    return [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in part.split("<tr>")[1:]]


def test_differences_are_those_of_the_same_problems(a: Path, b: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in b.rglob("*")}
    assert compare(f"run_dir={a}", f"compare={b}") == 0
    assert capsys.readouterr().out == f"comparison {a}/comparison.html\n"
    assert {path: path.stat().st_mtime_ns for path in b.rglob("*")} == before
    page = page_of(a)
    head, last, base = table(page, "<h2>B minus A</h2>")
    assert head == ["", "greedy", "mean@2", "maj@2", "problems"]
    # Greedy 3/4 - 2/4; mean@2 (2 + 1 + 2 + 1)/8 - (1 + 1 + 2 + 0)/8; majorities 2/4 - 1/4.
    values = [cell.partition(" ")[0] for cell in last]
    assert values == ["iteration", "+.250", "+.250", "+.250", "4"]
    assert base == ["base", *[".000 [.000, .000]"] * 3, "4"]
    interval = [float(bound) for bound in re.findall(r"[+-]?\.\d+", last[2])[1:]]
    # One of two answers more to the first and the last problem.
    assert interval == pytest.approx(bootstrap_interval([0.5, 0, 0, 0.5], seed=0), abs=5e-4)
    assert f"mean@2 {last[2]} over the same 4 problems" in page
    assert "B minus A after iteration 1, the last that both have finished" in page
    assert "one seed" in page and "rzero study compares methods" in page


def test_headline_and_keys_stand_side_by_side(a: Path, b: Path):
    assert compare("--compare", b, f"run_dir={a}") == 0
    page = page_of(a)
    head, *rows = table(page, "<h2>Held-out problems</h2>")
    assert head == ["", *(f"{run} {key}" for run in "AB" for key in ("greedy", "mean@2", "maj@2"))]
    assert [row[0] for row in rows] == ["iteration 2", "iteration 1", "base"]
    assert rows[0][1:4] == ["-", "-", "-"]
    shares = [cell.partition(" ")[0] for cell in rows[1][1:]]
    assert shares == [".50", ".50", ".25", ".75", ".75", ".50"]
    assert all("[" in cell for cell in rows[1][1:])
    assert "All keys are the same." in page
    facts = table(page, "What this cannot say")
    assert facts[1][1:] == ["a", "b"] and facts[4] == ["seed", "0", "7"]


def test_keys_that_differ_are_listed_and_those_of_the_evaluation_told(a: Path, tmp_path: Path):
    marks = [tuple(right * 2) for right in START]
    other = evaluated(
        tmp_path / "c",
        [problems(marks)],
        eval=EvalConfig(num_samples=4),
        model=replace(Config().model, base_seed=3),
    )
    assert compare(f"run_dir={a}", f"compare={other}") == 0
    page = page_of(a)
    keys = table(page, "<h2>Configuration</h2>")
    assert ["model.base_seed", "0", "3"] in keys and ["eval.num_samples", "2", "4"] in keys
    assert "name" not in [row[0] for row in keys]
    assert "evaluated with another eval.num_samples" in page
    assert table(page, "<h2>B minus A</h2>")[0] == ["", "greedy", "mean of samples", "problems"]


def test_two_runs_of_the_program_are_compared(tmp_path: Path):
    roots = []
    for skill in (0.3, 0.9):
        config = load_config(["conf=tiny", *OVERRIDES, f"run_dir={tmp_path / str(skill)}"])
        make_run(config, skill)
        roots.append(Path(config.run_dir))
    assert compare(f"run_dir={roots[0]}", "--compare", roots[1]) == 0
    page = page_of(roots[0])
    rows = table(page, "<h2>B minus A</h2>")
    assert [row[0] for row in rows[1:]] == ["iteration 2", "iteration 1", "base"]
    low, high = (read_answered(answers(root, 2)) for root in roots)
    gap = np.mean([of.correct for of in high]) - np.mean([of.correct for of in low])
    assert f"{gap:+.3f}".replace("0.", ".") == rows[1][2].partition(" ")[0]
    titles = re.findall("<h3>(.*?)</h3>", page)
    assert titles[:4] == ["Accuracy", "Label accuracy", "Agreement", "Reward of the Challenger"]
    assert {"Length of questions", "Diversity", "Tokens"} <= set(titles)


def test_a_line_of_a_plot_is_the_runs_own(tmp_path: Path):
    runs = [make_long_run(tmp_path / name, 3, name=name, seed=k) for k, name in enumerate("ab")]
    opened = open_runs(runs[0].root, [runs[1].root])
    (plot,) = [plot for plot in comparison_plots(opened) if plot.title == "Tokens"]
    assert plot.svg.count("A a") == plot.svg.count("B b") == 1
    (reward,) = [p for p in comparison_plots(opened) if p.title == "Reward of the Solver"]
    assert reward.svg.count("<use ") >= 2 * 3


# What is refused.


def test_a_judged_run_has_figures_and_no_differences(a: Path, b: Path):
    first, second = (
        replace(run, config=replace(run.config, method="judged")) for run in open_runs(a, [b])
    )
    found = differences(first, second)
    assert not found.paired and "holds qualities" in (found.refusal or "")
    assert scores_of(first, 1) is None
    rows = table(unescape(make_comparison([first, second])), "<h2>Held-out problems</h2>")
    assert rows[2][1] == ".50" and rows[2][2].startswith(".50 [")


@pytest.mark.parametrize("method", ["other task", "other problems", "no answers"])
def test_figures_without_differences_have_the_reason(a: Path, tmp_path: Path, method: str):
    other = problems(BETTER)
    changes = {}
    if method == "other task":
        changes = {"task": "ladder", "model": replace(Config().model, path="ladder")}
    if method == "other problems":
        other = [replace(problem, question=f"{problem.question}+0") for problem in other]
    root = evaluated(tmp_path / "other", [other], **changes)
    if method == "no answers":
        answers(root, 0).unlink()
    assert compare(f"run_dir={a}", f"compare={root}") == 0
    page = page_of(a)
    reason = {
        "other task": "their tasks are arithmetic and ladder",
        "other problems": "they have answered other held-out problems (the base model)",
        "no answers": "no iteration has its graded answers in both",
    }[method]
    assert f"B minus A has no paired differences: {reason}" in page
    assert "<h2>B minus A</h2>" not in page
    assert table(page, "<h2>Held-out problems</h2>")[-1][4].startswith(".75")


def test_what_cannot_be_compared_is_one_line(a: Path, b: Path, tmp_path: Path, capsys):
    (tmp_path / "link").symlink_to(a)
    empty = evaluated(tmp_path / "empty", [])
    copies = [shutil.copytree(b, tmp_path / f"copy-{k}") for k in range(8)]
    cases = {
        f"compare={a}": "is the run",
        f"compare={b},{tmp_path / 'link'}": "is the run",
        f"compare={b},{b}": "is the run",
        f"compare={tmp_path}": "is no run directory",
        f"compare={tmp_path / 'nothing'}": "is no run directory",
        f"compare={empty}": "has no evaluation",
        f"compare={','.join(map(str, copies))}": "names 8 runs; 7 have room",
    }
    for argument, reason in cases.items():
        for serve in ([], ["serve=true"]):
            assert compare(f"run_dir={a}", argument, *serve) == 2, argument
            line = capsys.readouterr().err
            assert reason in line and line.count("\n") == 1
    assert compare(f"run_dir={empty}", f"compare={a}") == 2
    assert "has no evaluation" in capsys.readouterr().err
    assert compare(f"run_dir={a}", "--compare") == 2
    assert "--compare names no run directory" in capsys.readouterr().err
    answers(b, 1).write_bytes(b"PAR1")
    assert compare(f"run_dir={a}", f"compare={b}") == 2
    assert f"{answers(b, 1)} is damaged" in capsys.readouterr().err
    assert not (a / "comparison.html").exists()


def test_a_folder_in_place_of_the_page_is_refused(a: Path, b: Path, capsys):
    (a / "comparison.html").mkdir()
    assert compare(f"run_dir={a}", f"compare={b}") == 2
    assert "comparison.html" in capsys.readouterr().err


# In a browser.


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def hostile_pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs whose every text is hostile, the names of their folders, too."""
    roots = []
    names = (HOSTILE[0].replace("/", ""), "$x_{$ <img src=x onerror='document.title=1'>")
    for number, name in enumerate(names):
        made = [replace(problem, question=HOSTILE[0]) for problem in problems(START)]
        root = evaluated(tmp_path / name, [made, made], name=name, seed=number)
        roots.append(root)
    return roots[0], roots[1]


@pytest.mark.slow
def test_hostile_names_are_text(tab: Tab, tmp_path: Path):
    first, second = hostile_pair(tmp_path)
    assert compare(f"run_dir={first}", f"compare={second}") == 0
    address = (first / "comparison.html").as_uri()
    tab.requested.clear()
    for size in ((1280, 900), PHONE):
        tab.open(address, size)
        assert tab.run("document.documentElement.scrollWidth") == size[0]
    assert set(tab.requested) == {address}
    assert not tab.complaints
    assert tab.run("document.scripts.length + document.images.length") == 0
    assert tab.texts(".runs tbody tr:first-child td")[1].startswith("<script>document.title")
    assert tab.run("document.title").startswith("<script>")
    assert any("$" in text for text in tab.texts("figure svg text"))


@pytest.mark.slow
def test_a_run_is_compared_in_the_browser(tab: Tab, a: Path, b: Path):
    config = replace(Config(), run_dir=str(a), eval=EvalConfig(num_samples=2), task="arithmetic")
    with serving(Browser(config, a, Path("/base"), [b])) as client:
        tab.open(f"{client.base_url}/?token={TOKEN}")
        tab.complaints.clear()
        tab.click("a[href='/compare']")
        tab.wait("location.pathname == '/compare' && document.readyState == 'complete'")
        assert tab.texts("h2")[0] == "B minus A"
        assert tab.run("getComputedStyle(document.querySelector('h1')).fontSize") == "30.4px"
        assert not tab.complaints
        assert client.get("/compare").status_code == 403
    with serving(Browser(config, a, Path("/base"))) as client:
        client.get(f"/?token={TOKEN}")
        assert "no run to compare with" in client.get("/compare").text
        assert "/compare" not in client.get("/").text
