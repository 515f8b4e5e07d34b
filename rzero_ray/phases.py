"""The three phases of an iteration: train the Challenger, build a curriculum, train the Solver.

Each phase streams: a question goes to the Solver the moment it is complete, and its votes are
counted the moment the last of them is. `run` skips what is finished and keeps what is sampled,
so a resumed run walks the same lines. Shape suffixes: P prompts, G group, M votes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from rzero_ray.advantages import normalize_per_prompt, normalize_whole_batch
from rzero_ray.concurrency import gather_all
from rzero_ray.config import ChallengerConfig, Config, SamplingConfig, SolverConfig, VotingConfig
from rzero_ray.curriculum import REPEATED, count_dropped, drop_reason, kept_items
from rzero_ray.metrics import mean
from rzero_ray.parsing import parse_challenge
from rzero_ray.protocols import Judge, Policy, Task
from rzero_ray.rewards import MALFORMED_REWARD, challenger_reward, solver_reward
from rzero_ray.runstate import Run
from rzero_ray.seeds import derive_seed
from rzero_ray.types import (
    Ballot,
    Candidate,
    ChallengerSample,
    Completion,
    CurriculumItem,
    Rollout,
    SampleRequest,
    Sampling,
    SolverSample,
    Step,
    UpdateReport,
)

NO_BALLOT = Ballot(answers=(), label=None, num_agree=0, num_votes=0)


async def train_challenger(
    config: Config,
    iteration: int,
    challenger: Policy,
    solver: Policy,
    judge: Judge,
    task: Task,
    run: Run,
) -> None:
    """Teach the Challenger to ask what the frozen Solver answers right about half the time."""
    for phase in run.learning_phase(iteration, "challenger"):
        await challenger.start_phase(phase)
        for step in run.steps(iteration, "challenger", config.challenger.num_steps):
            samples = await run.once(
                step.key + "/rollouts",
                ChallengerSample,
                lambda step=step: sample_challenger(config, step, challenger, solver, judge, task),
            )
            report = await challenger.update([to_rollout(s) for s in samples], step)
            run.finish_step(step, challenger_metrics(samples, task) | update_metrics(report))
        await challenger.finish_phase(phase)


async def sample_challenger(
    config: Config, step: Step, challenger: Policy, solver: Policy, judge: Judge, task: Task
) -> list[ChallengerSample]:
    """Sample one step's questions, have the Solver vote on each, reward and normalise them."""
    settings = config.challenger
    questions_P = await gather_all(
        _pose_and_vote(
            config,
            settings.sampling,
            settings.samples_per_prompt,
            settings.num_votes,
            (step, prompt),
            challenger,
            solver,
            judge,
            task,
        )
        for prompt in range(settings.num_prompts)
    )
    shares_PG = await _repetition_shares(settings, questions_P, judge)
    rewards_PG = [
        [
            MALFORMED_REWARD
            if question is None
            else challenger_reward(ballot.agreement, share, settings.repetition_weight)
            for (_, question, ballot), share in zip(group, shares, strict=True)
        ]
        for group, shares in zip(questions_P, shares_PG, strict=True)
    ]
    normalize = (
        normalize_whole_batch if settings.advantage == "whole_batch" else normalize_per_prompt
    )
    advantages_PG = normalize(rewards_PG)
    return [
        ChallengerSample(
            prompt_index=prompt,
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            weight_version=_last_version(completion),
            question=question,
            answers=ballot.answers,
            label=ballot.label,
            num_agree=ballot.num_agree,
            num_votes=ballot.num_votes,
            repetition_share=shares_PG[prompt][g],
            reward=rewards_PG[prompt][g],
            advantage=advantages_PG[prompt][g],
        )
        for prompt, group in enumerate(questions_P)
        for g, (completion, question, ballot) in enumerate(group)
    ]


