"""A run's own measure of progress where no exact answer exists: the task's hidden quality, which no
phase reads, says of all three roles how good they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rzero_ray.answers.parsing import parse_question
from rzero_ray.config.config import Config
from rzero_ray.evaluation.answering import HELDOUT, problem_seed
from rzero_ray.evaluation.statistics import estimate
from rzero_ray.method.comparisons import (
    divided_share,
    outcome,
    read_verdict,
    verdict_requests,
)
from rzero_ray.protocols import Cast, OpenTask, Policy
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.rows import Row, mean
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import (
    Comparison,
    Message,
    RatedPair,
    SampleRequest,
    Sampling,
    TooLongError,
    iteration_key,
)

MIDDLING = (0.3, 0.7)
"""The mean quality of the base model's answers between which a request counts as neither easy nor
out of reach. By the current Solver's, a Challenger would gain by a Solver that gets worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRequest:
    """A request with answers and their hidden quality: a row of `evaluation.parquet`, and of
    `posed-evaluation.parquet`."""

    request: str
    greedy_text: str
    """Empty of a request that the Challenger has posed: it gets sampled answers only."""
    greedy_quality: float
    texts: tuple[str, ...]
    """[k] answers, sampled at the temperature of the evaluation."""
    qualities: tuple[float, ...]
    """[k] the hidden quality of each, in [0, 1]."""

    @property
    def mean_quality(self) -> float:
        """The mean quality of the sampled answers."""
        return mean(self.qualities)

    @property
    def usual_quality(self) -> float:
        """The quality of the most frequent sampled answer, the first of several."""
        usual = Counter(self.texts).most_common(1)[0][0]
        return self.qualities[self.texts.index(usual)]


async def evaluate_quality(
    config: Config, iteration: int, cast: Cast, task: OpenTask, run: Run
) -> Row:
    """Measure the Solver on held-out requests, the referee on held-out pairs and the Challenger on
    requests that it poses; iteration 0 is the base model.

    Returns what `Run.finish_iteration` records. Where an evaluation has shares of right answers it
    has mean qualities: `greedy`, `mean@k`, and `maj@k` of the most frequent of k answers. Seeds do
    not depend on the iteration.
    """
    run.add_event("phase", iteration=iteration, phase="evaluation")
    await cast.solver.hold(run.stored.current_model("solver"))
    await cast.challenger.hold(run.stored.current_model("challenger"))
    key = iteration_key(iteration)
    rated = await _rate_heldout(config, cast.solver, task)
    await run.write(f"{key}/evaluation", rated, RatedRequest)
    requests = await _pose(config, cast, task)
    await cast.challenger.hold(run.stored.base_model)
    posed = await _rate_posed(config, cast.challenger, task, requests)
    await run.write(f"{key}/posed-evaluation", posed, RatedRequest)
    assert cast.referee is not None, "a run by method=judged has the referee's policy"
    await cast.referee.hold(run.stored.current_model("referee"))
    compared = await _compare_pairs(config, cast.referee, task)
    await run.write(f"{key}/pairs-evaluation", compared, Comparison)
    return {
        "iteration": iteration,
        **solver_figures(rated, config.seed),
        **request_figures(posed, config.eval.num_requests),
        **referee_figures(compared),
    }


def solver_figures(rated: Sequence[RatedRequest], seed: int) -> Row:
    """Return the Solver's part of the row; `seed` is that of the interval's random numbers."""
    k = len(rated[0].texts)
    of = estimate([request.mean_quality for request in rated], seed)
    return {
        "num_problems": len(rated),
        "greedy": mean([request.greedy_quality for request in rated]),
        f"mean@{k}": of.value,
        f"mean@{k}_ci95": [of.low, of.high],
        f"maj@{k}": mean([request.usual_quality for request in rated]),
        # Nobody thinks aloud here; readers of evaluations look for it.
        "cot_share": 0.0,
        "accuracy_given_cot": 0.0,
    }


def request_figures(posed: Sequence[RatedRequest], num_asked: int) -> dict[str, float]:
    """Return the Challenger's part of the row: of `num_asked` requests those `posed` are
    well-formed. Shares are of all."""
    low, high = MIDDLING
    middling = [low <= request.mean_quality <= high for request in posed]
    return {
        "requests_well_formed": len(posed) / num_asked,
        "requests_middling": sum(middling) / num_asked,
        "requests_quality": mean([request.mean_quality for request in posed]),
    }


