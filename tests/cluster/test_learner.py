"""The DeepSpeed learner against a plain PyTorch AdamW loop, for ranks and ZeRO stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.method.losses import k3_divergence
from rzero_ray.types import Rollout, RunError, UpdateRule
from tests.cluster.learner_ranks import (
    NUM_PROMPTS,
    OPTIONS,
    Trap,
    completion_logprobs,
    norm_of,
    with_aggregation,
)
from tests.marks import long
from tests.unit.builders import phase_of


@pytest.mark.parametrize(
    ("world_size", "stage", "aggregation"),
    [
        (1, 0, "token_mean"),
        long(1, 1, "sequence_mean"),
        long(1, 2, "fixed_length"),
        long(1, 3, "token_mean"),
        long(2, 1, "fixed_length"),
        (2, 2, "token_mean"),
        long(2, 2, "sequence_mean"),
        (2, 3, "sequence_mean"),
        long(2, 3, "fixed_length"),
    ],
)
def test_learning_equals_a_plain_loop(
    ranks, scored, base_model, plain_loop, world_size, stage, aggregation
):
    shared = ray.put(scored)
    results = ray.get(
        [
            rank.learn.remote(stage, phase_of(base_model), shared, 2, with_aggregation(aggregation))
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
    off = norm_of(weights[name] - expected[name].numpy() for name in expected)
    way = norm_of((expected[name] - p).detach().numpy() for name, p in start.named_parameters())
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
                phase_of(base_model),
                scored,
                1,
                with_aggregation(aggregation),
                tokens_per_micro_batch=budget,
            )
        )
        for budget in (1, 10_000)
    )
    for name, value in dataclasses.asdict(alone["reports"][0]).items():
        expected = getattr(together["reports"][0], name)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    weights = together["weights"]
    off = norm_of(alone["weights"][name] - weights[name] for name in weights)
    assert off < 1e-3 * OPTIONS.optimizer.learning_rate * np.sqrt(
        sum(map(np.size, weights.values()))
    )


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), long(2, 3)])
def test_a_mini_batch_without_a_gradient_is_left_out_and_measured(
    ranks, scored, base_model, world_size, stage
):
    """The second mini-batch teaches nothing: what is left are the steps of the first one alone."""
    rewarded = [r for r in scored if r.prompt_index < OPTIONS.prompts_per_update]
    silent = [dataclasses.replace(r, advantage=0.0) for r in scored]
    half = rewarded + silent[len(rewarded) :]

    def learned(rollouts: Sequence[Rollout], updates: UpdateRule) -> dict[str, Any]:
        options = dataclasses.replace(
            OPTIONS,
            loss=LossConfig(kl_coefficient=0.0),
            optimizer=dataclasses.replace(OPTIONS.optimizer, updates=updates),
        )
        shared = ray.put(list(rollouts))
        results = ray.get(
            [
                rank.learn.remote(stage, phase_of(base_model), shared, 2, options)
                for rank in ranks[world_size]
            ],
            timeout=300,
        )
        assert results[0]["reports"] == results[-1]["reports"]
        return results[0]

    alone, left_out = learned(rewarded, "every"), learned(half, "with_gradient")
    for name, weights in alone["weights"].items():
        np.testing.assert_array_equal(left_out["weights"][name], weights)
    every = learned(half, "every")
    assert any(np.any(every["weights"][n] != w) for n, w in alone["weights"].items())
    first, of_every = left_out["reports"][0], every["reports"][0]
    assert (first.num_updates, of_every.num_updates) == (1, 2)
    assert first.num_tokens == of_every.num_tokens
    assert first.grad_norm == pytest.approx(of_every.grad_norm, rel=1e-5)

    nothing = learned(silent, "with_gradient")
    start = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    for name, parameter in start.named_parameters():
        np.testing.assert_array_equal(nothing["weights"][name], parameter.detach().numpy())
    (report, again) = nothing["reports"]
    assert report == again
    assert (report.num_updates, report.grad_norm, report.learning_rate) == (0, 0.0, 0.0)
    assert report.entropy > 0 and report.loss == 0


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), long(2, 3)])
def test_imitation_descends_from_the_cross_entropy_of_the_base(
    ranks, scored, base_model, world_size, stage
):
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    with torch.no_grad():
        expected = (
            -torch.cat([completion_logprobs(model, rollout) for rollout in scored]).mean().item()
        )
    options = dataclasses.replace(with_aggregation("token_mean"), prompts_per_update=NUM_PROMPTS)
    shared = ray.put(scored)
    losses = ray.get(
        [
            rank.imitate.remote(stage, phase_of(base_model), shared, options)
            for rank in ranks[world_size]
        ],
        timeout=300,
    )
    assert losses[0][0] == pytest.approx(expected, rel=1e-5)
    assert losses[0][0] > losses[0][1] > losses[0][2]
    assert losses[0] == losses[-1]


def _weights(
    ranks: Sequence[Any], stage: int, base_model: Path, rollouts: Any, **changes: Any
) -> dict[str, np.ndarray]:
    """Return what two steps come to; `changes` are of `LearnerOptions`."""
    results = [
        rank.learn.remote(stage, phase_of(base_model), rollouts, 2, **changes) for rank in ranks
    ]
    return ray.get(results, timeout=300)[0]["weights"]


@pytest.mark.parametrize(("world_size", "stage"), [(1, 1), long(2, 3)])
def test_recomputed_activations_and_a_reference_from_the_cpu_change_nothing(
    ranks, scored, base_model, world_size, stage
):
    weights = partial(_weights, ranks[world_size], stage, base_model, ray.put(scored))
    expected = weights()
    for name, weight in weights(gradient_checkpointing=True, reference="cpu").items():
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("world_size", "stage", "offload"),
    [(1, 1, "optimizer"), long(2, 2, "optimizer"), long(2, 3, "all")],
)
def test_states_that_deepspeed_offloads_change_nothing(
    ranks, scored, base_model, world_size, stage, offload
):
    weights = partial(_weights, ranks[world_size], stage, base_model, ray.put(scored))
    expected = weights()
    for name, weight in weights(offload=offload).items():
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", [long(0), long(1), 2, long(3)])
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
            phase_of(base_model),
            scored,
            10,
            slow,
            dtype="bfloat16",
            gradient_checkpointing=True,
        ),
        timeout=300,
    )
    exact = ray.get(ranks[1][0].learn.remote(stage, phase_of(base_model), scored, 10, slow))
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
        long(1, 1, "bfloat16"),
        long(1, 2, "bfloat16"),
        long(1, 3, "bfloat16"),
        long(2, 1, "float32"),
        (2, 2, "bfloat16"),
        long(2, 3, "float32"),
    ],
)
def test_leaving_the_device_between_steps_changes_nothing(
    ranks, scored, base_model, world_size, stage, dtype
):
    group, shared, phase = ranks[world_size], ray.put(scored), phase_of(base_model)
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


@pytest.mark.parametrize("stage", [1, long(3)])
def test_a_model_that_is_only_held_has_no_optimizer_and_is_published_as_it_is(
    ranks, scored, base_model, stage
):
    prompt = scored[0].prompt_ids
    phases = [r.learn.remote(stage, phase_of(base_model), scored, 0) for r in ranks[2]]
    expected = ray.get(phases, timeout=300)[0]
    for found in ray.get([r.hold.remote(stage, base_model, prompt) for r in ranks[2]]):
        assert list(found["weights"]) == [name for name, _ in found["shapes"]]
        for name, weight in found["weights"].items():
            np.testing.assert_array_equal(weight, expected["weights"][name])
        np.testing.assert_allclose(found["probe"], expected["probe"], atol=1e-5)
        np.testing.assert_array_equal(found["between"], found["probe"])
        # Buffers such as rotary frequencies come on top of the parameters; moments would double it.
        assert found["bytes"] < 1.1 * sum(w.nbytes for w in found["weights"].values())
    # A phase begins as ever afterwards.
    again = [r.learn.remote(stage, phase_of(base_model), scored, 1) for r in ranks[2]]
    assert ray.get(again, timeout=300)[0]["reports"][0].num_updates == 2


@pytest.mark.parametrize("stage", [long(1), 3])
def test_one_rank_alone_copies_a_model_that_is_saved(ranks, scored, base_model, stage):
    shared = ray.put(scored)
    found = [r.learn.remote(stage, phase_of(base_model), shared, 0) for r in ranks[2]]
    num_tensors = len(ray.get(found)[0]["weights"])
    assert ray.get([r.num_on_host.remote() for r in ranks[2]]) == [num_tensors, 0]


def test_without_a_kl_term_no_kl_is_reported(ranks, scored, base_model):
    no_kl = dataclasses.replace(OPTIONS, loss=LossConfig(kl_coefficient=0.0))
    result = ray.get(ranks[1][0].learn.remote(1, phase_of(base_model), scored, 2, no_kl))
    assert [report.kl for report in result["reports"]] == [None, None]


@pytest.mark.parametrize("stage", [1, long(3)])
def test_an_anchor_holds_the_first_update_to_another_model(
    ranks, scored, base_model, tmp_path, stage
):
    """Held to its own start a phase begins at KL 0; held to the base model, at its distance."""
    rank, trained = ranks[1][0], tmp_path / "trained"
    whole = dataclasses.replace(OPTIONS, prompts_per_update=len(scored))  # one update a step
    ray.get(rank.learn.remote(stage, phase_of(base_model), scored, 1, whole))
    ray.get(rank.save.remote(tmp_path / "step-001", trained))
    phase = phase_of(trained)
    held = dataclasses.replace(phase, anchor=base_model)
    own, base = (
        ray.get(rank.learn.remote(stage, p, scored, 1, whole))["reports"][0] for p in (phase, held)
    )
    models = [
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (trained, base_model)
    ]
    with torch.no_grad():
        policy, reference = (
            torch.cat([completion_logprobs(model, rollout) for rollout in scored])
            for model in models
        )
    expected = k3_divergence(policy, reference).mean().item()
    assert expected > 1e-3
    assert own.kl == 0.0
    assert base.kl == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("stage", [long(0), long(1), 3])
def test_a_new_phase_holds_nothing_of_the_one_before(ranks, scored, base_model, stage):
    rank = ranks[1][0]
    ray.get(rank.learn.remote(stage, phase_of(base_model), scored, 2))
    assert ray.get(rank.takes_up_another_role.remote(phase_of(base_model)))


def test_clip_and_difference_are_reported(ranks, scored, base_model):
    first = ray.get(ranks[1][0].learn.remote(1, phase_of(base_model), scored, 1))["reports"][0]
    assert first.num_tokens == sum(len(r.token_ids) for r in scored)
    assert first.logprob_difference_mean == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.15)
    assert 0.02 < first.logprob_difference_max < 0.06
    assert first.importance_mean == pytest.approx(1.0, abs=2e-3)
    assert first.importance_truncated_share == 0.0
    assert first.mismatch_kl == pytest.approx(0.01**2 / 2, rel=0.3)
    assert first.entropy > 0
    assert first.grad_norm > 0


@pytest.mark.parametrize("stage", [long(0), 1, long(2), long(3)])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(
    ranks, base_model, scored, tmp_path, stage
):
    rank, shared = ranks[1][0], ray.put(scored)
    checkpoint = tmp_path / "step-002"
    ray.get(rank.learn.remote(stage, phase_of(base_model), shared, 1))
    ray.get(rank.save.remote(checkpoint, tmp_path / "model"))
    phase = phase_of(base_model, checkpoint=checkpoint, num_finished_steps=2)
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


@pytest.mark.parametrize("stage", [long(1), 3])
def test_fewer_ranks_go_on_from_a_checkpoint_before_the_first_update(
    ranks, scored, base_model, tmp_path, stage
):
    """The optimizer holds nothing by then that could be put together for other ranks."""
    options = dataclasses.replace(
        OPTIONS,
        loss=LossConfig(kl_coefficient=0.0),
        optimizer=dataclasses.replace(OPTIONS.optimizer, updates="with_gradient"),
    )
    silent = ray.put([dataclasses.replace(r, advantage=0.0) for r in scored])
    ray.get([r.learn.remote(stage, phase_of(base_model), silent, 1, options) for r in ranks[2]])
    checkpoint = tmp_path / "step-001"
    ray.get([r.save.remote(checkpoint, tmp_path / "model") for r in ranks[2]])
    fresh = phase_of(base_model)
    phase = phase_of(base_model, checkpoint=checkpoint, num_finished_steps=1)
    (alone,) = ranks[1]
    expected = ray.get(alone.learn.remote(stage, fresh, scored, 1, options), timeout=300)
    resumed = ray.get(alone.learn.remote(stage, phase, scored, 1, options), timeout=300)
    for name, weights in expected["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weights)
    same = ray.get(
        [r.learn.remote(stage, phase, silent, 1, options) for r in ranks[2]], timeout=300
    )
    assert same[0]["reports"][0].num_updates == 0


@pytest.mark.parametrize("stage", [1, long(3)])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    ranks, scored, base_model, tmp_path, stage
):
    group = ranks[2]
    shared = ray.put(scored)
    whole = ray.get([r.learn.remote(stage, phase_of(base_model), shared, 3) for r in group])
    ray.get([r.learn.remote(stage, phase_of(base_model), shared, 2) for r in group])
    checkpoint, model = tmp_path / "step-002", tmp_path / "model"
    ray.get([r.save.remote(checkpoint, model) for r in group])
    phase = phase_of(base_model, checkpoint=checkpoint, num_finished_steps=2)
    resumed = ray.get([r.learn.remote(stage, phase, shared, 1) for r in group])
    for name, expected in whole[0]["weights"].items():
        np.testing.assert_allclose(resumed[0]["weights"][name], expected, rtol=0, atol=1e-6)
    saved = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        ids = torch.from_numpy(scored[0].prompt_ids).long()[None]
        log_p = torch.log_softmax(saved(input_ids=ids).logits[0, :-1], -1)
    again = ray.get([r.learn.remote(stage, phase_of(model), shared, 0) for r in group])
    np.testing.assert_allclose(
        again[0]["probe"], log_p.gather(-1, ids[0, 1:, None])[:, 0].numpy(), atol=1e-5
    )
    (alone,) = ray.get([r.learn.remote(stage, phase, shared, 1) for r in ranks[1]])
    for name, expected in whole[0]["weights"].items():
        np.testing.assert_allclose(alone["weights"][name], expected, rtol=0, atol=2e-6)
    path = next(checkpoint.glob("*optim_states.pt"))
    torch.save({"optimizer_state_dict": Trap(tmp_path / "ran")}, path)
    with pytest.raises(RunError, match="wants to call"):
        _ = ray.get(ranks[1][0].learn.remote(stage, phase, shared, 1))
    assert not (tmp_path / "ran").exists()
