"""Finished runs of many iterations, written at once: what a report of one is made of."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.config import Config
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.parquet import write_records
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate, PhaseName, Step, iteration_key

_STEPS: tuple[tuple[PhaseName, int], ...] = (
    ("challenger", 5),
    ("curriculum", 2),
    ("solver", 15),
    ("drift", 1),
)
_REASONS = ("agreement above the band", "agreement below the band", "malformed", "repeated")
_LIMITS = [
    ("kl_solver", "max_kl", 0.2),
    ("clusters", "min_clusters", 0.2),
    ("gini", "max_gini", 0.6),
]


def make_long_run(
    root: Path, num_iterations: int, *, name: str = "long", seed: int = 0, text: str | None = None
) -> StoredRun:
    """Write a finished run whose figures move as those of a run do; with `text` every text of its
    candidates is that one, and every outcome another one."""
    settings = EvalConfig(num_samples=4)
    config = Config(
        name=name,
        task="arithmetic",
        seed=seed,
        run_dir=str(root),
        num_iterations=num_iterations,
        eval=settings,
    )
    prepare_run_dir(config, root)
    rng = random.Random(seed)
    finished, rows, events = [iteration_key(0)], [], []
    _write_evaluation(root, 0, num_iterations, rng)
    for iteration in range(1, num_iterations + 1):
        for phase, count in _STEPS:
            for index in range(1, count + 1):
                step = Step(iteration=iteration, phase=phase, index=index)
                finished.append(step.key)
                rows.append(_row(step, num_iterations, rng))
                events.append({"time": 0.0, "event": "weight sync", "max_logprob_difference": 1e-5})
                if phase == "curriculum":
                    path = root / step.key / "candidates.parquet"
                    write_records(path, _candidates(step, rng, text), Candidate)
            if phase in ("challenger", "solver"):
                finished.append(f"{iteration_key(iteration)}/{phase}")
        _write_evaluation(root, iteration, num_iterations, rng)
        finished.append(iteration_key(iteration))
    for file, lines in (("metrics", rows), ("events", events)):
        (root / f"{file}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    Manifest(root / "manifest.json", finished).write()
    return StoredRun(config, root, Path("/base"))


def _row(step: Step, num_iterations: int, rng: random.Random) -> dict[str, Any]:
    progress = step.iteration / num_iterations
    row: dict[str, Any] = {
        "iteration": step.iteration,
        "phase": step.phase,
        "step": step.index,
        "tokens_sampled": 10**5,
        "seconds": {"sampling": 2.0, "grading": 0.5, "learning": 1.0, "wall": 3.0},
        "seconds_alone": {"sampling": 1.0, "learning": 0.5},
        "seconds_overhead": 0.1,
    }
    noise = rng.gauss(0, 0.02)
    match step.phase:
        case "challenger" | "solver":
            row |= {
                "reward": 0.5 + 0.01 * step.index + noise,
                "kl": 0.002 * step.index + abs(noise) / 10,
                "entropy": 1.2 - progress + noise,
                "grad_norm": 0.2 + abs(noise),
                "completion_tokens": 20 + 30 * progress + 10 * noise,
                "agreement": 0.5 + noise,
                "logprob_difference_max": 10 ** (-5 + noise * 10),
                "logprob_difference_mean": 10 ** (-6.5 + noise * 10),
                "probe_difference_max": 10 ** (-5.5 + noise * 10),
            }
        case "curriculum":
            kept = round(20 + 200 * noise)
            row |= {"kept": kept, "voted": 40, "agreement": 0.5 + noise, "kept_share": kept / 50}
            row |= {f"dropped/{reason}": rng.randrange(1, 20) for reason in _REASONS}
            row |= {
                "label_accuracy": 0.9 - 0.5 * progress + noise,
                "label_accuracy_all": 0.7 - 0.4 * progress + noise,
            }
        case _:
            row |= {
                "kl_solver": 0.3 * progress + abs(noise),
                "kl_challenger": 0.1 * progress + abs(noise),
                "answer_length_ratio": 1 + progress + noise,
                "clusters": 0.9 - 0.6 * progress + noise,
                "gini": 0.1 + 0.5 * progress + noise,
                "limits": _LIMITS,
            }
    return row


def _candidates(step: Step, rng: random.Random, text: str | None) -> list[Candidate]:
    made = []
    for number in range(60):
        numbers = [rng.randrange(1, 20) for _ in range(3 + step.iteration // 20)]
        question, truth = "+".join(map(str, numbers)), str(sum(numbers))
        label = truth if rng.random() < 0.7 else str(sum(numbers) + 1)
        agree = rng.randrange(2, 10)
        others = tuple(str(rng.randrange(60)) for _ in range(9 - agree))
        reason = None if rng.random() < 0.4 else rng.choice(_REASONS)
        made.append(
            Candidate(
                text=text or question,
                question=text or question,
                answers=(text,) * 9 if text else (label,) * agree + others,
                label=text or label,
                num_agree=agree,
                num_votes=9,
                num_tokens=9,
                dropped=f"{number}{step.key}{text}" if text else reason,
                truth=text or truth,
            )
        )
    return made


def _write_evaluation(root: Path, iteration: int, num: int, rng: random.Random) -> None:
    value = 0.4 + 0.3 * math.sin(2 * iteration / num) + rng.gauss(0, 0.01)
    row = {
        "iteration": iteration,
        "num_problems": 360,
        "greedy": value + 0.02,
        "mean@4": value,
        "mean@4_ci95": [value - 0.03, value + 0.03],
        "maj@4": value + 0.1,
        "cot_share": 0.5,
        "accuracy_given_cot": 0.6,
        "accuracy_given_direct": 0.2,
    }
    folder = root / iteration_key(iteration)
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(row))
