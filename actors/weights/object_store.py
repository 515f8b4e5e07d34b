"""The `object_store` backend, learner side: buckets of bytes in Ray's object store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.waiting import get_within
from actors.weights.buckets import BucketLayout, layer_of
from actors.weights.delivery import Bucket, Delivery, Publication
from actors.weights.transport import WeightSource, WeightTransport
from rzero_ray.types import TransferReport, Weights


class ObjectStoreTransport(WeightTransport):
    """Buckets of bytes in Ray's object store; works on any device. What was published stays there
    until the next publication, for engines that come later (`delivery.KeptWeights`).

    Numpy buffers are read by other processes without a copy, torch tensors are not: they would
    be pickled, which is some fifty times slower. On each node one sampler stages a bucket in shared
    memory, from which all engines of the node load it; while they do, the next bucket is gathered,
    put and staged.
    """

    def __init__(
        self, rank: int, dtype: str, bucket_bytes: int, deadline_s: float, attempt: int = 1
    ) -> None:
        """`attempt` is the learner's (`LearnerOptions.attempt`)."""
        self._rank = rank
        self._attempt = attempt
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._bucket_bytes = bucket_bytes
        self._deadline_s = deadline_s
        self._nodes: dict[ActorHandle, str] = {}
        """Where each sampler of the last publication runs."""

    def publish(
        self, source: WeightSource, version: Weights, samplers: Sequence[ActorHandle]
    ) -> Publication | None:
        start = time.monotonic()
        if self._rank != 0:
            for _ in source:
                pass
            return None
        walk = iter(source)
        try:
            buckets, paused = self._deliver(walk, version, samplers)
        finally:
            # The other ranks walk to the end, whatever has happened here: they gather together.
            for _ in walk:
                pass
        report = TransferReport(
            num_bytes=sum(bucket.layout.num_bytes for bucket in buckets),
            num_engines=len(samplers),
            seconds=time.monotonic() - start,
            seconds_engines_paused=max(paused, default=0.0),
        )
        return Publication(report, buckets)

    def _deliver(
        self,
        weights: Iterator[tuple[str, torch.Tensor]],
        version: Weights,
        samplers: Sequence[ActorHandle],
    ) -> tuple[list[Bucket], list[float]]:
        """Return what was sent, and how long each sampler stood still."""
        deliveries = [Delivery(neighbours, self._attempt) for neighbours in self._by_node(samplers)]
        what = f"{len(samplers)} engines to load weights {version.name}"
        sent = []
        for layout, tensors in cut_buckets(weights, self._dtype, self._bucket_bytes):
            # The slot that this bucket will take must have been loaded by all.
            pending = [ref for delivery in deliveries for ref in delivery.loads_of_next_slot()]
            get_within(self._deadline_s, what, pending)
            bucket = Bucket(layout, ray.put(tensors))
            for delivery in deliveries:
                delivery.send(bucket)
            sent.append(bucket)
        ends = [ref for delivery in deliveries for ref in delivery.finish(version)]
        return sent, get_within(self._deadline_s, what, ends)

    def _by_node(self, samplers: Sequence[ActorHandle]) -> list[list[ActorHandle]]:
        """Return the samplers of each node; the first of a node stages for the others."""
        new = [sampler for sampler in samplers if sampler not in self._nodes]
        asked = [sampler.device.remote() for sampler in new]
        devices = get_within(self._deadline_s, "the samplers' nodes", asked)
        nodes = [node for node, _ in devices]
        known = self._nodes | dict(zip(new, nodes, strict=True))
        self._nodes = {sampler: known[sampler] for sampler in samplers}
        neighbours: dict[str, list[ActorHandle]] = {}
        for sampler, node in self._nodes.items():
            neighbours.setdefault(node, []).append(sampler)
        return list(neighbours.values())


def cut_buckets(
    source: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, bucket_bytes: int
) -> Iterator[tuple[BucketLayout, list[NDArray[np.uint8]]]]:
    """Yield (layout, flat bytes of each tensor) of successive buckets of about `bucket_bytes`.

    Tensors are cast to `dtype`. A bucket holds whole decoder layers, so that an engine is done with
    it once it is loaded: vLLM keeps what it was given until a layer's fused parameter is complete.
    A layer larger than a bucket has one of its own. Nothing is copied that lies on a CPU in that
    type already.
    """
    pending: list[tuple[str, torch.Tensor]] = []
    size = 0
    for _, layer in groupby(source, key=lambda item: layer_of(item[0])):
        tensors = [(name, x.detach().to("cpu", dtype).contiguous()) for name, x in layer]
        layer_bytes = sum(tensor.nbytes for _, tensor in tensors)
        if pending and size + layer_bytes > bucket_bytes:
            yield _to_bucket(pending)
            pending, size = [], 0
        pending += tensors
        size += layer_bytes
    if pending:
        yield _to_bucket(pending)


_ALIGNMENT = 16
"""Bytes; every tensor is aligned for its type."""


def _to_bucket(
    tensors: list[tuple[str, torch.Tensor]],
) -> tuple[BucketLayout, list[NDArray[np.uint8]]]:
    offsets, end = [], 0
    for _, tensor in tensors:
        offsets.append(end)
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    layout = BucketLayout(
        num_bytes=end,
        names=tuple(name for name, _ in tensors),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors),
        shapes=tuple(tuple(tensor.shape) for _, tensor in tensors),
        offsets=tuple(offsets),
    )
    return layout, [tensor.view(-1).view(torch.uint8).numpy() for _, tensor in tensors]
