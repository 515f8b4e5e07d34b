"""One rank of the learner: the only module that knows DeepSpeed's API.

A rank holds the policy in training and, once the loss needs it, its frozen reference: the same
policy at the start of the phase, or the base model (`loss.anchor`). What is trained are all
weights, or an adapter, without which the policy is its own reference. All methods are collective:
every rank calls them, with the same arguments, in the same order. Shapes: N completion tokens of a
micro-batch.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from actors.learning.attention import batch_layout
from actors.learning.checkpoint_files import load_state, of_this_model, save_state
from actors.learning.deepspeed_config import deepspeed_config
from actors.learning.device_states import DeviceStates, lent
from actors.learning.lora import Adapter
from actors.learning.model_files import write_model
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.learning.other_ranks import convert, is_of_other_ranks, num_updates
from actors.learning.policy_model import PolicyModel
from actors.learning.trained import AllWeights, TrainedWeights
from actors.weights.buckets import layer_of
from rzero_ray.config.method import OptimizerConfig
from rzero_ray.disk.errors import one_line_disk_errors
from rzero_ray.disk.files import attempt_folder, remove_folder, synced_files
from rzero_ray.method.batching import MicroBatch, micro_batches_of_rank, mini_batches
from rzero_ray.method.logprobs import TokenLoss
from rzero_ray.method.losses import (
    AGGREGATIONS,
    UPDATE_RULES,
    ImitationLosses,
    PolicyLosses,
    StepSums,
    TokenLosses,
)
from rzero_ray.types import LearningReport, Phase, Rollout, RunError

_CHECKPOINT_CLASSES: tuple[Any, ...] = (ZeroStageEnum, LossScaler, fragment_address)
"""What a checkpoint holds beside tensors and plain values, at any ZeRO stage."""


class DeepSpeedLearner:
    """See the module."""

    def __init__(
        self,
        options: LearnerOptions,
        master_address: str,
        master_port: int,
        meeting_point: socket.socket | None = None,
    ) -> None:
        """Join the process group; returns when all ranks have.

        Rank 0 is given `meeting_point`, which holds the port that all are told
        (`actors.process.held_port`), and has it listen.
        """
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
        if not dist.is_initialized():  # a process joins once, however many learners it makes
            dist.init_process_group(
                backend,
                store=_store(options, master_address, master_port, meeting_point),
                rank=options.rank,
                world_size=options.world_size,
                timeout=timedelta(seconds=options.collective_s),
            )
        deepspeed.init_distributed(dist_backend=backend, verbose=False)
        self._model: PolicyModel | None = None
        """The policy in training, or a model that is only published and scored."""
        self._deepspeed: Any = None
        """DeepSpeed's own engine around the policy: its optimizer, in a phase."""
        self._trained: TrainedWeights = AllWeights()
        self._reference: PolicyModel | None = None
        self._num_updates = 0
        self._allowed_A: Tensor | None = None
        """[A] the tokens that the step's rollouts were drawn from; None for all."""
        self._initial_model: Path | None = None
        self._anchor: Path | None = None
        """The folder of the reference."""
        self._states = DeviceStates(self._device)

    def start_phase(self, phase: Phase, options: PhaseOptions) -> None:
        """Load the policy, with a fresh optimizer or from a checkpoint.

        What the phase before held is let go of first: one role is on the device at a time.
        """
        self._release()
        self._phase_options = options
        self._initial_model = phase.initial_model
        self._anchor = phase.anchor or phase.initial_model
        model = self._model = PolicyModel.load(
            phase.initial_model, self._dtype, self._device, self._options.attention
        )
        if self._options.lora.rank:
            self._trained = Adapter(model.causal_lm, self._options.lora, phase)
        if self._options.gradient_checkpointing:
            model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        checkpoint, universal = phase.checkpoint, False
        if checkpoint is not None and is_of_other_ranks(checkpoint, self._options.world_size):
            checkpoint = self._for_these_ranks(checkpoint)
            universal = checkpoint is not None
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._deepspeed, *_ = deepspeed.initialize(
            model=model,
            model_parameters=trained,  # type: ignore[arg-type]  # DeepSpeed declares a module
            config=deepspeed_config(
                self._options,
                options.optimizer,
                sum(parameter.numel() for parameter in trained),
                universal=universal,
            ),
        )
        self._deepspeed.checkpoint_engine = _CheckpointFiles()
        self._deepspeed.train()
        self._num_updates = 0
        if checkpoint is not None:
            self._load_checkpoint(checkpoint)

    def load_model(self, path: Path) -> None:
        """Load a model to be published and scored, not trained: it gets no optimizer, and each rank
        has it whole. What the phase before held is let go of first."""
        self._release()
        self._model = PolicyModel.load(path, self._dtype, self._device, self._options.attention)
        self._model.requires_grad_(False)

    def update(
        self, rollouts: Sequence[Rollout], allowed_tokens: NDArray[np.int32] | None = None
    ) -> LearningReport:
        """Take an optimizer step per mini-batch; the report is the same on every rank.

        A mini-batch that `OptimizerConfig.updates` leaves out is measured only.

        Where rollouts were drawn from `allowed_tokens` alone, so are all log-probabilities: of the
        policy, of the one before the step and of the reference.
        """
        options = self._phase_options
        self._allowed_A = (
            None
            if allowed_tokens is None
            else torch.from_numpy(allowed_tokens.astype(np.int64)).to(self._device)
        )
        batches = self._micro_batches(rollouts)
        # The first step is taken by the very policy that the old log-probabilities are of.
        batches[1:] = [self._with_old_scores(micros) for micros in batches[1:]]
        batches = self._with_reference_scores(batches)
        is_update = UPDATE_RULES[options.optimizer.updates]
        return self._learn(
            rollouts,
            [[PolicyLosses(micro, options.loss) for micro in b] for b in batches],
            [
                is_update(batch, options.loss)
                for batch in mini_batches(rollouts, options.prompts_per_update)
            ],
        )

    def imitate(self, demonstrations: Sequence[Rollout]) -> LearningReport:
        """Do as `update` does, with the cross-entropy of the demonstrations as the loss."""
        self._allowed_A = None
        batches = self._micro_batches(demonstrations)
        losses = (
            [ImitationLosses(micro) for micro in micros]
            for batch in batches
            for micros in self._with_reference_scores([batch])
        )
        return self._learn(demonstrations, losses, [True] * len(batches))

    def _learn(
        self,
        rollouts: Sequence[Rollout],
        losses: Iterable[Sequence[TokenLosses]],
        are_updates: Sequence[bool],
    ) -> LearningReport:
        """Take a step per entry of `losses`, which are looked at one after the other, or where
        it is to be no update measure what a step would."""
        options, sums = self._phase_options, StepSums(self._device)
        grad_norms = [
            self._optimizer_step(of_batch, sums) if is_update else self._measured(of_batch, sums)
            for of_batch, is_update in zip(losses, are_updates, strict=True)
        ]
        totals = _over_ranks(sums)
        tokens = sum(len(r.token_ids) for r in rollouts)
        return LearningReport(
            num_updates=sum(are_updates),
            num_tokens=tokens,
            loss=totals["loss"] / len(grad_norms),
            kl=totals["kl"] / tokens if options.loss.kl_coefficient else None,
            entropy=totals["entropy"] / tokens,
            grad_norm=float(np.mean(grad_norms)),
            clip_share=totals["clipped"] / tokens,
            learning_rate=_learning_rate(options.optimizer, self._num_updates - 1),
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
        model = self._held() if self._deepspeed is None else self._deepspeed
        model.eval()
        for prompt in prompts:
            tokens = torch.from_numpy(prompt.astype(np.int64)).to(self._device)
            positions = torch.arange(len(tokens) - 1, device=self._device)
            scores, _ = model(tokens[None, :-1], positions, tokens[1:], temperature=1.0)
            results.append(scores.cpu().numpy())
        model.train()
        return results

    def _held(self) -> PolicyModel:
        assert self._model is not None, "start_phase() or load_model() comes first"
        return self._model

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all weights under Hugging Face names, in layer order.

        An adapter is merged into what it is of. Partitioned weights (ZeRO stage 3) are gathered a
        decoder layer at a time, and yielded as clones, which outlive the gathering. A tied output
        head is left out: it is the embedding.
        """
        named = self._held().causal_lm.named_parameters()
        if self._options.zero_stage < 3:
            yield from self._published(named)
            return
        for _, layer in groupby(named, key=lambda item: layer_of(item[0])):
            group = list(layer)
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in group]):
                clones = [(name, tensor.clone()) for name, tensor in self._published(group)]
            yield from clones

    def _published(
        self, named: Iterable[tuple[str, torch.nn.Parameter]]
    ) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in named:
            published_name = self._trained.published_name(name)
            if published_name is not None:
                yield published_name, self._trained.published(name, parameter)

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the names and full shapes of what iteration yields, in its order.

        A partitioned parameter (ZeRO stage 3) is empty here; DeepSpeed keeps its full shape.
        """
        return [
            (published_name, tuple(getattr(parameter, "ds_shape", parameter.shape)))
            for name, parameter in self._held().causal_lm.named_parameters()
            if (published_name := self._trained.published_name(name)) is not None
        ]

    def leave_device(self, *, keep_parameters: bool) -> None:
        """Move what the phase holds to the host's memory until `return_to_device`.

        With `keep_parameters` the policy stays, for weights to be gathered and scores to be taken;
        gradients and the optimizer go. The reference has to live on the host by itself.
        """
        if self._model is None:
            return
        if self._deepspeed is not None:
            self._deepspeed.empty_partition_cache()  # parameters that ZeRO 3 keeps gathered
        states = [self._model, self._deepspeed]
        self._states.move_off(states, self._policy_tensors() if keep_parameters else ())

    def return_to_device(self) -> None:
        """Undo `leave_device`."""
        self._states.move_back()

    def _policy_tensors(self) -> Iterator[Tensor]:
        """Yield parameters and buffers, and of partitioned parameters (ZeRO 3) the partitions."""
        yield from self._held().buffers()
        for parameter in self._held().parameters():
            yield parameter
            partition = getattr(parameter, "ds_tensor", None)
            if partition is not None:
                yield partition

    def save_checkpoint(self, path: Path) -> dict[str, int]:
        """Write policy and optimizer, so that `start_phase` can go on from here.

        Returns {file in the folder: bytes} of what this rank wrote. Raises RunError where the disk
        refuses.
        """
        with one_line_disk_errors(path):
            if self._options.rank == 0:
                remove_folder(path, path.parent)
                path.parent.mkdir(parents=True, exist_ok=True)
            dist.barrier()
            files = self._deepspeed.checkpoint_engine = _CheckpointFiles()
            self._deepspeed.save_checkpoint(
                str(path.parent),
                tag=path.name,
                client_state={"num_updates": self._num_updates},
                save_latest=False,
                exclude_frozen_parameters=self._trained.leaves_frozen,
            )
        return {str(file.relative_to(path)): file.stat().st_size for file in files.written}

    def _for_these_ranks(self, checkpoint: Path) -> Path | None:
        """Have rank 0 put a checkpoint of another number of ranks together; returns the folder.

        None where no update was made yet: the optimizer then holds nothing that could be put
        together, and the weights are those that the phase starts from.
        """
        updates = torch.zeros(1, dtype=torch.int64, device=self._device)
        if self._options.rank == 0:
            updates += num_updates(checkpoint, _CHECKPOINT_CLASSES)
        dist.broadcast(updates, 0)
        if updates.item() == 0:
            return None
        group = f"{os.environ['MASTER_ADDR']}-{os.environ['MASTER_PORT']}"  # no other's name
        folder = attempt_folder(checkpoint, f"universal-{group}-{self._options.attempt}")
        if self._options.rank == 0:
            remove_folder(folder, folder.parent)
            convert(checkpoint, folder, _CHECKPOINT_CLASSES, self._options.collective_s)
        dist.barrier()
        return folder

    def _load_checkpoint(self, path: Path) -> None:
        """Go on from a checkpoint. Raises RunError where it is damaged, or holds code."""
        with of_this_model(path):
            folder, state = self._deepspeed.load_checkpoint(
                str(path.parent), tag=path.name, load_module_strict=not self._trained.leaves_frozen
            )
            if folder is None:
                raise RunError(f"{path} holds no checkpoint; restore it, or choose another run_dir")
            self._num_updates = int(state["num_updates"])

    def save_model(self, path: Path) -> dict[str, int]:
        """Write the policy in Hugging Face format; `path` is replaced at the end.

        An adapter is merged into it, and lies in a folder of its own beside it. Returns {file in
        the folder: bytes} on rank 0, which writes all. Raises RunError where the disk refuses.
        """
        state, adapter = self._on_host()
        if self._options.rank == 0:
            assert self._initial_model is not None, "start_phase() comes first"
            write_model(
                path,
                self._held().causal_lm,
                self._initial_model,
                state,
                lambda folder: self._trained.write_adapter(folder, adapter),
            )
        dist.barrier()
        return synced_files(path) if self._options.rank == 0 else {}

    def _on_host(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the whole model and the whole adapter in the host's memory, on rank 0 alone.

        All ranks gather; a copy on each would fill a node with as many models as it has ranks.
        """
        is_kept = self._options.rank == 0
        state = {name: tensor.to("cpu", self._dtype) for name, tensor in self if is_kept}
        named = self._trained.adapter_parameters()
        gathered = deepspeed.zero.GatheredParameters(
            list(named.values()), enabled=self._options.zero_stage == 3
        )
        with gathered:
            adapter = {
                name: p.detach().to("cpu", copy=True) for name, p in named.items() if is_kept
            }
        return state, adapter

    def _release(self) -> None:
        """Give back the memory of the policy, its optimizer and the reference."""
        self._states.forget()
        if self._deepspeed is not None:
            old = self._deepspeed
            old.destroy()
            # At ZeRO stage 3 a cycle through autograd's own objects, which no collector sees, keeps
            # all of them alive; emptied they hold no memory.
            parameters = list(old.module.parameters())
            for owner in (old.optimizer, old.basic_optimizer, *parameters):
                vars(owner).clear()
            del old, owner, parameters
        self._deepspeed = self._reference = self._model = None
        self._trained = AllWeights()
        gc.collect()  # DeepSpeed's hooks and the model refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _micro_batches(self, rollouts: Sequence[Rollout]) -> list[list[MicroBatch]]:
        """Return this rank's part of each mini-batch."""
        options = self._phase_options
        weigh = AGGREGATIONS[options.loss.aggregation]
        return [
            micro_batches_of_rank(
                batch,
                weigh([len(r.token_ids) for r in batch], options.max_tokens),
                self._options.rank,
                self._options.world_size,
                self._options.tokens_per_micro_batch,
                self._device,
                batch_layout(self._options.attention),
            )
            for batch in mini_batches(rollouts, options.prompts_per_update)
        ]

    def _optimizer_step(self, losses: Sequence[TokenLosses], sums: StepSums) -> float:
        """Accumulate the gradient of a mini-batch's micro-batches, step, return its norm."""
        for index, of_tokens in enumerate(losses):
            self._deepspeed.set_gradient_accumulation_boundary(index == len(losses) - 1)
            loss, logprobs_N, entropies_N = self._forward(
                self._deepspeed,
                of_tokens.micro,
                lambda logprobs, rows, of=of_tokens: of.sums(logprobs, rows).loss,
            )
            # DeepSpeed averages gradients over ranks; the loss is the sum over them.
            self._deepspeed.backward(loss * self._options.world_size)
            sums.add(of_tokens, logprobs_N, entropies_N)
        rate = _learning_rate(self._phase_options.optimizer, self._num_updates)
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = rate
        self._deepspeed.step()
        self._num_updates += 1
        return float(self._deepspeed.get_global_grad_norm() or 0.0)

    @torch.no_grad()
    def _measured(self, losses: Sequence[TokenLosses], sums: StepSums) -> float:
        """Add up what is reported of a mini-batch without a gradient; returns its norm, 0."""
        self._deepspeed.eval()
        for of_tokens in losses:
            logprobs_N, entropies_N = self._forward(self._deepspeed, of_tokens.micro)
            sums.add(of_tokens, logprobs_N, entropies_N)
        self._deepspeed.train()
        return 0.0

    def _forward(
        self, model: torch.nn.Module, micro: MicroBatch, token_loss: TokenLoss | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `PolicyModel.forward` does of a step's micro-batch."""
        return model(
            micro.inputs_BT,
            micro.positions_N,
            micro.tokens_N,
            temperature=self._phase_options.temperature,
            token_loss=token_loss,
            allowed_A=self._allowed_A,
            packing=micro.packing,
        )

    @torch.no_grad()
    def _scores(self, model: torch.nn.Module, batch: list[MicroBatch]) -> list[Tensor]:
        """Return, per micro-batch, [N] log-probabilities under `model` as it is."""
        model.eval()
        scores = [self._forward(model, micro)[0] for micro in batch]
        model.train()
        return scores

    def _with_old_scores(self, batch: list[MicroBatch]) -> list[MicroBatch]:
        """Return a mini-batch with log-probabilities under the policy as it is."""
        scores = self._scores(self._deepspeed, batch)
        return [replace(m, old_logprobs_N=s) for m, s in zip(batch, scores, strict=True)]

    def _with_reference_scores(self, batches: list[list[MicroBatch]]) -> list[list[MicroBatch]]:
        """Return mini-batches with log-probabilities under the reference, all in one go.

        They stay without where the old ones do as well: before the first update of a phase that is
        held to its own start the policy is its reference, and without a KL term nothing asks for
        one. Later a policy whose adapter is off is it, too. Another one is loaded when first
        needed.
        """
        is_own_start = self._anchor == self._initial_model
        is_reference = self._num_updates == 0 and is_own_start
        if is_reference or self._phase_options.loss.kl_coefficient == 0:
            return batches
        as_at_the_start = self._trained.as_at_the_start() if is_own_start else None
        if as_at_the_start is not None:
            with as_at_the_start:
                return self._scored_by(self._deepspeed, batches)
        home = self._device if self._options.reference == "device" else torch.device("cpu")
        if self._reference is None:
            assert self._anchor is not None
            self._reference = PolicyModel.load(
                self._anchor, self._dtype, home, self._options.attention
            )
            self._reference.requires_grad_(False)
        with lent(self._reference, self._device):
            return self._scored_by(self._reference, batches)

    def _scored_by(
        self, reference: torch.nn.Module, batches: list[list[MicroBatch]]
    ) -> list[list[MicroBatch]]:
        return [
            [
                replace(micro, reference_logprobs_N=scores_N)
                for micro, scores_N in zip(batch, self._scores(reference, batch), strict=True)
            ]
            for batch in batches
        ]


def _store(
    options: LearnerOptions, address: str, port: int, meeting_point: socket.socket | None
) -> TCPStore:
    """Return the store through which the ranks find each other, which rank 0 serves.

    It listens on `address` alone; torch itself would have it listen on every address of the node.
    """
    if options.rank != 0:
        return TCPStore(address, port, options.world_size, is_master=False)
    assert meeting_point is not None, "rank 0 serves the meeting point"
    meeting_point.listen()
    listener = meeting_point.detach()
    return TCPStore(address, port, options.world_size, is_master=True, master_listen_fd=listener)


class _CheckpointFiles(TorchCheckpointEngine):
    """How DeepSpeed reads and writes the files of a checkpoint (`checkpoint_files`)."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file."""
        save_state(state_dict, Path(path))
        self.written.append(Path(path))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file."""
        return load_state(Path(path), map_location, _CHECKPOINT_CLASSES)


def _learning_rate(optimizer: OptimizerConfig, update: int) -> float:
    """Return the rate of an update counted from 0: linear warm-up, then constant."""
    warmth = min(1.0, (update + 1) / max(1, optimizer.warmup_updates))
    return optimizer.learning_rate * warmth


def _over_ranks(sums: StepSums) -> dict[str, float]:
    """Return a step's totals over all ranks."""
    summed = torch.stack(list(sums.sums.values()))
    dist.all_reduce(summed)
    dist.all_reduce(sums.max_difference, op=dist.ReduceOp.MAX)
    totals = dict(zip(sums.sums, summed.tolist(), strict=True))
    return totals | {"max_difference": sums.max_difference.item()}
