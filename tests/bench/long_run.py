"""A finished run of many iterations, to write the report of: real files, a set under many names."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rzero_ray.config.config import Config
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.parquet import write_records
from rzero_ray.types import Candidate, PhaseName, Step, iteration_key
from tests.bench.replay import QUESTION_TOKENS, Texts


def write_run(config: Config, root: Path) -> int:
    """Write what the report of a run is made of into `root`; returns the number of candidates."""
    settings = config.curriculum
    steps = settings.num_candidates // settings.candidates_per_step
    source = root.parent / "candidates.parquet"
    write_records(source, _candidates(settings.candidates_per_step), Candidate)
    phases: tuple[tuple[PhaseName, int], ...] = (
        ("challenger", 5),
        ("curriculum", steps),
        ("solver", 15),
        ("drift", 1),
    )
    finished, rows, events = [iteration_key(0)], [], []
    for iteration in range(1, config.num_iterations + 1):
        for phase, count in phases:
            for index in range(1, count + 1):
                key = Step(iteration=iteration, phase=phase, index=index).key
                finished.append(key)
                rows.append({"iteration": iteration, "phase": phase, "step": index, **_ROW})
                events.append({"time": 0.0, "event": "weight sync", "max_logprob_difference": 0.01})
                if phase == "curriculum":
                    (root / key).mkdir(parents=True)
                    os.link(source, root / key / "candidates.parquet")
            if phase in ("challenger", "solver"):
                finished.append(f"{iteration_key(iteration)}/{phase}")
        finished.append(iteration_key(iteration))
    for name, lines in (("metrics", rows), ("events", events)):
        (root / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    k = config.eval.num_samples
    for iteration in range(config.num_iterations + 1):
        figures = {f"mean@{k}": 0.5, f"mean@{k}_ci95": [0.4, 0.6], f"maj@{k}": 0.6, "greedy": 0.5}
        shares = {"cot_share": 0.5, "accuracy_given_cot": 0.5, "accuracy_given_direct": 0.5}
        folder = root / iteration_key(iteration)
        folder.mkdir(exist_ok=True)
        row = {"iteration": iteration, "num_problems": 9, **figures, **shares}
        (folder / "evaluation.json").write_text(json.dumps(row))
    Manifest(root / "manifest.json", finished).write()
    return config.num_iterations * steps * settings.candidates_per_step


_ROW = {
    "tokens_sampled": 10**7,
    "seconds": {"sampling": 1.0, "grading": 1.0, "write": 1.0, "wall": 1.0},
    "seconds_alone": {"sampling": 1.0},
    "seconds_overhead": 0.1,
    "reward": 0.5,
    "kl": 0.1,
    "entropy": 0.5,
    "grad_norm": 1.0,
    "kept": 400,
    "voted": 900,
    "dropped/agreement above the band": 600,
    "vote_tokens_saved_share": 0.1,
    "logprob_difference_max": 0.1,
    "probe_difference_max": 0.1,
}
"""A line of `metrics.jsonl`, with what the phases say together."""


def _candidates(count: int) -> list[Candidate]:
    texts = Texts()
    made = []
    for _ in range(count):
        question = texts.question()
        answers = texts.ballot(question)
        label = max(answers, key=answers.count)
        is_kept = texts.rng.random() < 0.4
        made.append(
            Candidate(
                text=f"<question>{question}</question>\\boxed{{7}}",
                question=question,
                answers=tuple(answers),
                label=label,
                num_agree=answers.count(label),
                num_votes=len(answers),
                num_tokens=QUESTION_TOKENS,
                dropped=None if is_kept else "agreement above the band",
                truth=None,
                vote_tokens=9_000,
            )
        )
    return made
