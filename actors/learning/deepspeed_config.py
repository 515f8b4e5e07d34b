"""Our settings in DeepSpeed's words."""

from __future__ import annotations

from typing import Any

from actors.learning.options import LearnerOptions
from rzero_ray.config.layout import REDUCE_BUCKET_ELEMENTS
from rzero_ray.config.method import OptimizerConfig


def deepspeed_config(
    options: LearnerOptions,
    optimizer: OptimizerConfig,
    num_trained: int,
    *,
    universal: bool = False,
) -> dict[str, Any]:
    """Return what `deepspeed.initialize` is given, to train so many parameters; `universal` is the
    form of the checkpoint that will be loaded (`other_ranks`)."""
    return {
        "checkpoint": {"load_universal": universal},
        # Batches are cut by tokens, so DeepSpeed's own bookkeeping of sizes is not used.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.learning_rate,
                "betas": [optimizer.beta1, optimizer.beta2],
                "eps": optimizer.epsilon,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        # Masters and moments are float32 then.
        "bf16": {"enabled": options.dtype == "bfloat16"},
        # Gradients of many micro-batches add up in float32; stage 0 cannot do it.
        "data_types": {"grad_accum_dtype": "fp32" if options.zero_stage else None},
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": {
            "stage": options.zero_stage,
            "reduce_bucket_size": min(num_trained, REDUCE_BUCKET_ELEMENTS),
            # Else small parameters are never partitioned, and a small model tests nothing.
            "stage3_param_persistence_threshold": 0,
            **_offloaded(options),
        },
        "zero_allow_untested_optimizer": True,
        # PyTorch's fused Adam steps on the host's processors, too; DeepSpeed's own would have to be
        # built by a compiler at the first start.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def _offloaded(options: LearnerOptions) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": options.device == "cuda"}
    match options.offload:
        case "none":
            return {}
        case "optimizer":
            return {"offload_optimizer": host}
        case "all":
            return {"offload_optimizer": host, "offload_param": host}
