"""Learner ranks to test, the batch that they learn from, and a plain PyTorch loop beside them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.learning.deepspeed_rank import DeepSpeedLearner
from actors.learning.device_states import storages_under
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.process import held_port
from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.types import Phase, Rollout

OPTIONS = PhaseOptions(
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.01, warmup_updates=2),
    loss=LossConfig(kl_coefficient=0.1),
    prompts_per_update=3,
    temperature=1.0,
    max_tokens=24,
)
Aggregation = Literal["token_mean", "sequence_mean", "fixed_length"]
NUM_PROMPTS, GROUP = 6, 3
TOKENS_PER_MICRO_BATCH = 64
"""Small, so that a batch is cut into several micro-batches of unequal number per rank."""


class Trap:
    """Something that runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self._witness}",)


class Rank:
    """A learner rank that takes up one ZeRO stage after the other in one process group."""

    def __init__(self, rank: int, world_size: int, port: int = 0) -> None:
        """Rank 0 chooses the port where all meet."""
        self._rank, self._world_size = rank, world_size
        self._meeting_point = held_port("127.0.0.1") if rank == 0 else None
        self._port = self._meeting_point.getsockname()[1] if self._meeting_point else port
        self._learner: DeepSpeedLearner | None = None

    def port(self) -> int:
        return self._port

    def _make(self, options: LearnerOptions) -> DeepSpeedLearner:
        return DeepSpeedLearner(options, "127.0.0.1", self._port, self._meeting_point)

    def learn(
        self,
        stage: int,
        phase: Phase,
        rollouts: list[Rollout],
        steps: int,
        phase_options: PhaseOptions = OPTIONS,
        **changes: Any,
    ) -> dict:
        """Run a phase; returns reports, weights, and log-probabilities of a prompt.

        `changes` are of `LearnerOptions`.
        """
        options = dataclasses.replace(self._options(stage), **changes)
        learner = self._make(options)
        learner.start_phase(phase, phase_options)
        reports = [learner.update(rollouts) for _ in range(steps)]
        self._learner = learner
        return {
            "reports": reports,
            "weights": {name: tensor.float().numpy() for name, tensor in learner},
            "probe": learner.prompt_logprobs([rollouts[0].prompt_ids])[0],
        }

    def imitate(
        self, stage: int, phase: Phase, demonstrations: list[Rollout], options: PhaseOptions
    ) -> list[float]:
        """Return the losses of three steps of imitation."""
        learner = self._make(self._options(stage))
        learner.start_phase(phase, options)
        return [learner.imitate(demonstrations).loss for _ in range(3)]

    def learn_in_turns(
        self, stage: int, phase: Phase, rollouts: list[Rollout], steps: int, **changes: Any
    ) -> dict:
        """As `learn`, but the learner leaves its device after each step, in two parts.

        Returns the weights, the bytes that left in each part, those that then remained, and the log
        probabilities of a prompt in the middle of a turn and after it.
        """
        options = dataclasses.replace(self._options(stage), **changes)
        learner = self._make(options)
        learner.start_phase(phase, OPTIONS)
        self._learner, prompt, bytes_away = learner, rollouts[0].prompt_ids, [0, 0]
        between = remaining = None
        for _ in range(steps):
            learner.update(rollouts)
            for part, keep_parameters in enumerate((True, False)):
                learner.leave_device(keep_parameters=keep_parameters)
                bytes_away[part] = learner._states.num_bytes_away
                if keep_parameters:
                    between = learner.prompt_logprobs([prompt])[0]
            left = storages_under([learner._deepspeed], torch.device("cpu")).values()
            remaining = sum(s.nbytes() for s in left)
            learner.return_to_device()
        return {
            "weights": {name: tensor.float().numpy() for name, tensor in learner},
            "bytes_away": bytes_away,
            "remaining": remaining,
            "probes": [between, learner.prompt_logprobs([prompt])[0]],
        }

    def hold(self, stage: int, model: Path, prompt: Any) -> dict:
        """Load a model without an optimizer; returns weights, log-probabilities of a prompt, the
        bytes that lie on the device, and those that leave it in each part of a turn."""
        learner = self._make(self._options(stage))
        learner.load_model(model)
        self._learner = learner
        storages = storages_under([learner._model, learner._deepspeed], torch.device("cpu"))
        found = {
            "weights": {name: tensor.float().numpy() for name, tensor in learner},
            "shapes": learner.shapes(),
            "probe": learner.prompt_logprobs([prompt])[0],
            "bytes": sum(storage.nbytes() for storage in storages.values()),
        }
        learner.leave_device(keep_parameters=True)
        found["between"] = learner.prompt_logprobs([prompt])[0]
        learner.leave_device(keep_parameters=False)
        learner.return_to_device()
        return found

    def takes_up_another_role(self, phase: Phase) -> bool:
        """Start a phase; returns whether all tensors of the one before are gone by then."""
        assert self._learner is not None
        engine = self._learner._deepspeed
        parameters = list(engine.module.parameters())
        partitions = [getattr(parameter, "ds_tensor", None) for parameter in parameters]
        states = engine.basic_optimizer.state
        tensors = [*parameters, *partitions, *states]
        tensors += [tensor for state in states.values() for tensor in state.values()]
        held = [weakref.ref(t) for t in tensors if isinstance(t, torch.Tensor) and t.numel() > 1]
        del parameters, partitions, states, tensors
        assert len(held) > 10
        del engine
        self._learner.start_phase(phase, OPTIONS)
        return all(thing() is None for thing in held)

    def _options(self, stage: int) -> LearnerOptions:
        return LearnerOptions(
            rank=self._rank,
            world_size=self._world_size,
            device="cpu",
            dtype="float32",
            zero_stage=stage,
            tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
            num_threads=1,
            weight_backend="object_store",
        )

    def has_second_model(self) -> bool:
        """Say whether the reference is a model of its own."""
        assert self._learner is not None
        return self._learner._reference is not None

    def num_on_host(self) -> int:
        """Return how many tensors of the model this rank copies to be saved."""
        assert self._learner is not None
        return len(self._learner._on_host()[0])

    def save(self, checkpoint: Path, model: Path) -> None:
        assert self._learner is not None
        self._learner.save_checkpoint(checkpoint)
        self._learner.save_model(model)


