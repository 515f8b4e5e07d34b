"""The order of sources in which a run is configured.

One YAML file of `conf/` describes an experiment (another may be laid over it); it names an
algorithm preset of `conf/algorithm/` and may name recipes of `conf/recipe/` and ablations of
`conf/ablation/`. Later sources win: the defaults of the schema, the preset, the experiment, the
recipes, the ablations, then `key.path=value` arguments, which may not contradict a recipe or an
ablation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from rzero_ray.config.checks import check_config
from rzero_ray.config.config import Config
from rzero_ray.config.sources import (
    as_written,
    build,
    check_keys,
    find_conf,
    read_arguments,
    read_yaml,
    split_arguments,
    split_names,
)
from rzero_ray.types import UserError

_OVERLAYS = ("recipe", "ablation")
"""The keys that name files to lay over an experiment, and their folders in `conf/`."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run that is resumed began with, so that later versions of the program change nothing.

    Both hold {key path: value}, of keys that matter to what is computed.
    """

    stored: Mapping[str, Any]
    """The configuration with which the run began."""
    added: Mapping[str, Any]
    """Keys that did not exist then, with their defaults: what the program did before them."""


def load_config(arguments: Sequence[str], begun: Begun | None = None) -> Config:
    """Read `conf=NAME|PATH[,...]` and `key.path=value` arguments into a checked `Config`.

    Of several confs a later one wins: `conf=qwen3_4b,labelled_grpo`. For a run that has `begun`, a
    preset of the same name says what it said then, and keys that were added since have their
    defaults; experiments, ablations and arguments are read as ever.

    Raises UserError, in one line, for an unknown conf, an unknown key or a bad value.
    """
    conf, overrides = split_arguments(arguments)
    names = split_names("tiny" if conf is None else conf)
    if not names:
        raise UserError(f"conf={conf} names no experiment; give a name in conf/ or a path")
    experiments = {name: read_yaml(find_conf(name)) for name in names}
    experiment = cast(DictConfig, OmegaConf.merge(*experiments.values()))
    override_tree = read_arguments(overrides, Config)
    named = as_written(experiment) | as_written(override_tree)
    preset_name = named.get("algorithm") or Config.algorithm
    preset = read_yaml(find_conf(f"algorithm/{preset_name}"))
    overlays = {
        f"{kind}={name}": read_yaml(find_conf(f"{kind}/{name}"))
        for kind in _OVERLAYS
        for name in split_names(named.get(kind) or "")
    }
    sources = {f"conf/algorithm/{preset_name}.yaml": preset, **experiments}
    sources |= {f"conf/{name.replace('=', '/')}.yaml": tree for name, tree in overlays.items()}
    for name, source in sources.items():
        check_keys(source, name, Config)
    for name, tree in overlays.items():
        _check_not_contradicted(name, tree, override_tree)
    sources_in_order = [preset, experiment, *overlays.values(), override_tree]
    if begun is not None:
        same_preset = begun.stored.get("algorithm") == preset_name
        then = {key: begun.stored[key] for key in as_written(preset) if key in begun.stored}
        sources_in_order.insert(1, _tree(then if same_preset else {}))
        sources_in_order.insert(-1, _tree(begun.added))
    config = build(Config, *sources_in_order)
    check_config(config)
    return config


def _tree(values: Mapping[str, Any]) -> DictConfig:
    tree = OmegaConf.create()
    for key, value in values.items():
        OmegaConf.update(tree, key, value)
    return tree


def _check_not_contradicted(name: str, overlay: DictConfig, arguments: DictConfig) -> None:
    """Refuse an argument that undoes an overlay: its name in every report would be untrue."""
    given = as_written(arguments)
    for key, value in as_written(overlay).items():
        argument = given.get(key)
        if argument is not None and argument != value:
            raise UserError(
                f"{key}={argument} contradicts {name}, which sets it to {value}; leave one of them "
                "out"
            )
