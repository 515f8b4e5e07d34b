"""The figures and the verdict of a base model, from answers that are written by hand."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.config.load import load_config
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.study import gate
from rzero_ray.study.command import main
from rzero_ray.study.gate import measure_gate
from rzero_ray.study.gate_figures import GateRow, faults_of, gate_row, gate_table
from rzero_ray.tasks.ladder import questions
from rzero_ray.tasks.registry import LadderTask
from rzero_ray.types import Ballot, UserError

GOOD = GateRow(
    base=3,
    model="ladder-base-x",
    steps_short=0.999,
    steps_long=0.99,
    accuracy={"2-3": 0.99, "4-5": 0.7, "6-7": 0.3, "8-9": 0.05, "10-12": 0.02},
    accuracy_hopeless=0.03,
    last_majority=5,
    well_formed=0.98,
    in_band=0.01,
    in_wide_band=0.05,
)


def _answered(question: questions.Question, num_right: int, spoil_step: bool = False):
    """Eight answers to a question; the wrong ones leave out the last operation."""
    values = question.running_values()
    steps = [f"{o}{v}" for o, v in zip(question.operations, values[1:], strict=True)]
    right, wrong = (questions.answer_of(values[:n]) for n in (len(values), len(values) - 1))
    texts = [
        f"{question.start}{''.join(steps)}\\boxed{{{right}}}"
        if index < num_right
        else f"{question.start}{''.join(steps[:-1])}\\boxed{{{wrong}}}"
        for index in range(8)
    ]
    if spoil_step:
        texts[0] = f"{question.start}{question.operations[0]}{(values[1] + 1) % 10}"
    return AnsweredProblem(
        question=question.text,
        reference=right,
        options=(),
        category="",
        greedy_text=texts[0],
        greedy_answer=right,
        greedy_truncated=False,
        greedy_num_tokens=1,
        texts=tuple(texts),
        answers=tuple(right if index < num_right else "no" for index in range(8)),
        truncated=(False,) * 8,
        num_tokens=np.ones(8, np.int32),
        majority=right if num_right > 4 else "no",
    )


def _ballot(num_agree: int, num_votes: int = 8) -> Ballot:
    answers = ("11",) * num_agree + (None,) * (8 - num_agree)
    return Ballot(answers=answers, label="11", num_agree=num_agree, num_votes=num_votes)


def _held_out(num_right: dict[int, int]) -> list[AnsweredProblem]:
    return [
        _answered(question, num_right[len(question.operations)])
        for question in questions.heldout_questions(12)
    ]


def test_figures_of_a_base():
    rights = {2: 8, 3: 8, 4: 6, 5: 5, 6: 3, 7: 1, **dict.fromkeys(range(8, 13), 0)}
    answered = _held_out(rights)
    row = gate_row(7, "m", answered, 8, [_ballot(n) for n in (8, 8, 7, 6, 2, 1)])
    assert (row.base, row.model, row.last_majority) == (7, "m", 5)
    assert row.accuracy == {"2-3": 1, "4-5": 11 / 16, "6-7": 0.25, "8-9": 0, "10-12": 0}
    assert (row.accuracy_hopeless, row.steps_short, row.steps_long) == (0, 1, 1)
    assert (row.well_formed, row.in_band, row.in_wide_band) == (6 / 8, 2 / 6, 3 / 6)


def test_a_majority_that_is_right_on_half_of_a_length_counts():
    rights = {**dict.fromkeys(range(2, 7), 8), **dict.fromkeys(range(7, 13), 0)}
    answered = _held_out(rights)
    sevens = [n for n, problem in enumerate(answered) if problem.question.count("[") == 7]
    for n in sevens[: len(sevens) // 2]:
        answered[n] = replace(answered[n], majority=answered[n].reference)
    assert gate_row(0, "m", answered, 1, []).last_majority == 7
    answered[sevens[0]] = replace(answered[sevens[0]], majority="no")
    assert gate_row(0, "m", answered, 1, []).last_majority == 6
    all_right = _held_out(dict.fromkeys(range(2, 13), 8))
    assert gate_row(0, "m", all_right, 1, []).last_majority == 12


def test_wrong_steps_are_counted_by_the_tables_and_nothing_else_is_a_step():
    question = questions.parse("triple:7[3v+1][3v+4]")
    assert question is not None
    problem = _answered(question, 8, spoil_step=True)
    # Seven answers of two right steps, and one of a single wrong step.
    assert gate_row(0, "m", [problem], 1, []).steps_short == 14 / 15
    texts = ("7[?1]8\\boxed{78}", "7[3v+1]", "[3v+1]2", "what", "7[9]8", *problem.texts[5:])
    assert gate_row(0, "m", [replace(problem, texts=texts)], 1, []).steps_short == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"steps_short": 0.98}, "single steps 0.98 not in [0.99, 1]"),
        ({"accuracy": GOOD.accuracy | {"2-3": 0.8}}, "2-3 0.8 not in [0.9, 1]"),
        ({"accuracy": GOOD.accuracy | {"4-5": 0.82}}, "4-5 0.82 not in [0.55, 0.8]"),
        ({"accuracy": GOOD.accuracy | {"6-7": 0.19}}, "6-7 0.19 not in [0.2, 0.4]"),
        ({"accuracy_hopeless": 0.13}, "8 and more 0.13 not in [0, 0.12]"),
        ({"last_majority": 4}, "last right majority 4 not in [5, 6]"),
        ({"last_majority": 7}, "last right majority 7 not in [5, 6]"),
        ({"in_band": 0.21}, "Challenger in the band 0.21 not in [0, 0.2]"),
    ],
)
def test_each_criterion_is_missed_alone(change: dict, fault: str):
    assert faults_of(GOOD) == []
    assert faults_of(GOOD.model_copy(update=change)) == [fault]


def test_the_table_has_a_line_a_base_and_says_why_it_fails():
    weak = GOOD.model_copy(update={"base": 1, "last_majority": 4})
    lines = gate_table([GOOD, weak]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 1 |") and "fails: last right majority 4" in lines[2]
    assert "| .9990 .9900 | .990 | .700 | .300 | .030 | 5 |" in lines[3]
    assert lines[3].endswith("| passes |")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bases that were sampled from, in order; nothing is built and nothing sampled."""
    found: list[int] = []

    async def measure(config, base: int, model: Path) -> GateRow:
        found.append(base)
        return GOOD.model_copy(update={"base": base, "model": model.name})

    monkeypatch.setattr(gate, "_measure_base", measure)
    monkeypatch.setattr(gate, "obtain_model", lambda model: Path(f"model-{model.base_seed}"))
    return found


