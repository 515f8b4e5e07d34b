"""Labelled data: what is read, what is refused, and what the Solver is taught on fakes."""

import asyncio
import json
from pathlib import Path

import pytest

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.load import load_config
from rzero_ray.driver import METHODS, _check_labelled_texts, check_and_run
from rzero_ray.phases.labelled import load_labelled
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import hold_run_dir, prepare_run_dir
from rzero_ray.run.parquet import read_records
from rzero_ray.run.run import Run
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.tasks.tiny_model import build_tokenizer
from rzero_ray.types import SolverSample, UserError
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver

SMALL = ["solver.num_steps=2", "solver.num_prompts=4", "solver.samples_per_prompt=3"]


def _config(path: Path | str, conf: str = "tiny,labelled_grpo", *more: str):
    return load_config([f"conf={conf}", f"labelled.path={path}", *SMALL, *more])


def _write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_rows_become_problems_with_boxed_solutions(tmp_path):
    path = _write(
        tmp_path / "data.jsonl",
        {"question": "20-19+8", "answer": 9, "solution": "20-19=1;1+8=9;\\boxed{9}"},
        {"question": " 18-18+6 ", "answer": "6", "solution": "18-18=0;"},
        {"question": "19-15+5", "answer": "9"},
    )
    problems = load_labelled(_config(path), ArithmeticTask())
    assert [p.question for p in problems] == ["20-19+8", "18-18+6", "19-15+5"]
    assert [p.solution for p in problems] == [
        "20-19=1;1+8=9;\\boxed{9}",
        "18-18=0;\n\\boxed{6}",
        "\\boxed{9}",
    ]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{not json", "line 2 is not JSON"),
        ({"question": "1+1"}, "line 2: answer is missing"),
        ({"question": "", "answer": "2"}, "line 2: question is missing"),
        ([1], "line 2 is not an object"),
        ('{"question": "1+1", "answer": NaN}', "line 2: answer is missing"),
        ('{"question": "1+1", "answer": -Infinity}', "line 2: answer is missing"),
        ('{"question": "1+1", "answer": 1e400}', "line 2: answer is missing"),
        ({"question": "1+1", "answer": True}, "line 2: answer is missing"),
        ({"question": "1+1", "answer": ["2"]}, "line 2: answer is missing"),
        ({"question": {"a": 1}, "answer": "2"}, "line 2: question is missing"),
        ({"question": "1+1", "answer": "}{"}, "line 2: answer='}{' has braces that do not match"),
        ({"question": "1+1", "answer": "1}{2"}, "line 2: answer='1}{2' has braces"),
        ({"question": "1+1", "answer": "..."}, "line 2: answer='...' says nothing"),
        ({"question": "1+1", "answer": "A", "options": ["2", "3"]}, "line 2: options are not read"),
        (
            {"question": "1+1", "answer": "1+1 = 2\n#### 2"},
            "line 2: answer=.* holds a whole solution",
        ),
        ({"question": "1+1", "answer": "2", "solution": 7.5e400}, "line 2: solution is missing"),
        ("[" * 100_000, "line 2 is nested too deeply"),
        ("1" * 5000, "line 2 holds a number of thousands of digits"),
    ],
)
def test_bad_rows_are_one_line_errors_that_name_the_line(tmp_path, row, complaint):
    path = _write(tmp_path / "data.jsonl", {"question": "20-19+8", "answer": "9"}, row)
    with pytest.raises(UserError, match=complaint):
        load_labelled(_config(path), ArithmeticTask())


def test_half_characters_are_replaced_where_they_enter(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"question": "1+\ud83d1", "answer": "\udc00x"})
    (problem,) = load_labelled(_config(path), ArithmeticTask())
    assert (problem.question, problem.answer, problem.solution) == ("1+?1", "?x", "\\boxed{?x}")


def test_a_line_ends_at_a_line_feed_only_and_is_numbered_so(tmp_path):
    path = tmp_path / "d.jsonl"
    separators = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
    row = {"question": f"a{separators}b", "answer": "2"}
    text = json.dumps(row, ensure_ascii=False)
    path.write_text(f"{text}\r\n\r\n{text}\n{{bad\n", encoding="utf-8-sig", newline="")
    with pytest.raises(UserError, match=r"d\.jsonl, line 4 is not JSON"):
        load_labelled(_config(path), ArithmeticTask())
    path.write_text(f"{text}\r\n\r\n{text}\n", encoding="utf-8-sig", newline="")
    problems = load_labelled(_config(path), ArithmeticTask())
    assert [p.question for p in problems] == [row["question"]] * 2


def test_held_out_problems_are_not_learned_from(tmp_path):
    held_out = ArithmeticTask().heldout()[0]
    path = _write(tmp_path / "d.jsonl", {"question": held_out.question, "answer": held_out.answer})
    with pytest.raises(UserError, match="1 of them held out"):
        load_labelled(_config(path), ArithmeticTask())


def test_built_in_problems_are_right_and_not_held_out():
    task = ArithmeticTask()
    problems = load_labelled(_config("tiny"), task)
    held_out = {task.normalize(p.question) for p in task.heldout()}
    assert len({p.question for p in problems}) == len(problems) == 1000
    assert all(task.solve(p.question) == p.answer == parse_answer(p.solution) for p in problems)
    assert not any(task.normalize(p.question) in held_out for p in problems)


def test_method_and_file_must_fit():
    with pytest.raises(UserError, match="do not fit"):
        load_config(["conf=tiny,labelled_grpo"])
    with pytest.raises(UserError, match="do not fit"):
        load_config(["conf=tiny", "labelled.path=tiny"])


