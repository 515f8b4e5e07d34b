"""Recipes on real engines: a verifier that borrows the Challenger's, an average that votes, and a
Challenger that may not write all tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from actors.sampling.tokenization import ChatTokenizer
from rzero_ray.config.load import load_config
from rzero_ray.phases.asking import vocabulary_of
from rzero_ray.run.parquet import read_records
from rzero_ray.types import (
    Candidate,
    ChallengerSample,
    CurriculumItem,
    Step,
    Verdict,
    VerifierExample,
)
from tests.cluster.conftest import run_driver

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ITERATIONS = (1, 2)
DECAY = 0.785
TIME_LIMIT_S = 300.0


@pytest.fixture(scope="module")
def run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two iterations with all three policies."""
    root = tmp_path_factory.mktemp("recipes") / "run"
    arguments = [
        "conf=tiny",
        "recipe=structure_verifier,ema,vocabulary_dropout",
        f"model.path={base_model}",
        f"run_dir={root}",
        f"num_iterations={len(ITERATIONS)}",
        "challenger.num_steps=1",
        "challenger.num_prompts=32",
        "curriculum.num_candidates=60",
        "curriculum.candidates_per_step=60",
        "verifier.num_steps=4",
        "verifier.optimizer.learning_rate=1e-3",
        "solver.num_steps=2",
        "eval.num_samples=2",
        "checkpoint.keep_models.every=1",
    ]
    done = run_driver(arguments, TIME_LIMIT_S)
    assert done.returncode == 0, done.stderr
    return root


def test_a_verifier_learns_and_judges_on_borrowed_engines(run: Path):
    for iteration in ITERATIONS:
        folder = run / f"iteration-0{iteration}"
        examples = read_records(folder / "verifier-examples.parquet", VerifierExample)
        assert sum(e.is_right for e in examples) * 2 == len(examples) > 0
        items = read_records(folder / "curriculum.parquet", CurriculumItem)
        verdicts = read_records(folder / "verdicts.parquet", Verdict)
        assert [v.question for v in verdicts] == [i.question for i in items]
        assert all(0 <= v.num_right <= v.num_judged <= 8 for v in verdicts)
        assert any(v.num_judged for v in verdicts)
        assert (run / f"models/verifier-iteration-0{iteration}/config.json").is_file()
    path = run / "iteration-01/curriculum/step-001/candidates.parquet"
    voted = [c for c in read_records(path, Candidate) if c.answers]
    assert voted and all(len(c.vote_texts) == len(c.answers) for c in voted)


def test_the_average_takes_in_each_solver(run: Path, base_model: Path):
    folders = (base_model, *(run / f"models/solver-iteration-0{k}" for k in ITERATIONS))
    base, first, second = (load_file(folder / "model.safetensors") for folder in folders)
    average = load_file(run / "models/solver-average-iteration-02/model.safetensors")
    for name, weights in average.items():
        before = DECAY * base[name] + (1 - DECAY) * first[name]
        np.testing.assert_allclose(
            weights, DECAY * before + (1 - DECAY) * second[name], rtol=0, atol=1e-6
        )
    assert any(np.abs(second[name] - first[name]).max() > 1e-4 for name in average)


def test_sampler_and_learner_agree_on_the_tokens_that_a_step_allows(run: Path, base_model: Path):
    """A learner that took all tokens would be off by the log of the share that is forbidden."""
    config = load_config(["conf=tiny", "recipe=vocabulary_dropout"])
    tokenizer = ChatTokenizer(str(base_model))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["phase"] == "challenger"]
    assert len(rows) == len(ITERATIONS)
    for row in rows:
        assert row["logprob_difference_max"] < 1e-3
        step = Step(iteration=row["iteration"], phase="challenger", index=row["step"])
        vocabulary = vocabulary_of(config, step)
        assert vocabulary is not None
        allowed = tokenizer.allowed_tokens(vocabulary)
        samples = read_records(run / f"{step.key}/rollouts.parquet", ChallengerSample)
        drawn = np.unique(np.concatenate([sample.token_ids for sample in samples]))
        assert np.isin(drawn, allowed).all() and len(allowed) < tokenizer_size(base_model)


def tokenizer_size(model: Path) -> int:
    return len(AutoTokenizer.from_pretrained(model))
