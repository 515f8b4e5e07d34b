"""Weights between GPUs: vLLM's own `nccl` and `ipc` backends, behind our interface.

What moves the bytes is vLLM's trainer engine, here called a trainer; what is ours is the client
through which it drives the samplers. vLLM's own Ray client tells every engine the same rank, and
independent engines would collide; and it does not stop and resume sampling.

Needs GPUs: on a CPU only the client and the choice of the backend can be, and are, tested.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
)
from vllm.distributed.weight_transfer.base import WeightSource as VllmWeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from actors.process import held_port
from actors.waiting import ActorLostError, get_within
from actors.weights.delivery import Publication
from actors.weights.transport import WeightSource, WeightTransport
from rzero_ray.types import TransferReport, Weights

_IPC_HEADROOM = 1.05
"""The packed buffer of CUDA IPC over the largest tensor, which must fit it whole."""


class SamplerClient:
    """Drives all samplers of a publication as one; vLLM's `VLLMWeightSyncClient` protocol.

    `start_weight_update` also stops sampling (running requests are kept) and
    `finish_weight_update` lets it go on.
    """

    def __init__(
        self,
        samplers: Sequence[ActorHandle],
        deadline_s: float,
        workers_per_engine: int = 1,
        attempt: int = 1,
    ) -> None:
        """`attempt` is the learner's (`LearnerOptions.attempt`)."""
        self._samplers = list(samplers)
        self._attempt = attempt
        self._deadline_s = deadline_s
        self._workers_per_engine = workers_per_engine
        self.version: Weights | None = None
        """What is sent next; the samplers record it for every token that they then sample."""
        self.seconds_paused = 0.0
        """The longest time that a sampler stood still."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect every engine; with NCCL each of its workers is a rank, after the sender's 0."""
        self._all(
            "to connect for weights",
            [
                sampler.connect_weights.remote(
                    _of_engine(init_info, index * self._workers_per_engine)
                )
                for index, sampler in enumerate(self._samplers)
            ],
        )

    def shutdown_weight_transfer_engine(self) -> None:
        """Leave the group; the engines go on sampling. One that has died has left it."""
        for left in [sampler.disconnect_weights.remote() for sampler in self._samplers]:
            with suppress(ActorLostError):
                get_within(self._deadline_s, "an engine to leave its group", [left])

    def start_weight_update(self) -> None:
        """Stop sampling and begin a reload."""
        self._all(
            "to start a reload",
            [s.start_weight_update.remote(self._attempt) for s in self._samplers],
        )

    def update_weights(self, update_info: Any) -> None:
        """Receive one round of weights."""
        self._all("to load", [s.update_weights.remote(update_info) for s in self._samplers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End the reload and sample on; vLLM knows nothing of our versions, and gives none."""
        version = self.version
        assert version is not None
        paused = self._all(
            "to finish", [s.finish_weight_update.remote(version) for s in self._samplers]
        )
        self.seconds_paused = max(paused)

    def _all(self, what: str, refs: Sequence[ray.ObjectRef]) -> list[Any]:
        return get_within(self._deadline_s, f"{len(self._samplers)} engines {what}", refs)


class VllmSource(VllmWeightSource):
    """Our weight source in vLLM's form: what will come is known before anything is gathered."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.source: WeightSource | None = None
        """Set before each publication: the learner makes a new source in each phase."""

    def metadata(self) -> list[ParamMeta]:
        """Return names and full shapes without gathering partitions."""
        assert self.source is not None
        return [ParamMeta(name, self._dtype, shape) for name, shape in self.source.shapes()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        # The packed producer keeps views of what it was given until a buffer is full, so tensors
        # must outlive the gathering of their layer: the source yields clones.
        assert self.source is not None
        for name, tensor in self.source:
            yield name, tensor.to(self._dtype)


class _VllmTransport(WeightTransport):
    """What both backends share: a trainer, made anew when the samplers change."""

    def __init__(
        self,
        rank: int,
        dtype: str,
        bucket_bytes: int,
        deadline_s: float,
        workers_per_engine: int = 1,
        attempt: int = 1,
    ) -> None:
        self._attempt = attempt
        self._rank = rank
        self._workers_per_engine = workers_per_engine
        self._bucket_bytes = bucket_bytes
        self._deadline_s = deadline_s
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._source = VllmSource(self._dtype)
        self._samplers: list[ActorHandle] = []
        self._trainers: list[tuple[SamplerClient, TrainerWeightTransferEngine[Any]]] = []
        """One per group of samplers that take one transfer together."""

    def publish(
        self, source: WeightSource, version: Weights, samplers: Sequence[ActorHandle]
    ) -> Publication | None:
        start = time.monotonic()
        if list(samplers) != self._samplers:
            self._leave()
            self._samplers = list(samplers)
        self._source.source = source
        try:
            if not self._trainers:
                for group in self._groups(self._samplers):
                    self._trainers.append(self._join(group))
            for client, trainer in self._trainers:
                client.version = version
                trainer.send_weights()
        except BaseException:
            # An engine may be left inside a collective: the groups cannot be used again. Engines
            # leave theirs when they are connected anew; one that cannot is not waited for here.
            self._end_trainers()
            raise
        if self._rank != 0:
            return None
        sizes = [meta.dtype.itemsize * math.prod(meta.shape) for meta in self._source.metadata()]
        report = TransferReport(
            num_bytes=sum(sizes),
            num_engines=len(self._samplers),
            seconds=time.monotonic() - start,
            seconds_engines_paused=max(client.seconds_paused for client, _ in self._trainers),
        )
        return Publication(report, buckets=())

    def _leave(self) -> None:
        """Dissolve the groups with the samplers of the last publication."""
        try:
            if self._rank == 0:
                for client, _ in self._trainers:
                    client.shutdown_weight_transfer_engine()
        finally:
            self._end_trainers()

    def _end_trainers(self) -> None:
        """Give back what this rank's ends of the groups hold: communicators, buffers."""
        trainers, self._trainers = self._trainers, []
        for _, trainer in trainers:
            trainer.shutdown()

    def _make_trainer(
        self, samplers: Sequence[ActorHandle], info: TrainerInitInfo
    ) -> tuple[SamplerClient, TrainerWeightTransferEngine[Any]]:
        """Connect `samplers` as one group; returns the client that drives them and the trainer."""
        client = SamplerClient(samplers, self._deadline_s, self._workers_per_engine, self._attempt)
        trainer = WeightTransferTrainerFactory.trainer_init(
            info, client=client, source=self._source
        )
        return client, trainer

    def _groups(self, samplers: Sequence[ActorHandle]) -> list[list[ActorHandle]]:
        """Return the samplers by the transfer that they take part in."""
        return [list(samplers)]

    @abstractmethod
    def _join(
        self, samplers: Sequence[ActorHandle]
    ) -> tuple[SamplerClient, TrainerWeightTransferEngine[Any]]:
        """Make a group of these samplers and this rank."""


class NcclTransport(_VllmTransport):
    """Packed NCCL broadcast, for learner and samplers on different GPUs; double-buffered."""

    def _join(
        self, samplers: Sequence[ActorHandle]
    ) -> tuple[SamplerClient, TrainerWeightTransferEngine[Any]]:
        # vLLM binds the port itself, beside the socket that keeps it from others until then.
        with held_port(ray.util.get_node_ip_address()) as holder:
            address, port = holder.getsockname()
            info = NCCLTrainerInitInfo(
                rank=self._rank,
                master_address=address,
                master_port=port,
                world_size=1 + len(samplers) * self._workers_per_engine,
                packed=True,
                packed_buffer_size_bytes=self._bucket_bytes,
            )
            return self._make_trainer(samplers, info)


class CudaIpcTransport(_VllmTransport):
    """CUDA IPC, for a learner and samplers that share GPUs.

    PyTorch counts on one process to open and let go of an exported buffer; with two engines of a
    GPU on one export the count goes wrong and the buffer is never freed. So each transfer has one
    engine of each GPU, and there are as many as a GPU has engines.
    """

    def _groups(self, samplers: Sequence[ActorHandle]) -> list[list[ActorHandle]]:
        devices = get_within(
            self._deadline_s,
            "the samplers' GPUs",
            [sampler.device.remote() for sampler in samplers],
        )
        groups: list[list[ActorHandle]] = []
        for index, (sampler, device) in enumerate(zip(samplers, devices, strict=True)):
            earlier = devices[:index].count(device)
            if earlier == len(groups):
                groups.append([])
            groups[earlier].append(sampler)
        return groups

    def _join(
        self, samplers: Sequence[ActorHandle]
    ) -> tuple[SamplerClient, TrainerWeightTransferEngine[Any]]:
        largest = max(
            meta.dtype.itemsize * math.prod(meta.shape) for meta in self._source.metadata()
        )
        info = IPCTrainerInitInfo(
            rank=self._rank,
            packed=True,
            packed_buffer_size_bytes=max(self._bucket_bytes, int(largest * _IPC_HEADROOM)),
        )
        return self._make_trainer(samplers, info)


def _of_engine(init_info: dict[str, Any], num_before: int) -> dict[str, Any]:
    """Return the init info of one engine: workers are ranks of one group, in their order, and
    `num_before` are those of the engines before it."""
    if "rank_offset" not in init_info:
        return init_info
    return init_info | {"rank_offset": init_info["rank_offset"] + num_before}
