"""The benchmarks: where their data sets come from, and one reader of a raw row for each.

A data set is read from a local folder (`data_dir`), or from the hub by the `datasets` library,
offline unless a download is asked for. Rows keep the schema of the hub's data set; columns that
mirrors of it name otherwise are known too. Sources: `Benchmark.hub`, and the papers named there.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import random
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.evaluation.answering import HELDOUT, heldout_problems
from rzero_ray.protocols import Task
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import BenchmarkProblem, UserError

Row = Mapping[str, Any]
Group = Literal["math", "general", "own"]

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_MAX_CSV_FIELD = 10_000_000
"""Characters: solutions of olympiad problems exceed the csv module's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark."""

    name: str
    title: str
    group: Group
    read_row: Callable[[Row], BenchmarkProblem]
    num_samples: int
    """k where the configuration does not say: enough for a mean of small sets, few for large."""
    headline: Literal["greedy", "mean"] = "greedy"
    """What published tables report of it, and averages are taken over."""
    hub: tuple[str, str | None, str] = ("", None, "")
    """(data set, configuration, split) on the hub."""


class MissingColumnError(Exception):
    """A row lacks a column; the text names the column and what is there."""


def read_amc(row: Row) -> BenchmarkProblem:
    """`zwhe99/amc23`: id, question, answer (a float), url."""
    return _math(
        _text(row, "question", "problem"), _number(_value(row, "answer", "expected_answer"))
    )


def read_minerva(row: Row) -> BenchmarkProblem:
    """`zwhe99/simplerl-minerva-math`: problem, solution, answer, type, idx."""
    return _math(_text(row, "problem", "question"), _text(row, "answer"))


def read_math500(row: Row) -> BenchmarkProblem:
    """`HuggingFaceH4/MATH-500`: problem, solution, answer, subject, level, unique_id; or the CSV of
    simple-evals: Question and Answer, of which the second may be a solution with a box."""
    answer = _text(row, "answer", "Answer")
    return _math(
        _text(row, "problem", "Question", "question"),
        parse_answer(answer) or answer,
        str(row.get("subject") or ""),
    )


def read_gsm8k(row: Row) -> BenchmarkProblem:
    """`openai/gsm8k` main: question, answer (a solution, then `#### 1,234`)."""
    answer = _text(row, "answer").rpartition("####")[2].strip().replace(",", "")
    return _math(_text(row, "question"), answer)


def read_olympiad(row: Row) -> BenchmarkProblem:
    """`zwhe99/simplerl-OlympiadBench`: question, final_answer (a list), subfield and others."""
    answers = _list(row, "final_answer")
    if not answers:
        raise MissingColumnError("the column final_answer is empty")
    return _math(
        _text(row, "question", "problem"),
        ", ".join(str(answer).strip().strip("$") for answer in answers),
        str(row.get("subfield") or ""),
    )


def read_aime(row: Row) -> BenchmarkProblem:
    """`HuggingFaceH4/aime_2024`, `yentinglin/aime_2025`: id, problem, solution, answer, url,
    year."""
    question = _text(row, "problem", "Problem", "question")
    return _math(question, _number(_value(row, "answer", "Answer", "expected_answer")))


def read_mmlu_pro(row: Row) -> BenchmarkProblem:
    """`TIGER-Lab/MMLU-Pro`: question_id, question, options, answer (a letter), answer_index,
    cot_content, category, src. Options `N/A` at the end only fill up."""
    options = [str(option) for option in _list(row, "options")]
    while options and options[-1] == "N/A":
        options.pop()
    if row.get("answer") is None and row.get("answer_index") is not None:
        letter = string.ascii_uppercase[int(row["answer_index"])]
    else:
        letter = _text(row, "answer", "answer_index")
    return _choice(_text(row, "question"), options, letter, row.get("category"))


def read_supergpqa(row: Row) -> BenchmarkProblem:
    """`m-a-p/SuperGPQA`: uuid, question, options, answer (a text), answer_letter, discipline,
    field, subfield, difficulty, is_calculation."""
    options = [str(option) for option in _list(row, "options")]
    if row.get("answer_letter") is None and str(row.get("answer")) in options:
        letter = string.ascii_uppercase[options.index(str(row["answer"]))]
    else:
        letter = _text(row, "answer_letter")
    return _choice(_text(row, "question"), options, letter, row.get("discipline"))


