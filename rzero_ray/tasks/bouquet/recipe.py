"""What decides which base model ``conf=bouquet`` starts from, and the folder that it is kept in.

Apart from ``pretraining``, which builds it: a driver that finds the folder need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rzero_ray.tasks.bouquet.corpus import Mixture
from rzero_ray.tasks.recipes import recipe_folder

# Part of the cache key: raise it when code outside the recipe changes what a recipe produces.
_FORMAT_VERSION: Final = 1


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

    num_steps: int = 1100
    """Optimizer steps."""

    batch_size: int = 64
    """Documents of an optimizer step."""

    learning_rate: float = 8e-3
    """Peak learning rate of AdamW, reached after ``warmup_steps`` and decayed to zero on a
    cosine."""

    warmup_steps: int = 50
    """Steps of linear warm-up."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's first moment."""

    beta2: float = 0.95
    """AdamW's decay of the gradient's second moment."""

    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: float = 1.0
    """Norm at which gradients are clipped."""

    mixture: Mixture = field(default_factory=Mixture)
    """The documents."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def base_model_folder(cache_dir: Path, recipe: BouquetRecipe) -> Path:
    """Return the folder of the recipe's base model; it exists once the model is complete."""
    return recipe_folder(cache_dir, "bouquet", _FORMAT_VERSION, recipe)
