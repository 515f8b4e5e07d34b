"""LoRA: a frozen model with a small trained adapter; the only module that knows peft.

Source: Hu et al., arXiv 2106.09685: of each adapted linear layer W the model computes
W + (alpha / rank) B A, where A is random and B is zero at the start. peft's layers take the place
of the model's own, in the model itself, which therefore stays what it is for DeepSpeed, for the
transports and for saving: only names differ, and those are translated here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from rzero_ray.config.cluster import LoraConfig
from rzero_ray.types import Phase, RunError

FOLDER = "adapter"
"""The folder of the adapter in that of the merged model."""
_NAME = "default"
"""peft's name of the one adapter."""
_FROZEN, _TRAINED = ".base_layer.", ".lora_"
"""How peft names the parameters of an adapted layer."""


class Adapter:
    """A model's adapter; see `trained.TrainedWeights`."""

    leaves_frozen = True

    def __init__(self, model: PreTrainedModel, settings: LoraConfig, phase: Phase) -> None:
        """Put a fresh adapter into `model` and freeze the rest.

        Its random part depends on the phase alone, so that all ranks, and a run that is resumed,
        begin with the same one. Raises RunError for a layer that the model has not.
        """
        self._model = model
        targets = settings.targets.split(",")
        linears = {
            name.rpartition(".")[2]
            for name, module in model.base_model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        missing = [target for target in targets if target not in linears]
        if missing:
            raise RunError(
                f"learner.lora.targets: the decoder of {phase.initial_model} has no linear layer "
                f"{missing[0]}; it has {', '.join(sorted(linears))}"
            )
        self._config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a number, whatever peft declares
            target_modules=targets,
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(phase.initial_model),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{phase.role} {phase.iteration}".encode()))
            peft.inject_adapter_in_model(self._config, model)

    def published_name(self, name: str) -> str | None:
        """Return the name without what peft adds to it; None for a part of the adapter."""
        return None if _TRAINED in name else name.replace(_FROZEN, ".")

    def published(self, name: str, parameter: Parameter) -> Tensor:
        """Return the parameter with its adapter merged, in float32 and rounded once."""
        place, _, kind = name.partition(_FROZEN)
        if kind != "weight":
            return parameter.detach()
        layer: Any = self._model.get_submodule(place)
        parts = [layer.lora_B[_NAME].weight, layer.lora_A[_NAME].weight]
        up, down = (part.detach().float() for part in parts)
        weight = parameter.detach().float()
        merged = torch.addmm(weight, up, down, alpha=layer.scaling[_NAME])
        return merged.to(parameter.dtype)

    def as_at_the_start(self) -> AbstractContextManager[None]:
        """Return a context in which the adapter is off."""
        return self._off()

    @contextmanager
    def _off(self) -> Iterator[None]:
        layers = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def adapter_parameters(self) -> dict[str, Parameter]:
        """Return the adapter's parameters."""
        return {n: p for n, p in self._model.named_parameters() if _TRAINED in n}

    def write_adapter(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write the adapter as peft does, which loads it beside the phase's initial model."""
        path = folder / FOLDER
        self._config.save_pretrained(str(path))
        named = {f"base_model.model.{n.replace(f'.{_NAME}.', '.')}": t for n, t in state.items()}
        save_file(named, path / "adapter_model.safetensors", metadata={"format": "pt"})
