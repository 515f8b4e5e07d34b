"""Weights are cut into buckets of whole layers and staged: each tensor lies where it should."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import actors.weights.staging
from actors.weights.object_store import cut_buckets
from actors.weights.staging import NUM_SLOTS, StagingArea, remove_abandoned
from rzero_ray.types import RunError


class Source:
    """Three decoder layers between an embedding and a norm, tensors of different sizes."""

    def __init__(self) -> None:
        sizes = {"embed.weight": (3, 5), "norm.weight": (7,)}
        for layer in range(3):
            sizes[f"layers.{layer}.q.weight"] = (40, 2)
            sizes[f"layers.{layer}.k.weight"] = (1,)
            sizes[f"layers.{layer}.experts.1.weight"] = (2, 2)
        generator = torch.Generator().manual_seed(0)
        self.tensors = {
            name: torch.randn(size, generator=generator, dtype=torch.float64)
            for name, size in sorted(sizes.items())
        }

    def __iter__(self):
        return iter(self.tensors.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bucket_bytes", [1, 500, 1 << 20])
def test_every_tensor_lies_where_its_layout_says(
    dtype: torch.dtype, bucket_bytes: int, tmp_path: Path
):
    source, seen = Source(), []
    area = StagingArea(tmp_path)
    for index, (layout, tensors) in enumerate(cut_buckets(source, dtype, bucket_bytes)):
        path = area.write(index % NUM_SLOTS, layout, tensors)
        data = np.fromfile(path, dtype=np.uint8)
        for name, kind, shape, offset in zip(
            layout.names, layout.dtypes, layout.shapes, layout.offsets, strict=True
        ):
            assert offset % 16 == 0
            size = int(np.prod(shape)) * dtype.itemsize
            found = torch.from_numpy(data[offset : offset + size].copy()).view(dtype).view(shape)
            assert kind == str(dtype).removeprefix("torch.")
            assert torch.equal(found, source.tensors[name].to(dtype))
            seen.append(name)
    assert seen == list(source.tensors)
    assert len(list(tmp_path.iterdir())) <= NUM_SLOTS
    area.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("bucket_bytes", "num_buckets"), [(1, 5), (500, 3), (1 << 20, 1)])
def test_no_bucket_holds_a_part_of_a_layer(bucket_bytes: int, num_buckets: int):
    buckets = [layout.names for layout, _ in cut_buckets(Source(), torch.float32, bucket_bytes)]
    assert len(buckets) == num_buckets
    for layer in range(3):
        holders = [names for names in buckets if any(f"layers.{layer}." in n for n in names)]
        assert len(holders) == 1


def test_a_slot_keeps_its_file_until_a_larger_bucket_comes(tmp_path: Path):
    area = StagingArea(tmp_path)
    small, large = (next(cut_buckets(Source(), torch.float32, size)) for size in (1, 1 << 20))
    first = area.write(0, *large)
    assert area.write(0, *small) == first
    assert area.write(1, *small) != first
    assert area.write(1, *large) not in (first, area.write(0, *small))
    assert len(list(tmp_path.iterdir())) == NUM_SLOTS


def test_only_slots_of_processes_that_live_no_more_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    area = StagingArea(tmp_path)
    alive = Path(area.write(0, *next(cut_buckets(Source(), torch.float32, 1))))
    abandoned, foreign = tmp_path / "rzero-0123", tmp_path / "someone-elses"
    abandoned.touch()
    foreign.touch()
    remove_abandoned(tmp_path)
    assert abandoned.exists()  # perhaps its owner has not locked it yet
    monkeypatch.setattr(actors.weights.staging, "_MIN_AGE_S", -1.0)
    remove_abandoned(tmp_path)
    assert alive.exists() and foreign.exists() and not abandoned.exists()


def test_too_little_shared_memory_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    area = StagingArea(tmp_path)
    with pytest.raises(RunError, match=r"no room .* lower weights.bucket_mib"):
        area.write(0, *next(cut_buckets(Source(), torch.float32, 1)))
    assert not list(tmp_path.iterdir())