def test_bases_that_were_measured_are_not_measured_again(tmp_path: Path, measured: list[int]):
    config, folder = load_config(["conf=ladder"]), tmp_path / "gate"
    first = asyncio.run(measure_gate(config, [4, 2], folder))
    assert [row.base for row in first] == measured == [4, 2]
    again = asyncio.run(measure_gate(config, [2, 5], folder))
    assert [row.base for row in again] == [2, 5]
    assert measured == [4, 2, 5]
    rows = json.loads((folder / "gate.json").read_text())["rows"]
    assert [row["base"] for row in rows] == [4, 2, 5]


def test_a_base_of_another_recipe_is_measured_again(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
):
    config = load_config(["conf=ladder"])
    asyncio.run(measure_gate(config, [4], tmp_path / "gate"))
    monkeypatch.setattr(gate, "obtain_model", lambda model: Path("other"))
    (row,) = asyncio.run(measure_gate(config, [4], tmp_path / "gate"))
    assert (row.model, measured) == ("other", [4, 4])


def test_other_settings_folders_and_tasks_are_refused(tmp_path: Path, measured: list[int]):
    folder = tmp_path / "gate"
    asyncio.run(measure_gate(load_config(["conf=ladder"]), [4], folder))
    other = load_config(["conf=ladder", "voting.sampling.temperature=0.5"])
    with pytest.raises(UserError, match=r"votes\.temperature=1\.0, not 0\.5; give another folder"):
        asyncio.run(measure_gate(other, [4], folder))
    with pytest.raises(UserError, match="about task=ladder"):
        asyncio.run(measure_gate(load_config(["conf=tiny"]), [4], tmp_path / "new"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        asyncio.run(measure_gate(load_config(["conf=ladder"]), [4], tmp_path / "full"))
    (folder / "gate.json").write_text('{"settings": {}, "rows": [{}]}')
    with pytest.raises(UserError, match=r"gate\.json is damaged \(rows\.0\.base"):
        asyncio.run(measure_gate(load_config(["conf=ladder"]), [4], folder))
    assert measured == [4]


def test_the_command_prints_the_table_and_refuses_what_are_no_seeds(
    tmp_path: Path, measured: list[int], capsys: pytest.CaptureFixture[str]
):
    gate = ["gate=ladder", f"folder={tmp_path}/gate"]
    assert main([*gate, "bases=0..1"]) == 0
    assert capsys.readouterr().out.count("passes") == 2
    mistakes = ("bases=", "bases=x", "bases=1,", "bases=-1", "arms=rzero", "seeds=0", "sed=1")
    for mistake in mistakes:
        assert main([*gate, *(["bases=0"] if "bases" not in mistake else []), mistake]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and mistake.partition("=")[0] in error


def test_the_gate_measures_all_reserved_problems():
    assert len(LadderTask().reserved()) == 60 * 11


@pytest.mark.parametrize("change", [{"accuracy": {}}, {"steps_short": float("nan")}])
def test_a_row_that_has_not_its_figures_is_damage_in_one_line(
    change: dict, tmp_path: Path, measured: list[int], capsys
):
    command = [f"folder={tmp_path / 'gate'}", "gate=ladder", "bases=0"]
    assert main(command) == 0
    path = tmp_path / "gate/gate.json"
    content = json.loads(path.read_text())
    content["rows"][0].update(change)
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gate.json is damaged" in line
