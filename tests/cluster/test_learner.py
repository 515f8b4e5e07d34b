"""The DeepSpeed learner against a plain PyTorch AdamW loop, for ranks and ZeRO stages."""

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
from actors.process import free_port
from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.method.losses import k3_divergence
from rzero_ray.types import Phase, Rollout, RunError

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

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._rank, self._world_size, self._port = rank, world_size, port
        self._learner: DeepSpeedLearner | None = None

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
        learner = DeepSpeedLearner(options, "127.0.0.1", self._port)
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
        learner = DeepSpeedLearner(self._options(stage), "127.0.0.1", self._port)
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
        learner = DeepSpeedLearner(options, "127.0.0.1", self._port)
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

    def save(self, checkpoint: Path, model: Path) -> None:
        assert self._learner is not None
        self._learner.save_checkpoint(checkpoint)
        self._learner.save_model(model)


def _options(aggregation: Aggregation) -> PhaseOptions:
    loss = dataclasses.replace(OPTIONS.loss, aggregation=aggregation)
    return dataclasses.replace(OPTIONS, loss=loss)


@pytest.fixture(scope="module")
def ranks() -> Iterator[dict[int, list]]:
    """Yield {world size: its ranks}."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    environment = {"env_vars": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}}
    groups = {}
    for world_size in (1, 2):
        port = free_port()
        actor = ray.remote(Rank).options(runtime_env=environment)  # type: ignore[call-overload]
        groups[world_size] = [actor.remote(rank, world_size, port) for rank in range(world_size)]
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
                logprobs=_logprobs(model, r).numpy()
                + rng.normal(0, 0.01, len(r.token_ids)).astype(np.float32),
                advantage=r.advantage,
                prompt_index=r.prompt_index,
            )
            for r in rollouts
        ]


def _phase(base_model: Path, **changes) -> Phase:
    settings = {
        "iteration": 1,
        "role": "solver",
        "initial_model": base_model,
        "checkpoint": None,
        "num_finished_steps": 0,
        "final_model": base_model,
    }
    return Phase(**(settings | changes))


def _logprobs(model, rollout: Rollout) -> torch.Tensor:
    """Return [T] log-probabilities of a rollout's completion, one sequence, no padding."""
    ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.token_ids])).long()[None]
    log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
    picked = log_p.gather(-1, ids[0, 1:, None])[:, 0]
    return picked[len(rollout.prompt_ids) - 1 :]


def _norm(arrays: Iterable[np.ndarray]) -> float:
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


def _plain_loop(
    base_model: Path, rollouts: list[Rollout], steps: int, aggregation: Aggregation
) -> Learned:
    """The same learning written down directly: one sequence at a time, torch's own AdamW."""
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    reference = copy.deepcopy(model)
    rates, settings, loss_settings = iter([0.5e-3] + [1e-3] * 99), OPTIONS.optimizer, OPTIONS.loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=settings.weight_decay)
    losses, grad_norms = [], []
    for _ in range(steps):
        with torch.no_grad():
            olds = [_logprobs(model, r) for r in rollouts]
        for start in range(0, NUM_PROMPTS * GROUP, OPTIONS.prompts_per_update * GROUP):
            pairs = list(zip(rollouts, olds, strict=True))[start : start + 9]
            batch, total = [r for r, _ in pairs], torch.zeros(())
            for rollout, old in pairs:
                new = _logprobs(model, rollout)
                with torch.no_grad():
                    base = _logprobs(reference, rollout)
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
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return Learned(weights, losses, grad_norms)


@pytest.fixture(scope="module")
def plain_loop(base_model: Path, scored: list[Rollout]) -> Callable[[Aggregation], Learned]:
    """Return the plain loop of two steps, run once per aggregation."""
    return functools.cache(lambda aggregation: _plain_loop(base_model, scored, 2, aggregation))


