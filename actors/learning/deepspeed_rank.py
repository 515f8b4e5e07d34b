"""One rank of the learner: the only module that knows DeepSpeed's API.

A rank holds the policy in training and, once the loss needs it, its frozen reference: the same
policy at the start of the phase. All methods are collective: every rank calls them, with the same
arguments, in the same order. Shapes: N completion tokens of a micro-batch.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from actors.learning.device_states import DeviceStates
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.learning.policy_model import PolicyModel
from actors.weights.buckets import layer_of
from rzero_ray.config.method import LossConfig, OptimizerConfig
from rzero_ray.method.batching import MicroBatch, collate, micro_batches, mini_batches, shard
from rzero_ray.method.losses import (
    AGGREGATIONS,
    LossSums,
    MismatchSums,
    imitation_loss,
    importance_weights,
    mismatch_sums,
    policy_loss,
)
from rzero_ray.types import LearningReport, Phase, Rollout, RunError


class DeepSpeedLearner:
    """See the module."""

    def __init__(self, options: LearnerOptions, master_address: str, master_port: int) -> None:
        """Join the process group; returns when all ranks have."""
        self._options = options
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._device = torch.device(options.device)
        torch.set_num_threads(options.num_threads)
        os.environ.update(
            MASTER_ADDR=master_address,
            MASTER_PORT=str(master_port),
            RANK=str(options.rank),
            WORLD_SIZE=str(options.world_size),
            LOCAL_RANK="0",
        )
        backend = "nccl" if options.device == "cuda" else "gloo"
        # DeepSpeed would compile a shared-memory all-reduce for CPUs, for a minute, with a
        # compiler that the machine may not have; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=backend, verbose=False)
        self._engine: Any = None
        self._reference: PolicyModel | None = None
        self._num_updates = 0
        self._initial_model: Path | None = None
        self._states = DeviceStates(self._device)

    def start_phase(self, phase: Phase, options: PhaseOptions) -> None:
        """Load the policy, with a fresh optimizer or from a checkpoint.

        What the phase before held is let go of first: one role is on the device at a time.
        """
        self._release()
        self._phase_options = options
        self._initial_model = phase.initial_model
        model = PolicyModel.load(phase.initial_model, self._dtype, self._device)
        if self._options.gradient_checkpointing:
            model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._engine, *_ = deepspeed.initialize(
            model=model, config=self._deepspeed_config(options.optimizer)
        )
        self._engine.train()
        self._num_updates = 0
        if phase.checkpoint is not None:
            _check_num_ranks(phase.checkpoint, self._options.world_size)
            folder, state = self._engine.load_checkpoint(
                str(phase.checkpoint.parent), tag=phase.checkpoint.name
            )
            if folder is None:
                raise RuntimeError(f"DeepSpeed found no checkpoint in {phase.checkpoint}")
            self._num_updates = state["num_updates"]

    def update(self, rollouts: Sequence[Rollout]) -> LearningReport:
        """Take one optimizer step per mini-batch; the report is the same on every rank."""
        batches = [
            self._micro_batches(batch)
            for batch in mini_batches(rollouts, self._phase_options.prompts_per_update)
        ]
        # The first step is taken by the very policy that the old log-probabilities are of.
        later = [self._scores(self._engine, batch) for batch in batches[1:]]
        old = [[None] * len(batches[0]), *later]
        reference = self._reference_scores(batches) or old
        settings = self._phase_options.loss
        sums, grad_norms = _Sums(self._device), []
        for parts in zip(batches, old, reference, strict=True):
            losses = [_PolicyLoss(*micro, settings) for micro in zip(*parts, strict=True)]
            grad_norms.append(self._optimizer_step(losses, sums))
        return self._report(rollouts, grad_norms, sums)

    def imitate(self, demonstrations: Sequence[Rollout]) -> LearningReport:
        """As `update`, with the cross-entropy of the demonstrations as the loss."""
        sums, grad_norms = _Sums(self._device), []
        for batch in mini_batches(demonstrations, self._phase_options.prompts_per_update):
            micros = self._micro_batches(batch)
            reference = self._reference_scores([micros]) or [[None] * len(micros)]
            losses = [_ImitationLoss(*of) for of in zip(micros, reference[0], strict=True)]
            grad_norms.append(self._optimizer_step(losses, sums))
        return self._report(demonstrations, grad_norms, sums)

    def _report(
        self, rollouts: Sequence[Rollout], grad_norms: list[float], sums: _Sums
    ) -> LearningReport:
        totals = sums.reduce()
        tokens = sum(len(r.token_ids) for r in rollouts)
        return LearningReport(
            num_updates=len(grad_norms),
            num_tokens=tokens,
            loss=totals["loss"] / len(grad_norms),
            kl=totals["kl"] / tokens if self._phase_options.loss.kl_coefficient else None,
            entropy=totals["entropy"] / tokens,
            grad_norm=float(np.mean(grad_norms)),
            clip_share=totals["clipped"] / tokens,
            learning_rate=self._learning_rate(self._num_updates - 1),
            logprob_difference_mean=totals["difference"] / tokens,
            logprob_difference_max=totals["max_difference"],
            importance_truncated_share=totals["truncated"] / tokens,
            importance_mean=totals["importance"] / tokens,
            mismatch_kl=totals["mismatch_kl"] / tokens,
        )

    @torch.no_grad()
    def prompt_logprobs(self, prompts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Return the log-probabilities of each prompt's tokens after the first."""
        results = []
        self._engine.eval()
        for prompt in prompts:
            tokens = torch.from_numpy(prompt.astype(np.int64)).to(self._device)
            positions = torch.arange(len(tokens) - 1, device=self._device)
            scores, _ = self._engine(tokens[None, :-1], positions, tokens[1:], temperature=1.0)
            results.append(scores.cpu().numpy())
        self._engine.train()
        return results

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all weights under Hugging Face names, in layer order.

        Partitioned weights (ZeRO stage 3) are gathered a decoder layer at a time, and yielded as
        clones, which outlive the gathering. A tied output head is left out: it is the embedding.
        """
        named = self._engine.module.causal_lm.named_parameters()
        if self._options.zero_stage < 3:
            yield from ((name, parameter.detach()) for name, parameter in named)
            return
        for _, layer in groupby(named, key=lambda item: layer_of(item[0])):
            group = list(layer)
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in group]):
                clones = [(name, parameter.detach().clone()) for name, parameter in group]
            yield from clones

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the names and full shapes of what iteration yields, in its order.

        A partitioned parameter (ZeRO stage 3) is empty here; DeepSpeed keeps its full shape.
        """
        return [
            (name, tuple(getattr(parameter, "ds_shape", parameter.shape)))
            for name, parameter in self._engine.module.causal_lm.named_parameters()
        ]

    def leave_device(self, *, keep_parameters: bool) -> None:
        """Move what the phase holds to the host's memory until `return_to_device`.

        With `keep_parameters` the policy stays, for weights to be gathered and scores to be taken;
        gradients and the optimizer go. The reference has to live on the host by itself.
        """
        if self._engine is None:
            return
        self._engine.empty_partition_cache()  # parameters that ZeRO 3 keeps gathered
        self._states.move_off([self._engine], self._policy_tensors() if keep_parameters else ())

    def return_to_device(self) -> None:
        """Undo `leave_device`."""
        self._states.move_back()

    def _policy_tensors(self) -> Iterator[Tensor]:
        """Yield parameters and buffers, and of partitioned parameters (ZeRO 3) the partitions."""
        yield from self._engine.module.buffers()
        for parameter in self._engine.module.parameters():
            yield parameter
            if hasattr(parameter, "ds_tensor"):
                yield parameter.ds_tensor

    def save_checkpoint(self, path: Path) -> None:
        """Write policy and optimizer, so that `start_phase` can go on from here."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(
            str(path.parent), tag=path.name, client_state={"num_updates": self._num_updates}
        )

    def save_model(self, path: Path) -> None:
        """Write the policy in Hugging Face format; `path` is replaced at the end."""
        state = {name: tensor.to("cpu", self._dtype) for name, tensor in self}
        if self._options.rank == 0:
            partial = path.with_name(f".{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            self._engine.module.causal_lm.save_pretrained(partial, state_dict=state)
            AutoTokenizer.from_pretrained(self._initial_model).save_pretrained(partial)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
        dist.barrier()

    def _release(self) -> None:
        """Give back the memory of the policy, its optimizer and the reference."""
        self._states.forget()
        if self._engine is not None:
            engine = self._engine
            engine.destroy()
            # At ZeRO stage 3 a cycle through autograd's own objects, which no collector sees, keeps
            # all of them alive; emptied they hold no memory.
            parameters = list(engine.module.parameters())
            for owner in (engine.optimizer, engine.basic_optimizer, *parameters):
                vars(owner).clear()
            del engine, owner, parameters
        self._engine = self._reference = None
        gc.collect()  # DeepSpeed's hooks and the model refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _deepspeed_config(self, optimizer: OptimizerConfig) -> dict[str, Any]:
        return {
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
            "bf16": {"enabled": self._dtype == torch.bfloat16},
            # Gradients of many micro-batches add up in float32; stage 0 cannot do it.
            "data_types": {"grad_accum_dtype": "fp32" if self._options.zero_stage else None},
            "gradient_clipping": optimizer.max_grad_norm,
            "zero_optimization": {
                "stage": self._options.zero_stage,
                # Else small parameters are never partitioned, and a small model tests nothing.
                "stage3_param_persistence_threshold": 0,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": None,
        }

    def _micro_batches(self, batch: list[Rollout]) -> list[MicroBatch]:
        """Return this rank's part of a mini-batch; as many micro-batches on every rank.

        Ranks must make the same collective calls, so a rank with fewer repeats the shortest
        sequence, with weight 0.
        """
        weights_S = AGGREGATIONS[self._phase_options.loss.aggregation](
            [len(r.token_ids) for r in batch], self._phase_options.max_tokens
        )
        lengths = [len(r.prompt_ids) + len(r.token_ids) for r in batch]
        by_length = sorted(range(len(batch)), key=lambda i: -lengths[i])
        per_rank = []
        for rank in range(self._options.world_size):
            mine = shard(by_length, rank, self._options.world_size)
            cut = micro_batches([lengths[i] for i in mine], self._options.tokens_per_micro_batch)
            per_rank.append([[mine[i] for i in indices] for indices in cut])
        micros = [
            collate([batch[i] for i in indices], [weights_S[i] for i in indices], self._device)
            for indices in per_rank[self._options.rank]
        ]
        filler = collate([batch[by_length[-1]]], [0.0], self._device)
        return micros + [filler] * (max(map(len, per_rank)) - len(micros))

    def _optimizer_step(
        self, losses: Sequence[_PolicyLoss] | Sequence[_ImitationLoss], sums: _Sums
    ) -> float:
        """Accumulate the gradient of a mini-batch's micro-batches, step, return its norm."""
        for index, of_tokens in enumerate(losses):
            self._engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
            micro = of_tokens.micro
            loss, logprobs_N, entropies_N = self._engine(
                micro.inputs_BT,
                micro.positions_N,
                micro.tokens_N,
                temperature=self._phase_options.temperature,
                token_loss=lambda logprobs, rows, of=of_tokens: of.sums(logprobs, rows).loss,
            )
            # DeepSpeed averages gradients over ranks; the loss is the sum over them.
            self._engine.backward(loss * self._options.world_size)
            entropy = (entropies_N * (micro.weights_N > 0)).sum()
            sums.add(
                of_tokens.sums(logprobs_N, slice(None)), of_tokens.mismatch(logprobs_N), entropy
            )
        rate = self._learning_rate(self._num_updates)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        self._num_updates += 1
        return float(self._engine.get_global_grad_norm() or 0.0)

    @torch.no_grad()
    def _scores(self, model: torch.nn.Module, batch: list[MicroBatch]) -> list[Tensor]:
        """Return, per micro-batch, [N] log-probabilities under `model` as it is."""
        model.eval()
        scores = [
            model(
                micro.inputs_BT,
                micro.positions_N,
                micro.tokens_N,
                temperature=self._phase_options.temperature,
            )[0]
            for micro in batch
        ]
        model.train()
        return scores

    def _reference_scores(self, batches: list[list[MicroBatch]]) -> list[list[Tensor]] | None:
        """Return log-probabilities under the reference of a step's mini-batches, in one go.

        None where the old ones do as well: before the first update of a phase the policy is its
        reference, and without a KL term nothing asks for one. It is loaded when first needed.
        """
        if self._num_updates == 0 or self._phase_options.loss.kl_coefficient == 0:
            return None
        home = self._device if self._options.reference == "device" else torch.device("cpu")
        if self._reference is None:
            assert self._initial_model is not None
            self._reference = PolicyModel.load(self._initial_model, self._dtype, home)
            self._reference.requires_grad_(False)
        with _moved(self._reference, self._device):
            return [self._scores(self._reference, batch) for batch in batches]

    def _learning_rate(self, update: int) -> float:
        """Return the rate of an update counted from 0: linear warm-up, then constant."""
        settings = self._phase_options.optimizer
        warmth = min(1.0, (update + 1) / max(1, settings.warmup_updates))
        return settings.learning_rate * warmth


