"""One reader for each data set: from a raw row to a problem.

Rows keep the schema of the hub's data set; columns that mirrors of it name otherwise are known too.
"""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rzero_ray.answers.parsing import fault_in, parse_answer
from rzero_ray.text.characters import plain_text
from rzero_ray.types import BenchmarkProblem

Row = Mapping[str, Any]
"""A row of a data set by its columns."""


class MissingColumnError(Exception):
    """Raised for a row that lacks a column; the text names the column and what is there."""


def read_amc(row: Row) -> BenchmarkProblem:
    """Read a row of `zwhe99/amc23`: id, question, answer (a float), url."""
    return _math(
        _text(row, "question", "problem"),
        _number("answer", _value(row, "answer", "expected_answer")),
    )


def read_minerva(row: Row) -> BenchmarkProblem:
    """Read a row of `zwhe99/simplerl-minerva-math`: problem, solution, answer, type, idx."""
    return _math(_text(row, "problem", "question"), _text(row, "answer"))


def read_math500(row: Row) -> BenchmarkProblem:
    """Read a row of `HuggingFaceH4/MATH-500`: problem, solution, answer, subject, level, unique_id.

    The CSV of simple-evals has Question and Answer, of which the second may be a solution with a
    box. A row without an answer has that of its solution's box.
    """
    has_answer = any(row.get(column) not in (None, "") for column in ("answer", "Answer"))
    answer = _text(row, "answer", "Answer") if has_answer else _boxed(row, "solution")
    return _math(
        _text(row, "problem", "Question", "question"),
        parse_answer(answer) or answer,
        str(row.get("subject") or ""),
    )


def read_gsm8k(row: Row) -> BenchmarkProblem:
    """Read a row of `openai/gsm8k` main: question, answer (a solution, then `#### 1,234`)."""
    answer = _text(row, "answer").rpartition("####")[2].strip().replace(",", "")
    return _math(_text(row, "question"), answer)


def read_olympiad(row: Row) -> BenchmarkProblem:
    """Read a row of `zwhe99/simplerl-OlympiadBench`: question, final_answer (a list), subfield."""
    answers = _list(row, "final_answer")
    if not answers:
        raise MissingColumnError("the column final_answer is empty")
    return _math(
        _text(row, "question", "problem"),
        ", ".join(_as_text("final_answer", answer).strip("$") for answer in answers),
        str(row.get("subfield") or ""),
    )


def read_aime(row: Row) -> BenchmarkProblem:
    """Read a row of `HuggingFaceH4/aime_2024` or `yentinglin/aime_2025`.

    The columns are id, problem, solution, answer, url and year.
    """
    question = _text(row, "problem", "Problem", "question")
    answer = _number("answer", _value(row, "answer", "Answer", "expected_answer"))
    return _math(question, answer)


def read_mmlu_pro(row: Row) -> BenchmarkProblem:
    """Read a row of `TIGER-Lab/MMLU-Pro`.

    The columns are question_id, question, options, answer (a letter), answer_index, cot_content,
    category and src. Options `N/A` at the end only fill up.
    """
    options = _options(row)
    while options and options[-1] == "N/A":
        options.pop()
    if row.get("answer") is None and row.get("answer_index") is not None:
        letter = _letter_at(row["answer_index"], options)
    else:
        letter = _text(row, "answer", "answer_index")
    return _choice(_text(row, "question"), options, letter, row.get("category"))


def read_supergpqa(row: Row) -> BenchmarkProblem:
    """Read a row of `m-a-p/SuperGPQA`.

    The columns are uuid, question, options, answer (a text), answer_letter, discipline, field,
    subfield, difficulty and is_calculation.
    """
    options = _options(row)
    if row.get("answer_letter") is None and str(row.get("answer")) in options:
        letter = string.ascii_uppercase[options.index(str(row["answer"]))]
    else:
        letter = _text(row, "answer_letter")
    return _choice(_text(row, "question"), options, letter, row.get("discipline"))


