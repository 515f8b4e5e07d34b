"""The timeline of a run: what is read of `trace.json`, by hand-made events, and how it is shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.run import trace as trace_module
from rzero_ray.run.report import lanes as lanes_module
from rzero_ray.run.report.lanes import TraceReader
from rzero_ray.run.report.serving import timeline as serving_module
from rzero_ray.run.report.timeline import draw_timeline, shares_table, timeline_section
from rzero_ray.run.trace import ACTIVITIES, TRACE_FILE, TraceFile, shown_activity
from rzero_ray.types import Activity, BusySpan, Role
from tests.unit.chromium import dump
from tests.unit.test_coevolution import OVERRIDES, Attempt
from tests.unit.test_report import EVIL
from tests.unit.test_report_browser import TOKEN, served

ORIGIN = 1.8e9
ENGINE, RANK = "solver/sampler-0", "learner/rank-0"


class Recorded:
    """A trace that is written by a clock which the test moves, in seconds since its start."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, start: float = 0.0) -> None:
        self.now = start
        monkeypatch.setattr(trace_module.time, "time", lambda: ORIGIN + self.now)
        self.trace = TraceFile(root)

    def phase(self, start: float, iteration: int, phase: str) -> None:
        self.now = start
        self.trace.see_event("phase", {"iteration": iteration, "phase": phase})

    def work(
        self,
        actor: str,
        activity: Activity,
        role: Role | None,
        start: float,
        end: float,
        busy: float = 1.0,
    ) -> None:
        """The actor is at work for `busy` of the time; it is told at the clock's time."""
        self.trace.see_work(
            BusySpan(
                actor=actor,
                activity=activity,
                role=role,
                start_s=ORIGIN + start,
                seconds=end - start,
                busy_s=busy * (end - start),
            )
        )

    def actor(self, name: str, node: str = "10.0.0.1", gpus: tuple[str, ...] = ()) -> None:
        details = {"actor": name, "state": "HEALTHY", "life": 1, "node": node, "gpus": gpus}
        self.trace.see_event("actor", details)

    def end(self, moment: float) -> None:
        self.now = moment
        self.trace.finish_iteration({"iteration": 1})
        self.trace.close()


