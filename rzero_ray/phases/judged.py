"""Challenger and Solver where no exact answer exists: both are paid by what a referee says of the
Solver's answers, compared in pairs (`method.comparisons` has the sources).

Shape suffixes: P prompts, G group of one prompt's requests, or of one request's answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rzero_ray.answers.parsing import parse_question
from rzero_ray.config.config import Config
from rzero_ray.method.advantages import (
    advantages_per_prompt,
    center_group,
    check_advantages,
    normalize_group,
)
from rzero_ray.method.comparisons import request_reward
from rzero_ray.phases.asking import (
    GatherAttempts,
    answer_in_full,
    pose_and_vote,
    step_seeds,
    to_request,
    weight_num_steps,
    weight_version,
)
from rzero_ray.phases.challenger import ADVANTAGES, repetition_shares
from rzero_ray.phases.comparing import Group, compare_answers, hold_referee
from rzero_ray.phases.learning import learn_from_samples
from rzero_ray.phases.metrics import (
    answer_metrics,
    comparison_metrics,
    request_metrics,
)
from rzero_ray.phases.solver import pick_items
from rzero_ray.protocols import Cast, OpenTask
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.parts import gather_in_parts
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.tasks.registry import held_out_forms
from rzero_ray.types import (
    Attempt,
    ChallengerSample,
    Comparison,
    PosedRequest,
    SolverSample,
    Step,
    iteration_key,
)


async def train_requester(
    config: Config, iteration: int, cast: Cast, task: OpenTask, run: Run
) -> None:
    """Teach the Challenger to pose requests on whose answers the referee's verdicts differ."""
    if config.challenger.frozen:
        return
    await cast.solver.hold(run.stored.current_model("solver"))
    await hold_referee(cast, run)

    def describe(samples: Sequence[ChallengerSample], step: Step) -> dict[str, float]:
        return request_metrics(samples, task) | comparison_metrics(_comparisons(step, run))

    await learn_from_samples(
        cast.challenger,
        "challenger",
        iteration,
        run,
        ChallengerSample,
        num_steps=config.challenger.num_steps,
        staleness=config.pipeline.staleness,
        sample=lambda step: sample_requests(config, step, cast, task, run),
        describe=describe,
    )


async def sample_requests(
    config: Config, step: Step, cast: Cast, task: OpenTask, run: Run
) -> list[ChallengerSample]:
    """Sample one step's requests, have the Solver answer each and the referee compare the answers,
    reward and compare the requests. The comparisons are written as the step's own."""
    settings = config.challenger

    async def pose(prompt: int) -> list[Attempt]:
        return await pose_and_vote(
            cast,
            prompt,
            step_seeds(config.seed, step.key, prompt),
            settings.sampling,
            num_questions=settings.samples_per_prompt,
            parse=parse_question,
            learns=True,
            keeps_texts=True,
            vote=answer_in_full(cast, config.voting, settings.num_votes),
        )

    gather: GatherAttempts = partial(gather_in_parts, run.stored.root / step.key, Attempt)
    attempts_PG = await gather(settings.num_prompts, pose)
    shares_PG = await repetition_shares(settings, attempts_PG, cast.judge)
    attempts = [attempt for group in attempts_PG for attempt in group]
    groups = await gather_all(
        _compare(config, step, cast, task, place, attempt) for place, attempt in enumerate(attempts)
    )
    await _write_comparisons(step, groups, run)
    repeated = [share for shares in shares_PG for share in shares]
    rewards = [
        request_reward(None if g is None else g.shares_G, share, settings.repetition_weight)
        for g, share in zip(groups, repeated, strict=True)
    ]
    flat = iter(rewards)
    advantages_PG = ADVANTAGES[settings.advantage](
        [[next(flat) for _ in group] for group in attempts_PG],
        normalize_group if settings.normalize_std else center_group,
    )
    check_advantages(advantages_PG, step)
    advantages = [advantage for group in advantages_PG for advantage in group]
    return [
        ChallengerSample(
            prompt_index=attempt.prompt_index,
            prompt_ids=attempt.prompt_ids,
            token_ids=attempt.token_ids,
            logprobs=attempt.logprobs,
            text=attempt.text,
            weight_version=attempt.weight_version,
            weight_num_steps=attempt.weight_num_steps,
            question=attempt.question,
            answers=attempt.vote_texts,
            label=None,
            num_agree=0,
            num_votes=len(attempt.vote_texts),
            repetition_share=repeated[place],
            reward=rewards[place],
            advantage=advantages[place],
            too_long=attempt.too_long,
        )
        for place, attempt in enumerate(attempts)
    ]


