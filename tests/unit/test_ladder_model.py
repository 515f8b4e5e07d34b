"""The ladder's base model is an ordinary Hugging Face folder; a few training steps are enough.
How its last stage is steered, and that it ends."""

import dataclasses
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rzero_ray.config.cluster import ModelConfig
from rzero_ray.config.load import load_config
from rzero_ray.tasks.base_model import find_model, obtain_model
from rzero_ray.tasks.ladder import pretraining, questions
from rzero_ray.tasks.ladder.corpus import documents
from rzero_ray.tasks.ladder.pretraining import build_tokenizer, ensure_base_model
from rzero_ray.tasks.ladder.recipe import (
    COIN_SHARE,
    LadderRecipe,
    base_model_folder,
    with_coins,
)
from rzero_ray.tasks.ladder.tuning import is_on_target, steer, validation_questions
from rzero_ray.tasks.registry import LadderTask, held_out_forms
from rzero_ray.types import UserError

RECIPE = LadderRecipe()
TUNING = RECIPE.tuning
ON_TARGET = dict(TUNING.targets)


def _quick(seed: int = 0, **tuning: object) -> LadderRecipe:
    """A recipe of a few steps, with a last stage of two cycles of one."""
    few = {"cycle_steps": 1, "min_cycles": 1, "max_cycles": 2, "num_problems": 2, "num_samples": 1}
    return dataclasses.replace(
        RECIPE,
        seed=seed,
        batch_size=4,
        school_batch_size=8,
        school_steps=1,
        first=dataclasses.replace(RECIPE.first, num_steps=3),
        second=dataclasses.replace(RECIPE.second, num_steps=2),
        tuning=dataclasses.replace(TUNING, **(few | tuning)),
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(128)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_base_model(tmp_path_factory.mktemp("models"), _quick())


def test_every_piece_of_text_is_one_of_64_tokens(tokenizer: PreTrainedTokenizerFast):
    assert len(tokenizer) == 64
    pieces = [*questions.TABLES, *questions.COIN_SUMMANDS, *(f"{f}:" for f in questions.OPERATIONS)]
    assert all(len(tokenizer(piece)["input_ids"]) == 1 for piece in pieces)


def test_documents_come_back_from_their_tokens(tokenizer: PreTrainedTokenizerFast):
    for document in islice(documents(Random(0), RECIPE.second.mixture), 500):
        text = document.prompt + document.completion
        ids = tokenizer(f"<bos>{text}<eos>")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) <= 3 * len(document.question.operations) + 14


def test_the_longest_answer_fits_the_conf(tokenizer: PreTrainedTokenizerFast):
    config = load_config(["conf=ladder"])
    question = questions.sample_question(Random(0), "mix", 18)
    values = question.running_values()
    steps = "".join(f"{o}{v}" for o, v in zip(question.operations, values[1:], strict=True))
    answer = f"{question.start}{steps}\\boxed{{{questions.answer_of(values)}}}<eos>"
    assert len(tokenizer(answer)["input_ids"]) == 42 <= config.voting.sampling.max_tokens
    asked = f"<question>{question.text}</question><eos>"
    assert len(tokenizer(asked)["input_ids"]) <= config.challenger.sampling.max_tokens
    prompt = f"<bos><solver>{question.text}="
    longest = len(tokenizer(prompt)["input_ids"]) + config.solver.sampling.max_tokens
    assert longest < config.model.max_model_len <= RECIPE.max_positions


def test_chat_template_agrees_with_the_corpus(tokenizer: PreTrainedTokenizerFast):
    asked = {}
    for document in islice(documents(Random(0), RECIPE.first.mixture), 50):
        role = "challenger" if document.prompt.startswith("<challenger>") else "solver"
        asked[role] = document
    for role, document in asked.items():
        user = document.question.text if role == "solver" else ""
        messages = [{"role": "system", "content": f"<{role}>"}, {"role": "user", "content": user}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == f"<bos>{document.prompt}"
    assert len(asked) == 2


def test_the_folder_loads_and_generates(model_dir: Path):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) == 90_560
    assert tokenizer.get_vocab() == build_tokenizer(128).get_vocab()
    prompt = tokenizer("<bos><solver>triple:7[3v+1]=", return_tensors="pt")
    output = model.generate(**prompt, do_sample=False, max_new_tokens=4)
    assert output.shape[1] <= prompt["input_ids"].shape[1] + 4