def write_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds: five of the Challenger's phase, three of the Solver's, two of evaluation."""
    run = Recorded(root, monkeypatch)
    run.actor("challenger/sampler-0", gpus=("0",))
    run.actor(ENGINE, node="10.0.0.2", gpus=("0", "1"))
    run.actor(RANK, gpus=("1",))
    run.phase(0.0, 1, "challenger")
    run.work("challenger/sampler-0", "sampling", "challenger", 0.0, 2.0)
    run.work(ENGINE, "sampling", "solver", 1.0, 3.0, busy=0.5)
    run.work(RANK, "learning", "challenger", 3.0, 4.0)
    run.work("challenger/sampler-0", "weight sync", "challenger", 4.0, 4.5)
    run.phase(5.0, 1, "solver")
    run.work(ENGINE, "sampling", "solver", 5.0, 6.0)
    run.phase(8.0, 1, "evaluation")
    run.work(RANK, "learning", "solver", 6.0, 7.5)  # told when the phase is over
    run.work(ENGINE, "sampling", "solver", 8.0, 10.0)
    run.end(10.0)


def read(root: Path) -> TraceReader:
    reader = TraceReader(root)
    reader.read_on()
    return reader


def busy(reader: TraceReader) -> dict[str, dict[str, float]]:
    return {
        name: {activity: round(seconds, 3) for activity, seconds in lane.busy_s.items()}
        for name, lane in reader.lanes.items()
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_run(tmp_path, monkeypatch)
    return tmp_path


def test_a_lane_has_what_its_actor_did_and_where_it_is(root: Path):
    reader = read(root)
    assert not reader.problem and reader.num_damaged == 0
    assert busy(reader) == {
        "challenger/sampler-0": {"questions": 2.0, "weight sync": 0.5},
        ENGINE: {"votes": 1.0, "answers": 1.0, "evaluation": 2.0},
        RANK: {"learning": 2.5},
    }
    assert reader.lanes[ENGINE].node == "10.0.0.2" and reader.lanes[ENGINE].gpus == ("0", "1")
    assert reader.seconds == pytest.approx(10.0) == reader.work_seconds
    phases = [
        (of.iteration, of.phase, round(of.start, 3), round(of.end, 3)) for of in reader.phases
    ]
    assert phases == [(1, "challenger", 0, 5), (1, "solver", 5, 8), (1, "evaluation", 8, 10)]


def test_shares_are_of_the_time_of_the_run(root: Path):
    head, rows = shares_table(read(root))
    assert head[:3] == ["actor", "where", "busy"]
    assert head[3:] == ["questions", "votes", "answers", "evaluation", "learning", "weight sync"]
    assert rows == [
        ["challenger/sampler-0", "10.0.0.1 GPU 0", "25.0%", "20.0%", *["-"] * 4, "5.0%"],
        [ENGINE, "10.0.0.2 GPU 0, 1", "40.0%", "-", "10.0%", "10.0%", "20.0%", "-", "-"],
        [RANK, "10.0.0.1 GPU 1", "25.0%", *["-"] * 4, "25.0%", "-"],
    ]


def test_a_window_has_the_share_of_each_bin(root: Path):
    window = read(root).window(0.5, 4.5, 4)
    shares = {n: {a: s.round(4).tolist() for a, s in of.items()} for n, of in window.shares.items()}
    assert shares == {
        "challenger/sampler-0": {"questions": [1, 0.5, 0, 0], "weight sync": [0, 0, 0, 0.5]},
        ENGINE: {"votes": [0.25, 0.5, 0.25, 0]},
        RANK: {"learning": [0, 0, 0.5, 0.5]},
    }


@pytest.mark.parametrize(("start", "end"), [(0.0, 10.0), (3.3, 8.7), (9.99, 50.0), (100.0, 101.0)])
@pytest.mark.parametrize("num_bins", [1, 7, 480])
def test_no_second_of_a_window_is_lost(root: Path, start: float, end: float, num_bins: int):
    window = read(root).window(start, end, num_bins)
    width = (end - start) / num_bins
    found = sum(bins.sum() * width for of in window.shares.values() for bins in of.values())
    spans = [(0, 2, 1), (1, 3, 0.5), (3, 4, 1), (4, 4.5, 1), (5, 6, 1), (6, 7.5, 1), (8, 10, 1)]
    expected = sum(max(0.0, min(end, b) - max(start, a)) * share for a, b, share in spans)
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(np.all(s <= 1) for of in window.shares.values() for s in of.values())


def test_a_second_start_goes_on_in_the_lanes_and_the_pause_is_no_time_of_the_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both starts have the process number of this test, as in containers."""
    run = Recorded(root, monkeypatch, start=110.0)
    run.actor(RANK)  # its track has another number than in the first start
    run.actor(ENGINE)
    run.phase(110.0, 2, "challenger")
    run.phase(110.01, 2, "curriculum")
    run.work(ENGINE, "sampling", "solver", 111.0, 115.0)
    run.end(120.0)
    reader = read(root)
    assert busy(reader)[ENGINE] == {"votes": 5.0, "answers": 1.0, "evaluation": 2.0}
    assert busy(reader)[RANK] == {"learning": 2.5}
    assert reader.seconds == pytest.approx(120.0)
    assert reader.work_seconds == pytest.approx(20.0)
    assert [of.phase for of in reader.phases[3:]] == ["curriculum"]  # the other had nothing left
    assert reader.last_iterations(60.0) == pytest.approx((110.01, 120.0))
    assert reader.last_iterations(5.0) == pytest.approx((110.01, 120.0))  # one at least
    assert reader.last_iterations(200.0) == pytest.approx((0.0, 120.0))


def test_a_kill_leaves_the_phase_and_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Recorded(tmp_path, monkeypatch)
    run.phase(0.0, 1, "challenger")
    run.work(ENGINE, "sampling", "solver", 1.0, 4.0)
    with (tmp_path / TRACE_FILE).open("a") as file:
        file.write('{"pid": 1, "ph": "X", "na')
    reader = read(tmp_path)
    assert (reader.num_damaged, busy(reader)) == (0, {ENGINE: {"votes": 3.0}})
    assert [(of.start, round(of.end, 3)) for of in reader.phases] == [(0.0, 4.0)]
    again = Recorded(tmp_path, monkeypatch, start=50.0)  # which cuts the half line off
    again.phase(50.0, 1, "challenger")
    again.work(ENGINE, "sampling", "solver", 51.0, 52.0)
    reader.read_on()
    assert (reader.num_damaged, busy(reader)) == (0, {ENGINE: {"votes": 4.0}})
    assert [(of.start, round(of.end, 3)) for of in reader.phases] == [(0.0, 4.0), (50.0, 52.0)]
    whole = json.loads((tmp_path / TRACE_FILE).read_text().rstrip(",\n") + "]")
    assert len(whole) > 8


