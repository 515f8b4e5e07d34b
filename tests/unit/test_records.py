import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from rzero_ray.disk.files import DamagedFileError
from rzero_ray.run.parquet import num_records, read_records, write_records
from rzero_ray.types import Candidate, ChallengerSample


def test_samples_come_back_with_types_nulls_and_order(tmp_path: Path):
    samples = [
        ChallengerSample(
            prompt_index=i,
            prompt_ids=np.array([1, 2], dtype=np.int32),
            token_ids=np.arange(i + 1, dtype=np.int32),
            logprobs=np.full(i + 1, -0.5, dtype=np.float32),
            text="<question>é\n</question>",
            weight_version="v",
            weight_num_steps=None if i else 3,
            question=None if i else "1+1",
            answers=() if i else ("2", None),
            label=None if i else "2",
            num_agree=1,
            num_votes=1,
            repetition_share=0.5,
            reward=1.0,
            advantage=-0.25,
        )
        for i in range(2)
    ]
    path = tmp_path / "a" / "rollouts.parquet"
    write_records(path, samples, ChallengerSample)
    back = read_records(path, ChallengerSample)
    assert [s.answers for s in back] == [("2", None), ()]
    assert [s.question for s in back] == ["1+1", None]
    assert [s.weight_num_steps for s in back] == [3, None]
    assert back[1].token_ids.dtype == np.int32
    assert back[1].logprobs.dtype == np.float32
    assert back[1].token_ids.tolist() == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == ["rollouts.parquet"]
    pq.write_table(pq.read_table(path).drop_columns(["weight_num_steps"]), path)
    assert [s.weight_num_steps for s in read_records(path, ChallengerSample)] == [None, None]


def test_an_empty_file_keeps_its_columns(tmp_path: Path):
    write_records(tmp_path / "c.parquet", [], Candidate)
    assert read_records(tmp_path / "c.parquet", Candidate) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "c.parquet"
    write_records(path, [], Candidate)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_records(path, ["not a candidate"], Candidate)
    assert path.read_bytes() == before


def test_a_column_from_before_the_field_has_its_default(tmp_path: Path):
    candidate = Candidate(
        text="",
        question="q",
        answers=("1", None),
        label="1",
        num_agree=1,
        num_votes=1,
        num_tokens=1,
        dropped=None,
        truth=None,
        vote_tokens=7,
    )
    path = tmp_path / "c.parquet"
    write_records(path, [candidate], Candidate)
    pq.write_table(pq.read_table(path).drop_columns(["vote_tokens"]), path)
    assert read_records(path, Candidate) == [replace(candidate, vote_tokens=0)]
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    with pytest.raises(DamagedFileError, match=r"c.parquet is damaged .*label: it is missing"):
        read_records(path, Candidate)


@dataclass(frozen=True, kw_only=True, eq=False)
class OfEveryKind:
    """A record with a field of each kind that a column can have."""

    text: str
    maybe_text: str | None
    count: int
    maybe_count: int | None
    share: float
    maybe_share: float | None
    flag: bool
    maybe_flag: bool | None
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    texts: tuple[str, ...]
    maybe_texts: tuple[str | None, ...]
    flags: tuple[bool, ...]


def of_every_kind(k: int) -> OfEveryKind:
    """Return record number k; every third lacks what may be missing."""
    lacks = k % 3 == 0
    return OfEveryKind(
        text=f"é\N{MATHEMATICAL BOLD SMALL X}\x00{k}",
        maybe_text=None if lacks else "",
        count=-k,
        maybe_count=None if lacks else 1 << 62,
        share=k / 7,
        maybe_share=None if lacks else float("nan"),
        flag=k % 2 == 0,
        maybe_flag=None if lacks else k % 2 == 1,
        ids=np.arange(k % 5, dtype=np.int32),
        logprobs=np.linspace(-3, 0, k % 4, dtype=np.float32),
        texts=("x",) * (k % 3),
        maybe_texts=(None, "", "y")[: k % 4],
        flags=(True, False, True)[: k % 4],
    )


def plain(record: OfEveryKind) -> list[object]:
    """Return what can be compared, with types."""
    values = [getattr(record, field.name) for field in fields(record)]
    return [
        (v.dtype.str, v.tolist()) if isinstance(v, np.ndarray) else (type(v), repr(v))
        for v in values
    ]


# 0 rows, one, one less than a part of a file, a whole part, and several.
@pytest.mark.parametrize("count", [0, 1, 511, 512, 1300])
def test_every_kind_of_field_comes_back_in_any_number_of_rows(tmp_path: Path, count: int):
    records = [of_every_kind(k) for k in range(count)]
    write_records(tmp_path / "r.parquet", records, OfEveryKind)
    back = read_records(tmp_path / "r.parquet", OfEveryKind)
    assert list(map(plain, back)) == list(map(plain, records))
    assert num_records(tmp_path / "r.parquet", OfEveryKind) == count
    rows = list(range(0, count, 100))[::-1]
    chosen = read_records(tmp_path / "r.parquet", OfEveryKind, rows)
    assert list(map(plain, chosen)) == [plain(records[row]) for row in rows]


