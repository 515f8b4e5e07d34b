"""Votes are kept while their step goes on: a crash in the middle of it loses minutes, not hours."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.disk.files import DamagedFileError
from rzero_ray.run import parts
from rzero_ray.run.inspection import check_files
from rzero_ray.run.parquet import read_records
from rzero_ray.types import Attempt as StoredAttempt
from rzero_ray.types import Candidate, ChallengerSample, SampleRequest
from tests.unit.fakes import FakePolicy
from tests.unit.test_coevolution import OVERRIDES, Attempt, Killed, _rows


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RECORDS_A_PART", 4)


@pytest.fixture
def config() -> Config:
    return load_config([*OVERRIDES, "num_iterations=1", "curriculum.early_stopping=true"])


class Mortal(FakePolicy):
    """A Solver whose process ends at one of its requests, some time after the others' answers."""

    dies_at: int | None = None

    async def sample(self, request: SampleRequest) -> list:
        if len(self.requests) == self.dies_at:
            await asyncio.sleep(0.3)  # what is ready is written meanwhile
            raise Killed
        return await super().sample(request)


def _attempt(config: Config, root: Path, dies_at: int | None = None) -> Attempt:
    attempt = Attempt(config, root)
    attempt.solver = Mortal("solver")
    attempt.solver.borrows_from = attempt.challenger
    attempt.solver.dies_at = dies_at
    return attempt


def _parts(root: Path) -> list[StoredAttempt]:
    paths = sorted(root.glob("iteration-*/*/step-*/parts/part-*.parquet"))
    return [found for path in paths for found in read_records(path, StoredAttempt)]


# The evaluation of the base is 6 requests to the Solver; the Challenger's steps are one for each
# well-formed question, a curriculum's some for each.
@pytest.mark.parametrize(("dies_at", "in_step"), [(12, 12), (23, 12), (68, 20)])
def test_a_run_killed_in_the_middle_of_a_step_keeps_its_votes(
    config: Config, tmp_path: Path, dies_at: int, in_step: int
):
    whole = _attempt(config, tmp_path / "whole")
    whole.go()
    root = tmp_path / "killed"
    first, second = _attempt(config, root, dies_at), _attempt(config, root)
    with pytest.raises(Killed):
        first.go()
    kept = _parts(root)
    assert len(kept) >= 4
    second.go()
    # What is kept is not asked again, and nothing is asked otherwise than without the stop.
    asked = {r.messages[-1]["content"] for r in first.solver.requests + second.solver.requests}
    assert {a.question for a in kept if a.question is not None} <= asked
    again = {(r.seed, r.num_samples) for r in first.challenger.requests} & {
        (r.seed, r.num_samples) for r in second.challenger.requests
    }
    everything = first.challenger.requests + second.challenger.requests
    assert len(everything) - len(again) == len(whole.challenger.requests)
    assert len(again) == in_step - len(kept)
    assert _rows(root) == _rows(tmp_path / "whole")
    for name, kind in (("challenger", ChallengerSample), ("curriculum", Candidate)):
        for path in (tmp_path / "whole").glob(f"iteration-01/{name}/step-*/*.parquet"):
            there = root / path.relative_to(tmp_path / "whole")
            assert path.read_bytes() == there.read_bytes(), kind
    assert not list(root.rglob("parts"))


def test_a_damaged_part_is_one_line_before_anything_starts(config: Config, tmp_path: Path):
    with pytest.raises(Killed):
        _attempt(config, tmp_path, 12).go()
    check_files(config, tmp_path)
    path = next(tmp_path.rglob("part-00001.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match=r"part-00001.parquet is damaged"):
        check_files(config, tmp_path)


def test_parts_of_a_finished_step_are_removed_at_the_next_start(config: Config, tmp_path: Path):
    _attempt(config, tmp_path).go()
    folder = tmp_path / "iteration-01/challenger/step-001/parts"
    folder.mkdir()
    (folder / "part-00001.parquet").write_bytes(b"left by a stop")
    attempt = _attempt(load_config([*OVERRIDES, "num_iterations=2"]), tmp_path)
    attempt.go()
    assert not list(tmp_path.rglob("part-*"))


def test_a_part_that_is_missing_between_others_costs_no_other(tmp_path: Path):
    """Parts are written side by side, so a stop can leave the second without the first."""

    def attempt(prompt: int) -> StoredAttempt:
        nothing = np.zeros(0, np.int32)
        return StoredAttempt(
            prompt_index=prompt,
            prompt_ids=nothing,
            token_ids=nothing,
            logprobs=nothing.astype(np.float32),
            text=f"question {prompt}",
            num_tokens=2,
            weight_version="",
            weight_num_steps=None,
            question=None,
            too_long=False,
            answers=(),
            label=None,
            num_agree=0,
            num_votes=0,
            num_ambiguous=0,
            cluster_forms=(),
            cluster_votes=nothing,
            vote_tokens=0,
        )

    made: list[int] = []

    async def make(prompt: int) -> list[StoredAttempt]:
        made.append(prompt)
        return [attempt(prompt)]

    def gather() -> list[list[str]]:
        made.clear()
        groups = asyncio.run(parts.gather_in_parts(tmp_path, StoredAttempt, 12, make))
        return [[found.text for found in group] for group in groups]

    whole = gather()
    assert whole == [[f"question {prompt}"] for prompt in range(12)]
    (tmp_path / "parts/part-00001.parquet").unlink()
    assert gather() == whole
    assert sorted(made) == [0, 1, 2, 3]
    assert gather() == whole
    assert not made  # the part that was there has kept its place
