"""A saved model on its way into an engine whose node does not see the model's folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.waiting import within
from actors.weights.delivery import Bucket

_AHEAD = 4
"""Objects that are put before the first of them is taken: two buckets."""


async def saved_buckets(
    folder: Path, dtype: str, bucket_bytes: int, each_s: float
) -> AsyncIterator[Bucket]:
    """Yield a model in Hugging Face format (safetensors) in buckets of about `bucket_bytes`.

    The driver's node reads it, in a process of its own, which may load torch. Each bucket has
    `each_s` seconds. Raises RunError where the folder cannot be read.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    read: Any = ray.remote(_read).options(
        num_cpus=0,
        num_returns="streaming",
        scheduling_strategy=here,
        _generator_backpressure_num_objects=_AHEAD,
    )
    what = f"the weights in {folder} to be read"
    objects = read.remote(folder, dtype, bucket_bytes)
    while True:
        try:
            layout = await within(each_s, what, anext(objects))
        except StopAsyncIteration:
            return
        tensors = await within(each_s, what, anext(objects))
        yield Bucket(await within(each_s, what, layout), tensors)


def _read(folder: Path, dtype: str, bucket_bytes: int) -> Iterator[Any]:
    """Yield the layout and the tensors of each bucket, one after the other."""
    import torch
    from safetensors import safe_open

    from actors.weights.object_store import cut_buckets

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, opened.get_tensor(name)

    for layout, arrays in cut_buckets(tensors(), getattr(torch, dtype), bucket_bytes):
        yield layout
        yield arrays