def read_bbeh(row: Row) -> BenchmarkProblem:
    """`MrLight/bbeh-eval`: question, answer, task; BBEH's own files: input, target."""
    return BenchmarkProblem(
        question=_text(row, "question", "input"),
        answer=_text(row, "answer", "target"),
        rule="text",
        category=str(row.get("task") or ""),
    )


def read_own(row: Row) -> BenchmarkProblem:
    """A row of a user's file: question, answer, and options where one is to be chosen.

    The answer to a choice is its letter, or the text of one option.
    """
    question, answer = _text(row, "question"), _text(row, "answer")
    if row.get("options") is None:
        return _math(question, answer, str(row.get("category") or ""))
    options = [str(option) for option in _list(row, "options")]
    if options.count(answer) == 1:
        answer = string.ascii_uppercase[options.index(answer)]
    return _choice(question, options, answer, row.get("category"))


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="amc",
            title="AMC 2023",
            group="math",
            read_row=read_amc,
            num_samples=32,
            headline="mean",
            hub=("zwhe99/amc23", None, "test"),
        ),
        Benchmark(
            name="minerva",
            title="Minerva",
            group="math",
            read_row=read_minerva,
            num_samples=4,
            hub=("zwhe99/simplerl-minerva-math", None, "test"),
        ),
        Benchmark(
            name="math500",
            title="MATH-500",
            group="math",
            read_row=read_math500,
            num_samples=4,
            hub=("HuggingFaceH4/MATH-500", None, "test"),
        ),
        Benchmark(
            name="gsm8k",
            title="GSM8K",
            group="math",
            read_row=read_gsm8k,
            num_samples=4,
            hub=("openai/gsm8k", "main", "test"),
        ),
        Benchmark(
            name="olympiad",
            title="OlympiadBench",
            group="math",
            read_row=read_olympiad,
            num_samples=4,
            hub=("zwhe99/simplerl-OlympiadBench", None, "test"),
        ),
        Benchmark(
            name="aime24",
            title="AIME 2024",
            group="math",
            read_row=read_aime,
            num_samples=32,
            headline="mean",
            hub=("HuggingFaceH4/aime_2024", None, "train"),
        ),
        Benchmark(
            name="aime25",
            title="AIME 2025",
            group="math",
            read_row=read_aime,
            num_samples=32,
            headline="mean",
            hub=("yentinglin/aime_2025", "default", "train"),
        ),
        Benchmark(
            name="mmlu_pro",
            title="MMLU-Pro",
            group="general",
            read_row=read_mmlu_pro,
            num_samples=1,
            hub=("TIGER-Lab/MMLU-Pro", None, "test"),
        ),
        Benchmark(
            name="supergpqa",
            title="SuperGPQA",
            group="general",
            read_row=read_supergpqa,
            num_samples=1,
            hub=("m-a-p/SuperGPQA", None, "train"),
        ),
        Benchmark(
            name="bbeh",
            title="BBEH",
            group="general",
            read_row=read_bbeh,
            num_samples=1,
            hub=("MrLight/bbeh-eval", None, "train"),
        ),
    )
}
"""By name, in the order of tables."""


def find_suite(suite: str) -> list[Benchmark]:
    """Return the benchmarks of `suite=`. UserError for a name that there is not."""
    if suite == "all":
        return list(BENCHMARKS.values())
    if suite in ("math", "general"):
        return [benchmark for benchmark in BENCHMARKS.values() if benchmark.group == suite]
    if suite == HELDOUT:
        return [_own(HELDOUT, "held-out")]
    if suite.endswith(".jsonl"):
        return [_own(Path(suite).stem, Path(suite).stem)]
    names = [name.strip() for name in suite.split(",") if name.strip()]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or not names:
        raise UserError(
            f"suite={suite}: no benchmark {unknown[0] if unknown else 'named'}; there are math, "
            f"general, all, {HELDOUT}, {', '.join(BENCHMARKS)}, and paths that end in .jsonl"
        )
    return [BENCHMARKS[name] for name in dict.fromkeys(names)]


