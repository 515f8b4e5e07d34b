"""The bouquets: what is asked, the hidden quality, what spoiling does to it, and the base model."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest

from rzero_ray.config.cluster import ModelConfig
from rzero_ray.config.evaluation import load_evaluation_config
from rzero_ray.tasks.base_model import find_model, obtain_model
from rzero_ray.tasks.bouquet import bouquets
from rzero_ray.tasks.bouquet.corpus import Mixture, documents
from rzero_ray.tasks.bouquet.recipe import BouquetRecipe, Stage, base_model_folder
from rzero_ray.tasks.registry import BouquetTask, held_out_forms
from rzero_ray.types import UserError

TASK = BouquetTask()


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("[red]", ("[red]",)),
        (" [tall] [red]\n", ("[tall]", "[red]")),
        ("[red][tall][sweet][late]", ("[red]", "[tall]", "[sweet]", "[late]")),
        ("[red][white]", None),
        ("[red][red]", None),
        ("[blue]", None),
        ("[red]a", None),
        ("", None),
        ("[red]" * 10_000, None),
    ],
)
def test_a_request_has_wishes_of_different_kinds(text: str, wishes: tuple[str, ...] | None):
    assert bouquets.parse_request(text) == wishes
    assert TASK.is_question(text) == (wishes is not None)


@pytest.mark.parametrize("text", ["", "abx", "a|b", "<eos>", r"\boxed{1}", "a" * 17, "[red]"])
def test_a_text_that_is_no_bouquet_holds_no_answer(text: str):
    assert TASK.read_answer(text) is None
    assert TASK.quality("[red]", text) == 0
    assert TASK.spoil("[red]", text, random.Random(0)) is None


def test_two_requests_with_the_same_wishes_are_one():
    assert TASK.normalize("[tall][red]") == TASK.normalize(" [red] [tall]")
    assert TASK.stratum("[tall][red]") == "2 wishes" and TASK.stratum("[red][red]") == ""


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        ("[red]", "abcd", 1.0),
        ("[red]", "hgfe", 1.0),  # another bouquet that is as good
        ("[red]", "abci", 0.75),
        ("[red]", "ijkl", 0.0),
        ("[red]", "abca", 0.75),
        ("[red]", "abc", 0.75),
        ("[red]", "abcdefgh", 0.5),
        ("[red][tall]", "aei", (1 + 0.5 + 0.5) / 3 * 0.75),
    ],
)
def test_quality_is_suiting_times_variety_times_fullness(request_, answer, expected):
    assert TASK.quality(request_, answer) == pytest.approx(expected)


def test_quality_is_refused_to_what_is_no_request():
    with pytest.raises(ValueError, match="not a request"):
        bouquets.quality("abc", "abcd")


def test_quality_has_many_levels_and_spoiling_lowers_it_as_a_rule():
    rng = random.Random(0)
    levels, lower, higher, count = set(), 0, 0, 0
    for _ in range(3000):
        request = bouquets.sample_request(rng, rng.randint(1, 4))
        answer = bouquets.sample_bouquet(rng, request, 0.3)
        spoilt = TASK.spoil(request, answer, rng)
        before = TASK.quality(request, answer)
        levels.add(round(before, 4))
        assert 0 <= before <= 1
        if spoilt is not None:
            assert spoilt != answer and TASK.read_answer(spoilt) == spoilt
            after = TASK.quality(request, spoilt)
            count, lower, higher = count + 1, lower + (after < before), higher + (after > before)
    assert len(levels) > 100
    assert 0.55 < lower / count < 0.95 and 0.02 < higher / count < 0.35


def test_what_is_held_out_is_in_no_corpus():
    held_out = held_out_forms(TASK)
    assert len(held_out) == len(TASK.heldout()) == 26
    asked = [
        re.sub(r"<\w+>|</\w+>", "", prompt + completion).partition("=")[0]
        for prompt, completion in islice(documents(random.Random(0), Mixture()), 3000)
    ]
    assert not held_out & {TASK.normalize(request) for request in asked if request}


def test_held_out_pairs_are_ordered_by_quality_in_no_favour_of_length():
    pairs = TASK.heldout_pairs()
    assert len(pairs) == 200
    gaps = [TASK.quality(p.request, p.better) - TASK.quality(p.request, p.worse) for p in pairs]
    assert min(gaps) >= 0.05 - 1e-9
    longer = [len(p.better) > len(p.worse) for p in pairs if len(p.better) != len(p.worse)]
    assert 0.2 < sum(longer) / len(longer) < 0.65


def test_a_corpus_text_survives_the_tokenizer():
    from rzero_ray.tasks.bouquet.pretraining import build_tokenizer

    tokenizer = build_tokenizer(96)
    for prompt, completion in islice(documents(random.Random(1), Mixture()), 300):
        ids = tokenizer(prompt + completion)["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) < 60
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + completion
    (system, user) = TASK.referee_messages("[red]", "ab", "cd")
    assert system["content"] + user["content"] == "<referee>[red]=ab|cd"


def test_a_mixture_with_impossible_shares_is_refused():
    with pytest.raises(ValueError, match="fair_share must be within"):
        Mixture(fair_share=1.5)
    with pytest.raises(ValueError, match="more than all"):
        Mixture(challenger_share=0.6, solver_share=0.6)


def test_the_base_model_is_found_by_its_recipe(tmp_path: Path):
    assert find_model(ModelConfig(path="bouquet")) is None
    folder = base_model_folder(tmp_path, BouquetRecipe(seed=3))
    assert folder != base_model_folder(tmp_path, BouquetRecipe(seed=4))
    assert folder != base_model_folder(tmp_path, BouquetRecipe(seed=3, batch_size=7))
    folder.mkdir()
    assert obtain_model(ModelConfig(path="bouquet", base_seed=3, cache_dir=str(tmp_path))) == folder


def test_a_base_model_is_built_once(tmp_path: Path):
    from rzero_ray.tasks.bouquet.pretraining import ensure_base_model

    stage = Stage(num_steps=2, learning_rate=1e-3, mixture=Mixture())
    recipe = BouquetRecipe(batch_size=2, first=stage, second=stage)
    folder = ensure_base_model(tmp_path, recipe)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert ensure_base_model(tmp_path, recipe) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_the_evaluate_command_says_that_it_has_no_measure_for_it():
    with pytest.raises(UserError, match="measured by their run alone"):
        load_evaluation_config(["model=bouquet"])