@pytest.mark.parametrize(
    ("world_size", "stage", "aggregation"),
    [
        (1, 0, "token_mean"),
        (1, 1, "sequence_mean"),
        (1, 2, "fixed_length"),
        (1, 3, "token_mean"),
        (2, 1, "fixed_length"),
        (2, 2, "token_mean"),
        (2, 2, "sequence_mean"),
        (2, 3, "sequence_mean"),
        (2, 3, "fixed_length"),
    ],
)
def test_learning_equals_a_plain_loop(
    ranks, scored, base_model, plain_loop, world_size, stage, aggregation
):
    shared = ray.put(scored)
    results = ray.get(
        [
            rank.learn.remote(stage, _phase(base_model), shared, 2, _options(aggregation))
            for rank in ranks[world_size]
        ],
        timeout=300,
    )
    learned = plain_loop(aggregation)
    expected = learned.weights
    start = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    weights = results[0]["weights"]
    assert set(weights) == set(expected)
    # Relative to the way covered, because Adam turns rounding of a near-zero gradient into a full
    # step of that one weight.
    off = _norm(weights[name] - expected[name].numpy() for name in expected)
    way = _norm((expected[name] - p).detach().numpy() for name, p in start.named_parameters())
    assert way > 0.1
    assert off < 1e-3 * way, (off, way)
    for step, report in enumerate(results[0]["reports"]):
        updates = slice(2 * step, 2 * step + 2)
        assert report.loss == pytest.approx(np.mean(learned.losses[updates]), abs=1e-5)
        if stage > 0:  # DeepSpeed tells no norm at stage 0
            assert report.grad_norm == pytest.approx(np.mean(learned.grad_norms[updates]), rel=1e-3)
    assert results[0]["reports"][0].num_updates == 2
    assert results[0]["reports"] == results[-1]["reports"]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "fixed_length"])
def test_sequences_alone_and_padded_together_have_one_loss(ranks, scored, base_model, aggregation):
    """A budget of one token puts each sequence into a micro-batch of its own; the other, all."""
    alone, together = (
        ray.get(
            ranks[1][0].learn.remote(
                1,
                _phase(base_model),
                scored,
                1,
                _options(aggregation),
                tokens_per_micro_batch=budget,
            )
        )
        for budget in (1, 10_000)
    )
    for name, value in dataclasses.asdict(alone["reports"][0]).items():
        expected = getattr(together["reports"][0], name)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    weights = together["weights"]
    off = _norm(alone["weights"][name] - weights[name] for name in weights)
    assert off < 1e-3 * OPTIONS.optimizer.learning_rate * np.sqrt(
        sum(map(np.size, weights.values()))
    )


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (2, 3)])
def test_imitation_descends_from_the_cross_entropy_of_the_base(
    ranks, scored, base_model, world_size, stage
):
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    with torch.no_grad():
        expected = -torch.cat([_logprobs(model, rollout) for rollout in scored]).mean().item()
    options = dataclasses.replace(_options("token_mean"), prompts_per_update=NUM_PROMPTS)
    shared = ray.put(scored)
    losses = ray.get(
        [
            rank.imitate.remote(stage, _phase(base_model), shared, options)
            for rank in ranks[world_size]
        ],
        timeout=300,
    )
    assert losses[0][0] == pytest.approx(expected, rel=1e-5)
    assert losses[0][0] > losses[0][1] > losses[0][2]
    assert losses[0] == losses[-1]


