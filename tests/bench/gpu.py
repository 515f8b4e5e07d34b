"""The whole system on one GPU of 80 GB: sampling against bare vLLM, turns, weights by CUDA IPC and
one iteration of `conf=tiny`.

Random weights of a Qwen3 are made on the spot. `cases` are of `sampling turns iteration`; on a CPU
all of it runs with `shape=1m`, and means nothing.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from rzero_ray.config.load import load_config
from tests.bench import pool
from tests.bench.harness import Figure, device, dtype
from tests.bench.models import write_random_qwen3
from tests.bench.turns import Taken, take_turns
from tests.cluster.conftest import run_driver

SETTINGS = {
    "cases": "sampling turns iteration",
    "shape": "qwen3_4b",
    "prompts": "128",
    "samples": "8",
    "max_tokens": "512",
    "kv_cache_gib": "8",
    "run_s": "420",  # longest time of the iteration
}


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Measure the cases one after the other."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="rzero-bench-") as made:
        model = Path(made) / settings["shape"]
        write_random_qwen3(settings["shape"], model, getattr(torch, dtype()), device())
        for name in settings["cases"].split():
            measured = _CASES[name](model, settings)
            for figure in measured:  # a stop may come before the table
                print(f"{figure.name}: {figure.value:.4g} {figure.unit}; {figure.details}")
            figures += measured
    return figures


def _sampling(model: Path, settings: Mapping[str, str]) -> list[Figure]:
    own = {key: settings[key] for key in ("prompts", "samples", "max_tokens")}
    length = int(settings["max_tokens"]) + 512
    return pool.run(
        pool.SETTINGS | own | {"model": str(model), "max_model_len": str(length)},
    )


def _turns(model: Path, settings: Mapping[str, str]) -> list[Figure]:
    config = load_config(
        [
            "conf=tiny",
            f"model.path={model}",
            "model.max_model_len=1024",
            f"sampler.kv_cache_gib={settings['kv_cache_gib'] if device() == 'cuda' else 0.25}",
            "learner.lora.rank=16",
            "learner.gradient_checkpointing=true",
            *_on_the_device(),
        ]
    )
    taken = take_turns(config, model, max_tokens=int(settings["max_tokens"]))
    rates = [s.transfer.num_bytes / s.transfer.seconds / 1e9 for s in taken.syncs]
    differences = [f"{s.probe.mean_difference:.2g}" for s in taken.syncs]
    num_turns = sum(turn.holder == "learner" for turn in taken.turns)
    free = {h: max(t.free_bytes for t in taken.turns if t.holder == h) for h in _holders(taken)}
    return [
        Figure(
            name=f"colocated, {settings['shape']}, adapter: weights to an engine, last of "
            f"{len(rates)}",
            value=rates[-1],
            unit="GB/s",
            details=f"all: {', '.join(f'{rate:.2f}' for rate in rates)}; mean differences of the "
            f"probe {', '.join(differences)} nats",
        ),
        Figure(
            name=f"colocated, {settings['shape']}, adapter: passing the GPU, a turn of the learner",
            value=taken.stages.get("turns", 0.0) / max(1, num_turns),
            unit="s",
            details=f"{num_turns} turns; GiB free when it passes: "
            + ", ".join(f"{holder} {size / 2**30:.1f}" for holder, size in free.items()),
        ),
    ]


def _holders(taken: Taken) -> list[str]:
    return list(dict.fromkeys(turn.holder for turn in taken.turns))


def _iteration(model: Path, settings: Mapping[str, str]) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="rzero-bench-") as folder:
        arguments = [
            "conf=tiny",
            "num_iterations=1",
            "challenger.num_steps=2",
            "solver.num_steps=3",
            "sampler.kv_cache_gib=1",
            "sampler.enforce_eager=true",
            f"run_dir={folder}/run",
            *_on_the_device(),
        ]
        start = time.monotonic()
        finished = run_driver(arguments, timeout_s=float(settings["run_s"]))
        taken = time.monotonic() - start
        if finished.returncode:
            raise subprocess.CalledProcessError(
                finished.returncode, arguments, finished.stdout, finished.stderr
            )
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    before, after = (row["mean@8"] for row in summary["heldout"])
    return [
        Figure(
            name="one iteration of conf=tiny, colocated",
            value=taken,
            unit="s",
            details=f"start included; mean@8 {before:.3f} before, {after:.3f} after",
        )
    ]


def _on_the_device() -> list[str]:
    """Return the arguments that put all roles on one GPU, or on the same CPUs."""
    arguments = ["layout=colocated", f"model.dtype={dtype()}"]
    if device() == "cuda":
        arguments += ["learner.gpus_per_rank=1", "sampler.gpus_per_engine=1"]
    return arguments


_CASES: dict[str, Callable[[Path, Mapping[str, str]], list[Figure]]] = {
    "sampling": _sampling,
    "turns": _turns,
    "iteration": _iteration,
}