@dataclass(frozen=True, slots=True)
class _PolicyLoss:
    """The clipped policy loss on a micro-batch's tokens.

    None stands for the policy's own log-probabilities, those of the pass that takes the gradient.
    """

    micro: MicroBatch
    old_N: Tensor | None
    reference_N: Tensor | None
    settings: LossConfig

    def sums(self, logprobs: Tensor, rows: slice) -> LossSums:
        """Return the sums over the tokens `rows`, whose log-probabilities are given."""
        own = logprobs.detach()
        old = own if self.old_N is None else self.old_N[rows]
        return policy_loss(
            logprobs,
            old,
            own if self.reference_N is None else self.reference_N[rows],
            self.micro.advantages_N[rows],
            importance_weights(
                old, self.micro.sampler_logprobs_N[rows], self.settings.importance_cap
            ),
            self.micro.weights_N[rows],
            self.settings,
        )

    def mismatch(self, logprobs_N: Tensor) -> MismatchSums:
        """Return how the policy before the update and the sampler differ."""
        return mismatch_sums(
            logprobs_N if self.old_N is None else self.old_N,
            self.micro.sampler_logprobs_N,
            (self.micro.weights_N > 0).float(),
            self.settings.importance_cap,
        )


@dataclass(frozen=True, slots=True)
class _ImitationLoss:
    """The cross-entropy of a micro-batch's tokens; `reference_N` as in `_PolicyLoss`."""

    micro: MicroBatch
    reference_N: Tensor | None

    def sums(self, logprobs: Tensor, rows: slice) -> LossSums:
        """Return the sums over the tokens `rows`, whose log-probabilities are given."""
        reference = logprobs.detach() if self.reference_N is None else self.reference_N[rows]
        return imitation_loss(logprobs, reference, self.micro.weights_N[rows])

    def mismatch(self, logprobs_N: Tensor) -> MismatchSums:
        """Return agreement: nobody sampled the demonstrations, so no sampler can differ."""
        own = logprobs_N.detach()
        return mismatch_sums(own, own, (self.micro.weights_N > 0).float(), 0.0)


