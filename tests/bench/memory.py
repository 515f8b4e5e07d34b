"""The planner's memory of a learner rank against what one takes, on a CPU, and its time.

Each case is a process of its own: what it holds when it has joined is taken off its peak during an
optimizer step, the second one of a phase. As many of the rollouts as fill a micro-batch have the
full length, for the plan is of a full one; those of the others differ.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.cluster import LoraConfig
from rzero_ray.config.config import Config
from rzero_ray.config.layout import resolve_layout
from rzero_ray.config.load import load_config
from rzero_ray.run.plan import plan_memory
from rzero_ray.run.shape import find_shape
from tests.bench import learning
from tests.bench.harness import CLOCKS, Figure, seconds
from tests.bench.models import write_random_qwen3

SETTINGS = {
    "shapes": "24m 94m 470m",
    "lora_ranks": "0 8",
    "zero_stages": "1",
    "rollouts": "8",
    "tokens_per_micro_batch": "1024",
    "gradient_checkpointing": "false",
    "max_tokens": "464",  # 512 with the prompt: micro-batches of 1,024 can be full
}
_GIB = 2**30


@dataclass(frozen=True)
class _Case:
    model: Path
    zero_stage: int
    lora_rank: int


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Measure each shape, with all weights trained and with an adapter."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="rzero-bench-") as folder:
        for name in settings["shapes"].split():
            model = Path(folder) / name
            write_random_qwen3(name, model)
            for stage in settings["zero_stages"].split():
                for rank in settings["lora_ranks"].split():
                    case = _Case(model, int(stage), int(rank))
                    figures.append(_compare(case, settings))
    return figures


def _compare(case: _Case, settings: Mapping[str, str]) -> Figure:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        measured, taken = process.apply(_measure, (case, dict(settings)))
    planned = planned_bytes(
        [
            "conf=tiny",
            f"model.path={case.model}",
            f"model.max_model_len={learning_length(settings)}",
            f"learner.gradient_checkpointing={settings['gradient_checkpointing']}",
        ],
        case.model,
        case.zero_stage,
        case.lora_rank,
        int(settings["tokens_per_micro_batch"]),
    )
    trained = f"adapter of rank {case.lora_rank}" if case.lora_rank else "all weights"
    return Figure(
        name=f"memory of a rank, {case.model.name}, ZeRO {case.zero_stage}, {trained}: "
        "measured / planned",
        value=measured / planned,
        unit="x",
        target=".85 to 1.15",
        details=f"{measured / _GIB:.3f} GiB / {planned / _GIB:.3f} GiB; {taken:.1f} s of processor "
        "time an update",
    )


def learning_length(settings: Mapping[str, str]) -> int:
    """Return the longest sequence of the rollouts."""
    return int(settings["max_tokens"]) + int(learning.SETTINGS["prompt_tokens"])


def planned_bytes(
    arguments: list[str], model: Path, zero_stage: int, lora_rank: int, tokens_per_micro_batch: int
) -> int:
    """Return what the planner counts for a rank that learns alone and without a reference.

    `arguments` are of the configuration besides.
    """
    config: Config = load_config(
        [
            *arguments,
            "layout=disaggregated",
            "learner.num_ranks=1",
            f"learner.zero_stage={zero_stage}",
            f"learner.lora.rank={lora_rank}",
            f"learner.tokens_per_micro_batch={tokens_per_micro_batch}",
            "challenger.loss.kl_coefficient=0",
            "solver.loss.kl_coefficient=0",
        ]
    )
    shape = find_shape("", model)
    assert shape is not None
    layout = resolve_layout(config, {"CPU": 64.0, "GPU": 8.0})
    return next(
        row.total for row in plan_memory(config, shape, layout) if row.role == "learner/rank"
    )


def _measure(case: _Case, settings: dict[str, str]) -> tuple[int, float]:
    """Return the bytes that the process takes for a learner at most, and the seconds of processor
    time of an update."""
    all_settings = learning.SETTINGS | settings | {"model": str(case.model)}
    shape = _shape(case.model, all_settings)
    learner = learning.start_learner(
        all_settings,
        shape.tokens_per_micro_batch,
        zero_stage=case.zero_stage,
        lora=LoraConfig(rank=case.lora_rank),
    )
    before = _bytes_of("VmRSS")
    learning.start_phase(learner, shape, learning.NO_KL)
    learner.update(shape.rollouts)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    taken = seconds(lambda: learner.update(shape.rollouts), CLOCKS["cpu"])
    return _bytes_of("VmHWM") - before, taken


def _shape(model: Path, settings: Mapping[str, str]) -> learning.Shape:
    longest, budget = int(settings["max_tokens"]), int(settings["tokens_per_micro_batch"])
    num_full = budget // learning_length(settings)
    others = learning.log_normal_lengths(int(settings["rollouts"]) - num_full, longest)
    rollouts = learning.make_rollouts(
        model,
        [longest] * num_full + others,
        int(settings["samples_per_prompt"]),
        int(settings["prompt_tokens"]),
    )
    return learning.Shape(model.name, model, rollouts, budget)


def _bytes_of(name: str) -> int:
    """Return a size of this process as the kernel tells it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith(f"{name}:"))
