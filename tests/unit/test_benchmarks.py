import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS
from rzero_ray.evaluation.benchmarks.sources import (
    find_files,
    find_suite,
    load_problems,
    pick_problems,
    read_rows,
)
from rzero_ray.tasks.registry import ArithmeticTask, MathTask
from rzero_ray.types import BenchmarkProblem, UserError
from tests.benchmark_rows import SUMS, rows_of, write_all

RULES = {"mmlu_pro": "choice", "supergpqa": "choice", "bbeh": "text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "benchmarks"
    write_all(folder)
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_data_set_is_read_from_a_file_of_its_schema(name: str, folder: Path):
    benchmark = BENCHMARKS[name]
    problems = load_problems(benchmark, name, ArithmeticTask(), str(folder), download=False)
    assert [problem.question for problem in problems] == [question for question, _ in SUMS]
    for problem, (_, answer) in zip(problems, SUMS, strict=True):
        assert problem.rule == RULES.get(name, "math")
        if problem.rule == "choice":
            assert problem.options["ABCDEFGHIJ".index(problem.answer)] == str(answer)
            assert len(problem.options) == (8 if name == "mmlu_pro" else 10)  # no fillers
        else:
            assert int(problem.answer) == answer


@pytest.mark.parametrize(
    ("name", "row", "answer"),
    [
        ("amc", {"problem": "q", "answer": 27}, "27"),
        ("amc", {"question": "q", "answer": 0.5}, "0.5"),
        (
            "math500",
            {"problem": "q", "answer": "\\frac{1}{2}", "subject": "Algebra"},
            r"\frac{1}{2}",
        ),
        ("gsm8k", {"question": "q", "answer": "so\n#### 1,234"}, "1234"),
        ("olympiad", {"question": "q", "final_answer": ["$1$", "$-2$"]}, "1, -2"),
        ("olympiad", {"question": "q", "final_answer": "['$\\\\pi$']"}, "\\pi"),  # from a CSV
        ("aime24", {"Problem": "q", "Answer": 73}, "73"),  # Maxwell-Jia/AIME_2024
        ("supergpqa", {"question": "q", "options": ["x", "y"], "answer": "y"}, "B"),
        ("mmlu_pro", {"question": "q", "options": '["x", "y"]', "answer_index": 1}, "B"),
        ("bbeh", {"question": "q", "answer": "(A)", "task": "sports"}, "(A)"),
    ],
)
def test_columns_that_mirrors_name_otherwise_are_known(name: str, row: dict, answer: str):
    (problem,) = read_rows(BENCHMARKS[name], [row], "file")
    assert (problem.question, problem.answer) == ("q", answer)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_column_is_one_line_that_names_file_column_and_what_is_there(name: str):
    row = rows_of(name)[0]
    question = {"question", "problem", "Question", "input"} & row.keys()
    (column,) = question
    with pytest.raises(UserError) as caught:
        read_rows(BENCHMARKS[name], [{k: v for k, v in row.items() if k != column}], "data/x.jsonl")
    text = str(caught.value)
    assert "\n" not in text
    assert name in text and "data/x.jsonl, row 1" in text and "no value in column" in text
    for other in row.keys() - {column}:
        assert other in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "options": ["x"], "answer": "C"}, "'C' is none of the letters of its 1"),
        ({"question": "q", "options": 3, "answer": "A"}, "must hold a list, not '3'"),
        ({"question": "q", "options": "x, y", "answer": "A"}, "must hold a list, not 'x, y'"),
        ({"question": "q", "options": ["a", "b"], "answer_index": 30}, "'30' is none of the num"),
        ({"question": "q", "options": ["a", "b"], "answer_index": -1}, "'-1' is none of the num"),
        ({"question": "q", "options": ["a", "b"], "answer_index": "x"}, "'x' is none of the num"),
        ({"question": "q", "options": ["a", "b"], "answer_index": 0.5}, "'0.5' is none of the"),
        ({"question": "q", "options": ["a", "b"], "answer_index": True}, "a text or a number"),
        ({"question": "q", "options": ["a", "b"], "answer_index": [0]}, "a text or a number"),
        ({"question": "q", "options": ["a", None], "answer": "A"}, "column options must hold a"),
        ({"question": "q", "options": {"A": 1}, "answer": "B"}, "none of the letters"),
    ],
)
def test_a_choice_without_its_option_is_refused(row: dict, message: str):
    with pytest.raises(UserError, match=message):
        read_rows(BENCHMARKS["mmlu_pro"], [row], "file")


