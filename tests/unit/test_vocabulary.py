"""Vocabulary dropout: one set of tokens a step, the same for who samples and who learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.sampling.tokenization import ChatTokenizer
from rzero_ray.config.load import load_config
from rzero_ray.method.vocabulary import FORMAT_TEXTS, allowed_tokens
from rzero_ray.tasks.ladder.pretraining import build_tokenizer
from rzero_ray.types import UserError, Vocabulary
from tests.unit.test_coevolution import OVERRIDES, Attempt

HALF = Vocabulary(keep=0.5, seed=7, always=FORMAT_TEXTS)


def test_a_share_of_the_tokens_is_allowed_and_the_protected_ones_always():
    allowed = allowed_tokens(10_000, [3, 9_999], HALF)
    assert allowed.dtype == np.int32 and np.all(np.diff(allowed) > 0)
    assert len(allowed) == pytest.approx(5_000, abs=200)
    assert {3, 9_999} <= set(allowed.tolist())
    assert np.array_equal(allowed, allowed_tokens(10_000, [9_999, 3], HALF))
    other = allowed_tokens(10_000, [3, 9_999], replace(HALF, seed=8))
    assert 0.4 < np.isin(allowed, other).mean() < 0.6
    assert len(allowed_tokens(10_000, [], replace(HALF, keep=0.8))) == pytest.approx(8_000, abs=200)


def test_what_the_format_and_the_end_need_is_never_forbidden(tmp_path: Path):
    build_tokenizer(128).save_pretrained(tmp_path)
    tokenizer = ChatTokenizer(str(tmp_path))
    ids = build_tokenizer(128).get_vocab()
    needed = {ids[text] for text in ("<question>", "</question>", "\\boxed{", "}", "<eos>")}
    drawn = [
        set(tokenizer.allowed_tokens(replace(HALF, keep=0.01, seed=seed)).tolist())
        for seed in range(20)
    ]
    assert all(needed <= allowed for allowed in drawn)
    assert any(ids["<unk>"] not in allowed for allowed in drawn)
    assert tokenizer.allowed_tokens(HALF) is tokenizer.allowed_tokens(replace(HALF))


def test_a_step_has_one_vocabulary_for_sampling_and_learning_and_votes_have_all(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, "recipe=vocabulary_dropout"]), tmp_path)
    attempt.go()
    learned = attempt.challenger.vocabularies
    asked = [r.sampling.vocabulary for r in attempt.challenger.requests]
    assert None not in learned and None not in asked
    assert {v.keep for v in asked if v} == {0.8}
    of_training = {r.sampling.vocabulary for r in attempt.challenger.requests if r.reads_tokens}
    assert of_training == set(learned) and len(of_training) == len(learned) > 1
    assert set(asked) > of_training  # the curriculum's steps have their own
    assert all(r.sampling.vocabulary is None for r in attempt.solver.requests)
    assert set(attempt.solver.vocabularies) == {None}
    plain = Attempt(load_config(OVERRIDES), tmp_path / "plain")
    plain.go()
    assert {r.sampling.vocabulary for r in plain.challenger.requests} == {None}


@pytest.mark.parametrize("keep", ["0", "1.1", "-0.5"])
def test_a_share_of_tokens_is_above_none_and_at_most_all(keep: str):
    with pytest.raises(UserError, match="vocabulary_keep"):
        load_config(["conf=tiny", f"challenger.vocabulary_keep={keep}"])
