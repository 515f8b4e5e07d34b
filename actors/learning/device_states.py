"""The states of a model in training, moved off its device and back, in place.

DeepSpeed's own `offload_states` would do it for some of them only: under ZeRO 3 it refuses every
optimizer but its compiled FusedAdam, and its optimizer for bfloat16 under ZeRO 1 has no such method
(0.19.8). Here the memory under the tensors is taken away and given back, as PyTorch's FSDP does:
the tensors, their views of one another and every reference to them stay as they are, so nothing of
DeepSpeed needs to know, under any ZeRO stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

_BLOCK_BYTES = 1 << 30
"""Largest copy in page-locked memory, which PyTorch rounds up to a power of two: one copy of many
gibibytes could take twice its size."""
_NOT_STATES = (ModuleType, FunctionType, MethodType, type, str, bytes, int, float, bool, type(None))

Storages = dict[int, torch.UntypedStorage]
"""Storages by their identity: tensors that are views of one another share one."""


class DeviceStates:
    """What lies under a set of objects on one device, and the copies of what has been moved off."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._away: list[tuple[torch.UntypedStorage, list[Tensor]]] = []
        """Each emptied storage with its bytes in the host's memory, in blocks."""

    @property
    def num_bytes_away(self) -> int:
        """Bytes that lie in the host's memory instead of on the device."""
        return sum(block.nbytes for _, blocks in self._away for block in blocks)

    def move_off(self, roots: Iterable[object], keep: Iterable[Tensor] = ()) -> None:
        """Move everything reachable from `roots` off the device, except for the tensors `keep`.

        Until `move_back` the tensors have no memory: whoever reads them fails.
        """
        kept = {tensor.untyped_storage()._cdata for tensor in keep}
        for identity, storage in storages_under(roots, self._device).items():
            if identity not in kept and storage.nbytes() and storage.resizable():
                self._away.append((storage, self._copy(storage)))
                storage.resize_(0)
        self._release_cache()

    def move_back(self) -> None:
        """Give every tensor that was moved off its memory and its values again."""
        for storage, blocks in self._away:
            storage.resize_(sum(block.nbytes for block in blocks))
            start = 0
            for block in blocks:
                _bytes_of(storage)[start : start + block.nbytes].copy_(block, non_blocking=True)
                start += block.nbytes
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the copies are let go of next
        self._away = []

    def forget(self) -> None:
        """Let go of the copies: whoever owned the tensors does not want them back."""
        self._away = []

    def _copy(self, storage: torch.UntypedStorage) -> list[Tensor]:
        is_cuda = self._device.type == "cuda"
        blocks = []
        for part in _bytes_of(storage).split(_BLOCK_BYTES):
            block = torch.empty(part.shape, dtype=torch.uint8, device="cpu", pin_memory=is_cuda)
            blocks.append(block.copy_(part))
        return blocks

    def _release_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # for the other processes on the device


def storages_under(roots: Iterable[object], device: torch.device) -> Storages:
    """Return the storages on `device` of all tensors reachable from `roots`.

    Followed are containers, attributes of instances and of tensors (DeepSpeed hangs partitions on
    parameters), and gradients; not functions and modules of code.
    """
    found: Storages = {}
    seen: dict[int, object] = {}  # held, or another object could get the identity of one seen
    waiting: deque[Any] = deque(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _NOT_STATES):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            if item.device.type == device.type and item.layout == torch.strided:
                storage = item.untyped_storage()
                found[storage._cdata] = storage
            if item.is_leaf and item.grad is not None:
                waiting.append(item.grad)
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            waiting.extend(item)
        waiting.extend(getattr(item, "__dict__", {}).values())
    return found


@contextmanager
def lent(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Lend `model` to `device`; at the end what lay elsewhere is there again, uncopied."""
    tensors = [*model.parameters(), *model.buffers()]
    homes = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    """Return a view of a storage as bytes."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload]
