"""The learner on one GPU of 80 GB: speed, memory and what it costs to leave the GPU and to return.

Random weights of the shapes of Qwen3 are made on the spot; torch, transformers and DeepSpeed are
all that it needs. `cases` are lines of `CASES`. The share of the GPU's arithmetic that a learner
uses (MFU) counts the operations of the forward and the backward pass, once, however often they are
made, against the data sheet's peak for 16 bits.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.learning.deepspeed_rank import DeepSpeedLearner
from rzero_ray.config.cluster import Attention, LoraConfig, Offload
from rzero_ray.run.shape import ModelShape, find_shape
from tests.bench import learning
from tests.bench.harness import Figure, seconds
from tests.bench.memory import planned_bytes
from tests.bench.models import write_random_qwen3

SETTINGS = {
    "cases": "small packed stage2 stage3 adapter",
    "folder": "/tmp/rzero-bench-models",  # where models are kept between calls
    "rollouts": "64",
    "samples_per_prompt": "8",
    "prompt_tokens": "256",
    "max_tokens": "4096",
    "tokens_per_micro_batch": "16384",
    "repeats": "3",
    "threads": "0",
    "peak_tflops": "989",  # of one H100 or H200, dense, in 16 bits
}
_GIB = 2**30


@dataclass(frozen=True)
class Case:
    """A learner to measure."""

    shape: str
    """Of `models.SHAPES`."""
    zero_stage: int = 1
    lora_rank: int = 0
    attention: Attention = "varlen"
    offload: Offload = "none"


CASES = {
    "small": Case("qwen3_0.6b"),
    "padded": Case("qwen3_1.7b", attention="sdpa"),
    "packed": Case("qwen3_1.7b"),
    "stage2": Case("qwen3_1.7b", zero_stage=2),
    "stage3": Case("qwen3_1.7b", zero_stage=3),
    "offload": Case("qwen3_1.7b", zero_stage=2, offload="optimizer"),
    "adapter": Case("qwen3_4b", lora_rank=16),
    "adapter_padded": Case("qwen3_4b", lora_rank=16, attention="sdpa"),
}


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Measure the cases one after the other, and the product of two large matrices first."""
    assert torch.cuda.is_available(), "needs a GPU"
    learning.set_threads(settings)
    figures = [_matrix_product()]
    for name in settings["cases"].split():
        measured = _measure(name, CASES[name], settings)
        for figure in measured:  # a stop may come before the table
            print(f"{figure.name}: {figure.value:.4g} {figure.unit}; {figure.details}", flush=True)
        figures += measured
        gc.collect()
        torch.cuda.empty_cache()
    return figures


