"""What decides which base model ``conf=bouquet`` starts from, and the folder that it is kept in.

Apart from ``pretraining``, which builds it: a driver that finds the folder need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rzero_ray.tasks.bouquet.corpus import Mixture
from rzero_ray.tasks.recipes import recipe_folder

# Part of the cache key: raise it when code outside the recipe changes what a recipe produces.
_FORMAT_VERSION: Final = 1


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BouquetRecipe:
    """Everything that decides which base model is built. Its fields are the cache key."""

    seed: int = 0
    """Seed of the initial weights and of the corpus. What is held out does not depend on it."""

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

    max_positions: int = 96
    """Longest sequence, in tokens; a request of four wishes with two bouquets of sixteen
    flowers takes 44."""

    init_std: float = 0.08
    """Standard deviation of the initial weights."""

    batch_size: int = 48
    """Documents of an optimizer step."""

    first: Stage = Stage(num_steps=700, learning_rate=8e-3, mixture=Mixture(fair_share=1.0))
    """Learns to wish, to bind, and what makes a bouquet good. Where documents of a superficial
    referee come first, the quality is not learned in time."""

    second: Stage = Stage(num_steps=200, learning_rate=3e-3, mixture=Mixture(fair_share=0.3))
    """Learns to compare superficially. What it knows of quality is covered up and not lost, so that
    a few pairs bring it back."""

    warmup_steps: int = 20
    """Steps of linear warm-up of each stage."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's first moment."""

    beta2: float = 0.95
    """AdamW's decay of the gradient's second moment."""

    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: float = 1.0
    """Norm at which gradients are clipped."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def base_model_folder(cache_dir: Path, recipe: BouquetRecipe) -> Path:
    """Return the folder of the recipe's base model; it exists once the model is complete."""
    return recipe_folder(cache_dir, "bouquet", _FORMAT_VERSION, recipe)