def test_a_file_that_grows_is_read_on(root: Path, monkeypatch: pytest.MonkeyPatch):
    text = (root / TRACE_FILE).read_bytes()
    reader = TraceReader(root)
    for size in range(0, len(text) + 1, 97):
        (root / TRACE_FILE).write_bytes(text[:size])
        reader.read_on()
    (root / TRACE_FILE).write_bytes(text)
    reader.read_on()
    assert busy(reader) == busy(read(root)) and reader.phases == read(root).phases
    (root / TRACE_FILE).write_bytes(text[:50])  # another file
    reader.read_on()
    assert not busy(reader) and reader.problem


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\n",
        b"not json\n",
        b"[1, 2],\n",
        b"{},\n",
        b"[" * 50_000 + b"\n",
        b'{"pid": 1, "ph": "X", "ts": NaN, "dur": 1, "name": "x"},\n',
        b'{"pid": 1, "ph": "X", "ts": 1e300, "dur": 1, "name": "x"},\n',
        b'{"pid": 1, "ph": "X", "ts": -5, "dur": 1, "name": "x"},\n',
        b'{"pid": "a", "ph": "M", "name": "thread_name", "args": {"name": "x"}},\n',
        b'{"pid": 1, "ph": "X", "ts": 5, "name": "votes", "cat": "work", "tid": 77},\n',
        b'{"pid": 1, "ph": "X", "ts": 5, "args": [1]},\n',
        b"x" * 300_000 + b"\n",
    ],
    ids=range(12),
)
def test_a_damaged_line_is_counted_and_left_out(root: Path, damage: bytes):
    lines = (root / TRACE_FILE).read_bytes().splitlines(keepends=True)
    (root / TRACE_FILE).write_bytes(b"".join([*lines[:9], damage, *lines[9:]]))
    reader = read(root)
    assert reader.num_damaged == 1
    assert busy(reader)[ENGINE] == {"votes": 1.0, "answers": 1.0, "evaluation": 2.0}
    assert "1 lines of trace.json cannot be read" in timeline_section(root)


def test_a_timeline_that_is_not_there_is_a_line(tmp_path: Path):
    assert "<p>trace.json cannot be read: No such file" in timeline_section(tmp_path)
    (tmp_path / TRACE_FILE).mkdir()
    assert "<p>trace.json cannot be read: Is a directory" in timeline_section(tmp_path)
    (tmp_path / TRACE_FILE).rmdir()
    TraceFile(tmp_path).close()
    assert "does not say when actors were at work" in timeline_section(tmp_path)
    (tmp_path / TRACE_FILE).write_bytes(bytes(range(256)) * 100)
    assert "does not say when actors were at work" in timeline_section(tmp_path)


def test_only_a_window_of_a_long_run_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A window is as it would be if all were read, wherever it begins."""
    monkeypatch.setattr(lanes_module, "_MARK_BYTES", 500)
    run = Recorded(tmp_path, monkeypatch)
    for second in range(300):
        run.now = float(second)
        if second == 150:  # an actor that comes late
            run.actor(RANK)
        run.work(RANK if second >= 150 else ENGINE, "learning", None, second, second + 0.5)
    run.trace.close()
    reader = read(tmp_path)
    num_lines = 0

    def counted(line: bytes, event: Any = lanes_module._event) -> Any:
        nonlocal num_lines
        num_lines += 1
        return event(line)

    monkeypatch.setattr(lanes_module, "_event", counted)
    for start in (0.0, 149.0, 151.0, 290.0):
        num_lines = 0
        window = reader.window(start, start + 10.0, 10)
        found = {name: of["learning"].tolist() for name, of in window.shares.items()}
        by_lane = {
            ENGINE: [0.5 * (start + k < 150) for k in range(10)],
            RANK: [0.5 * (start + k >= 150) for k in range(10)],
        }
        assert found.keys() == {name for name, shares in by_lane.items() if any(shares)}
        for name, shares in found.items():
            assert shares == pytest.approx(by_lane[name], abs=1e-4)
        assert num_lines < 300 - start + 20


def test_what_an_engine_samples_has_the_name_of_its_use():
    def of(role: Role | None, phase: str, activity: Activity = "sampling") -> str:
        return shown_activity(activity, role, phase)

    assert of("challenger", "challenger") == of("challenger", "curriculum") == "questions"
    assert of("solver", "challenger") == of("solver", "curriculum") == "votes"
    assert (of("solver", "solver"), of("solver", "evaluation")) == ("answers", "evaluation")
    assert of("verifier", "verifier") == of("referee", "solver") == "judging"
    named = {of(None, "", activity) for activity in Activity.__args__}
    assert named <= {*ACTIVITIES}


# Shown.


def test_the_report_draws_lanes_phases_and_a_legend(root: Path):
    section = timeline_section(root)
    texts = re.findall(r"<text[^>]*>(.*?)</text>", section)
    assert {"solver/sampler-0 10.0.0.2 GPU 0,1", "1 challenger", "1 solver", "phase"} <= {*texts}
    legend = [text for text in texts if text in ACTIVITIES]
    assert legend == ["questions", "votes", "answers", "evaluation", "learning", "weight sync"]
    assert "Seconds 0 to 10 of 10." in section
    assert len(section) < 200_000


def test_many_phases_are_drawn_as_iterations_of_which_some_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Recorded(tmp_path, monkeypatch)
    for iteration in range(1, 101):
        run.phase(2.0 * iteration, iteration, "challenger")
        run.work(RANK, "learning", "challenger", 2.0 * iteration, 2.0 * iteration + 0.5)
        run.phase(2.0 * iteration + 1, iteration, "solver")
    run.end(202.0)
    reader = read(tmp_path)
    texts = re.findall(r"<text[^>]*>(.*?)</text>", draw_timeline(reader, 0.0, reader.seconds))
    named = [int(text) for text in texts if text.isdecimal() and 0 < int(text) <= 100]
    assert "iteration" in texts and "phase" not in texts and {4, 8, 96, 100} <= {*named}
    few = re.findall(r"<text[^>]*>(.*?)</text>", draw_timeline(reader, 100.0, 108.0))
    assert "phase" in few and {"50 challenger", "50 solver", "53 solver"} <= {*few}


def test_a_hostile_trace_is_text(root: Path, tmp_path: Path):
    text = (root / TRACE_FILE).read_text()
    evil = json.dumps(f"{EVIL}$\\frac{{1$")[1:-1]
    (root / TRACE_FILE).write_text(text.replace("solver/sampler-0", evil).replace("solver", evil))
    section = timeline_section(root)
    assert "<script" not in section and "<img" not in section and "\u202e" not in section
    assert "&lt;script&gt;alert(1)" in section


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(OVERRIDES)


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on fakes, whose trace is the hand-made one."""
    root = tmp_path_factory.mktemp("timeline") / "run"
    Attempt(replace(config, run_dir=str(root)), root).go()
    with pytest.MonkeyPatch.context() as patched:
        write_run(root, patched)
    return root