def test_a_users_file_may_mix_choices_and_open_questions(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": "1+1", "answer": 2},
        {"question": "1+2", "answer": "3", "options": ["2", "3"]},
        {"question": "1+3", "answer": "A", "options": ["4", "5"]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    (benchmark,) = find_suite(str(path))
    assert load_problems(benchmark, str(path), ArithmeticTask(), "", download=False) == [
        BenchmarkProblem(question="1+1", answer="2"),
        BenchmarkProblem(question="1+2", answer="B", rule="choice", options=("2", "3")),
        BenchmarkProblem(question="1+3", answer="A", rule="choice", options=("4", "5")),
    ]


ANSWERS_THAT_ARE_NONE = [["1", "2"], True, False, float("nan"), float("-inf"), {"a": 1}, "  "]


@pytest.mark.parametrize("answer", ANSWERS_THAT_ARE_NONE, ids=str)
@pytest.mark.parametrize("name", ["amc", "math500", "gsm8k", "aime24", "minerva", "bbeh"])
def test_an_answer_that_is_neither_text_nor_number_is_refused(name: str, answer: object):
    row = rows_of(name)[0]
    columns = {"answer", "Answer", "target"} & row.keys()
    with pytest.raises(UserError, match=r"file, row 1: the column \w+ (must hold a text|is empty)"):
        read_rows(BENCHMARKS[name], [row | dict.fromkeys(columns, answer)], "file")


@pytest.mark.parametrize("answer", ANSWERS_THAT_ARE_NONE, ids=str)
def test_a_users_answer_is_a_text_or_a_number(answer: object):
    (benchmark,) = find_suite("mine.jsonl")
    with pytest.raises(UserError, match=r"row 1: the column answer"):
        read_rows(benchmark, [{"question": "q", "answer": answer}], "file")


def test_a_solution_with_a_box_is_an_answer():
    rows = [{"problem": "q", "solution": "so $\\boxed{4}$."}]
    assert read_rows(BENCHMARKS["math500"], rows, "file")[0].answer == "4"
    with pytest.raises(UserError, match="column solution has no box"):
        read_rows(BENCHMARKS["math500"], [{"problem": "q", "solution": "4"}], "file")


@pytest.mark.parametrize("suite", [".jsonl", ".settings.jsonl", "x" * 201 + ".jsonl.gz"])
def test_a_file_after_which_no_answers_can_be_named_is_refused(suite: str):
    with pytest.raises(UserError, match="rename it"):
        find_suite(suite)


def test_suites_name_their_benchmarks():
    assert len(find_suite("all")) == len(find_suite("math")) + len(find_suite("general")) == 10
    assert [b.name for b in find_suite("gsm8k,amc")] == ["gsm8k", "amc"]
    with pytest.raises(UserError, match="no benchmark gsm9k; there are math, general, all"):
        find_suite("amc,gsm9k")


def test_heldout_problems_are_the_tasks_own():
    (benchmark,) = find_suite("heldout")
    problems = load_problems(benchmark, "heldout", ArithmeticTask(), "", download=False)
    assert [p.question for p in problems] == [p.question for p in ArithmeticTask().heldout()]
    with pytest.raises(UserError, match="has no held-out problems"):
        load_problems(benchmark, "heldout", MathTask(), "", download=False)


def test_only_the_split_that_is_asked_is_read_of_a_snapshot(tmp_path: Path):
    (tmp_path / "mmlu_pro").mkdir()
    for split in ("test", "validation"):
        (tmp_path / "mmlu_pro" / f"{split}-00000-of-00001.parquet").touch()
    names = [path.name for path in find_files(BENCHMARKS["mmlu_pro"], str(tmp_path))]
    assert names == ["test-00000-of-00001.parquet"]


def test_a_data_set_that_is_nowhere_is_one_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        load_problems(BENCHMARKS["bbeh"], "bbeh", MathTask(), str(tmp_path), download=False)
    text = str(caught.value)
    assert "\n" not in text
    assert "MrLight/bbeh-eval" in text and "download=true" in text and "bbeh/*.parquet" in text


def test_a_broken_file_is_one_line(tmp_path: Path):
    (tmp_path / "amc.jsonl").write_text('{"question": \n')
    with pytest.raises(UserError, match=r"amc\.jsonl, line 1 is not JSON"):
        load_problems(BENCHMARKS["amc"], "amc", MathTask(), str(tmp_path), download=False)


@pytest.mark.parametrize(
    "column",
    [pa.array([2**31 - 1], pa.date32()), pa.array([1], pa.timestamp("s", tz="Nowhere/None"))],
    ids=["a date beyond Python's", "an unknown time zone"],
)
def test_a_parquet_file_with_values_that_python_lacks_is_one_line(tmp_path: Path, column: pa.Array):
    table = pa.table({"question": ["1+1"], "answer": ["2"], "made": column})
    pq.write_table(table, tmp_path / "gsm8k.parquet")
    with pytest.raises(UserError, match=r"gsm8k\.parquet is not a readable Parquet file") as caught:
        load_problems(BENCHMARKS["gsm8k"], "gsm8k", MathTask(), str(tmp_path), download=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("so\n#### 4", "holds a whole solution"),
        ("}{", "has braces that do not match"),
        ("1}{2", "has braces that do not match"),
        ("...", "says nothing"),
    ],
)
def test_an_answer_that_no_response_could_match_is_one_line(
    tmp_path: Path, answer: str, fault: str
):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": "1+1", "answer": answer}) + "\n")
    (benchmark,) = find_suite(str(path))
    with pytest.raises(UserError, match=rf"row 1: answer=.* {fault}") as caught:
        load_problems(benchmark, str(path), MathTask(), "", download=False)
    assert "\n" not in str(caught.value)


def test_a_part_of_the_problems_is_the_same_every_time():
    problems = [BenchmarkProblem(question=str(i), answer="0") for i in range(100)]
    picked = pick_problems(problems, 10, seed=3)
    assert picked == pick_problems(problems, 10, seed=3) != pick_problems(problems, 10, seed=4)
    assert sorted(picked, key=lambda p: int(p.question)) == picked
    assert pick_problems(problems, 0, seed=3) == pick_problems(problems, 200, seed=3) == problems