def referee_figures(compared: Sequence[Comparison]) -> dict[str, float]:
    """Return the referee's part of the row. The first answer of each pair is the better one; a
    verdict that says nothing is half right."""
    return {
        "referee_accuracy": mean([outcome(comparison) for comparison in compared]),
        "referee_divided": divided_share(compared),
    }


async def _rate_heldout(config: Config, solver: Policy, task: OpenTask) -> list[RatedRequest]:
    async def rate(index: int, request: str) -> RatedRequest:
        seed = problem_seed(config.seed, HELDOUT, index)
        greedy = _request(config, task.solver_messages(request), 1, seed, 0.0)
        (completion,), rated = await asyncio.gather(
            solver.sample(greedy), _rate(config, solver, task, request, seed)
        )
        return replace(
            rated,
            greedy_text=completion.text,
            greedy_quality=task.quality(request, completion.text),
        )

    return await gather_all(rate(i, p.question) for i, p in enumerate(task.heldout()))


async def _pose(config: Config, cast: Cast, task: OpenTask) -> list[str]:
    """Return the well-formed ones of the requests that the Challenger poses, sampled as it samples
    them for the curriculum."""
    settings = config.curriculum.sampling
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
    )

    async def pose(index: int) -> str | None:
        asked = SampleRequest(
            messages=task.challenger_messages(),
            num_samples=1,
            seed=derive_seed(config.seed, "evaluation", "requests", index),
            sampling=sampling,
            reads_tokens=False,
        )
        (completion,) = await cast.challenger.sample(asked)
        request = parse_question(completion.text)
        return request if request is not None and task.is_question(request) else None

    found = await gather_all(pose(index) for index in range(config.eval.num_requests))
    return [request for request in found if request is not None]


async def _rate_posed(
    config: Config, base: Policy, task: OpenTask, requests: Sequence[str]
) -> list[RatedRequest]:
    """Return posed requests with the base model's answers; one that it cannot answer, because it is
    too long, is left out like a malformed one."""

    async def rate(index: int, request: str) -> RatedRequest | None:
        seed = derive_seed(config.seed, "evaluation", "requests", index, "answers")
        with suppress(TooLongError):
            return await _rate(config, base, task, request, seed)
        return None

    found = await gather_all(rate(index, request) for index, request in enumerate(requests))
    return [rated for rated in found if rated is not None]


async def _rate(
    config: Config, solver: Policy, task: OpenTask, request: str, seed: int
) -> RatedRequest:
    asked = _request(
        config,
        task.solver_messages(request),
        config.eval.num_samples,
        seed,
        config.eval.temperature,
    )
    texts = tuple(completion.text for completion in await solver.sample(asked))
    return RatedRequest(
        request=request,
        greedy_text="",
        greedy_quality=0.0,
        texts=texts,
        qualities=tuple(task.quality(request, text) for text in texts),
    )


def _request(
    config: Config, messages: tuple[Message, ...], count: int, seed: int, temperature: float
) -> SampleRequest:
    sampling = Sampling(
        temperature=temperature, top_p=1.0, top_k=-1, max_tokens=config.eval.max_tokens
    )
    return SampleRequest(
        messages=messages, num_samples=count, seed=seed, sampling=sampling, reads_tokens=False
    )


async def _compare_pairs(config: Config, referee: Policy, task: OpenTask) -> list[Comparison]:
    async def compare(index: int, pair: RatedPair) -> Comparison:
        requests = verdict_requests(
            task, pair.request, pair.better, pair.worse, config.referee.sampling.max_tokens
        )
        sampled = await gather_all(referee.sample(request) for request in requests)
        verdict, swapped = (read_verdict(completion.text) for (completion,) in sampled)
        return Comparison(
            prompt_index=index,
            first_index=0,
            second_index=1,
            request=pair.request,
            first=pair.better,
            second=pair.worse,
            verdict=verdict,
            verdict_swapped=swapped,
        )

    return await gather_all(compare(i, pair) for i, pair in enumerate(task.heldout_pairs()))
