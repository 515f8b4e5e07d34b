"""The learner on a CUDA device, in bfloat16: what its options save, and that they are exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from actors.learning.options import LearnerOptions, PhaseOptions
from actors.process import held_port
from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.types import LearningReport, Rollout
from tests.unit.builders import phase_of

if TYPE_CHECKING:
    from actors.learning.deepspeed_rank import DeepSpeedLearner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB = 32_000
CUBLAS_BYTES = 64 << 20
"""Workspaces of cuBLAS, which stay whatever a learner does: seen on an H100."""
PHASE_OPTIONS = PhaseOptions(
    optimizer=OptimizerConfig(learning_rate=1e-5),
    loss=LossConfig(kl_coefficient=0.1),
    prompts_per_update=8,
    temperature=1.0,
    max_tokens=1024,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    reports: list[LearningReport]
    peak_bytes: int
    """Most that was allocated during the updates."""
    held_bytes: int
    """What is allocated between updates."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return a Qwen3 of about 50 million random parameters."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def _start(model: Path, **changes) -> DeepSpeedLearner:
    """Return a learner in a phase."""
    from actors.learning.deepspeed_rank import DeepSpeedLearner

    meeting_point = held_port("127.0.0.1")
    options = LearnerOptions(
        rank=0,
        world_size=1,
        device="cuda",
        dtype="bfloat16",
        zero_stage=2,
        tokens_per_micro_batch=8192,
        num_threads=4,
        weight_backend="object_store",
    )
    options = dataclasses.replace(options, **changes)
    learner = DeepSpeedLearner(options, *meeting_point.getsockname(), meeting_point)
    learner.start_phase(phase_of(model), PHASE_OPTIONS)
    return learner


def _rollouts() -> list[Rollout]:
    rng = np.random.default_rng(0)
    return [
        Rollout(
            prompt_ids=rng.integers(0, VOCAB, 64).astype(np.int32),
            token_ids=rng.integers(0, VOCAB, length).astype(np.int32),
            logprobs=np.full(length, -np.log(VOCAB), dtype=np.float32),
            advantage=float(rng.normal()),
            prompt_index=index // 2,
        )
        for index, length in enumerate(rng.integers(100, 1000, 16))
    ]


def _learn(model: Path, **changes) -> Outcome:
    learner, rollouts = _start(model, **changes), _rollouts()
    torch.cuda.reset_peak_memory_stats()
    reports = [learner.update(rollouts) for _ in range(3)]
    peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    learner._release()
    return Outcome(reports, peak, held)


def test_recomputed_activations_need_less_memory_and_give_the_same_losses(model):
    kept, recomputed = _learn(model), _learn(model, gradient_checkpointing=True)
    assert recomputed.peak_bytes < 0.7 * kept.peak_bytes
    for expected, report in zip(kept.reports, recomputed.reports, strict=True):
        assert report.loss == pytest.approx(expected.loss, abs=1e-3)
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-2)


def test_a_reference_on_the_host_leaves_the_device_between_updates(model):
    there, away = _learn(model), _learn(model, reference="cpu")
    weights = sum(p.numel() for p in Qwen3ForCausalLM.from_pretrained(model).parameters()) * 2
    assert there.held_bytes - away.held_bytes == pytest.approx(weights, rel=0.1)
    assert [r.kl for r in away.reports] == pytest.approx([r.kl for r in there.reports], abs=1e-4)


def test_nothing_stays_on_the_device_after_a_phase(model):
    before = torch.cuda.memory_allocated()
    _learn(model)
    assert torch.cuda.memory_allocated() - before < 2**20


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_learner_that_leaves_takes_its_memory_along_and_learns_on(model, stage):
    stays = _learn(model, zero_stage=stage, reference="cpu")
    before = torch.cuda.memory_reserved()
    learner, rollouts = _start(model, zero_stage=stage, reference="cpu"), _rollouts()
    reports = []
    for _ in range(3):
        reports.append(learner.update(rollouts))
        learner.leave_device(keep_parameters=True)
        learner.prompt_logprobs([rollouts[0].prompt_ids])
        learner.leave_device(keep_parameters=False)
        assert torch.cuda.memory_allocated() < 0.05 * stays.held_bytes + CUBLAS_BYTES
        assert torch.cuda.memory_reserved() - before < 0.2 * stays.held_bytes + CUBLAS_BYTES
        learner.return_to_device()
    learner._release()
    for expected, report in zip(stays.reports, reports, strict=True):
        assert report.loss == pytest.approx(expected.loss, abs=1e-3)
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-2, abs=1e-6)