def _learn(config, root: Path, observer: SilentObserver | None = None) -> FakePolicy:
    challenger, solver = FakePolicy("challenger"), FakePolicy("solver")
    solver.borrows_from = challenger
    with hold_run_dir(config, root):
        prepare_run_dir(config, root)
        run = Run(config, root, Path("/base"), StageClock(), observer or SilentObserver())
        cast = Cast(challenger, solver, FakeJudge(), ArithmeticTask())
        asyncio.run(METHODS[config.method](config, cast, run))
    assert not challenger.requests  # it lends its engines, and holds the base for the monitors
    return solver


def test_grpo_rewards_the_true_answers(tmp_path):
    solver = _learn(_config("tiny"), tmp_path)
    assert len(solver.updates) == 2
    samples = read_records(tmp_path / "iteration-01/solver/step-001/rollouts.parquet", SolverSample)
    truth = {s.question: ArithmeticTask().solve(s.question) for s in samples}
    assert all(s.label == truth[s.question] for s in samples)
    assert {s.reward for s in samples} == {0.0, 1.0}


def test_imitation_shows_the_solutions(tmp_path):
    config = _config("tiny", "tiny,labelled_sft", "solver.sampling.max_tokens=20")
    solver = _learn(config, tmp_path)
    (_, shown), *_ = solver.updates
    assert len(shown) == 4
    assert max(len(d.token_ids) for d in shown) == 20  # cut at the longest completion
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert next(row["completion_tokens"] for row in rows) <= 20


def test_a_second_start_reads_the_problems_of_the_first(tmp_path):
    path = _write(tmp_path / "data.jsonl", {"question": "20-19+8", "answer": "9"})
    config = _config(path)
    _learn(config, tmp_path / "run")
    _write(path, {"question": "20+7-3", "answer": "24"})
    again = load_config(
        ["conf=tiny,labelled_grpo", f"labelled.path={path}", *SMALL, "num_iterations=2"]
    )
    _learn(again, tmp_path / "run")
    folder = tmp_path / "run/iteration-02/solver/step-001"
    samples = read_records(folder / "rollouts.parquet", SolverSample)
    assert {s.question for s in samples} == {"20-19+8"}


@pytest.fixture
def tiny_tokenizer(tmp_path) -> Path:
    folder = tmp_path / "model"
    build_tokenizer(192).save_pretrained(folder)
    return folder


SUM = "+".join(["1"] * 151)  # 301 tokens


@pytest.mark.parametrize("method", ["labelled_grpo", "labelled_sft"])
def test_a_question_that_is_too_long_is_refused_with_its_line(tmp_path, tiny_tokenizer, method):
    rows = [{"question": f"20-19+{n}", "answer": str(1 + n)} for n in range(1, 8)]
    too_long = {"question": SUM, "answer": "151"}
    path = _write(tmp_path / "d.jsonl", *rows[:3], "", too_long, *rows[3:])
    config = _config(path, f"tiny,{method}")
    complaint = r"d\.jsonl, line 5: the prompt has 304 tokens .*model\.max_model_len=192"
    with pytest.raises(UserError, match=complaint) as caught:
        _check_labelled_texts(config, tmp_path / "run", tiny_tokenizer)
    assert "\n" not in str(caught.value)
    config = _config(_write(path, *rows), f"tiny,{method}")
    _check_labelled_texts(config, tmp_path / "run", tiny_tokenizer)


def test_an_imitated_solution_has_to_fit_behind_its_prompt(tmp_path, tiny_tokenizer):
    solution = "1+1=2;" * 31 + "\\boxed{2}"
    path = _write(tmp_path / "d.jsonl", {"question": "20-18", "answer": "2", "solution": solution})
    # Nothing imitates the solution here.
    _check_labelled_texts(_config(path), tmp_path / "run", tiny_tokenizer)
    complaint = "line 1: the prompt has 8 tokens and the solution 190, together more than"
    with pytest.raises(UserError, match=complaint):
        _check_labelled_texts(_config(path, "tiny,labelled_sft"), tmp_path / "run", tiny_tokenizer)


def test_a_copy_with_a_text_that_is_too_long_is_named(tmp_path, tiny_tokenizer):
    path = _write(
        tmp_path / "d.jsonl",
        {"question": "20-19+8", "answer": "9"},
        {"question": SUM, "answer": "151"},
    )
    config = _config(path)
    _learn(config, tmp_path / "run")
    _write(path, {"question": "20-19+8", "answer": "9"})
    with pytest.raises(UserError, match=r"labelled\.parquet, the run's copy .* row 2: the prompt"):
        _check_labelled_texts(config, tmp_path / "run", tiny_tokenizer)


def test_a_run_with_a_copy_needs_no_file_and_says_so(tmp_path, capsys):
    path = _write(tmp_path / "data.jsonl", {"question": "20-19+8", "answer": "9"})
    arguments = ["conf=tiny,labelled_grpo", f"labelled.path={path}", *SMALL]
    root = tmp_path / "run"
    first, second = SilentObserver(), SilentObserver()
    _learn(load_config([*arguments, f"run_dir={root}"]), root, first)
    assert not any("labelled.parquet" in note for note in first.notes)
    path.unlink()
    check_and_run([*arguments, f"run_dir={root}", "num_iterations=2", "--dry-run"])
    again = load_config([*arguments, f"run_dir={root}", "num_iterations=2"])
    _learn(again, root, second)
    assert any("labelled.parquet, the run's copy" in note for note in second.notes)
    with pytest.raises(UserError, match="no such file"):
        check_and_run([*arguments, f"run_dir={tmp_path / 'other'}", "--dry-run"])
