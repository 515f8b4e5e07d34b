"""Lines of a job log hold no control characters; the live display survives what is thrown at it."""

import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.config import Config
from rzero_ray.run.display import LiveDisplay, LogDisplay, make_display
from rzero_ray.run.plan import GIB, MemoryPlan, PhasePlan
from rzero_ray.run.plan_tables import print_plan

STEP = {
    "iteration": 1,
    "phase": "challenger",
    "step": 3,
    "reward": 0.52,
    "agreement": 0.481,
    "label_accuracy": 0.77,
    "kl": 0.0031,
    "logprob_difference_max": 2.13e-6,
    "tokens_sampled": 30_000,
    "seconds": {"sampling": 4.0, "wall": 6.0},
}
CURRICULUM = {
    "iteration": 1,
    "phase": "curriculum",
    "step": 1,
    "agreement": 0.5,
    "kept": 1390,
    "label_accuracy": 0.6,
    "seconds": {"wall": 2.0},
}


def evaluation(iteration: int, accuracy: float) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "num_problems": 100,
        "greedy": accuracy,
        "mean@4": accuracy,
        "mean@4_ci95": [accuracy - 0.05, accuracy + 0.05],
        "maj@4": accuracy,
        "cot_share": 0.5,
        "accuracy_given_cot": 0.9,
        "accuracy_given_direct": 0.1,
    }


SUMMARY = {
    "heldout": [evaluation(0, 0.3), evaluation(1, 0.6)],
    "label_accuracy": [0.6],
    "reading": "From the base to iteration 1 it rose.",
    "wall_clock_s": {"total": 100.0, "sampling": 60.0, "learning": 30.0},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        name="[/x][red]fake[/red]",
        run_dir=str(tmp_path),
        num_iterations=3,
        eval=EvalConfig(num_samples=4),
    )


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in text), text
    return text


def test_one_plain_line_per_step(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with make_display(config) as display:
        assert isinstance(display, LogDisplay)
        display.start_phase(1, "challenger", 5, 2)
        display.finish_step(STEP)
        display.start_phase(1, "curriculum", 1, 0)
        display.finish_step(CURRICULUM)
        display.finish_iteration(evaluation(1, 0.6))
        display.note("two\nlines \x1b[31m[bold]")
    lines = [line.partition("] ")[2] for line in printed(capsys).splitlines()]
    assert lines == [
        "iteration 1/3 challenger: 5 steps, 2 done before",
        "iteration 1/3 challenger 3/5  reward .52  agreement .48  label accuracy .77  kl .0031  "
        "logprob diff 2.1e-06  tokens/s 7,500  seconds 6.0",
        "iteration 1/3 curriculum: 1 step",
        "iteration 1/3 curriculum 1/1  agreement .50  kept 1,390  label accuracy .60  seconds 2.0",
        "iteration 1/3 held-out  greedy .60  mean@4 [95%] .60 [.55, .65]  maj@4 .60  "
        "CoT share .50  accuracy given CoT .90",
        "two lines  [31m[bold]",
    ]


def test_finish_prints_table_reading_and_paths(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with make_display(config) as display:
        display.finish(SUMMARY, tmp_path / "report.html")
    text = printed(capsys)
    base, first = (line.split() for line in text.splitlines() if " .90 " in line)
    assert base == ["base", ".30", ".30", "[.25,", ".35]", ".30", ".50", ".90", "-"]
    assert first[:3] == ["iteration", "1", ".60"] and first[-1] == ".60"
    assert SUMMARY["reading"] in text
    assert "100.0 in all; by stage, overlapping: sampling 60.0, learning 30.0" in text
    assert f"{tmp_path}/report.html\n" in text
    assert f"{tmp_path}/summary.json\n" in text


def phase_plan(phase: str, samples: int, max_tokens: int, updates: int) -> PhasePlan:
    return PhasePlan(
        phase=phase,
        samples=samples,
        challenger_tokens=0,
        solver_tokens=max_tokens,
        trained_tokens=0,
        updates=updates,
    )


def test_plan_counts_the_whole_run(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    plan = [
        phase_plan("solver", samples=1000, max_tokens=20_000, updates=5),
        phase_plan("evaluation", samples=10, max_tokens=100, updates=0),
    ]
    memory = [
        MemoryPlan(
            role="learner/rank",
            num_actors=4,
            weights=2 * GIB,
            reference=GIB,
            gradients=GIB // 2,
            optimizer=3 * GIB,
            activations=GIB,
        )
    ]
    print_plan(config, plan, memory, [], ["needs  2 CPU", "has    [4] CPU"])
    lines = [line.split() for line in printed(capsys).splitlines()]
    assert ["one", "iteration", "1,010", "20,100", "5"] in lines
    assert [line[-3:] for line in lines if line[:1] == ["x"]] == [["3,040", "60,400", "15"]]
    assert ["has", "[4]", "CPU"] in lines
    # weights, reference, gradients, optimizer, activations, no KV cache, total
    figures = ["2.0", "1.0", "0.5", "3.0", "1.0", "-", "7.5"]
    assert ["4", "x", "learner/rank", *figures] in lines


@pytest.mark.parametrize("name", ["[/x]", "[red]x[/red]", "[link=x]y", ":smile:"])
def test_a_name_is_no_markup(config: Config, name: str, capsys: pytest.CaptureFixture[str]):
    named = replace(config, name=name)
    print_plan(named, [phase_plan("solver", samples=1, max_tokens=1, updates=1)], [], [], [name])
    assert printed(capsys).count(name) == 2
    with make_display(named) as display:
        display.note(name)
        display.finish_iteration(evaluation(0, 0.5))
        display.finish(SUMMARY, Path(name) / "report.html")
    assert printed(capsys).count(name) >= 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Called inside a test: pytest sets the streams anew between a fixture and its test."""

    def replace_streams() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return replace_streams


def test_live_display(
    config: Config, open_terminal: Callable[[], Terminal], tmp_path: Path
) -> None:
    terminal = open_terminal()
    logger = logging.getLogger("a.library")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    with make_display(config) as display:
        assert isinstance(display, LiveDisplay)
        display.start_phase(1, "challenger", 3, 0)
        assert handler.stream is not terminal
        logger.warning("[odd] warning")
        display.finish_step(STEP)
        display.start_phase(1, "solver", 0, 0)
        display.finish_iteration(evaluation(1, 0.6))
        display.finish(SUMMARY, tmp_path / "report.html")
    logger.removeHandler(handler)
    assert handler.stream is terminal
    text = terminal.getvalue()
    assert "[odd] warning" in text
    assert "[red]fake[/red]" in text
    assert SUMMARY["reading"] in text


def test_live_display_ends_with_an_error(
    config: Config, open_terminal: Callable[[], Terminal]
) -> None:
    terminal = open_terminal()
    with pytest.raises(RuntimeError), make_display(config) as display:
        display.note("going")
        raise RuntimeError
    assert sys.stderr is terminal
    assert terminal.getvalue().count("\x1b[?25h") == 1, "the cursor is shown again"


def test_a_resumed_run_shows_earlier_accuracies(
    config: Config, open_terminal: Callable[[], Terminal], tmp_path: Path
) -> None:
    terminal = open_terminal()
    folder = tmp_path / "iteration-00"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(evaluation(0, 0.31)))
    with make_display(config):
        pass
    assert ".26, .36" in terminal.getvalue()
