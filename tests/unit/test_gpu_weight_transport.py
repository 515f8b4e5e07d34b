"""What can be tested of the GPU backends without a GPU: who is told what, and which is chosen."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from actors.weights import vllm_trainers
from actors.weights.vllm_trainers import (
    CudaIpcTransport,
    NcclTransport,
    SamplerClient,
    VllmSource,
    _of_engine,
)
from rzero_ray.config.layout import backend_of
from rzero_ray.config.load import load_config
from rzero_ray.types import RunError, UserError, WeightVersion

GPU = ["conf=qwen3_4b"]


@pytest.mark.parametrize(
    ("per_rank", "per_engine", "alone", "shared"),
    [
        (0, 0, "object_store", "object_store"),
        (1, 0, "object_store", "object_store"),
        (1, 1, "nccl", "cuda_ipc"),
        (0.5, 0.5, "cuda_ipc", "cuda_ipc"),
    ],
)
def test_auto_takes_what_fits_the_devices_and_the_layout(per_rank, per_engine, alone, shared):
    shares = [f"learner.gpus_per_rank={per_rank}", f"sampler.gpus_per_engine={per_engine}"]
    config = load_config([*GPU, *shares])
    assert backend_of(config, "disaggregated") == alone
    assert backend_of(config, "colocated") == shared
    config = load_config([*GPU, *shares, "weights.backend=object_store"])
    assert backend_of(config, "disaggregated") == "object_store"


def test_a_backend_that_does_not_fit_is_refused_in_one_line():
    with pytest.raises(UserError, match="use object_store"):
        load_config(["conf=tiny", "weights.backend=nccl"])
    with pytest.raises(UserError, match="use nccl"):
        load_config([*GPU, "layout=disaggregated", "weights.backend=cuda_ipc"])
    with pytest.raises(UserError, match="use cuda_ipc"):
        load_config([*GPU, "layout=colocated", "weights.backend=nccl"])
    # Which of the two fits is not known before the cluster is.
    assert load_config([*GPU, "weights.backend=cuda_ipc"]).weights.backend == "cuda_ipc"
    assert load_config([*GPU, "weights.backend=nccl"]).weights.backend == "nccl"


def test_independent_engines_are_different_ranks_of_one_group():
    infos = [_of_engine({"rank_offset": 1, "world_size": 4}, k) for k in range(3)]
    assert [info["rank_offset"] for info in infos] == [1, 2, 3]
    assert _of_engine({"packed": True}, 2) == {"packed": True}  # CUDA IPC has no ranks


def test_each_worker_of_an_engine_is_a_rank():
    joined: list[dict[str, Any]] = []

    def connect(info: dict[str, Any]) -> None:
        joined.append(info)

    engines: list[Any] = [
        SimpleNamespace(connect_weights=SimpleNamespace(remote=connect)) for _ in range(3)
    ]
    client = SamplerClient(engines, 5.0, workers_per_engine=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", lambda refs, timeout: refs)
        client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert [info["rank_offset"] for info in joined] == [1, 3, 5]


class _Remote:
    def __init__(self, log: list, name: str) -> None:
        self._log, self._name = log, name

    def remote(self, *arguments: object) -> str:
        self._log.append((self._name, *arguments))
        return self._name


class _Engine:
    """An actor handle that notes its calls."""

    def __init__(self) -> None:
        self.log: list = []

    def __getattr__(self, name: str) -> _Remote:
        return _Remote(self.log, name)


def test_the_client_drives_every_engine_in_vllms_order(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda refs, timeout: refs)
    engines = [_Engine(), _Engine()]
    client = SamplerClient(engines, deadline_s=5.0)  # type: ignore[arg-type]
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 3})
    client.version = WeightVersion(role="solver", iteration=1, num_steps=2)
    client.start_weight_update()
    client.update_weights({"names": ["a"]})
    client.finish_weight_update()
    client.shutdown_weight_transfer_engine()
    for index, engine in enumerate(engines):
        assert engine.log == [
            ("connect_weights", {"rank_offset": 1 + index, "world_size": 3}),
            ("start_weight_update", 1),
            ("update_weights", {"names": ["a"]}),
            ("finish_weight_update", client.version),
            ("disconnect_weights",),
        ]


class _OnDevice:
    """An actor handle that knows only its GPU."""

    def __init__(self, name: str, device: tuple[str, tuple[str, ...]]) -> None:
        self.name, self._device = name, device

    @property
    def device(self) -> Any:
        return SimpleNamespace(remote=lambda: self._device)


def test_no_two_engines_of_a_gpu_open_one_buffer(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda refs, timeout: refs)
    gpus = {"a0": ("a", ("0",)), "a1": ("a", ("1",)), "b0": ("b", ("0",))}
    engines: list[Any] = [_OnDevice(f"C-{gpu}", device) for gpu, device in gpus.items()]
    engines += [_OnDevice(f"S-{gpu}", device) for gpu, device in gpus.items()]

    def names(transport: Any, of: list[Any]) -> list[list[str]]:
        return [[engine.name for engine in group] for group in transport._groups(of)]

    ipc = CudaIpcTransport(0, "bfloat16", 1 << 20, 5.0)
    assert names(ipc, engines) == [["C-a0", "C-a1", "C-b0"], ["S-a0", "S-a1", "S-b0"]]
    assert names(ipc, engines[:3]) == [["C-a0", "C-a1", "C-b0"]]
    nccl = NcclTransport(0, "bfloat16", 1 << 20, 5.0)
    assert names(nccl, engines) == [[engine.name for engine in engines]]


class _Weights:
    def shapes(self):
        return [("a", (2, 3)), ("b", (4,))]

    def __iter__(self):
        yield "a", torch.ones(2, 3)
        yield "b", torch.ones(4)


def test_metadata_agrees_with_what_is_sent():
    source = VllmSource(torch.bfloat16)
    source.source = _Weights()
    declared = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    sent = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in source]
    assert declared == sent


class _Trainer:
    """A trainer engine of vLLM that only counts what it sends."""

    sent = 0

    def send_weights(self) -> None:
        self.sent += 1

    def shutdown(self) -> None:
        pass


def test_a_group_lasts_until_other_samplers_are_named(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda refs, timeout: refs)
    first, late = _Engine(), _Engine()
    transport: Any = NcclTransport(0, "float32", 1 << 20, 5.0)
    joined: list[list[_Engine]] = []

    def join(engines: list[Any]) -> tuple[SamplerClient, _Trainer]:
        joined.append(engines)
        return SamplerClient(engines, 5.0), _Trainer()

    monkeypatch.setattr(transport, "_join", join)
    for step, engines in enumerate(([first], [first], [first, late])):
        version = WeightVersion(role="solver", iteration=1, num_steps=step)
        publication = transport.publish(_Weights(), version, engines)
        assert publication.report.num_engines == len(engines)
    assert joined == [[first], [first, late]]
    assert first.log == [("disconnect_weights",)]  # of the group of one
    assert late.log == []


class _FailingTrainer(_Trainer):
    """One whose second transfer fails; it notes that it is shut down."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def send_weights(self) -> None:
        super().send_weights()
        if self.sent == 2:
            raise RunError("an engine has failed")

    def shutdown(self) -> None:
        self._log.append("shut down")


