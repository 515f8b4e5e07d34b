"""Tensors that lose their memory and get it back, with everything that refers to them intact."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from actors.learning.device_states import DeviceStates, storages_under

CPU = torch.device("cpu")


def test_views_and_references_outlive_the_memory_under_them():
    flat = torch.arange(12.0)
    weight = torch.nn.Parameter(flat[:8].view(2, 4))
    weight.grad = torch.ones(2, 4)
    weight.partition = flat[8:]  # type: ignore[attr-defined]  # as DeepSpeed hangs its own on it
    moment = torch.full((3,), 7.0, dtype=torch.bfloat16)
    owner = SimpleNamespace(groups=[{"params": (weight,)}], state={weight: {"moment": moment}})
    grad = weight.grad
    states = DeviceStates(CPU)
    states.move_off([owner])
    for tensor in (flat, weight, moment, grad):
        assert tensor.untyped_storage().nbytes() == 0
    assert states.num_bytes_away == 4 * 12 + 4 * 8 + 2 * 3
    states.move_back()
    assert states.num_bytes_away == 0
    assert flat.tolist() == list(range(12))
    assert weight.grad is grad and grad.tolist() == [[1.0] * 4] * 2
    assert moment.tolist() == [7.0] * 3
    with torch.no_grad():
        weight += 1  # still a view of the flat tensor
    assert flat[:3].tolist() == [1.0, 2.0, 3.0]


def test_what_is_kept_stays_until_the_rest_goes_too():
    weight, moment = torch.ones(4), torch.ones(6)
    states = DeviceStates(CPU)
    states.move_off([[weight, moment]], keep=[weight[1:]])  # any view of it
    assert (weight.sum().item(), moment.untyped_storage().nbytes()) == (4.0, 0)
    states.move_off([[weight, moment]])
    assert states.num_bytes_away == 4 * 10
    states.move_back()
    assert (weight.sum().item(), moment.sum().item()) == (4.0, 6.0)


def test_a_large_tensor_goes_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.learning.device_states._BLOCK_BYTES", 100)
    tensor = torch.arange(64.0)  # 256 bytes
    states = DeviceStates(CPU)
    states.move_off([tensor])
    assert [block.nbytes for block in states._away[0][1]] == [100, 100, 56]
    states.move_back()
    assert tensor.tolist() == list(range(64))


def test_forgotten_states_are_gone():
    tensor = torch.ones(4)
    states = DeviceStates(CPU)
    states.move_off([tensor])
    states.forget()
    states.move_back()
    assert tensor.untyped_storage().nbytes() == 0


def test_only_the_device_that_is_asked_for():
    assert not storages_under([torch.ones(2)], torch.device("cuda"))
    assert len(storages_under([{"a": torch.ones(2)}, torch.ones(1)], CPU)) == 2