async def build_curriculum(
    config: Config,
    iteration: int,
    challenger: Policy,
    solver: Policy,
    judge: Judge,
    task: Task,
    run: Run,
) -> list[CurriculumItem]:
    """Sample candidates from the frozen Challenger, vote, and keep those inside the band."""
    settings = config.curriculum
    heldout = {task.normalize(problem.question) for problem in task.heldout()}
    num_steps = -(-settings.num_candidates // settings.candidates_per_step)
    for step in run.steps(iteration, "curriculum", num_steps):
        offset = (step.index - 1) * settings.candidates_per_step
        count = min(settings.candidates_per_step, settings.num_candidates - offset)
        candidates = await run.once(
            step.key + "/candidates",
            Candidate,
            lambda step=step, count=count: sample_candidates(
                config, step, count, heldout, challenger, solver, judge, task
            ),
        )
        run.finish_step(step, curriculum_metrics(candidates, task))
    everything = run.load_steps(iteration, "curriculum", num_steps, "candidates", Candidate)
    items = _without_repeats(kept_items(everything), task)
    run.write_curriculum(iteration, items)
    return items


async def sample_candidates(
    config: Config,
    step: Step,
    count: int,
    heldout: set[str],
    challenger: Policy,
    solver: Policy,
    judge: Judge,
    task: Task,
) -> list[Candidate]:
    """Sample `count` candidates with their votes, each marked kept or dropped."""
    settings = config.curriculum
    groups = await gather_all(
        _pose_and_vote(
            config,
            settings.sampling,
            1,
            settings.num_votes,
            (step, index),
            challenger,
            solver,
            judge,
            task,
        )
        for index in range(count)
    )
    candidates: list[Candidate] = []
    seen: set[str] = set()
    for ((completion, question, ballot),) in groups:
        normal = None if question is None else task.normalize(question)
        dropped = drop_reason(normal, ballot, settings, heldout)
        if normal is not None and normal in seen and dropped is None:
            dropped = REPEATED
        seen.add(normal or "")
        candidates.append(
            Candidate(
                text=completion.text,
                question=question,
                answers=ballot.answers,
                label=ballot.label,
                num_agree=ballot.num_agree,
                num_votes=ballot.num_votes,
                num_tokens=len(completion.token_ids),
                dropped=dropped,
                truth=None if question is None else task.solve(question),
            )
        )
    return candidates


async def train_solver(
    config: Config,
    iteration: int,
    solver: Policy,
    items: list[CurriculumItem],
    judge: Judge,
    task: Task,
    run: Run,
) -> None:
    """Teach the Solver the curriculum's pseudo-labels."""
    for phase in run.learning_phase(iteration, "solver"):
        await solver.start_phase(phase)
        for step in run.steps(iteration, "solver", config.solver.num_steps if items else 0):
            samples = await run.once(
                step.key + "/rollouts",
                SolverSample,
                lambda step=step: sample_solver(
                    config.solver, config.seed, step, solver, items, judge, task
                ),
            )
            report = await solver.update([to_rollout(s) for s in samples], step)
            run.finish_step(step, solver_metrics(samples, task) | update_metrics(report))
        await solver.finish_phase(phase)


async def sample_solver(
    config: SolverConfig,
    seed: int,
    step: Step,
    solver: Policy,
    items: list[CurriculumItem],
    judge: Judge,
    task: Task,
) -> list[SolverSample]:
    """Sample one step's answers to curriculum questions, grade and normalise them."""
    batch_P = pick_items(items, config.num_prompts, step, seed)
    groups = await gather_all(
        (
            _answer_and_grade(
                config, derive_seed(seed, step.key, prompt), item, solver, judge, task
            )
            for prompt, item in enumerate(batch_P)
        )
    )
    rewards_PG = [
        [solver_reward(answer, item.label) for _, answer in group]
        for item, group in zip(batch_P, groups, strict=True)
    ]
    advantages_PG = normalize_per_prompt(rewards_PG)
    return [
        SolverSample(
            prompt_index=prompt,
            question=batch_P[prompt].question,
            label=batch_P[prompt].label,
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            weight_version=_last_version(completion),
            answer=answer,
            reward=rewards_PG[prompt][g],
            advantage=advantages_PG[prompt][g],
        )
        for prompt, group in enumerate(groups)
        for g, (completion, answer) in enumerate(group)
    ]


def pick_items(
    items: Sequence[CurriculumItem], count: int, step: Step, seed: int
) -> list[CurriculumItem]:
    """Return the questions of a step: shuffled epochs over the curriculum, cut into steps.

    A curriculum smaller than a step is seen several times in it; nothing is ever too small.
    """
    picked: list[CurriculumItem] = []
    position = (step.index - 1) * count
    while len(picked) < count:
        epoch, start = divmod(position + len(picked), len(items))
        order = list(items)
        random.Random(derive_seed(seed, step.iteration, "epoch", epoch)).shuffle(order)
        picked += order[start : start + count - len(picked)]
    return picked


async def _pose_and_vote(
    config: Config,
    sampling: SamplingConfig,
    num_questions: int,
    num_votes: int,
    place: tuple[Step, int],
    challenger: Policy,
    solver: Policy,
    judge: Judge,
    task: Task,
) -> list[tuple[Completion, str | None, Ballot]]:
    """Sample questions from one prompt and the votes on each; malformed ones get none."""
    step, prompt = place
    completions = await challenger.sample(
        SampleRequest(
            messages=task.challenger_messages(),
            num_samples=num_questions,
            seed=derive_seed(config.seed, step.key, prompt),
            sampling=to_sampling(sampling),
        )
    )
    return await gather_all(
        (
            _vote(
                config.voting,
                num_votes,
                derive_seed(config.seed, step.key, prompt, g, "votes"),
                completion,
                solver,
                judge,
                task,
            )
            for g, completion in enumerate(completions)
        )
    )


async def _vote(
    config: VotingConfig,
    num_votes: int,
    seed: int,
    completion: Completion,
    solver: Policy,
    judge: Judge,
    task: Task,
) -> tuple[Completion, str | None, Ballot]:
    challenge = parse_challenge(completion.text)
    if challenge is None:
        return completion, None, NO_BALLOT
    votes_M = await solver.sample(
        SampleRequest(
            messages=task.solver_messages(challenge.question),
            num_samples=num_votes,
            seed=seed,
            sampling=to_sampling(config.sampling),
        )
    )
    return completion, challenge.question, await judge.vote([vote.text for vote in votes_M])


async def _answer_and_grade(
    config: SolverConfig, seed: int, item: CurriculumItem, solver: Policy, judge: Judge, task: Task
) -> list[tuple[Completion, str | None]]:
    completions = await solver.sample(
        SampleRequest(
            messages=task.solver_messages(item.question),
            num_samples=config.samples_per_prompt,
            seed=seed,
            sampling=to_sampling(config.sampling),
        )
    )
    answers = await judge.grade([completion.text for completion in completions], item.label)
    return list(zip(completions, answers, strict=True))


async def _repetition_shares(
    settings: ChallengerConfig,
    questions_P: Sequence[Sequence[tuple[Completion, str | None, Ballot]]],
    judge: Judge,
) -> list[list[float]]:
    """Return [P][G] cluster shares among the well-formed questions; 0 for malformed ones."""
    well_formed = [q for group in questions_P for _, q, _ in group if q is not None]
    shares = iter(await judge.repetition_shares(well_formed, settings.repetition_threshold))
    return [[0.0 if q is None else next(shares) for _, q, _ in group] for group in questions_P]


def _without_repeats(items: list[CurriculumItem], task: Task) -> list[CurriculumItem]:
    """Drop questions that came up again in a later curriculum step."""
    return list({task.normalize(item.question): item for item in reversed(items)}.values())[::-1]


def to_sampling(config: SamplingConfig) -> Sampling:
    """Return the request's form of a role's sampling settings."""
    return Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_tokens=config.max_tokens,
    )