def test_a_failed_publication_ends_its_group_and_the_next_one_makes_another(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda refs, timeout: refs)
    engine = _Engine()
    transport: Any = NcclTransport(0, "float32", 1 << 20, 5.0)
    log: list[str] = []

    def join(engines: list[Any]) -> tuple[SamplerClient, _Trainer]:
        log.append("joined")
        return SamplerClient(engines, 5.0), _FailingTrainer(log)

    monkeypatch.setattr(transport, "_join", join)
    version = WeightVersion(role="solver", iteration=1, num_steps=0)
    transport.publish(_Weights(), version, [engine])
    with pytest.raises(RunError, match="an engine has failed"):
        transport.publish(_Weights(), version, [engine])
    transport.publish(_Weights(), version, [engine])
    assert log == ["joined", "shut down", "joined"]


def test_a_trainer_is_shut_down_when_other_samplers_are_named_even_where_one_does_not_answer(
    monkeypatch,
):
    transport: Any = NcclTransport(0, "float32", 1 << 20, 5.0)
    log: list[str] = []
    first, late = _Engine(), _Engine()
    monkeypatch.setattr(
        transport, "_join", lambda engines: (SamplerClient(engines, 5.0), _FailingTrainer(log))
    )
    version = WeightVersion(role="solver", iteration=1, num_steps=0)
    transport.publish(_Weights(), version, [first])

    def lost(refs: object, timeout: float) -> None:
        raise RunError("an actor was lost")

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(RunError, match="an actor was lost"):
        transport.publish(_Weights(), version, [late])
    assert log == ["shut down"]


def test_nccl_tells_engines_a_port_that_is_held_until_vllm_listens(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    told: list[tuple[str, int]] = []

    def trainer_init(info: Any, client: object, source: object) -> _Trainer:
        address = (info.master_address, info.master_port)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        told.append(address)
        return _Trainer()

    monkeypatch.setattr(vllm_trainers.WeightTransferTrainerFactory, "trainer_init", trainer_init)
    transport = NcclTransport(0, "float32", 1 << 20, 5.0)
    transport._join([_Engine()])  # type: ignore[list-item]
    with socket.socket() as other:
        other.bind(told[0])
