"""The engine side of the `object_store` weight backend; runs inside vLLM's worker process.

vLLM imports this module because it is named as `worker_extension_cls`; importing it registers the
backend with vLLM's own weight-transfer API, next to its `nccl` and `ipc` backends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

BACKEND = "rzero_object_store"
"""Name under which vLLM knows the backend."""


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: each bucket says where it is."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: a file of raw bytes and where each tensor lies in it."""

    path: str
    names: list[str]
    dtypes: list[str]
    """Names in the `torch` module, such as `bfloat16`."""
    shapes: list[list[int]]
    offsets: list[int]
    """Where each tensor begins in the file, in bytes."""


class ObjectStoreReceiver(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads buckets from shared memory through vLLM's layerwise reload."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """Nothing to connect."""
        self._mapped: dict[tuple[str, int], torch.Tensor] = {}
        """By path and the number of the memory that it was of."""

    def start_weight_update(self) -> None:
        """Prepare layerwise reloading."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket. The base class synchronizes the accelerator, which CPUs lack."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Map the bucket and hand its tensors to the model's own loader."""
        data = self._map(update_info.path)
        self.model.load_weights(  # type: ignore[operator]
            (name, _tensor_at(data, offset, dtype, shape))
            for name, dtype, shape, offset in zip(
                update_info.names,
                update_info.dtypes,
                update_info.shapes,
                update_info.offsets,
                strict=True,
            )
        )
        self._keep_postponed(data)

    def _keep_postponed(self, data: torch.Tensor) -> None:
        """Copy what vLLM loads only at the end: `data` is overwritten before that.

        Those are layers with rows that nothing fills, such as embeddings of a vocabulary that vLLM
        has padded to a multiple of 64.
        """
        memory = data.untyped_storage().data_ptr()
        for layer in self.model.modules():
            for _, call in get_layerwise_info(layer).loaded_weights:
                weight = call.arguments["loaded_weight"]
                if weight.untyped_storage().data_ptr() == memory:
                    call.arguments["loaded_weight"] = weight.clone()

    def _map(self, path: str) -> torch.Tensor:
        """Return the bytes of a staged bucket. Memory is mapped once: faults cost more than copies.

        Shared, so that what is staged later is seen. Writable, because torch knows no other
        tensors; nobody writes here.
        """
        key = path, os.stat(path).st_ino  # the same path may come to be of other memory
        if key not in self._mapped:
            self._mapped = {old: data for old, data in self._mapped.items() if _is_there(*old)}
            self._mapped[key] = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r+"))
        return self._mapped[key]

    def finish_weight_update(self) -> None:
        """Finish layerwise reloading.

        vLLM's CPU backend prepacks weights for its matrix products. For an output head tied to
        the embeddings the layerwise reload leaves the old packing in place, and the engine goes
        on sampling with the old head; so heads are packed again here.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type != "cpu":
            return
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing to release."""


class WorkerExtension:
    """What vLLM's worker can do beside what vLLM has it do; its methods become the worker's.

    vLLM imports this module to find it, and so comes by the registration below.
    """

    weight_transfer_engine: Any  # the worker's own, as is `vllm_config`
    vllm_config: VllmConfig

    def drop_weight_update(self) -> None:
        """Leave a reload that nobody ends, so that another one can begin.

        Layers that were complete have new weights, the others their old ones.
        """
        engine = self.weight_transfer_engine
        for layer in engine.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():
                info.loaded_weights.clear()
                info.load_numel = 0
        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(engine.model, engine.model_config)
        engine.reset_weight_update_target()
        self._weight_update_active = False  # vLLM's own record


def _is_there(path: str, number: int) -> bool:
    """Return whether a path is still of the memory with this number."""
    try:
        return os.stat(path).st_ino == number
    except OSError:  # its owner has ended, or given it back
        return False


def _tensor_at(data: torch.Tensor, offset: int, dtype: str, shape: list[int]) -> torch.Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    size = int(np.prod(shape)) * kind.itemsize
    return data[offset : offset + size].view(kind).view(shape)


WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreReceiver)