def with_aggregation(aggregation: Aggregation) -> PhaseOptions:
    loss = dataclasses.replace(OPTIONS.loss, aggregation=aggregation)
    return dataclasses.replace(OPTIONS, loss=loss)


@pytest.fixture(scope="module")
def ranks() -> Iterator[dict[int, list]]:
    """Yield {world size: its ranks}."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    environment = {"env_vars": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}}
    groups = {}
    for world_size in (1, 2):
        actor = ray.remote(Rank).options(runtime_env=environment)  # type: ignore[call-overload]
        first = actor.remote(0, world_size)
        port = ray.get(first.port.remote())
        others = [actor.remote(rank, world_size, port) for rank in range(1, world_size)]
        groups[world_size] = [first, *others]
    yield groups
    ray.shutdown()


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    """Return rollouts of unequal length; the sampler's figures are slightly off, as in bf16."""
    rng = np.random.default_rng(0)
    return [
        Rollout(
            prompt_ids=rng.integers(0, 24, rng.integers(3, 9)).astype(np.int32),
            token_ids=rng.integers(0, 24, rng.integers(1, 20)).astype(np.int32),
            logprobs=np.zeros(0, dtype=np.float32),
            advantage=float(rng.normal()),
            prompt_index=prompt,
        )
        for prompt in range(NUM_PROMPTS)
        for _ in range(GROUP)
    ]