@pytest.mark.parametrize(("world_size", "stage"), [(1, 1), (2, 3)])
def test_recomputed_activations_and_a_reference_from_the_cpu_change_nothing(
    ranks, scored, base_model, world_size, stage
):
    def weights(**changes: Any) -> dict[str, np.ndarray]:
        results = [
            rank.learn.remote(stage, _phase(base_model), shared, 2, **changes)
            for rank in ranks[world_size]
        ]
        return ray.get(results, timeout=300)[0]["weights"]

    shared = ray.put(scored)
    expected = weights()
    for name, weight in weights(gradient_checkpointing=True, reference="cpu").items():
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_learns_with_float32_masters(ranks, scored, base_model, stage):
    """A step of 1e-4 is lost in bfloat16 weights above .03, whose neighbours are 2.4e-4 apart.

    Masters add the steps up: along the way of weights in float32 the weights have gone as far.
    """
    slow = dataclasses.replace(
        OPTIONS, optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.0)
    )
    result = ray.get(
        ranks[1][0].learn.remote(
            stage,
            _phase(base_model),
            scored,
            10,
            slow,
            dtype="bfloat16",
            gradient_checkpointing=True,
        ),
        timeout=300,
    )
    exact = ray.get(ranks[1][0].learn.remote(stage, _phase(base_model), scored, 10, slow))
    assert result["reports"][0].loss == pytest.approx(exact["reports"][0].loss, abs=0.02)
    start = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    along = way = 0.0
    for name, parameter in start.named_parameters():
        expected = exact["weights"][name] - parameter.detach().numpy()
        moved = result["weights"][name] - parameter.detach().bfloat16().float().numpy()
        along += float((moved * expected).sum())
        way += float(np.square(expected).sum())
    assert along / way == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("world_size", "stage", "dtype"),
    [
        # Without ZeRO float32 parameters lie in the mapped file on a CPU, whose memory cannot go.
        (1, 0, "bfloat16"),
        (1, 1, "bfloat16"),
        (1, 2, "bfloat16"),
        (1, 3, "bfloat16"),
        (2, 1, "float32"),
        (2, 2, "bfloat16"),
        (2, 3, "float32"),
    ],
)
def test_leaving_the_device_between_steps_changes_nothing(
    ranks, scored, base_model, world_size, stage, dtype
):
    group, shared, phase = ranks[world_size], ray.put(scored), _phase(base_model)
    stays = ray.get([r.learn.remote(stage, phase, shared, 3, dtype=dtype) for r in group])[0]
    turns = [r.learn_in_turns.remote(stage, phase, shared, 3, dtype=dtype) for r in group]
    moves = ray.get(turns)[0]
    for name, weight in moves["weights"].items():
        np.testing.assert_array_equal(weight, stays["weights"][name])
    for probe in moves["probes"]:
        np.testing.assert_array_equal(probe, stays["probe"])
    # Two moments and, in bfloat16, a master leave first; then the parameters. What DeepSpeed keeps
    # beside them (buffers for gradients) only adds to it.
    elements = sum(weight.size for weight in stays["weights"].values())
    partitions = elements / world_size
    optimizer = (partitions if stage else elements) * (8 if dtype == "float32" else 12)
    parameters = (partitions if stage == 3 else elements) * (4 if dtype == "float32" else 2)
    first, both = moves["bytes_away"]
    assert first > 0.99 * optimizer
    assert both - first > 0.99 * parameters
    assert moves["remaining"] < 0.02 * both


def test_without_a_kl_term_no_kl_is_reported(ranks, scored, base_model):
    no_kl = dataclasses.replace(OPTIONS, loss=LossConfig(kl_coefficient=0.0))
    result = ray.get(ranks[1][0].learn.remote(1, _phase(base_model), scored, 2, no_kl))
    assert [report.kl for report in result["reports"]] == [None, None]


