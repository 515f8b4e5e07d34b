"""The page of a run in a browser: its table of questions sorts, pages and filters, hostile text in
it stays text, and a long run's page is small enough and readable."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.run.report import datatable, markup, questions
from rzero_ray.run.report.candidates import MOST_SHOWN, QuestionSample, ShownQuestion
from rzero_ray.run.report.drawing import thinned
from rzero_ray.run.report.writing import write_report
from rzero_ray.types import Step
from tests.unit.chromium import DESK, PHONE, Tab, chromium
from tests.unit.long_runs import make_long_run
from tests.unit.test_report import BASE, BETTER, candidate, iterate, make_run, write_candidates

HOSTILE = (
    "<script>document.title = 'evil'</script>",
    "</td></table></script><script>document.title = 'evil'</script>",
    "<img src=x onerror=\"document.title = 'evil'\">",
    "&lt;img src=x onerror=\"document.title = 'evil'\"&gt;",
    "<svg onload=\"document.title='evil'\"><style>body { display: none }</style>",
    '"><a href="javascript:document.title=1" autofocus onfocus="document.title=1">9+1</a>',
    "<link rel=stylesheet href=https://evil.example/x.css><base href=https://evil.example/>",
    "<iframe srcdoc=\"<script>parent.document.title='evil'</script>\"></iframe>",
    "{{constructor.constructor('document.title=1')()}} ${document.title=1} $\\frac$ {script}",
)
WORKING = ".dt-info"
"""Is there once the table's script has run."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def written(root: Path, *, texts: tuple[str, ...] = ()) -> Path:
    """Write the report of a run of two iterations; `texts` are everywhere in the second's."""
    run = make_run(root)
    iterate(run, 1, BASE)
    iterate(run, 2, BETTER)
    rows = [
        replace(
            candidate(f"{number}+1", "above the band" if number % 3 else None),
            label="3" if number % 2 else "4",
            answers=("3", "4"),
            num_agree=number % 9,
            num_votes=9,
        )
        for number in range(60)
    ]
    hostile = [
        replace(candidate(text, text), text=text, label=text, truth=text, answers=(text, None))
        for text in texts
    ]
    write_candidates(run, Step(iteration=3, phase="curriculum", index=1), [*hostile, *rows])
    _, path = write_report(run.stored)
    return path


def shown(tab: Tab) -> list[dict[str, str]]:
    """The rows that the table shows, {title: text}."""
    titles = tab.texts("#questions thead th")
    cells = tab.texts("#questions tbody td")
    lines = [cells[k : k + len(titles)] for k in range(0, len(cells), len(titles))]
    return [dict(zip(titles, line, strict=True)) for line in lines]


@pytest.mark.slow
def test_a_reader_filters_sorts_and_turns_pages(tab: Tab, tmp_path: Path):
    tab.open(f"file://{written(tmp_path / 'run')}")
    assert tab.texts(WORKING) == ["1 to 25 of 72 questions"]
    assert not tab.complaints
    tab.choose("select[data-column='0']", "3")
    assert tab.texts(WORKING) == ["1 to 25 of 60 questions (of 72 on this page)"]
    tab.choose("select[data-column='2']", "kept")
    assert {row["outcome"] for row in shown(tab)} == {"kept"} and len(shown(tab)) == 20
    tab.choose("select[data-column='4']", "wrong")
    assert {(row["label"], row["truth"]) for row in shown(tab)} == {("4", "3")}
    tab.type("#question-filters input", "2+")
    assert {row["question"] for row in shown(tab)} == {"12+1", "42+1"}
    tab.choose("select[data-column='4']", "")
    tab.choose("select[data-column='2']", "")
    assert {row["question"] for row in shown(tab)} == {f"{n}2+1" for n in ("", 1, 2, 3, 4, 5)}
    tab.type("#question-filters input", "no such text")
    assert tab.texts("#questions tbody") == ["No question on this page is like that."]
    tab.type("#question-filters input", "")
    tab.click("#questions thead th:nth-child(7)")
    shares = [float(row["agreement"].partition(" ")[0]) for row in shown(tab)]
    assert shares == sorted(shares) and len(set(shares)) > 1
    before = {row["question"] for row in shown(tab)}
    tab.click(".dt-paging-button.next")
    assert tab.texts(WORKING) == ["26 to 50 of 60 questions (of 72 on this page)"]
    assert not before & {row["question"] for row in shown(tab)}


@pytest.mark.slow
def test_without_scripts_the_whole_table_is_there(tab: Tab, tmp_path: Path):
    tab.open(f"file://{written(tmp_path / 'run')}", scripts=False)
    assert tab.texts(WORKING) == []
    assert len(shown(tab)) == 72
    assert tab.run("document.getElementById('question-filters').checkVisibility()") is False


