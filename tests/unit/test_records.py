from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rzero_ray.disk.files import DamagedFileError
from rzero_ray.run.parquet import read_records, write_records
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
    with pytest.raises(DamagedFileError, match=r"c.parquet is damaged .*\"label\" does not exist"):
        read_records(path, Candidate)