def _matrix_product(size: int = 8192) -> Figure:
    """Return what the GPU reaches at best: the limit of every figure below."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            torch.mm(left, right)
        torch.cuda.synchronize()

    multiply()
    taken = statistics.median(seconds(multiply) for _ in range(5)) / 10
    return Figure(
        name="matrix product of 8,192 x 8,192 in bfloat16",
        value=2 * size**3 / taken / 1e12,
        unit="TFLOP/s",
        details=f"{torch.cuda.get_device_name()}, torch {torch.__version__}",
    )


def _measure(name: str, case: Case, settings: Mapping[str, str]) -> list[Figure]:
    model = Path(settings["folder"]) / case.shape
    if not model.exists():
        write_random_qwen3(case.shape, model, torch.bfloat16, "cuda")
        gc.collect()
        torch.cuda.empty_cache()
    (shape,) = learning.shapes(settings | {"model": str(model)}, model)
    before = torch.cuda.memory_allocated()
    learner = learning.start_learner(
        settings | {"gradient_checkpointing": "true"},
        shape.tokens_per_micro_batch,
        zero_stage=case.zero_stage,
        lora=LoraConfig(rank=case.lora_rank),
        attention=case.attention,
        offload=case.offload,
    )
    loaded = seconds(lambda: learning.start_phase(learner, shape, learning.NO_KL))
    report = learner.update(shape.rollouts)  # buffers are made, and the optimizer's states
    torch.cuda.reset_peak_memory_stats()

    def update() -> None:
        learner.update(shape.rollouts)
        torch.cuda.synchronize()

    taken = statistics.median(seconds(update) for _ in range(int(settings["repeats"])))
    peak = torch.cuda.max_memory_allocated() - before
    sizes = find_shape("", model)
    assert sizes is not None
    flops = _operations(sizes, shape, trained=3 if not case.lora_rank else 2)
    planned = _planned(case, settings, model)
    label = f"{name} ({case.shape}, ZeRO {case.zero_stage}, {case.attention})"
    figures = [
        Figure(
            name=f"{label}: tokens/s",
            value=shape.num_tokens / taken,
            unit="tokens/s",
            details=f"{shape.details}, {shape.num_tokens:,} tokens in {taken:.2f} s; "
            f"loss {report.loss:.6f}, gradient norm {report.grad_norm:.5f}; "
            f"loaded in {loaded:.1f} s",
        ),
        Figure(
            name=f"{label}: MFU",
            value=flops / taken / float(settings["peak_tflops"]) / 1e12,
            unit="",
            target="at least .35",
            details=f"{flops / taken / 1e12:.0f} TFLOP/s of {settings['peak_tflops']}",
        ),
        Figure(
            name=f"{label}: memory, measured / planned",
            value=peak / planned,
            unit="x",
            target=".85 to 1.15",
            details=f"{peak / _GIB:.2f} GiB / {planned / _GIB:.2f} GiB; "
            f"{torch.cuda.max_memory_reserved() / _GIB:.2f} GiB reserved",
        ),
        *_movements(label, learner),
    ]
    learner._release()
    return figures


@dataclass(frozen=True)
class _Turn:
    leaves: float
    """Seconds."""
    left: int
    """Bytes that stay on the GPU."""
    returns: float
    """Seconds."""


def _turn(learner: DeepSpeedLearner) -> _Turn:
    leaves = seconds(lambda: learner.leave_device(keep_parameters=False))
    left = torch.cuda.memory_allocated()
    return _Turn(leaves, left, seconds(learner.return_to_device))


def _movements(label: str, learner: DeepSpeedLearner) -> list[Figure]:
    """Return what a turn costs, and the way of all weights to the host."""
    held = torch.cuda.memory_allocated()
    # The first turn takes page-locked memory of the host, the later ones use it again.
    turns = [_turn(learner) for _ in range(2)]
    left = turns[0].left
    moved = held - left
    num_bytes = 0

    def walk() -> None:
        nonlocal num_bytes
        for _, tensor in learner:
            num_bytes += tensor.nbytes
        torch.cuda.synchronize()

    walked = seconds(walk)
    return [
        *(
            Figure(
                name=f"{label}: leaves the GPU and returns, {which} time",
                value=turn.leaves + turn.returns,
                unit="s",
                details=f"{moved / _GIB:.2f} GiB, {moved / turn.leaves / 1e9:.1f} GB/s away and "
                f"{moved / turn.returns / 1e9:.1f} GB/s back; {turn.left / _GIB:.3f} GiB stay",
            )
            for which, turn in zip(("first", "second"), turns, strict=True)
        ),
        Figure(
            name=f"{label}: weights gathered and merged",
            value=num_bytes / walked / 1e9,
            unit="GB/s",
            details=f"{num_bytes / _GIB:.2f} GiB in {walked:.2f} s",
        ),
    ]


def _operations(sizes: ModelShape, shape: learning.Shape, trained: int) -> float:
    """Return the operations of an update: those of a forward pass, `trained` times.

    All weights take three (forward, gradients of inputs and of weights), frozen ones two. The head
    sees completion tokens alone, attention the pairs of a causal triangle.
    """
    linear = sizes.num_layers * sum(i * o for i, o in sizes.linears.values())
    head = sizes.vocab_size * sizes.hidden_size
    lengths = [len(r.prompt_ids) + len(r.token_ids) for r in shape.rollouts]
    completion = sum(len(r.token_ids) for r in shape.rollouts)
    width = sizes.linears["q_proj"][1]
    pairs = sum(length**2 / 2 for length in lengths)
    attention = 4 * width * sizes.num_layers * pairs
    forward = 2 * (linear * sum(lengths) + head * completion) + attention
    return trained * forward


def _planned(case: Case, settings: Mapping[str, str], model: Path) -> int:
    """Return the bytes that the planner counts for the learner."""
    return planned_bytes(
        ["conf=qwen3_4b", f"model.path={model}", f"learner.offload={case.offload}"],
        model,
        case.zero_stage,
        case.lora_rank,
        int(settings["tokens_per_micro_batch"]),
    )
