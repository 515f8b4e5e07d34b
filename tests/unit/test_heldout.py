"""The file of a run's evaluation: what it holds, and what is read of one from before."""

from dataclasses import dataclass
from pathlib import Path

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.heldout import read_answered
from rzero_ray.run.parquet import write_records
from tests.unit.builders import answered


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRow:
    """The row that earlier versions wrote into `evaluation.parquet`."""

    question: str
    answer: str
    greedy_correct: bool
    greedy_cot: bool
    correct: tuple[bool, ...]
    cot: tuple[bool, ...]
    majority_correct: bool
    greedy_text: str
    num_tokens: int


def write_as_before(path: Path, problems: list[AnsweredProblem]) -> None:
    """Write problems in the form of earlier versions."""
    rows = [
        OldRow(
            question=problem.question,
            answer=problem.reference,
            greedy_correct=problem.greedy_correct,
            greedy_cot=True,
            correct=problem.correct,
            cot=(True,) * len(problem.correct),
            majority_correct=problem.majority_correct,
            greedy_text=problem.greedy_text,
            num_tokens=problem.greedy_num_tokens + int(problem.num_tokens.sum()),
        )
        for problem in problems
    ]
    write_records(path, rows, OldRow)


def test_a_file_from_before_reads_as_far_as_it_goes(tmp_path: Path):
    problems = [
        answered("5", ("5", "4", None), "4", question="2+3", greedy_text="2+3=5;\\boxed{5}"),
        answered(None, ("4", "5", "5"), "5", question="1+4", greedy_text="?"),
    ]
    write_as_before(tmp_path / "evaluation.parquet", problems)
    again = read_answered(tmp_path / "evaluation.parquet")
    for old, new in zip(again, problems, strict=True):
        names = ("question", "reference", "greedy_text", "greedy_correct", "correct")
        for name in (*names, "majority_correct"):
            assert getattr(old, name) == getattr(new, name)
        assert old.texts == ("", "", "")
    assert [problem.greedy_answer for problem in again] == ["5", None]
    assert [problem.answers for problem in again] == [("5", None, None), (None, "5", "5")]


def test_todays_file_reads_whole(tmp_path: Path):
    (problem,) = problems = [answered("5", ("5", "4"), "4", texts=("\\boxed{5}", "so\\boxed{4}"))]
    write_records(tmp_path / "evaluation.parquet", problems, AnsweredProblem)
    (again,) = read_answered(tmp_path / "evaluation.parquet")
    assert (again.texts, again.answers, again.majority) == (problem.texts, ("5", "4"), "4")
    assert again.num_tokens.tolist() == problem.num_tokens.tolist()
