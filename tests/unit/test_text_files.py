"""Text files as the world writes them: the same answer wherever a user gives one."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rzero_ray.config.load import load_config
from rzero_ray.config.sources import read_yaml
from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS
from rzero_ray.evaluation.benchmarks.sources import find_suite, load_problems
from rzero_ray.evaluation.labels.sheet import read_sheet
from rzero_ray.phases.labelled import load_labelled
from rzero_ray.tasks.registry import MathTask
from rzero_ray.text.files import read_csv, read_json, read_json_lines, read_text
from rzero_ray.types import CurriculumItem, UserError

ROW = {"question": "dé\u2028jà", "answer": "5"}
LINES = json.dumps(ROW, ensure_ascii=False) + "\n"
CSV = 'question,answer\n"dé\u2028jà",5\n'
SHEET = 'question,label,right\n"dé\u2028jà",5,yes\n'


def _labelled(path: Path) -> list[str]:
    config = load_config(
        ["conf=tiny,labelled_grpo", "task=math", "model.path=x/y", f"labelled.path={path}"]
    )
    return [problem.question for problem in load_labelled(config, MathTask())]


def _suite(path: Path) -> list[str]:
    (benchmark,) = find_suite(str(path))
    problems = load_problems(benchmark, str(path), MathTask(), "", download=False)
    return [problem.question for problem in problems]


def _data_dir(path: Path) -> list[str]:
    folder = str(path.parent)
    problems = load_problems(BENCHMARKS["amc"], "amc", MathTask(), folder, download=False)
    return [problem.question for problem in problems]


def _sheet(path: Path) -> list[str]:
    items = [CurriculumItem(question=ROW["question"], label="5", agreement=1.0)]
    return [row.item.question for row in read_sheet(path, items)]


READERS: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "labelled.path": ("amc.jsonl", LINES, _labelled),
    "suite": ("mine.jsonl", LINES, _suite),
    "data_dir jsonl": ("amc.jsonl", LINES, _data_dir),
    "data_dir json": ("amc.json", f"[{LINES}]", _data_dir),
    "data_dir csv": ("amc.csv", CSV, _data_dir),
    "sheet": ("audit.csv", SHEET, _sheet),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[Path], list[str]]]:
    return READERS[request.param]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("compress", [False, True])
def test_utf_8_is_read_with_and_without_its_mark(reader, tmp_path, encoding, end, compress):
    name, text, read = reader
    data = text.replace("\n", end).encode(encoding)
    path = tmp_path / (f"{name}.gz" if compress else name)
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    assert read(path) == [ROW["question"]]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_another_encoding_is_one_line_that_names_it(reader, tmp_path, encoding):
    name, text, read = reader
    path = tmp_path / name
    path.write_bytes(text.replace("\u2028", "").encode(encoding))
    with pytest.raises(UserError, match=r"save (it|the file) as UTF-8") as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"x", mtime=0), "let its name end in .gz"),
        (b"x\0y", "line 1 is not UTF-8"),
        ("\n\ndéjà".encode("latin-1"), "line 3 is not UTF-8"),
    ],
)
def test_what_is_no_text_is_one_line(reader, tmp_path, data, message):
    name, _, read = reader
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(LINES.encode(), mtime=0)[:-9], gzip.compress(b"x" * 999, mtime=0)[:20]]
)
def test_a_compressed_file_that_is_not_whole_is_one_line(tmp_path, data):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"no whole gzip file|holds no rows"):
        _suite(path)


def test_a_file_that_is_compressed_twice_says_so(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.compress(LINES.encode(), mtime=0)))
    with pytest.raises(UserError, match="decompress it once"):
        read_text(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a":' * 50_000])
def test_nesting_without_end_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(f"1\n{text}")
    with pytest.raises(UserError, match="line 2 is nested too deeply"):
        list(read_json_lines(path))
    path.write_text(text)
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(path)
    with pytest.raises(UserError, match=r"nested in more than|not valid YAML"):
        read_yaml(path)


def test_half_characters_are_replaced_at_every_depth(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a\ud83d": ["\udc00", "\U0001f600"], "b": 1e400}))
    assert read_json(path) == {"a?": ["?", "\U0001f600"], "b": float("inf")}


def test_damage_in_json_and_csv_is_named_by_its_line(tmp_path):
    path = tmp_path / "x"
    path.write_text("[\n1,\n2,,\n3]")
    with pytest.raises(UserError, match=r"x, line 3 is not JSON \(Expecting value, column 3\)"):
        read_json(path)
    path.write_text('a,b\n1,2\n"3"x,4\n')
    with pytest.raises(UserError, match="x, line 3 is not CSV"):
        read_csv(path)


def test_a_csv_row_with_more_cells_than_columns_is_refused(tmp_path):
    (tmp_path / "amc.csv").write_text("question,answer\n1+1,2,3\n")
    with pytest.raises(UserError, match="row 2 has more cells"):
        _data_dir(tmp_path / "amc.csv")


def test_a_folder_and_a_file_that_may_not_be_read_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path / "nothing")