def test_the_browser_shows_a_window_and_the_ways_to_others(config: Config, finished: Path):
    with served(config, finished) as client:
        assert 'href="/timeline"' in client.get("/").text
        whole = client.get("/timeline")
        assert whole.status_code == 200 and "<b>0.0</b> to <b>10.0</b> of 10.0" in whole.text
        part = client.get("/timeline?from=2&to=4").text
        assert "<b>2.0</b> to <b>4.0</b>" in part
        links = {
            text: unescape(query) for query, text in re.findall(r'timeline(\?[^"]*)">(.*?)<', part)
        }
        assert links == {
            "earlier": "?from=0.00&to=2.00",
            "later": "?from=4.00&to=6.00",
            "closer": "?from=2.50&to=3.50",
            "wider": "?from=1.00&to=5.00",
            "whole": "?from=0.00&to=10.00",
            "1": "?from=0.00&to=10.00",
        }
        assert "25.0%" in part and "10.0.0.2 GPU 0, 1" in part
        assert client.get("/timeline?from=8").text.count("<b>10.0</b>") == 1


def test_the_browser_has_no_styles_that_its_policy_forbids(config: Config, finished: Path):
    with served(config, finished) as client:
        page = client.get("/timeline").text
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert "style" not in drawing and "script" not in page.lower()
    assert 'fill="#E69F00"' in drawing or 'fill="#e69f00"' in drawing


@pytest.mark.parametrize("query", ["from=x", "to=nan", "from=-1", "to=1e12"])
def test_a_window_that_means_nothing_is_one_line(config: Config, finished: Path, query: str):
    with served(config, finished) as client:
        answer = client.get(f"/timeline?{query}")
    assert answer.status_code == 400
    assert re.search(rf'<p class="problem">{query.partition("=")[0]} is a number of', answer.text)


def test_the_browser_says_why_there_is_no_timeline(config: Config, finished: Path):
    (finished / TRACE_FILE).rename(finished / "away")
    try:
        with served(config, finished) as client:
            answer: httpx.Response = client.get("/timeline?from=1&to=2")
        assert answer.status_code == 200
        assert '<p class="problem">trace.json cannot be read: No such file' in answer.text
    finally:
        (finished / "away").rename(finished / TRACE_FILE)


@pytest.mark.slow
@pytest.mark.parametrize("is_mended", [True, False])
def test_a_browser_finds_nothing_in_it_that_the_policy_forbids(
    config: Config, finished: Path, tmp_path: Path, is_mended: bool, monkeypatch
):
    """Chromium says on its console what it leaves out, as it does of matplotlib's own styles."""
    if not is_mended:
        monkeypatch.setattr(serving_module, "_without_styles", lambda svg: svg)
    with served(config, finished) as client:
        address = f"{client.base_url}/timeline?token={TOKEN}"
        done = dump(tmp_path, address, "--enable-logging=stderr")
    assert "weight sync</text>" in done.stdout
    assert ("Content Security Policy" in done.stderr) is not is_mended