def load_problems(
    benchmark: Benchmark, suite: str, task: Task, data_dir: str, download: bool
) -> list[BenchmarkProblem]:
    """Return a benchmark's problems.

    Raises UserError, in one line, when they are nowhere, or when a row lacks a column.
    """
    if benchmark.name == HELDOUT and suite == HELDOUT:
        problems = heldout_problems(task)
        if not problems:
            raise UserError("suite=heldout: this task has no held-out problems")
        return problems
    if benchmark.group == "own":
        path = Path(suite).expanduser()
        if not path.is_file():
            raise UserError(f"suite={suite}: no such file")
        return read_rows(benchmark, _read_file(path), str(path))
    files = find_files(benchmark, data_dir)
    if files:
        rows = (row for file in files for row in _read_file(file))
        return read_rows(benchmark, rows, ", ".join(map(str, files)))
    return read_rows(benchmark, _read_hub(benchmark, data_dir, download), benchmark.hub[0])


def pick_problems(
    problems: Sequence[BenchmarkProblem], count: int, seed: int
) -> list[BenchmarkProblem]:
    """Return `count` of the problems, drawn by `seed`, in their own order; all of them for 0."""
    if not 0 < count < len(problems):
        return list(problems)
    picked = random.Random(derive_seed(seed, "problems")).sample(range(len(problems)), count)
    return [problems[index] for index in sorted(picked)]


def find_files(benchmark: Benchmark, data_dir: str) -> list[Path]:
    """Return the local files of a benchmark; none when there are none."""
    if not data_dir:
        return []
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"data_dir={data_dir}: no such folder")
    single = [folder / f"{benchmark.name}{suffix}" for suffix in _SUFFIXES]
    found = [path for path in single if path.is_file()][:1]
    if found:
        return found
    files = sorted((folder / benchmark.name).glob("*.parquet"))
    # A snapshot of a data set may hold its other splits beside the one that is asked.
    return [file for file in files if file.name.startswith(benchmark.hub[2])] or files


def read_rows(benchmark: Benchmark, rows: Iterable[Row], source: str) -> list[BenchmarkProblem]:
    """Return the problems of raw rows. UserError for a row that lacks what it should hold."""
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            problems.append(benchmark.read_row(row))
        except MissingColumnError as error:
            raise UserError(f"{benchmark.name}: {source}, row {number}: {error}") from None
    if not problems:
        raise UserError(f"{benchmark.name}: {source} holds no rows")
    return problems


def _own(name: str, title: str) -> Benchmark:
    return Benchmark(name=name, title=title, group="own", read_row=read_own, num_samples=8)


def _read_file(path: Path) -> list[Row]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path).to_pylist()
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix == ".csv":
                csv.field_size_limit(_MAX_CSV_FIELD)
                return list(csv.DictReader(stream))
            if path.suffix == ".json":
                content = json.load(stream)
                # BBEH's own files are {"canary": ..., "examples": [...]}.
                rows = content.get("examples") if isinstance(content, dict) else content
            else:
                rows = [json.loads(line) for line in stream if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable {path.suffix[1:]} file: {reason}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must hold objects with columns, one for each problem")
    return rows


def _read_hub(benchmark: Benchmark, data_dir: str, download: bool) -> Iterable[Row]:
    name, configuration, split = benchmark.hub
    # Read once, when the library is imported: offline, it opens no connection at all.
    os.environ["HF_DATASETS_OFFLINE"] = "0" if download else "1"
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Any = datasets.load_dataset(name, configuration, split=split)
        return rows
    except Exception as error:  # of the hub, of the network, of the cache: the reason is shown
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = f"in data_dir={data_dir}" if data_dir else "in a data_dir (none is given)"
        raise UserError(
            f"{benchmark.name}: {name} is neither {place} as {benchmark.name}"
            f"{{{','.join(_SUFFIXES)}}} or {benchmark.name}/*.parquet, nor "
            + (
                f"to be had from the hub ({reason}); fetch it elsewhere"
                if download
                else "in the hub's cache; fetch it once with download=true"
            )
        ) from None


def _math(question: str, answer: str, category: str = "") -> BenchmarkProblem:
    return BenchmarkProblem(question=question, answer=answer, category=category)


def _choice(
    question: str, options: Sequence[str], letter: str, category: object
) -> BenchmarkProblem:
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
    return str(_value(row, name, *aliases)).strip()


def _number(value: Any) -> str:
    """Return the text of an answer that some mirrors store as 27.0 for 27."""
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )


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
