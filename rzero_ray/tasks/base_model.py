"""Where the base model's files are: a folder, the Hugging Face cache or hub, or built here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from rzero_ray.config.cluster import (
    BOUQUET_MODEL,
    BUILT_IN_MODELS,
    LADDER_COINS_MODEL,
    LADDER_MODEL,
    TINY_MODEL,
    ModelConfig,
)
from rzero_ray.disk.files import damaged, open_regular, read_if_there, read_json
from rzero_ray.tasks import tiny_recipe
from rzero_ray.tasks.bouquet import recipe as bouquet_recipe
from rzero_ray.tasks.ladder import recipe as ladder_recipe
from rzero_ray.types import UserError

_HUB_FOLDER = re.compile(
    r"/models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})$"
)
"""How a folder of the Hugging Face cache is named."""


class ModelSettings(BaseModel):
    """What a reader of a model's `config.json` may rely on: that it is an object."""

    model_config = ConfigDict(extra="allow")


class _Shards(BaseModel):
    """The `model.safetensors.index.json` of a model whose weights are in several files."""

    weight_map: dict[str, str]
    """{name of a tensor: its file}"""


def find_model(model: ModelConfig) -> Path | None:
    """Return the base model's folder, or None when it must first be built or downloaded.

    Raises UserError when `model.path` can be neither a folder nor a hub name.
    """
    path = model.path
    if path in BUILT_IN_MODELS:
        return None
    folder = Path(path).expanduser()
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.path={path}: no config.json in this folder; it must hold a model in "
                "Hugging Face format"
            )
        return folder.resolve()
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        built_in = ", ".join(f"`{name}`" for name in BUILT_IN_MODELS)
        raise UserError(
            f"model.path={path}: no such folder; give a folder with a model in Hugging Face "
            f"format, a hub name such as Qwen/Qwen3-4B-Base, or one of {built_in}{_kept(folder)}"
        )
    return _in_hub_cache(path)


def is_hub_name(model: ModelConfig) -> bool:
    """Return whether `model.path`, which `find_model` accepts, is a name of the hub."""
    return model.path not in BUILT_IN_MODELS and not os.path.isdir(Path(model.path).expanduser())


def _kept(folder: Path) -> str:
    """Return which models a run has kept, where `folder` would be one of them."""
    beside = folder.parent
    if beside.name != "models" or not os.path.isdir(beside):
        return ""
    names = sorted(name for name in os.listdir(beside) if not name.startswith("."))
    return f"; this run has kept (checkpoint.keep_models) {', '.join(names) or 'none'}"


def check_model_files(folder: Path) -> None:
    """Raise UserError where a model folder of this program is incomplete or cut, in one line."""
    if not folder.is_dir():
        raise damaged(folder, "the model is missing")
    read_json(folder / "config.json", ModelSettings)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise damaged(folder, "it holds no weights (*.safetensors)")
    index = folder / "model.safetensors.index.json"
    shards = read_if_there(index, _Shards)
    for name in set(shards["weight_map"].values()) if shards else ():
        if folder / name not in weights:
            raise damaged(index, f"{name} is not in this folder")
    for path in weights:
        with open_regular(path):
            pass
        try:
            with safe_open(path, framework="numpy"):
                pass  # its header says how long the file is
        except (SafetensorError, OSError) as error:
            raise damaged(path, str(error)) from None


def obtain_model(model: ModelConfig) -> Path:
    """Return the base model's folder, after building or downloading it where needed.

    Raises UserError when the hub does not have it or cannot be reached.
    """
    found = find_model(model)
    if found is not None:
        return found
    if model.path not in BUILT_IN_MODELS:
        return _download(model.path)
    return _OBTAIN[model.path](Path(model.cache_dir).expanduser(), model.base_seed)


def _obtain_tiny(cache: Path, seed: int) -> Path:
    recipe = tiny_recipe.BaseModelRecipe(seed=seed)
    folder = tiny_recipe.base_model_folder(cache, recipe)
    if folder.is_dir():
        return folder
    # Imports torch and transformers, which a driver that need not build does without.
    from rzero_ray.tasks.tiny_model import ensure_base_model

    return ensure_base_model(cache, recipe)


def _obtain_ladder(cache: Path, seed: int) -> Path:
    return _obtain_ladder_base(cache, ladder_recipe.LadderRecipe(seed=seed))


def _obtain_ladder_with_coins(cache: Path, seed: int) -> Path:
    recipe = ladder_recipe.with_coins(ladder_recipe.LadderRecipe(seed=seed))
    return _obtain_ladder_base(cache, recipe)


def _obtain_ladder_base(cache: Path, recipe: ladder_recipe.LadderRecipe) -> Path:
    folder = ladder_recipe.base_model_folder(cache, recipe)
    if folder.is_dir():
        return folder
    from rzero_ray.tasks.ladder.pretraining import ensure_base_model

    return ensure_base_model(cache, recipe)


def _obtain_bouquet(cache: Path, seed: int) -> Path:
    recipe = bouquet_recipe.BouquetRecipe(seed=seed)
    folder = bouquet_recipe.base_model_folder(cache, recipe)
    if folder.is_dir():
        return folder
    from rzero_ray.tasks.bouquet.pretraining import ensure_base_model

    return ensure_base_model(cache, recipe)


_OBTAIN = {
    TINY_MODEL: _obtain_tiny,
    LADDER_MODEL: _obtain_ladder,
    LADDER_COINS_MODEL: _obtain_ladder_with_coins,
    BOUQUET_MODEL: _obtain_bouquet,
}
"""{built-in model: returns the folder of its base with a seed, after building what a cache
lacks}."""


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f"model.path={name} is not a hub name: {_first_line(error)}") from None


def is_of_hub(folder: Path) -> bool:
    """Return whether a folder is of the Hugging Face cache, so that every node can fetch it."""
    return _HUB_FOLDER.search(str(folder)) is not None


def where_it_is(folder: Path) -> Path:
    """Return the folder of this node that holds a model of the driver's: the same one, or for a
    model of the hub that of this node's cache, after downloading it where it is missing.

    Raises UserError when the hub does not have it or cannot be reached.
    """
    found = _HUB_FOLDER.search(str(folder))
    if found is None or (folder / "config.json").is_file():
        return folder
    return _download(f"{found['owner']}/{found['name']}", found["revision"])


def _download(name: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except (LocalEntryNotFoundError, OSError) as error:
        reason = "the hub says: " if isinstance(error, HfHubHTTPError) else ""
        raise UserError(
            f"model.path={name} is neither in the Hugging Face cache nor to be had from the hub "
            f"({reason}{_first_line(error)}); download it elsewhere and give its folder"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