def read_bbeh(row: Row) -> BenchmarkProblem:
    """Read a row of `MrLight/bbeh-eval`: question, answer, task; BBEH's own have input, target."""
    return BenchmarkProblem(
        question=_text(row, "question", "input"),
        answer=_text(row, "answer", "target"),
        rule="text",
        category=str(row.get("task") or ""),
    )


def read_own(row: Row) -> BenchmarkProblem:
    """Read a row of a user's file: question, answer, and options where one is to be chosen.

    The answer to a choice is its letter, or the text of one option.
    """
    question, answer = _text(row, "question"), _text(row, "answer")
    if row.get("options") is None:
        fault = fault_in(answer)
        if fault is not None:
            raise MissingColumnError(f"answer={answer[:40]!r} {fault}")
        return _math(question, answer, str(row.get("category") or ""))
    options = _options(row)
    if options.count(answer) == 1:
        answer = string.ascii_uppercase[options.index(answer)]
    return _choice(question, options, answer, row.get("category"))


def _math(question: str, answer: str, category: str = "") -> BenchmarkProblem:
    return BenchmarkProblem(question=question, answer=answer, category=category)


def _choice(
    question: str, options: Sequence[str], letter: str, category: object
) -> BenchmarkProblem:
    """Return a problem whose answer is the letter of one of its options."""
    letter = letter.strip("() .").upper()
    if len(options) > len(string.ascii_uppercase):
        raise MissingColumnError(f"{len(options)} options are more than there are letters")
    if letter not in list(string.ascii_uppercase[: len(options)]):
        raise MissingColumnError(
            f"the answer {letter[:40]!r} is none of the letters of its {len(options)} options"
        )
    return BenchmarkProblem(
        question=question,
        answer=letter,
        rule="choice",
        options=tuple(options),
        category=str(category or ""),
    )


def _value(row: Row, name: str, *aliases: str) -> Any:
    """Return the first of the columns that the row has and that is not empty."""
    for column in (name, *aliases):
        value = row.get(column)
        if value is not None and value != "":
            return value
    others = f" (nor {', '.join(aliases)})" if aliases else ""
    raise MissingColumnError(
        f"no value in column {name}{others}; it has {', '.join(map(str, row)) or 'no columns'}"
    )


def _text(row: Row, name: str, *aliases: str) -> str:
    """Return the column's text, by the first of its names that the row has."""
    return _as_text(name, _value(row, name, *aliases))


def _as_text(name: str, value: object) -> str:
    """Return a value of the column `name` as text, which only a text or a number can be."""
    text = plain_text(value)
    if text is None:
        raise MissingColumnError(
            f"the column {name} must hold a text or a number, not {str(value)[:40]!r}"
        )
    if not text:
        raise MissingColumnError(f"the column {name} is empty")
    return text


def _number(name: str, value: Any) -> str:
    """Return the text of an answer that some mirrors store as 27.0 for 27."""
    is_whole = isinstance(value, float) and value.is_integer()
    return _as_text(name, int(value) if is_whole else value)


def _boxed(row: Row, name: str) -> str:
    """Return the answer in the box of a solution."""
    answer = parse_answer(_text(row, name))
    if answer is None:
        raise MissingColumnError(f"no value in column answer, and the column {name} has no box")
    return answer


def _options(row: Row) -> list[str]:
    return [_as_text("options", option) for option in _list(row, "options")]


def _letter_at(index: Any, options: Sequence[str]) -> str:
    """Return the letter of an option by its number, from 0."""
    try:
        number = int(_number("answer_index", index))
    except ValueError:
        number = -1
    if not 0 <= number < min(len(options), len(string.ascii_uppercase)):
        raise MissingColumnError(
            f"the answer_index {str(index)[:40]!r} is none of the numbers of its {len(options)} "
            "options, from 0"
        )
    return string.ascii_uppercase[number]


def _list(row: Row, name: str) -> list[Any]:
    """Return a list, which a CSV holds as JSON or as Python writes it."""
    value = _value(row, name)
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise MissingColumnError(f"the column {name} must hold a list, not {str(value)[:40]!r}")
    return list(value)
