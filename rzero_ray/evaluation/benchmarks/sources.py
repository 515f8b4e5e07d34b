"""Finds and loads the problems of a suite.

A data set is read from a local folder (`data_dir`), or from the hub by the `datasets` library,
offline unless a download is asked for.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rzero_ray.evaluation.answering import HELDOUT, heldout_problems
from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark
from rzero_ray.evaluation.benchmarks.readers import MissingColumnError, Row, read_own
from rzero_ray.protocols import Task
from rzero_ray.run.seeds import derive_seed
from rzero_ray.text.files import read_csv, read_json, read_json_lines
from rzero_ray.types import BenchmarkProblem, UserError

_COMPRESSED = ".gz"
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
_LONGEST_NAME = 200
"""Characters of the name of a user's file, after which its answers are named."""


def find_suite(suite: str) -> list[Benchmark]:
    """Return the benchmarks of `suite=`; UserError for a name that no benchmark has."""
    if suite == "all":
        return list(BENCHMARKS.values())
    if suite in ("math", "general"):
        return [benchmark for benchmark in BENCHMARKS.values() if benchmark.group == suite]
    if suite == HELDOUT:
        return [_own(HELDOUT, "held-out")]
    if suite.endswith((".jsonl", ".jsonl.gz")):
        return [_own_file(suite)]
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
            raise UserError(f"suite={suite}: no such file; give JSON lines of problems")
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
    """Return the problems of raw rows; UserError for a row that lacks what it should hold."""
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            problems.append(benchmark.read_row(row))
        except MissingColumnError as error:
            raise UserError(f"{benchmark.name}: {source}, row {number}: {error}") from None
    if not problems:
        raise UserError(f"{benchmark.name}: {source} holds no rows")
    return problems


def _own_file(suite: str) -> Benchmark:
    """Return the benchmark of a user's file: answers to it are kept under the file's name."""
    name = Path(suite).name.removesuffix(_COMPRESSED).removesuffix(".jsonl")
    if not name or name.startswith(".") or len(name.encode()) > _LONGEST_NAME:
        raise UserError(
            f"suite={suite}: answers are kept under the file's name, which must have 1 to "
            f"{_LONGEST_NAME} bytes before .jsonl and begin without a dot; rename it"
        )
    return _own(name, name)


def _own(name: str, title: str) -> Benchmark:
    """Return a benchmark that is in no catalogue: the task's problems, or a user's file."""
    return Benchmark(name=name, title=title, group="own", read_row=read_own, num_samples=8)


def _read_file(path: Path) -> list[Row]:
    """Return the rows of a file; UserError when it cannot be read, or holds something else."""
    kind = path.with_suffix("").suffix if path.suffix == _COMPRESSED else path.suffix
    rows = _READERS[kind](path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must hold objects with columns, one for each problem")
    return rows


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except Exception as error:  # of the file, of a date beyond Python's, of an unknown time zone
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable Parquet file: {reason}") from None


def _read_csv_rows(path: Path) -> Any:
    head, *rows = read_csv(path) or [[]]
    for number, cells in enumerate(rows, start=2):
        if len(cells) > len(head):
            raise UserError(f"{path}, row {number} has more cells than the first row has columns")
    return [dict(zip(head, cells, strict=False)) for cells in rows if cells]


def _read_json_rows(path: Path) -> Any:
    content = read_json(path)
    # BBEH's own files are {"canary": ..., "examples": [...]}.
    return content.get("examples") if isinstance(content, dict) else content


def _read_jsonl_rows(path: Path) -> Any:
    return [row for _, row in read_json_lines(path)]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": _read_jsonl_rows,
    ".json": _read_json_rows,
    ".csv": _read_csv_rows,
    ".parquet": _read_parquet,
}


def _read_hub(benchmark: Benchmark, data_dir: str, download: bool) -> Iterable[Row]:
    """Return the rows of the hub's data set, or of its cache; UserError when there are none."""
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
