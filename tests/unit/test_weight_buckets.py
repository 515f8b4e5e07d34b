"""Weights are cut into buckets of whole layers and staged: each tensor lies where it should."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.weights.object_store import cut_buckets
from actors.weights.staging import NUM_SLOTS, StagingArea
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
def test_every_tensor_lies_where_its_layout_says(dtype: torch.dtype, bucket_bytes: int):
    source, seen, paths = Source(), [], set()
    area = StagingArea()
    for index, (layout, tensors) in enumerate(cut_buckets(source, dtype, bucket_bytes)):
        path = area.write(index % NUM_SLOTS, layout, tensors)
        paths.add(path)
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
    area.close()
    assert not any(os.path.exists(path) for path in paths)


@pytest.mark.parametrize(("bucket_bytes", "num_buckets"), [(1, 5), (500, 3), (1 << 20, 1)])
def test_no_bucket_holds_a_part_of_a_layer(bucket_bytes: int, num_buckets: int):
    buckets = [layout.names for layout, _ in cut_buckets(Source(), torch.float32, bucket_bytes)]
    assert len(buckets) == num_buckets
    for layer in range(3):
        holders = [names for names in buckets if any(f"layers.{layer}." in n for n in names)]
        assert len(holders) == 1


def test_a_slot_keeps_its_memory_until_a_larger_bucket_comes():
    area = StagingArea()
    small, large = (next(cut_buckets(Source(), torch.float32, size)) for size in (1, 1 << 20))

    def number(slot: int, bucket: tuple) -> int:
        return os.stat(area.write(slot, *bucket)).st_ino

    first, second = number(0, large), number(1, small)
    assert number(0, small) == first
    assert second != first
    assert number(1, large) not in (first, second)
    area.close()


def test_a_process_that_is_killed_leaves_no_memory_and_another_one_maps_what_it_wrote():
    script = (
        "import numpy, time\n"
        "from actors.weights.buckets import BucketLayout\n"
        "from actors.weights.staging import StagingArea\n"
        "layout = BucketLayout("
        "num_bytes=4, names=('a',), dtypes=('float32',), shapes=((1,),), offsets=(0,))\n"
        "data = numpy.array([1, 2, 3, 4], numpy.uint8)\n"
        "print(StagingArea().write(0, layout, [data]), flush=True)\n"
        "time.sleep(60)\n"
    )
    before = set(os.listdir("/dev/shm"))
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        path = owner.stdout.readline().strip()
        assert np.memmap(path, dtype=np.uint8, mode="r+").tolist() == [1, 2, 3, 4]
        assert not set(os.listdir("/dev/shm")) - before
    finally:
        owner.kill()
        owner.wait()
    assert not os.path.exists(path)


def test_too_little_memory_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    area = StagingArea()
    with pytest.raises(RunError, match=r"no memory .* lower weights.bucket_mib"):
        area.write(0, *next(cut_buckets(Source(), torch.float32, 1)))