@pytest.fixture(scope="module")
def scored(rollouts: list[Rollout], base_model: Path) -> list[Rollout]:
    """Return the rollouts with the base model's own log-probabilities, perturbed."""
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        return [
            Rollout(
                prompt_ids=r.prompt_ids,
                token_ids=r.token_ids,
                logprobs=completion_logprobs(model, r).numpy()
                + rng.normal(0, 0.01, len(r.token_ids)).astype(np.float32),
                advantage=r.advantage,
                prompt_index=r.prompt_index,
            )
            for r in rollouts
        ]


def completion_logprobs(model, rollout: Rollout) -> torch.Tensor:
    """Return [T] log-probabilities of a rollout's completion, one sequence, no padding."""
    ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.token_ids])).long()[None]
    log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
    picked = log_p.gather(-1, ids[0, 1:, None])[:, 0]
    return picked[len(rollout.prompt_ids) - 1 :]


def norm_of(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays)))


def _divisor(aggregation: Aggregation, batch: list[Rollout], rollout: Rollout) -> int:
    """By what the summed loss of a rollout's tokens is divided."""
    match aggregation:
        case "token_mean":
            return sum(len(r.token_ids) for r in batch)
        case "sequence_mean":
            return len(batch) * len(rollout.token_ids)
        case "fixed_length":
            return len(batch) * OPTIONS.max_tokens


@dataclasses.dataclass(frozen=True)
class Learned:
    """What the plain loop did; losses and norms are those of every optimizer step."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    grad_norms: list[float]


def learn_plainly(
    base_model: Path,
    rollouts: list[Rollout],
    steps: int,
    aggregation: Aggregation,
    adapt: Callable[[Any], Any] = lambda model: model,
    merge: Callable[[Any], Any] = lambda model: model,
) -> Learned:
    """The same learning written down directly: one sequence at a time, torch's own AdamW.

    `adapt` puts an adapter into the model, `merge` takes it out again.
    """
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    reference = copy.deepcopy(model)
    model = adapt(model)
    rates, settings, loss_settings = iter([0.5e-3] + [1e-3] * 99), OPTIONS.optimizer, OPTIONS.loss
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=1.0,
        weight_decay=settings.weight_decay,
    )
    losses, grad_norms = [], []
    for _ in range(steps):
        with torch.no_grad():
            olds = [completion_logprobs(model, r) for r in rollouts]
        for start in range(0, NUM_PROMPTS * GROUP, OPTIONS.prompts_per_update * GROUP):
            pairs = list(zip(rollouts, olds, strict=True))[start : start + 9]
            batch, total = [r for r, _ in pairs], torch.zeros(())
            for rollout, old in pairs:
                new = completion_logprobs(model, rollout)
                with torch.no_grad():
                    base = completion_logprobs(reference, rollout)
                ratio = (new - old).exp()
                clipped = ratio.clamp(1 - loss_settings.clip_low, 1 + loss_settings.clip_high)
                a = rollout.advantage
                surrogate = torch.maximum(-a * ratio, -a * clipped)
                if a < 0:
                    surrogate = surrogate.clamp(max=-a * loss_settings.dual_clip)
                weight = (old - torch.from_numpy(rollout.logprobs)).exp().clamp(max=2.0)
                gap = base - new
                kl = (gap.exp() - gap - 1).clamp(max=10.0)
                summed = (weight * surrogate + loss_settings.kl_coefficient * kl).sum()
                total = total + summed / _divisor(aggregation, batch, rollout)
            optimizer.zero_grad()
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            losses.append(total.item())
            grad_norms.append(norm.item())
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
    weights = {name: p.detach() for name, p in merge(model).named_parameters()}
    return Learned(weights, losses, grad_norms)


@pytest.fixture(scope="module")
def plain_loop(base_model: Path, scored: list[Rollout]) -> Callable[[Aggregation], Learned]:
    """Return the plain loop of two steps, run once per aggregation."""
    return functools.cache(lambda aggregation: learn_plainly(base_model, scored, 2, aggregation))