@pytest.mark.slow
def test_hostile_text_is_text(tab: Tab, tmp_path: Path):
    path = written(tmp_path / "run", texts=HOSTILE)
    tab.requested.clear()
    tab.open(f"file://{path}")
    tab.choose("select[data-column='0']", "3")
    tab.click("#questions thead th:nth-child(2)")
    tab.run("document.querySelector('.dt-length select').value = 500")
    tab.run("document.querySelector('.dt-length select').dispatchEvent(new Event('change'))")
    tab.type("#question-filters input", "evil")
    tab.type("#question-filters input", "<")
    rows = shown(tab)
    assert {row["question"] for row in rows} == {text for text in HOSTILE if "<" in text}
    assert {row["outcome"] for row in rows} == {
        text if len(text) <= 60 else f"{text[:60]}..." for text in HOSTILE if "<" in text
    }
    inside = "#questions tbody td *, #question-filters option *, iframe, a, base, link, img"
    assert tab.run(f"document.querySelectorAll({inside!r}).length") == 0
    assert tab.run("document.title") == "fake"
    assert tab.requested == [f"file://{path}"] and not tab.complaints


@pytest.mark.slow
@pytest.mark.parametrize("has_policy", [True, False])
def test_the_policy_would_hold_where_nothing_is_escaped(
    tab: Tab, tmp_path: Path, has_policy: bool, monkeypatch: pytest.MonkeyPatch
):
    """Without both walls the text does run: the test above would find it."""
    monkeypatch.setattr(questions.html, "escape", lambda text, quote=True: text)
    if not has_policy:
        monkeypatch.setattr(markup, "policy", lambda script, styles: "")
    path = written(tmp_path / "run", texts=HOSTILE[:1])
    tab.requested.clear()
    tab.open(f"file://{path}")
    assert "<td class=\"text question\"><script>document.title = 'evil'" in path.read_text()
    assert (tab.run("document.title") == "evil") is not has_policy
    refused = any("Content Security Policy" in line for line in tab.complaints)
    assert refused is has_policy
    tab.complaints.clear()


# A long run.

MOST_BYTES = 20_000_000


@pytest.mark.parametrize("text", [None, "'\"&<>\U0001f600" * 2_000])
def test_the_page_of_a_hundred_iterations_is_small(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
):
    run = make_long_run(tmp_path / "run", 100, text=text)
    start = time.process_time()
    _, path = write_report(run)
    seconds, size = time.process_time() - start, path.stat().st_size
    with capsys.disabled():
        print(f"\nreport of 100 iterations: {size / 1e6:.1f} MB, {seconds:.1f} s of processor time")
    assert size < MOST_BYTES / 2
    written = path.read_text()
    assert written.count('data-name="iteration"') == 2_000
    (outcomes,) = re.findall('outcome<select data-column="2">(.*?)</select>', written)
    assert outcomes.count("<option>") == (5 if text is None else 40)


def test_the_most_that_a_table_can_take_fits_a_page():
    """Of characters that take six bytes each, in every cell."""
    worst = "'" * 100_000
    question = ShownQuestion(
        text=worst,
        question=worst,
        answers=tuple(f"{k}{worst}" for k in range(20)),
        label=worst,
        num_agree=1,
        num_votes=9,
        dropped=worst,
        truth=worst,
    )
    sample = QuestionSample(iteration=99_999, questions=[question] * MOST_SHOWN, num_questions=9)
    section = questions.questions_section([sample], has_oracle=True)
    assert len(section.encode()) < MOST_BYTES / 2


def test_a_long_line_keeps_its_extremes_and_its_gaps():
    ys: list[float | None] = [math.sin(x / 500) for x in range(10_000)]
    ys[3_333], ys[7_777], ys[5_000] = 9.0, -9.0, None
    xs, thin = thinned(range(10_000), ys)
    assert len(xs) <= 901 and (np.diff(xs) > 0).all()
    assert np.nanmax(thin) == 9 and np.nanmin(thin) == -9
    assert xs[np.isnan(thin)].tolist() == [5_000]
    short, same = thinned([0, 1, 2], [1.0, None, 3.0])
    assert short.tolist() == [0, 1, 2] and np.isnan(same[1])


@pytest.mark.slow
def test_a_phone_scrolls_tables_and_not_the_page(tab: Tab, tmp_path: Path):
    run = make_long_run(tmp_path / "run", 100, name="x" * 80, text="\U0001f600'" * 2_000)
    _, path = write_report(run)
    for size in (PHONE, DESK):
        tab.open(f"file://{path}", size)
        assert tab.texts(WORKING) == ["1 to 25 of 2,000 questions"]
        assert tab.run("document.documentElement.scrollWidth") == size[0]
    assert not tab.complaints
    scrolls = "e => e.scrollHeight > e.clientHeight"
    assert tab.run(f"[...document.querySelectorAll('.scroll')].some({scrolls})")


def test_the_library_is_put_into_html_as_it_is():
    script = datatable.table_script()
    assert not re.search(r"<!--|</?script", script, re.IGNORECASE)
    assert script.count("\\x3Cscript") >= 4 and "const DataTable = " in script
    assert not re.search(r"\bexport\s*\{", script)
