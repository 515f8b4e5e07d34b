"""Weights to two real engines of one node: 400 MB, through the object store, warm.

`model=` takes a folder in Hugging Face format instead.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import ray
import torch

from actors.sampling.options import EngineOptions
from actors.weights.object_store import ObjectStoreTransport
from rzero_ray.types import TransferReport, WeightVersion
from tests.bench import engines
from tests.bench.harness import Figure, dtype, median_seconds
from tests.bench.models import write_random_qwen3

SETTINGS = engines.SETTINGS
_WARM_UP, _REPEATS = 3, 7
_BUCKET_BYTES = 64 << 20
_OBJECT_STORE_BYTES = 512 << 20
"""As the driver's own Ray has; its pages are warm once each has been used."""
_DEADLINE_S = 300.0


class StateSource:
    """A `WeightSource` over tensors that lie ready, as a learner without partitions has them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._tensors.items())

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in self._tensors.items()]


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Publish a model of about 100 million float32 parameters to two engines, again and again."""
    with tempfile.TemporaryDirectory(prefix="rzero-bench-") as made:
        folder = Path(settings["model"] or made)
        if not settings["model"]:
            write_random_qwen3("94m", folder)
        tensors = _load_model(folder)
        options = engines.engine_options(
            folder, settings, num_on_gpu=2 if torch.cuda.device_count() == 1 else 1
        )
        size = sum(tensor.nbytes for tensor in tensors.values())
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=max(_OBJECT_STORE_BYTES, size + 2 * _BUCKET_BYTES),
        )
        try:
            reports = _publish(options, tensors)
        finally:
            ray.shutdown()
    return [*_figures(reports, _copy_seconds(tensors))]


def _publish(options: EngineOptions, tensors: dict[str, torch.Tensor]) -> list[TransferReport]:
    transport = ObjectStoreTransport(0, options.dtype, _BUCKET_BYTES, _DEADLINE_S)
    samplers, _ = engines.start_samplers(options, count=2)
    reports = []
    for index in range(_WARM_UP + _REPEATS):
        publication = transport.publish(StateSource(tensors), _version(index), samplers)
        assert publication is not None, "this is rank 0"
        reports.append(publication.report)  # the buckets of the one before are freed
    return reports[_WARM_UP:]


def _version(index: int) -> WeightVersion:
    return WeightVersion(role="solver", iteration=0, num_steps=index)


def _copy_seconds(tensors: dict[str, torch.Tensor]) -> float:
    """Return the time of one plain copy of the same bytes in this process."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).view(torch.uint8).numpy()
    target = np.empty_like(flat)
    return median_seconds(lambda: np.copyto(target, flat))


def _figures(reports: list[TransferReport], copy_s: float) -> list[Figure]:
    gigabytes = reports[0].num_bytes / 1e9
    took = statistics.median(report.seconds for report in reports)
    paused = statistics.median(report.seconds_engines_paused for report in reports)
    return [
        Figure(
            name="weights, object_store to two engines of a node, warm",
            value=gigabytes / took,
            unit="GB/s",
            target="at least 1 GB/s",
            details=f"{gigabytes:.3f} GB in {took:.2f} s (median of {len(reports)}), engines "
            f"standing still for {paused:.2f} s of it; one plain copy takes {copy_s:.2f} s",
        ),
        Figure(
            name="weights, time against a plain copy of the same bytes",
            value=took / copy_s,
            unit="x",
            details="a copy is made when putting and staging, and two by each engine",
        ),
    ]


def _load_model(folder: Path) -> dict[str, torch.Tensor]:
    """Return a model's weights by name, in the engines' type."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype()))
    return {name: tensor.detach() for name, tensor in model.named_parameters()}