def test_a_recipe_gives_the_same_weights_again_and_another_seed_others(
    tmp_path: Path, model_dir: Path
):
    again, other = (ensure_base_model(tmp_path, _quick(seed)) for seed in (0, 1))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (model_dir, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_every_field_of_the_recipe_is_part_of_the_folders_name():
    others = [
        RECIPE,
        dataclasses.replace(RECIPE, seed=1),
        dataclasses.replace(RECIPE, first=dataclasses.replace(RECIPE.first, num_steps=7)),
        dataclasses.replace(RECIPE, tuning=dataclasses.replace(TUNING, shortcut_gain=0.1)),
    ]
    assert base_model_folder(Path("cache"), RECIPE) == base_model_folder(
        Path("cache"), LadderRecipe()
    )
    assert len({base_model_folder(Path("cache"), other) for other in others}) == len(others)


def test_a_base_with_coins_has_them_in_all_stages_and_differs_in_nothing_else():
    coins = with_coins(LadderRecipe(seed=3))
    stages = (coins.first, coins.second, coins.tuning)
    assert [stage.mixture.coin_share for stage in stages] == [COIN_SHARE] * 3
    without = [
        dataclasses.replace(stage, mixture=dataclasses.replace(stage.mixture, coin_share=0.0))
        for stage in stages
    ]
    plain = LadderRecipe(seed=3)
    assert without == [plain.first, plain.second, plain.tuning]
    assert (
        dataclasses.replace(coins, first=plain.first, second=plain.second, tuning=plain.tuning)
        == plain
    )


def test_the_experiment_with_coins_is_the_laboratory_on_another_base(tmp_path: Path):
    plain, coins = (load_config([f"conf={conf}"]) for conf in ("ladder", "ladder,ladder_coins"))
    folder = base_model_folder(tmp_path, with_coins(LadderRecipe(seed=3)))
    assert folder != base_model_folder(tmp_path, LadderRecipe(seed=3))
    folder.mkdir()
    there = dataclasses.replace(coins.model, base_seed=3, cache_dir=str(tmp_path))
    assert obtain_model(there) == folder
    model = dataclasses.replace(coins.model, path="ladder")
    assert dataclasses.replace(coins, name="ladder", run_dir=plain.run_dir, model=model) == plain
    with pytest.raises(UserError, match="knows only task=ladder, not math"):
        load_config(["conf=ladder_coins"])


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        dataclasses.replace(RECIPE.first, num_steps=0)
    with pytest.raises(ValueError, match="school_share"):
        LadderRecipe(school_share=2.0)
    with pytest.raises(ValueError, match="batch_size"):
        LadderRecipe(batch_size=0)
    with pytest.raises(ValueError, match="min_cycles"):
        dataclasses.replace(TUNING, min_cycles=TUNING.max_cycles + 1)


def test_the_built_in_model_is_for_its_own_task():
    assert find_model(ModelConfig(path="ladder")) is None
    with pytest.raises(UserError, match=r"model\.path=ladder knows only task=ladder, not arithm"):
        load_config(["conf=tiny", "model.path=ladder"])
    with pytest.raises(UserError, match=r"model\.path=tiny knows only task=arithmetic, not ladder"):
        load_config(["conf=ladder", "model.path=tiny"])


def test_the_model_of_a_seed_is_found_in_the_cache(tmp_path: Path):
    folder = base_model_folder(tmp_path, LadderRecipe(seed=3))
    folder.mkdir()
    assert obtain_model(ModelConfig(path="ladder", base_seed=3, cache_dir=str(tmp_path))) == folder


def test_validation_problems_are_balanced_and_not_held_out():
    by_length = validation_questions(TUNING)
    assert by_length == validation_questions(TUNING)
    assert by_length.keys() == ON_TARGET.keys()
    task = LadderTask()
    for length, found in by_length.items():
        assert len(set(found)) == TUNING.num_problems
        assert {len(question.operations) for question in found} == {length}
        families = Counter(question.family for question in found)
        assert set(families) == set(questions.PLAIN_FAMILIES) and len(set(families.values())) == 1
        assert not held_out_forms(task) & {task.normalize(question.text) for question in found}


def test_a_length_off_its_target_gets_other_documents_and_the_rest_stays():
    first = TUNING.mixture
    good, weak = (steer(first, ON_TARGET | {6: of}, TUNING) for of in (0.9, 0.1))
    assert good.shortcuts[4] > first.shortcuts[4] > weak.shortcuts[4]
    assert good.solver_weights[4] < first.solver_weights[4] < weak.solver_weights[4]
    assert good.shortcuts[:4] == pytest.approx(first.shortcuts[:4])
    assert good.shortcuts[5:] == pytest.approx(first.shortcuts[5:])
    assert good.challenger_weights == first.challenger_weights


def test_steering_stays_within_its_limits():
    mixture = TUNING.mixture
    for _ in range(50):
        mixture = steer(mixture, dict.fromkeys(ON_TARGET, 1.0), TUNING)
    assert max(mixture.shortcuts[2:6]) == TUNING.max_shortcut
    low = TUNING.mixture.solver_weights[5] * TUNING.min_weight_factor
    assert mixture.solver_weights[5] == pytest.approx(low)
    for _ in range(100):
        mixture = steer(mixture, dict.fromkeys(ON_TARGET, 0.0), TUNING)
    assert mixture.shortcuts[2:6] == (0, 0, 0, 0)
    most = TUNING.mixture.solver_weights[5] * TUNING.max_weight_factor
    assert mixture.solver_weights[5] == pytest.approx(most)


def test_the_targets_lie_in_the_windows():
    assert is_on_target(ON_TARGET, TUNING)
    assert not is_on_target(ON_TARGET | {6: 0.9}, TUNING)
    assert not is_on_target(dict.fromkeys(ON_TARGET, 0.0), TUNING)


def test_tuning_ends_when_it_is_on_target_or_its_cycles_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen = [ON_TARGET, dict.fromkeys(ON_TARGET, 0.0), ON_TARGET]
    monkeypatch.setattr(pretraining, "_measure", lambda *_: seen.pop(0))
    ensure_base_model(tmp_path, _quick(min_cycles=2, max_cycles=5))
    assert "on target after 3 cycles" in " ".join(capsys.readouterr().out.split())
    assert not seen
    seen += [dict.fromkeys(ON_TARGET, 0.0)] * 2
    ensure_base_model(tmp_path, _quick(min_cycles=1, max_cycles=2))
    assert "not on target after 2 cycles" in " ".join(capsys.readouterr().out.split())


def test_accuracy_is_the_share_of_answers_that_the_oracle_confirms(monkeypatch):
    """A model that answers all questions alike is right exactly where that is the answer."""
    tokenizer = build_tokenizer(128)
    asked = {1: [questions.parse("addsub:4[+1]"), questions.parse("addsub:4[+2]")]}
    model = pretraining.new_model(RECIPE, tokenizer, 64)
    answer = tokenizer("4[+1]5\\boxed{45}<eos>", return_tensors="pt")["input_ids"]

    def generate(input_ids, generation_config, **_):
        rows = input_ids.repeat_interleave(generation_config.num_return_sequences, dim=0)
        return torch.cat([rows, answer.expand(len(rows), -1)], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    assert pretraining._measure(model, tokenizer, asked, 3) == {1: 0.5}
