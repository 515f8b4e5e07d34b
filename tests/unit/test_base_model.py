"""The stored folder is an ordinary Hugging Face model. A few training steps are enough: nothing
here needs accuracy."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rzero_ray.tasks import arithmetic
from rzero_ray.tasks.tiny_model import build_tokenizer, ensure_base_model
from rzero_ray.tasks.tiny_recipe import BaseModelRecipe

_RECIPE = BaseModelRecipe(num_steps=3, batch_rows=8, warmup_steps=1)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base_models")


@pytest.fixture(scope="module")
def model_dir(cache_dir: Path) -> Path:
    return ensure_base_model(cache_dir, _RECIPE)


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(model_dir)


def test_tokenizer_has_24_tokens_after_a_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 24
    assert tokenizer.get_vocab() == build_tokenizer(256).get_vocab()
    assert set(tokenizer.all_special_tokens) == {"<bos>", "<eos>", "<pad>", "<unk>"}


def test_chat_template_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    def ids(system: str, user: str, add_generation_prompt: bool) -> list[str]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        token_ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
        return tokenizer.convert_ids_to_tokens(token_ids)

    solver = ["<bos>", "<solver>", "7", "+", "1", "5"]
    assert ids("<solver>", "7+15", add_generation_prompt=True) == [*solver, "="]
    assert ids("<solver>", "7+15", add_generation_prompt=False) == solver
    assert ids("<challenger>", "", add_generation_prompt=True) == ["<bos>", "<challenger>", "="]


@pytest.mark.parametrize("role", ["challenger", "solver"])
def test_chat_template_agrees_with_the_corpus(
    tokenizer: PreTrainedTokenizerFast, role: str
) -> None:
    documents = arithmetic.documents(
        random.Random(0),
        50,
        challenger_share=0.5,
        direct_share=0.5,
        guess_spread=2,
        corruption=0.0,
        excluded=frozenset(),
    )
    document = next(document for document in documents if document.role == role)
    user = document.question if role == "solver" else ""
    messages = [{"role": "system", "content": f"<{role}>"}, {"role": "user", "content": user}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"<bos>{document.prompt}"


def test_text_round_trip_keeps_markup(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<question>17+5-6</question>17+5=22;22-6=16;\\boxed{16}"
    token_ids = tokenizer(f"<bos>{text}<eos>")["input_ids"]
    assert tokenizer.unk_token_id not in token_ids
    assert tokenizer.decode(token_ids) == f"<bos>{text}<eos>"
    assert tokenizer.decode([*token_ids, tokenizer.pad_token_id], skip_special_tokens=True) == text


def test_unknown_text_and_white_space(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(" 7 +\nx")["input_ids"])
    assert tokens == ["7", "+", "<unk>"]


def test_model_loads_and_generates_with_the_stored_settings(
    model_dir: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.vocab_size >= len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = tokenizer("<bos><solver>7+5=", return_tensors="pt")
    output = model.generate(**prompt, do_sample=False, max_new_tokens=4)
    assert output.shape[1] <= prompt["input_ids"].shape[1] + 4


def test_second_call_reuses_the_cache(cache_dir: Path, model_dir: Path) -> None:
    weights = model_dir / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert (
        ensure_base_model(cache_dir, BaseModelRecipe(num_steps=3, batch_rows=8, warmup_steps=1))
        == model_dir
    )
    assert weights.stat().st_mtime_ns == before
    assert json.loads((model_dir / "base_recipe.json").read_text())["num_steps"] == 3


def test_leftovers_of_a_killed_build_are_replaced(tmp_path: Path, model_dir: Path) -> None:
    leftover = tmp_path / f"{model_dir.name}.building"
    leftover.mkdir()
    (leftover / "garbage").touch()
    rebuilt = ensure_base_model(tmp_path, _RECIPE)
    assert rebuilt == tmp_path / model_dir.name
    assert not (rebuilt / "garbage").exists()
    assert not leftover.exists()
    # The same recipe gives the same weights.
    weights = [(folder / "model.safetensors").read_bytes() for folder in (rebuilt, model_dir)]
    assert weights[0] == weights[1]


def test_seed_changes_folder_and_weights(cache_dir: Path, model_dir: Path) -> None:
    other = ensure_base_model(
        cache_dir, BaseModelRecipe(seed=1, num_steps=3, batch_rows=8, warmup_steps=1)
    )
    assert other != model_dir
    weights = [(folder / "model.safetensors").read_bytes() for folder in (other, model_dir)]
    assert weights[0] != weights[1]


def test_build_leaves_torch_state_alone(tmp_path: Path) -> None:
    num_threads = torch.get_num_threads()
    state = torch.get_rng_state()
    ensure_base_model(tmp_path, BaseModelRecipe(num_steps=1, batch_rows=2))
    assert torch.get_num_threads() == num_threads
    assert torch.equal(torch.get_rng_state(), state)


def test_recipe_rejects_impossible_values() -> None:
    with pytest.raises(ValueError, match="direct_share"):
        BaseModelRecipe(direct_share=1.5)
    with pytest.raises(ValueError, match="num_steps"):
        BaseModelRecipe(num_steps=0)
