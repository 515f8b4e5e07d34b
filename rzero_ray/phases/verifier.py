r"""Confirm the curriculum's labels by a verifier: a third policy from the base model.

It learns from this iteration's votes, and earlier ones', to say of a question with its solution
`\boxed{1}` (right) or `\boxed{0}`, and then judges the solutions of the kept questions.
`method.verification` says what is right and wrong, and where this comes from.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.config import Config, has_verifier
from rzero_ray.config.method import SamplingConfig
from rzero_ray.method.verification import confirmed, majority_solutions, make_examples
from rzero_ray.phases.asking import to_request
from rzero_ray.phases.learning import demonstrations, learn_step_by_step
from rzero_ray.phases.metrics import imitation_metrics
from rzero_ray.phases.solver import pick_items
from rzero_ray.protocols import Cast, Policy
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import (
    Candidate,
    CurriculumItem,
    Rollout,
    Step,
    Verdict,
    VerifierExample,
    iteration_key,
)

RIGHT, WRONG = "1", "0"
"""The verdicts, as they stand in the box."""
_FEWEST_EXAMPLES = 8
"""Examples below which there is nothing to learn, and all labels are believed."""


async def verify_labels(
    config: Config, iteration: int, cast: Cast, items: list[CurriculumItem], run: Run
) -> list[CurriculumItem]:
    """Return the items whose labels the verifier confirms, after teaching it where it still learns;
    all of them in a run without one, and while there are too few examples to teach it."""
    if not has_verifier(config):
        return items
    verifier = cast.verifier
    assert verifier is not None, "a run with a verifier has its policy"
    candidates = await asyncio.to_thread(_candidates, iteration, run)
    if _learns_now(config, run):
        examples = await _examples(config, iteration, candidates, cast, run)
        if len(examples) < _FEWEST_EXAMPLES:
            run.note(f"iteration {iteration}: {len(examples)} examples are too few for a verifier")
            return items
        await _teach(config, iteration, cast, verifier, examples, run)
    solutions = {
        c.question: majority_solutions(c)[: config.verifier.max_judged]
        for c in candidates
        if c.dropped is None
    }
    judge = partial(_judge, config, cast, verifier, items, solutions, run)
    verdicts = await run.once(f"{iteration_key(iteration)}/verdicts", Verdict, judge)
    right = confirmed(verdicts)
    run.note(f"iteration {iteration}: the verifier confirms {len(right)} of {len(items)} labels")
    return [item for item in items if item.question in right]


def _learns_now(config: Config, run: Run) -> bool:
    if config.verifier.learns == "once":
        return run.stored.current_model("verifier") == run.stored.base_model
    return config.verifier.learns == "always"


async def _examples(
    config: Config, iteration: int, candidates: Sequence[Candidate], cast: Cast, run: Run
) -> list[VerifierExample]:
    """Return the last examples: those that earlier iterations have stored, and those that this
    one's candidates make."""

    async def make() -> list[VerifierExample]:
        rng = random.Random(derive_seed(config.seed, iteration, "examples"))
        return make_examples(candidates, config.verifier.negatives, cast.task.spoil, rng)

    examples: list[VerifierExample] = []
    for of in range(1, iteration):
        examples += await asyncio.to_thread(run.stored.read, _examples_key(of), VerifierExample)
    examples += await run.once(_examples_key(iteration), VerifierExample, make)
    return examples[-config.verifier.memory :]


def _examples_key(iteration: int) -> str:
    return f"{iteration_key(iteration)}/verifier-examples"


def _candidates(iteration: int, run: Run) -> list[Candidate]:
    return run.stored.read_steps("curriculum", iteration, "candidates", Candidate)


async def _teach(
    config: Config,
    iteration: int,
    cast: Cast,
    verifier: Policy,
    examples: Sequence[VerifierExample],
    run: Run,
) -> None:
    async def make(step: Step) -> list[Rollout]:
        batch = pick_items(examples, config.verifier.num_prompts, step, config.seed)
        pairs = await verifier.tokenize(
            [
                (
                    cast.task.verifier_messages(example.question, example.solution),
                    rf"\boxed{{{RIGHT if example.is_right else WRONG}}}",
                )
                for example in batch
            ]
        )
        return demonstrations(pairs)

    await learn_step_by_step(
        verifier,
        "verifier",
        iteration,
        run,
        num_steps=config.verifier.num_steps,
        staleness=0,
        make=make,
        learn=verifier.imitate,
        describe=lambda batch, step: imitation_metrics(batch),
    )


async def _judge(
    config: Config,
    cast: Cast,
    verifier: Policy,
    items: Sequence[CurriculumItem],
    solutions: Mapping[str | None, Sequence[str]],
    run: Run,
) -> list[Verdict]:
    """Have the solutions behind each item's label judged; `solutions` has them by question."""
    await verifier.hold(run.stored.current_model("verifier"))

    async def judge(item: CurriculumItem) -> Verdict:
        verdicts = await gather_all(
            _is_right(config, cast, verifier, item.question, solution)
            for solution in solutions[item.question]
        )
        return Verdict(
            question=item.question,
            label=item.label,
            num_judged=len(verdicts),
            num_right=sum(verdicts),
        )

    return await gather_all(judge(item) for item in items)


async def _is_right(
    config: Config, cast: Cast, verifier: Policy, question: str, solution: str
) -> bool:
    greedy = SamplingConfig(temperature=0.0, max_tokens=config.verifier.sampling.max_tokens)
    messages = cast.task.verifier_messages(question, solution)
    (verdict,) = await verifier.sample(to_request(messages, 1, 0, greedy, reads_tokens=False))
    return parse_answer(verdict.text) == RIGHT