class _Sums:
    """Sums over completion tokens of all micro-batches, reduced over ranks once at the end."""

    def __init__(self, device: torch.device) -> None:
        self._sums: dict[str, Tensor] = {}
        self._max = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, loss: LossSums, mismatch: MismatchSums, entropy: Tensor) -> None:
        """Add a micro-batch's sums."""
        parts = {
            "loss": loss.loss.detach(),
            "kl": loss.kl,
            "clipped": loss.num_clipped,
            "entropy": entropy,
            "importance": mismatch.importance,
            "truncated": mismatch.num_truncated,
            "mismatch_kl": mismatch.kl,
            "difference": mismatch.difference,
        }
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.double()
        self._max = torch.maximum(self._max, mismatch.max_difference.double())

    def reduce(self) -> dict[str, float]:
        """Return totals over all ranks."""
        sums = torch.stack(list(self._sums.values()))
        dist.all_reduce(sums)
        dist.all_reduce(self._max, op=dist.ReduceOp.MAX)
        totals = dict(zip(self._sums, sums.tolist(), strict=True))
        return totals | {"max_difference": self._max.item()}


def _check_num_ranks(checkpoint: Path, num_ranks: int) -> None:
    """Raise RunError when other than `num_ranks` ranks have saved the checkpoint.

    Each has written the part of the optimizer that it held; without ZeRO there are no parts.
    """
    num_saved = len(list(checkpoint.glob("*zero_pp_rank_*_optim_states.pt")))
    if num_saved not in (0, num_ranks):
        raise RunError(
            f"{checkpoint} was saved by {num_saved} learner ranks and cannot be read by "
            f"{num_ranks}: start with the layout and GPUs of before (`layout`, learner.num_ranks)"
        )


@contextlib.contextmanager
def _moved(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Lend `model` to `device`; at the end what lay elsewhere is there again, uncopied."""
    tensors = [*model.parameters(), *model.buffers()]
    homes = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home
