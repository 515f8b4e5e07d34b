"""What decides which base model ``conf=ladder`` starts from, and the folder that it is kept in.

Apart from ``pretraining``, which builds it: a driver that finds the folder need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rzero_ray.tasks.ladder.corpus import Mixture
from rzero_ray.tasks.ladder.tuning import Tuning, Window
from rzero_ray.tasks.recipes import recipe_folder

# Part of the cache key: raise it when code outside the recipe changes what a recipe produces.
_FORMAT_VERSION: Final = 1

COIN_SHARE: Final = 1 / 12
"""Share of coins among the questions of a base model `with_coins`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of the pretraining with one optimizer and one mixture of documents."""

    num_steps: int
    """Optimizer steps."""
    learning_rate: float
    """Peak learning rate of AdamW, reached after the recipe's ``warmup_steps`` and decayed to zero
    on a cosine."""
    mixture: Mixture

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")


_SHORT: Final = Mixture(
    challenger_weights=(0.90, 0.07, 0.02, 0.01),
    solver_weights=(0.60, 0.24, 0.09, 0.045, 0.018, 0.006, 0.001),
)
"""Short questions, no shortcut. Operations are not learned in time where long ones come first."""

_LONG: Final = Mixture(
    challenger_weights=(0.55, 0.22, 0.12, 0.07, 0.03, 0.01),
    solver_weights=(0.48, 0.24, 0.12, 0.07, 0.045, 0.03, 0.015, 0.008, 0.005, 0.003, 0.002),
    shortcuts=(0, 0, 0.12, 0.25, 0.45, 0.6, 0.7, 0.75, 0.78, 0.82, 0.85),
)
"""Longer questions up to 12 operations, answered the oftener with the shortcut the longer they
are."""


_TUNING: Final = Tuning(
    learning_rate=5e-4,
    cycle_steps=60,
    min_cycles=4,
    max_cycles=12,
    mixture=replace(_LONG, challenger_weights=(0.96, 0.03, 0.01)),
    targets=((4, 0.80), (5, 0.62), (6, 0.39), (7, 0.21)),
    windows=(
        Window(lengths=(4, 5), low=0.62, high=0.74),
        Window(lengths=(6, 7), low=0.26, high=0.34),
        Window(lengths=(5,), low=0.55, high=0.8),
        Window(lengths=(7,), low=0.0, high=0.4),
    ),
    shortcut_gain=0.35,
    max_shortcut=0.9,
    weight_gain=1.0,
    min_weight_factor=0.5,
    max_weight_factor=8.0,
    num_problems=60,
    num_samples=4,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderRecipe:
    """Everything that decides which base model is built. Its fields are the cache key."""

    seed: int = 0
    """Seed of the initial weights and of the corpus. The held-out problems do not depend on it."""

    hidden_size: int = 64
    """Width of the residual stream."""

    num_layers: int = 2
    """Number of transformer blocks."""

    num_heads: int = 2
    """Query heads in each block."""

    num_key_value_heads: int = 1
    """Key-value heads in each block; divides ``num_heads``."""

    head_dim: int = 32
    """Width of an attention head."""

    intermediate_size: int = 160
    """Hidden width of the feed-forward layers."""

    max_positions: int = 128
    """Longest sequence, in tokens; a question of 18 operations with its answer takes 65."""

    init_std: float = 0.08
    """Standard deviation of the initial weights."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's first moment."""

    beta2: float = 0.95
    """AdamW's decay of the gradient's second moment."""

    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: float = 1.0
    """Norm at which gradients are clipped."""

    warmup_steps: int = 50
    """Steps of linear warm-up of each stage."""

    batch_size: int = 64
    """Documents of an optimizer step."""

    school_steps: int = 240
    """First steps of the first stage, which are about single operations: the tables that all else
    is made of. Each counts double in the stage's cosine, because its batch is larger."""

    school_batch_size: int = 192
    """Documents of such a step."""

    school_share: float = 0.9
    """Share of documents with a single operation in these steps."""

    first: Stage = Stage(num_steps=1200, learning_rate=8e-3, mixture=_SHORT)
    """Learns the operations and to carry them out in order."""

    second: Stage = Stage(num_steps=950, learning_rate=5e-3, mixture=_LONG)
    """Learns longer questions and the shortcut."""

    tuning: Tuning = _TUNING
    """Starves the Challenger of long questions, and brings the accuracy at 4 to 7 operations to
    where a study can see it rise and fall."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "school_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.school_share <= 1.0:
            raise ValueError(f"school_share must be within 0 and 1, got {self.school_share}")


def with_coins(recipe: LadderRecipe) -> LadderRecipe:
    """Return the recipe with `COIN_SHARE` of the questions of all its documents coins."""

    def mixed(stage: Stage | Tuning) -> Mixture:
        return replace(stage.mixture, coin_share=COIN_SHARE)

    return replace(
        recipe,
        first=replace(recipe.first, mixture=mixed(recipe.first)),
        second=replace(recipe.second, mixture=mixed(recipe.second)),
        tuning=replace(recipe.tuning, mixture=mixed(recipe.tuning)),
    )


def base_model_folder(cache_dir: Path, recipe: LadderRecipe) -> Path:
    """Return the folder of the recipe's base model; it exists once the model is complete."""
    return recipe_folder(cache_dir, "ladder", _FORMAT_VERSION, recipe)