async def _compare(
    config: Config, step: Step, cast: Cast, task: OpenTask, place: int, attempt: Attempt
) -> Group | None:
    """Have the answers to a step's request number `place` compared; None of a malformed one."""
    if attempt.question is None:
        return None
    seed = derive_seed(config.seed, step.key, place, "pairs")
    return await compare_answers(
        config, cast, task, place, attempt.question, attempt.vote_texts, seed
    )


async def pose_requests(
    config: Config, iteration: int, cast: Cast, task: OpenTask, run: Run
) -> list[PosedRequest]:
    """Return the requests of the iteration, each once and none of them held out, with answers of
    the Solver as it is before it learns from them."""
    key = f"{iteration_key(iteration)}/requests"
    settings = config.curriculum

    async def pose(prompt: int) -> list[Attempt]:
        return await pose_and_vote(
            cast,
            prompt,
            step_seeds(config.seed, key, prompt),
            settings.sampling,
            num_questions=1,
            parse=parse_question,
            learns=False,
            keeps_texts=True,
            vote=answer_in_full(cast, config.voting, settings.num_votes),
        )

    async def make() -> list[PosedRequest]:
        await cast.challenger.hold(run.stored.current_model("challenger"))
        await cast.solver.hold(run.stored.current_model("solver"))
        attempts = await gather_all(pose(prompt) for prompt in range(settings.num_candidates))
        known, posed = held_out_forms(task), []
        for (attempt,) in attempts:
            if attempt.question is None or (form := task.normalize(attempt.question)) in known:
                continue
            known.add(form)
            read = [task.read_answer(text) for text in attempt.vote_texts]
            answers = tuple(answer for answer in read if answer is not None)
            posed.append(PosedRequest(request=attempt.question, answers=answers))
        run.note(f"iteration {iteration}: {len(posed)} of {len(attempts)} requests are kept")
        return posed

    return await run.once(key, PosedRequest, make)


async def train_answerer(
    config: Config,
    iteration: int,
    cast: Cast,
    task: OpenTask,
    posed: Sequence[PosedRequest],
    run: Run,
) -> None:
    """Teach the Solver to write the answers that the referee prefers to its others."""
    await hold_referee(cast, run)

    def describe(samples: Sequence[SolverSample], step: Step) -> dict[str, float]:
        return answer_metrics(samples) | comparison_metrics(_comparisons(step, run))

    await learn_from_samples(
        cast.solver,
        "solver",
        iteration,
        run,
        SolverSample,
        num_steps=config.solver.num_steps if posed else 0,
        staleness=config.pipeline.staleness,
        sample=lambda step: sample_answers(config, step, cast, task, posed, run),
        describe=describe,
    )


async def sample_answers(
    config: Config,
    step: Step,
    cast: Cast,
    task: OpenTask,
    posed: Sequence[PosedRequest],
    run: Run,
) -> list[SolverSample]:
    """Sample one step's answers and have them compared: an answer's reward is its win share. The
    comparisons are written as the step's own."""
    settings = config.solver
    batch_P = pick_items(posed, settings.num_prompts, step, config.seed)
    seeds_P = [derive_seed(config.seed, step.key, prompt) for prompt in range(len(batch_P))]
    completions_PG = await gather_all(
        cast.solver.sample(
            to_request(
                task.solver_messages(item.request),
                settings.samples_per_prompt,
                seed,
                settings.sampling,
            )
        )
        for item, seed in zip(batch_P, seeds_P, strict=True)
    )
    groups_P = await gather_all(
        compare_answers(
            config,
            cast,
            task,
            prompt,
            item.request,
            [completion.text for completion in completions_PG[prompt]],
            derive_seed(seeds_P[prompt], "pairs"),
        )
        for prompt, item in enumerate(batch_P)
    )
    await _write_comparisons(step, groups_P, run)
    advantages_PG = advantages_per_prompt(
        [group.shares_G for group in groups_P],
        normalize_group if settings.normalize_std else center_group,
    )
    check_advantages(advantages_PG, step)
    return [
        SolverSample(
            prompt_index=prompt,
            question=batch_P[prompt].request,
            label="",
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            weight_version=weight_version(completion),
            weight_num_steps=weight_num_steps(completion),
            answer=task.read_answer(completion.text),
            reward=groups_P[prompt].shares_G[g],
            advantage=advantages_PG[prompt][g],
        )
        for prompt, completions in enumerate(completions_PG)
        for g, completion in enumerate(completions)
    ]


async def _write_comparisons(step: Step, groups: Sequence[Group | None], run: Run) -> None:
    """Write a step's comparisons, in place of those of an attempt at it that was stopped."""
    rows = [c for group in groups if group is not None for c in group.comparisons]
    await run.write(f"{step.key}/comparisons", rows, Comparison)


def _comparisons(step: Step, run: Run) -> list[Comparison]:
    return run.stored.read(f"{step.key}/comparisons", Comparison)
