"""A learner rank as an actor: DeepSpeed on one side, the weight transport on the other."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.fleet.life import Lives, Whereabouts, whereabouts
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.learning.rollouts import PackedRollouts, unpack_rollouts
from actors.process import held_port, large_imports
from actors.weights.delivery import Publication
from rzero_ray.config.cluster import WeightBackend, WeightSyncConfig
from rzero_ray.disk.files import synced_files
from rzero_ray.tasks.base_model import where_it_is
from rzero_ray.types import LearningReport, Phase, Weights

if TYPE_CHECKING:
    from actors.learning.deepspeed_rank import DeepSpeedLearner
    from actors.weights.transport import WeightTransport


class Learner(Lives):
    """One rank. Every rank gets the same calls in the same order (`actors.learning.group`)."""

    def __init__(
        self, name: str, options: LearnerOptions, weights: WeightSyncConfig, deadline_s: float
    ) -> None:
        self._name = name
        self._options = options
        self._learner: DeepSpeedLearner | None = None
        self._meeting_point: socket.socket | None = None
        """On rank 0: where the ranks meet, from `address` to `join`."""
        self._transport = _make_transport(
            options.weight_backend,
            rank=options.rank,
            dtype=options.dtype,
            bucket_bytes=weights.bucket_mib << 20,
            deadline_s=deadline_s,
            workers_per_engine=options.workers_per_engine,
            attempt=options.attempt,
        )

    def __repr__(self) -> str:
        return self._name

    def address(self) -> tuple[str, int]:
        """Return this node's address and a port of it, held until `join`, for the ranks to meet."""
        self._meeting_point = held_port(ray.util.get_node_ip_address())
        return self._meeting_point.getsockname()

    def join(self, master_address: str, master_port: int) -> Whereabouts:
        """Join the process group; returns where the rank runs."""
        with large_imports():
            from actors.learning.deepspeed_rank import DeepSpeedLearner

        self._learner = DeepSpeedLearner(
            self._options, master_address, master_port, self._meeting_point
        )
        return whereabouts()

    def start_phase(self, phase: Phase, options: PhaseOptions) -> None:
        """Take up a role."""
        anchor = None if phase.anchor is None else where_it_is(phase.anchor)
        phase = replace(phase, initial_model=where_it_is(phase.initial_model), anchor=anchor)
        self._ready().start_phase(phase, options)

    def load_model(self, path: Path) -> None:
        """Load a model to be published and scored, without an optimizer."""
        self._ready().load_model(where_it_is(path))

    def update(
        self, rollouts: PackedRollouts, allowed_tokens: NDArray[np.int32] | None = None
    ) -> LearningReport:
        """Learn from one step's rollouts, which were drawn from `allowed_tokens`."""
        return self._ready().update(unpack_rollouts(rollouts), allowed_tokens)

    def imitate(self, demonstrations: PackedRollouts) -> LearningReport:
        """Learn from one step's demonstrations."""
        return self._ready().imitate(unpack_rollouts(demonstrations))

    def publish(self, version: Weights, samplers: Sequence[ActorHandle]) -> Publication | None:
        """Load the weights into the engines of `samplers`; says what on rank 0."""
        return self._transport.publish(self._ready(), version, samplers)

    def prompt_logprobs(self, prompts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Return the log-probabilities of each prompt's tokens after the first."""
        return self._ready().prompt_logprobs(prompts)

    def leave_device(self, keep_parameters: bool) -> None:
        """Move what the phase holds to the host's memory, except for its parameters if so told."""
        self._ready().leave_device(keep_parameters=keep_parameters)

    def return_to_device(self) -> None:
        """Move back whatever is away."""
        self._ready().return_to_device()

    def save_checkpoint(self, path: Path) -> dict[str, int]:
        """Write what `start_phase` needs to go on from here; returns the rank's files and bytes."""
        return self._ready().save_checkpoint(path)

    def save_model(self, path: Path) -> dict[str, int]:
        """Write the policy in Hugging Face format; returns this rank's files and bytes."""
        return self._ready().save_model(path)

    def average(self, older: Path, newer: Path, decay: float, folder: Path) -> dict[str, int]:
        """Write an average of two models; this rank alone, from disk to disk. Returns the files of
        `folder` and their bytes."""
        from actors.learning.averaging import average_models

        average_models(where_it_is(older), where_it_is(newer), decay, folder)
        return synced_files(folder)

    def _ready(self) -> DeepSpeedLearner:
        assert self._learner is not None, "join() comes first"
        return self._learner


# What is imported inside functions: the driver imports this module only to name the class.


def _make_transport(
    backend: WeightBackend,
    *,
    rank: int,
    dtype: str,
    bucket_bytes: int,
    deadline_s: float,
    workers_per_engine: int,
    attempt: int,
) -> WeightTransport:
    """Return a learner rank's end of a backend."""
    if backend == "object_store":
        from actors.weights.object_store import ObjectStoreTransport

        return ObjectStoreTransport(rank, dtype, bucket_bytes, deadline_s, attempt)
    # Imports vLLM, which a learner without GPUs does not need: it takes seconds.
    from actors.weights.vllm_trainers import CudaIpcTransport, NcclTransport

    if backend == "cuda_ipc":
        return CudaIpcTransport(rank, dtype, bucket_bytes, deadline_s, attempt=attempt)
    return NcclTransport(rank, dtype, bucket_bytes, deadline_s, workers_per_engine, attempt)