@pytest.mark.parametrize("stage", [1, 3])
def test_an_anchor_holds_the_first_update_to_another_model(
    ranks, scored, base_model, tmp_path, stage
):
    """Held to its own start a phase begins at KL 0; held to the base model, at its distance."""
    rank, trained = ranks[1][0], tmp_path / "trained"
    whole = dataclasses.replace(OPTIONS, prompts_per_update=len(scored))  # one update a step
    ray.get(rank.learn.remote(stage, _phase(base_model), scored, 1, whole))
    ray.get(rank.save.remote(tmp_path / "step-001", trained))
    phase = _phase(trained)
    held = dataclasses.replace(phase, anchor=base_model)
    own, base = (
        ray.get(rank.learn.remote(stage, p, scored, 1, whole))["reports"][0] for p in (phase, held)
    )
    models = [
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (trained, base_model)
    ]
    with torch.no_grad():
        policy, reference = (
            torch.cat([_logprobs(model, rollout) for rollout in scored]) for model in models
        )
    expected = k3_divergence(policy, reference).mean().item()
    assert expected > 1e-3
    assert own.kl == 0.0
    assert base.kl == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_new_phase_holds_nothing_of_the_one_before(ranks, scored, base_model, stage):
    rank = ranks[1][0]
    ray.get(rank.learn.remote(stage, _phase(base_model), scored, 2))
    assert ray.get(rank.takes_up_another_role.remote(_phase(base_model)))


def test_clip_and_difference_are_reported(ranks, scored, base_model):
    first = ray.get(ranks[1][0].learn.remote(1, _phase(base_model), scored, 1))["reports"][0]
    assert first.num_tokens == sum(len(r.token_ids) for r in scored)
    assert first.logprob_difference_mean == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.15)
    assert 0.02 < first.logprob_difference_max < 0.06
    assert first.importance_mean == pytest.approx(1.0, abs=2e-3)
    assert first.importance_truncated_share == 0.0
    assert first.mismatch_kl == pytest.approx(0.01**2 / 2, rel=0.3)
    assert first.entropy > 0
    assert first.grad_norm > 0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(
    ranks, base_model, scored, tmp_path, stage
):
    rank, shared = ranks[1][0], ray.put(scored)
    checkpoint = tmp_path / "step-002"
    ray.get(rank.learn.remote(stage, _phase(base_model), shared, 1))
    ray.get(rank.save.remote(checkpoint, tmp_path / "model"))
    phase = _phase(base_model, checkpoint=checkpoint, num_finished_steps=2)
    ray.get(rank.learn.remote(stage, phase, shared, 0))
    files = sorted(checkpoint.glob("*.pt"))
    assert files
    for path in files:
        content = path.read_bytes()
        torch.save({"module": Trap(tmp_path / "ran")}, path)
        with pytest.raises(RunError, match=rf"{path.name} was not read: it wants to call posix"):
            ray.get(rank.learn.remote(stage, phase, shared, 0))
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match=rf"{path.name} is damaged"):
            ray.get(rank.learn.remote(stage, phase, shared, 0))
        path.write_bytes(content)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("stage", [1, 3])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    ranks, scored, base_model, tmp_path, stage
):
    group = ranks[2]
    shared = ray.put(scored)
    whole = ray.get([r.learn.remote(stage, _phase(base_model), shared, 3) for r in group])
    ray.get([r.learn.remote(stage, _phase(base_model), shared, 2) for r in group])
    checkpoint, model = tmp_path / "step-002", tmp_path / "model"
    ray.get([r.save.remote(checkpoint, model) for r in group])
    phase = _phase(base_model, checkpoint=checkpoint, num_finished_steps=2)
    resumed = ray.get([r.learn.remote(stage, phase, shared, 1) for r in group])
    for name, expected in whole[0]["weights"].items():
        np.testing.assert_allclose(resumed[0]["weights"][name], expected, rtol=0, atol=1e-6)
    saved = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        ids = torch.from_numpy(scored[0].prompt_ids).long()[None]
        log_p = torch.log_softmax(saved(input_ids=ids).logits[0, :-1], -1)
    again = ray.get([r.learn.remote(stage, _phase(model), shared, 0) for r in group])
    np.testing.assert_allclose(
        again[0]["probe"], log_p.gather(-1, ids[0, 1:, None])[:, 0].numpy(), atol=1e-5
    )
    with pytest.raises(RunError, match="step-002 was saved by 2 learner ranks and cannot be read"):
        _ = ray.get(ranks[1][0].learn.remote(stage, phase, shared, 1))
