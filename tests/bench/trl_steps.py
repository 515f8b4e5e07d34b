"""Whole optimizer steps against TRL's GRPOTrainer: sampling, update, weights to the engines.

Both sample as many answers, of the same lengths, to the same prompts with the same model, reward
them by the same rule and take one optimizer step; in turn, on the same cores. TRL generates with
transformers in its own process. Ours is the cluster of a run, two engines and a learner, which also
publishes the weights and verifies them after the update.

`tiny`: 256 answers of 16 tokens by the built-in base model.
`long-tailed`: 32 answers of 16 to 512 tokens (log-normal) by a random Qwen3 of 24 million
parameters: ours ends each at its length, TRL's batch runs to the longest and is cut afterwards.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from actors.cluster import Cluster
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.method.advantages import normalize_group
from rzero_ray.protocols import Cast
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Completion,
    Message,
    Phase,
    Rollout,
    SampleRequest,
    Sampling,
    Step,
)
from tests.bench import learning
from tests.bench.engines import start_roles
from tests.bench.harness import Figure, ratio_figure, tiny_model
from tests.bench.models import write_random_qwen3
from tests.bench.trl_comparison import make_trainer

_WARM_UP, _REPEATS = 1, 5
_LOSS = learning.NO_KL
"""TRL's default has no KL term either."""
_MAX_PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Shape:
    """What one step samples."""

    name: str
    model: Path
    num_prompts: int
    group: int
    lengths: list[int]
    """Most tokens of each answer, prompt by prompt."""
    parts: int
    """Micro-batches of TRL's step: as many as make it fastest."""
    target: str

    def messages(self) -> list[tuple[Message, ...]]:
        """Return each prompt."""
        task = ArithmeticTask()
        problems = task.heldout()[: self.num_prompts]
        return [task.solver_messages(problem.question) for problem in problems]


def run() -> list[Figure]:
    """Compare whole steps on both shapes."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = learning.endless(tiny_model(), Path(folder) / "tiny")
        qwen3 = Path(folder) / "qwen3"
        write_random_qwen3("24m", qwen3)
        lengths = learning.log_normal_lengths(32, 512)
        shuffled = [lengths[i] for i in np.random.default_rng(0).permutation(len(lengths))]
        shapes = [
            Shape("tiny", tiny, 32, 8, [16] * 256, 1, "at least TRL's"),
            Shape(
                "long-tailed",
                qwen3,
                8,
                4,
                shuffled,
                4,
                "at least 2.5 times TRL's",
            ),
        ]
        return [_compare(shape) for shape in shapes]


def _compare(shape: Shape) -> Figure:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with asyncio.Runner() as runner:
            ours = _Ours(shape, runner)
            clock = _Clock(ours)
            trainer = _trainer(shape, clock)
            trainer.train()
            ours.close()
    finally:
        ray.shutdown()
    sampled, updated = ours.parts_s()
    tokens = sum(ours.num_tokens[_WARM_UP:]) / len(ours.num_tokens[_WARM_UP:])
    return ratio_figure(
        f"whole steps, {shape.name}, against TRL",
        clock.pairs[_WARM_UP:],
        shape.target,
        f"{len(shape.lengths)} answers, {tokens:,.0f} tokens a step; ours samples for "
        f"{sampled:.2f} s, learns and publishes for {updated:.2f} s",
    )


class _Clock(TrainerCallback):
    """Takes our step before each of TRL's, and times both."""

    def __init__(self, ours: _Ours) -> None:
        self.pairs: list[tuple[float, float]] = []
        self._ours = ours

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds = self._ours.step()
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pairs.append((self._seconds, time.perf_counter() - self._start))


