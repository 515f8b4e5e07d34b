"""Train the Solver on the curriculum's pseudo-labels (paper, section 3.4).

Shape suffixes: P prompts, G group of one prompt's answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from rzero_ray.config.config import Config
from rzero_ray.config.method import SolverConfig
from rzero_ray.method.advantages import center_group, check_advantages, normalize_group
from rzero_ray.method.credit import READS_CAMPS, SOLVER_CREDITS, AnsweredGroup
from rzero_ray.phases.asking import to_request, weight_num_steps, weight_version
from rzero_ray.phases.learning import learn_from_samples
from rzero_ray.phases.metrics import solver_metrics
from rzero_ray.protocols import Cast
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import Completion, CurriculumItem, SolverSample, Step

Item = TypeVar("Item")


async def train_solver(
    config: Config, iteration: int, cast: Cast, items: list[CurriculumItem], run: Run
) -> None:
    """Teach the Solver the labels of the items: the curriculum's, or known answers."""
    await learn_from_samples(
        cast.solver,
        "solver",
        iteration,
        run,
        SolverSample,
        num_steps=config.solver.num_steps if items else 0,
        staleness=config.pipeline.staleness,
        sample=lambda step: sample_solver(config, step, cast, items),
        describe=lambda samples, step: solver_metrics(samples, cast.task),
    )


async def sample_solver(
    config: Config, step: Step, cast: Cast, items: list[CurriculumItem]
) -> list[SolverSample]:
    """Sample one step's answers to curriculum questions, grade and compare them."""
    batch_P = pick_items(items, config.solver.num_prompts, step, config.seed)
    answered_P = await gather_all(
        _answer_and_grade(config.solver, cast, item, derive_seed(config.seed, step.key, prompt))
        for prompt, item in enumerate(batch_P)
    )
    credit = SOLVER_CREDITS[config.solver.reward]
    compare = normalize_group if config.solver.normalize_std else center_group
    credits_P = [credit(group, config.solver, compare) for _, group in answered_P]
    check_advantages([advantages for _, advantages in credits_P], step)
    return [
        SolverSample(
            prompt_index=prompt,
            question=batch_P[prompt].question,
            label=batch_P[prompt].label,
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            weight_version=weight_version(completion),
            weight_num_steps=weight_num_steps(completion),
            answer=answer,
            reward=reward,
            advantage=advantage,
        )
        for prompt, ((completions, group), (rewards, advantages)) in enumerate(
            zip(answered_P, credits_P, strict=True)
        )
        for completion, answer, reward, advantage in zip(
            completions, group.answers, rewards, advantages, strict=True
        )
    ]


def pick_items(items: Sequence[Item], count: int, step: Step, seed: int) -> list[Item]:
    """Return the questions of a step: shuffled epochs over the curriculum, cut into steps.

    A curriculum smaller than a step is seen several times in it; nothing is ever too small.
    """
    picked: list[Item] = []
    position = (step.index - 1) * count
    while len(picked) < count:
        epoch, start = divmod(position + len(picked), len(items))
        order = list(items)
        random.Random(derive_seed(seed, step.iteration, "epoch", epoch)).shuffle(order)
        picked += order[start : start + count - len(picked)]
    return picked


async def _answer_and_grade(
    settings: SolverConfig, cast: Cast, item: CurriculumItem, seed: int
) -> tuple[list[Completion], AnsweredGroup]:
    """Return [G] completions, and their answers as they are rewarded."""
    messages = cast.task.solver_messages(item.question)
    request = to_request(messages, settings.samples_per_prompt, seed, settings.sampling)
    completions = await cast.solver.sample(request)
    texts = [completion.text for completion in completions]
    answers = await cast.judge.grade(texts, item.label)
    camps = await _camps(cast, texts) if settings.reward in READS_CAMPS else ()
    group = AnsweredGroup(label=item.label, answers=answers, texts=texts, camps=camps)
    return completions, group


async def _camps(cast: Cast, texts: Sequence[str]) -> list[int | None]:
    """Return the number of the distinct answer that each response holds, the most frequent first;
    None where it holds none. Of several answers that it equals it counts for the first."""
    camps: list[int | None] = [None] * len(texts)
    ballot = await cast.judge.vote(texts)
    for number, (answer, _) in enumerate(ballot.clusters):
        graded = await cast.judge.grade(texts, answer)
        camps = [
            number if camp is None and found == answer else camp
            for camp, found in zip(camps, graded, strict=True)
        ]
    return camps
