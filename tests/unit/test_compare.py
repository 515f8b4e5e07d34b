"""The comparison with labelled data: which runs it starts, and what it reads from them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.config.load import load_config
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.run.parquet import write_records
from rzero_ray.study import compare as module
from rzero_ray.study.compare import compare, main, read_scores, to_markdown
from tests.unit.builders import answered
from tests.unit.test_heldout import write_as_before

ARGUMENTS = ["conf=tiny", "labelled.path=tiny", "num_iterations=2", "seeds=0,1"]


def _problems(rate: float, seed: int) -> list[AnsweredProblem]:
    rng = np.random.default_rng(seed)

    def answer() -> str:
        return "5" if rng.random() < rate else "4"

    return [
        answered(answer(), tuple(answer() for _ in range(8)), "5", question=str(i))
        for i in range(200)
    ]


def _write_problems(folder: Path, rate: float, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "evaluation.parquet", _problems(rate, seed), AnsweredProblem)


@pytest.fixture
def started(monkeypatch, tmp_path) -> list[list[str]]:
    """Stand in for the driver: note each command and leave the files that a run leaves."""
    commands: list[list[str]] = []
    rates = {"rzero": 0.6, "labelled": 0.7, "rzero_then_labelled": 0.8}

    def run(command):
        commands.append(command)
        load_config(command[3:])  # the driver would refuse a bad argument
        root = Path(next(a for a in command if a.startswith("run_dir=")).removeprefix("run_dir="))
        arm, _, seed = root.name.rpartition("-")
        for iteration in range(3):
            rate = rates[arm] if iteration else 0.3
            _write_problems(root / f"iteration-{iteration:02d}", rate, seed=int(seed))
        return 0

    monkeypatch.setattr(module, "_run_to_its_end", run)
    return commands


def test_arms_have_equal_budgets_and_start_where_they_should(started, tmp_path):
    scores, k = compare([*ARGUMENTS, f"root={tmp_path}"])
    assert k == 8
    assert [(s.arm, s.seed, s.num_updates) for s in scores[:4]] == [
        ("base", 0, 0),
        ("rzero", 0, 30),
        ("labelled", 0, 30),
        ("rzero_then_labelled", 0, 30),
    ]
    then = started[2]
    assert f"model.path={tmp_path}/rzero-0/models/solver-iteration-01" in then
    assert "num_iterations=1" in then
    assert "method=labelled_grpo" in then
    assert load_config(started[0][3:]).labelled.path == ""
    assert "method=coevolution" in started[0]


def test_a_conf_may_name_the_labels(started, tmp_path):
    conf = tmp_path / "mine.yaml"
    conf.write_text("method: labelled_grpo\nlabelled: {path: tiny}\n")
    compare([f"conf=tiny,{conf}", "num_iterations=2", f"root={tmp_path}/runs"])
    methods = [load_config(command[3:]).method for command in started]
    assert methods == ["coevolution", "labelled_grpo", "labelled_grpo"]


def test_what_one_arm_alone_refuses_is_known_before_any_starts(started, tmp_path, capsys):
    command = [*ARGUMENTS, f"root={tmp_path}/runs", "method=labelled_sft"]
    assert main([*command, "solver.samples_per_prompt=1"]) == 2
    assert "samples_per_prompt=1 leaves" in capsys.readouterr().err and not started
    assert not (tmp_path / "runs").exists()


def test_scores_are_those_of_the_runs(started, tmp_path):
    scores, _ = compare([*ARGUMENTS, f"root={tmp_path}"])
    by_arm = {s.arm: s for s in scores if s.seed == 1}
    for arm, rate in (("base", 0.3), ("rzero", 0.6), ("labelled", 0.7)):
        assert by_arm[arm].mean == pytest.approx(rate, abs=0.04)  # 1,600 draws
        assert by_arm[arm].interval[0] < by_arm[arm].mean < by_arm[arm].interval[1]
    gain = by_arm["rzero_then_labelled"]
    assert gain.gain == pytest.approx(gain.mean - by_arm["base"].mean)
    assert gain.gain_interval[0] < gain.gain < gain.gain_interval[1]
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert len(rows) == 8
    table = to_markdown(scores, 8)
    assert table.count("\n") == 2 + 8 + 4
    assert (tmp_path / "comparison.md").read_text() == table


def test_run_directories_from_before_give_the_same_scores(started, tmp_path):
    scores, _ = compare([*ARGUMENTS, f"root={tmp_path}"])
    for path in tmp_path.glob("*/iteration-*/evaluation.parquet"):
        seed = int(path.parent.parent.name.rpartition("-")[2])
        rates = {"rzero": 0.6, "labelled": 0.7, "rzero_then_labelled": 0.8}
        rate = rates[path.parent.parent.name.rpartition("-")[0]]
        write_as_before(path, _problems(0.3 if path.parent.name == "iteration-00" else rate, seed))
    config = load_config([*ARGUMENTS[:3], "method=labelled_grpo"])
    assert [s for seed in (0, 1) for s in read_scores(config, tmp_path, seed)] == scores


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["conf=tiny"], "do not fit"),
        (["conf=bouquet", "labelled.path=tiny"], "task=bouquet, whose requests have no exact"),
        (["conf=tiny", "labelled.path=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        ([*ARGUMENTS, "seed=3"], "use seeds="),
        ([*ARGUMENTS, "seeds=a"], "whole numbers"),
        ([*ARGUMENTS, "method=coevolution"], "bad value for method"),
        (["conf=tiny", "labelled.path=tiny", "num_iterations=1"], "at least 2"),
    ],
)
def test_mistakes_are_one_line(arguments, complaint, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_stop_reaches_the_arm_under_way_and_waits_for_its_end(tmp_path):
    """The arm's own process tells of the stop before it ends."""
    arm = "import signal, sys, time\n" + (
        "def stop(*_):\n    time.sleep(.5)\n    open(sys.argv[1], 'w').write('ended')\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    told = tmp_path / "told"
    code = (
        "import sys\nfrom rzero_ray.config.command import run_command\n"
        "from rzero_ray.study.compare import _run_to_its_end\n"
        f"command = [sys.executable, '-c', {arm!r}, {str(told)!r}]\n"
        "sys.exit(run_command([], str, lambda _: _run_to_its_end(command)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(timeout=20) == 130
    assert told.read_text() == "ended"