def to_rollout(sample: ChallengerSample | SolverSample) -> Rollout:
    """Return what the learner needs of a sample."""
    return Rollout(
        prompt_ids=sample.prompt_ids,
        token_ids=sample.token_ids,
        logprobs=sample.logprobs,
        advantage=sample.advantage,
        prompt_index=sample.prompt_index,
    )


def challenger_metrics(samples: Sequence[ChallengerSample], task: Task) -> dict[str, float]:
    """Return the Challenger's part of a row of `metrics.jsonl`."""
    posed = [s for s in samples if s.question is not None]
    return {
        "reward": mean([s.reward for s in samples]),
        "agreement": mean([s.num_agree / max(s.num_votes, 1) for s in posed]),
        "answered": mean([s.num_votes / max(len(s.answers), 1) for s in posed]),
        "well_formed": len(posed) / len(samples),
        "repetition_share": mean([s.repetition_share for s in posed]),
        "unique": len({task.normalize(s.question or "") for s in posed}) / max(len(posed), 1),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
        **_label_accuracy("label_accuracy", posed, task),
    }


def curriculum_metrics(candidates: Sequence[Candidate], task: Task) -> dict[str, float]:
    """Return the curriculum's part of a row of `metrics.jsonl`."""
    posed = [c for c in candidates if c.question is not None]
    kept = [c for c in candidates if c.dropped is None]
    dropped = {f"dropped/{why}": count for why, count in count_dropped(candidates).items()}
    return {
        "agreement": mean([c.agreement for c in posed]),
        "well_formed": len(posed) / len(candidates),
        "kept": len(kept),
        "kept_share": len(kept) / len(candidates),
        **dropped,
        **_label_accuracy("label_accuracy", kept, task),
        **_label_accuracy("label_accuracy_all", posed, task),
    }


def solver_metrics(samples: Sequence[SolverSample], task: Task) -> dict[str, float]:
    """Return the Solver's part of a row of `metrics.jsonl`."""
    first = {s.prompt_index: s for s in samples}
    return {
        "reward": mean([s.reward for s in samples]),
        "answered": mean([s.answer is not None for s in samples]),
        "completion_tokens": mean([len(s.token_ids) for s in samples]),
        **_label_accuracy("label_accuracy", first.values(), task),
    }


def update_metrics(report: UpdateReport) -> dict[str, float]:
    """Return the learner's part of a row of `metrics.jsonl`."""
    return {
        "loss": report.loss,
        "kl": report.kl,
        "entropy": report.entropy,
        "grad_norm": report.grad_norm,
        "clip_share": report.clip_share,
        "learning_rate": report.learning_rate,
        "num_updates": report.num_updates,
        "trained_tokens": report.num_tokens,
        "logprob_difference_mean": report.logprob_difference_mean,
        "logprob_difference_max": report.logprob_difference_max,
        "probe_difference_max": report.probe.max_difference,
        "sync_seconds": report.sync.seconds,
        "sync_bytes": report.sync.num_bytes,
    }


def _label_accuracy(
    name: str, labelled: Iterable[ChallengerSample | Candidate | SolverSample], task: Task
) -> dict[str, float]:
    """Return {name: share of labels that are the exact answer}; nothing where no oracle exists.

    A question that has no answer at all counts as labelled wrongly.
    """
    right = [s.question is not None and task.solve(s.question) == s.label for s in labelled]
    return {name: mean(right)} if task.has_oracle and right else {}


def _last_version(completion: Completion) -> str:
    return completion.weight_versions[-1][0] if completion.weight_versions else ""