def test_the_file_is_the_one_that_arrow_makes_of_plain_lists(tmp_path: Path):
    """Other readers, and this program's earlier versions, find the same columns and values."""
    records = [of_every_kind(k) for k in range(9)]
    write_records(tmp_path / "r.parquet", records, OfEveryKind)
    table = pq.read_table(tmp_path / "r.parquet")
    kinds = [str(kind).replace("element:", "item:") for kind in table.schema.types]
    assert kinds == [
        *("string", "string", "int64", "int64", "double", "double", "bool", "bool"),
        *("list<item: int32>", "list<item: float>", "list<item: string>", "list<item: string>"),
        "list<item: bool>",
    ]
    assert table.column("ids").to_pylist() == [record.ids.tolist() for record in records]
    assert table.column("maybe_texts").to_pylist() == [list(r.maybe_texts) for r in records]
    assert table.column("maybe_count").to_pylist() == [record.maybe_count for record in records]
    # A file that a library has made from lists, with one row group, reads the same.
    pq.write_table(table, tmp_path / "other.parquet")
    back = read_records(tmp_path / "other.parquet", OfEveryKind)
    assert list(map(plain, back)) == list(map(plain, records))


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some of the columns of `OfEveryKind`."""

    logprobs: NDArray[np.float32]
    text: str


def test_a_record_with_some_of_the_columns_reads_these_alone(tmp_path: Path):
    path = tmp_path / "r.parquet"
    write_records(path, [of_every_kind(k) for k in range(4)], OfEveryKind)
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    (column,) = (
        metadata.column(c)
        for c in range(metadata.num_columns)
        if metadata.column(c).path_in_schema.startswith("ids")
    )
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 0x15
    path.write_bytes(content)
    assert [record.text[-1] for record in read_records(path, Part)] == ["0", "1", "2", "3"]
    with pytest.raises(DamagedFileError, match=r"r.parquet is damaged"):
        read_records(path, OfEveryKind)
    with pytest.raises(DamagedFileError, match=r"r.parquet is damaged"):
        num_records(path, OfEveryKind)


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("count", [None, 1], "count: a value is missing"),
        ("ids", [None, [1]], "ids: a value is missing"),
        ("ids", [[1, None], [1]], "ids: a number is missing in a list"),
        ("texts", [["x", None], []], "texts: an item is missing in a list"),
        ("flags", [[True, None], []], "flags: an item is missing in a list"),
        ("share", ["a", "b"], "share: .*"),
        ("logprobs", ["a", "b"], "logprobs: .*"),
    ],
)
def test_what_no_field_can_hold_is_one_line(tmp_path: Path, column: str, values: list, reason: str):
    path = tmp_path / "r.parquet"
    write_records(path, [of_every_kind(k) for k in range(2)], OfEveryKind)
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    with pytest.raises(DamagedFileError) as error:
        read_records(path, OfEveryKind)
    assert re.search(
        rf"r.parquet is damaged \(no rows of OfEveryKind: column {reason}\)", str(error.value)
    )
    assert "\n" not in str(error.value)


def test_a_column_that_is_there_twice_is_damage(tmp_path: Path):
    path = tmp_path / "r.parquet"
    write_records(path, [of_every_kind(k) for k in range(2)], OfEveryKind)
    table = pq.read_table(path)
    pq.write_table(table.append_column("text", pa.array(["a", "b"])), path)
    with pytest.raises(DamagedFileError, match="text: it is there twice"):
        read_records(path, Part)


def test_fractions_are_no_integers_and_a_failed_write_leaves_nothing(tmp_path: Path):
    for change in ({"count": 1.5}, {"ids": np.array([0.5])}):
        with pytest.raises(TypeError, match="cast"):
            write_records(
                tmp_path / "r.parquet", [replace(of_every_kind(1), **change)], OfEveryKind
            )
    assert not list(tmp_path.iterdir())


def test_neither_writing_nor_reading_imports_pandas(tmp_path: Path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.unit.test_records import OfEveryKind, of_every_kind\n"
        "assert 'pandas' not in sys.modules\n"
        "from rzero_ray.run.parquet import read_records, write_records\n"
        f"path = Path({str(tmp_path / 'r.parquet')!r})\n"
        "write_records(path, [of_every_kind(k) for k in range(9)], OfEveryKind)\n"
        "read_records(path, OfEveryKind), read_records(path, OfEveryKind, [1])\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