@dataclass
class _Ours:
    """The roles of a run, of which the Solver takes steps."""

    shape: Shape
    runner: asyncio.Runner
    num_tokens: list[int] = field(default_factory=list)
    _seconds: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._config = _config(self.shape)
        self._cluster, self._cast = self.runner.run(self._start())

    def step(self) -> float:
        """Take a step; returns its seconds."""
        return self.runner.run(self._step())

    def parts_s(self) -> tuple[float, float]:
        """Return the median seconds of sampling, and of learning and publishing."""
        sampled, updated = np.median(self._seconds[_WARM_UP:], axis=0)
        return float(sampled), float(updated)

    def close(self) -> None:
        self.runner.run(self._cluster.close())

    async def _start(self) -> tuple[Cluster, Cast]:
        model = self.shape.model
        cluster, cast = await start_roles(self._config, model)
        await cast.solver.start_phase(
            Phase(
                iteration=1,
                role="solver",
                initial_model=model,
                checkpoint=None,
                num_finished_steps=0,
                final_model=model,
            )
        )
        return cluster, cast

    async def _step(self) -> float:
        index = len(self._seconds) + 1
        start = time.perf_counter()
        groups = await asyncio.gather(
            *(self._cast.solver.sample(r) for r in _requests(self.shape, index))
        )
        sampled = time.perf_counter()
        rollouts = _rollouts([c for group in groups for c in group], self.shape.group)
        step = Step(iteration=1, phase="solver", index=index)
        await self._cast.solver.update(rollouts, step)
        end = time.perf_counter()
        self._seconds.append((sampled - start, end - sampled))
        self.num_tokens.append(sum(len(r.token_ids) for r in rollouts))
        return end - start


def _config(shape: Shape) -> Config:
    longest = max(shape.lengths)
    optimizer = learning.OPTIMIZER
    return load_config(
        [
            "conf=tiny",
            f"model.path={shape.model}",
            f"model.max_model_len={max(longest + _MAX_PROMPT_TOKENS, 192)}",
            f"solver.num_prompts={shape.num_prompts}",
            f"solver.samples_per_prompt={shape.group}",
            f"solver.prompts_per_update={shape.num_prompts}",
            f"solver.sampling.max_tokens={longest}",
            f"solver.optimizer.learning_rate={optimizer.learning_rate}",
            f"solver.optimizer.weight_decay={optimizer.weight_decay}",
            f"solver.optimizer.warmup_updates={optimizer.warmup_updates}",
            f"solver.loss.kl_coefficient={_LOSS.kl_coefficient}",
            f"solver.loss.clip_low={_LOSS.clip_low}",
            f"solver.loss.clip_high={_LOSS.clip_high}",
            f"learner.threads_per_rank={torch.get_num_threads()}",
        ]
    )


def _requests(shape: Shape, index: int) -> list[SampleRequest]:
    """Return one request a prompt, or one an answer where answers end at lengths of their own."""
    requests = []
    for prompt, messages in enumerate(shape.messages()):
        lengths = shape.lengths[prompt * shape.group : (prompt + 1) * shape.group]
        together = len(set(lengths)) == 1
        for g, length in enumerate(lengths[:1] if together else lengths):
            requests.append(
                SampleRequest(
                    messages=messages,
                    num_samples=shape.group if together else 1,
                    seed=1_000_000 * index + 1_000 * prompt + g,
                    sampling=Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=length),
                )
            )
    return requests


def _rollouts(completions: Sequence[Completion], group: int) -> list[Rollout]:
    rewards = [_reward(completion.token_ids) for completion in completions]
    advantages = np.concatenate(
        [normalize_group(rewards[i : i + group]) for i in range(0, len(rewards), group)]
    )
    return [
        Rollout(
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            advantage=float(advantages[index]),
            prompt_index=index // group,
        )
        for index, completion in enumerate(completions)
    ]


def _reward(token_ids: Sequence[int] | NDArray[np.int32]) -> float:
    """A rule that costs nothing, and splits most groups."""
    return float(sum(map(int, token_ids)) % 2)


def _trainer(shape: Shape, clock: _Clock) -> Any:
    from trl.trainer.grpo_trainer import GRPOTrainer

    class CutTrainer(GRPOTrainer):
        """Ends each answer at its length, after generating all up to the longest."""

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
            cut = zip(completion_ids, shape.lengths, strict=True)
            return [ids[:length] for ids, length in cut], logprobs

    rows = [
        {"prompt": [dict(message) for message in messages]}
        for messages in shape.messages()
        for _ in range(shape.group)
    ]
    return make_trainer(
        shape.model,
        rows,
        _LOSS,
        num_generations=shape.group,
        max_tokens=max(shape.lengths),
        num_steps=_WARM_UP + _REPEATS,
        parts=shape.parts,
        reward=lambda completion_ids, **_: [_reward(ids) for ids in completion_ids],
        callbacks=[clock],
        trainer_class=CutTrainer,
    )
