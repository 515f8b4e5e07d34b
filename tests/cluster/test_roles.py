"""The roles together on a real Ray, vLLM and DeepSpeed: sampling, learning, weights in motion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from ray.util.state import list_actors
from transformers import AutoModelForCausalLM

from actors.cluster import Cluster, start_cluster
from actors.placement import reserve
from actors.weights.probe import WeightMismatchError
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.evaluation.drift.figures import kl_to_base
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Completion,
    Phase,
    Role,
    SampleRequest,
    Sampling,
    Step,
    SyncReport,
    UserError,
    WeightVersion,
)
from tests.unit.builders import opposed_rollouts

TASK = ArithmeticTask()
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=64)


@dataclass
class Fixture:
    """A running cluster: two learner ranks under ZeRO 3, one sampler per role."""

    cluster: Cluster
    cast: Cast
    config: Config
    base_model: Path
    syncs: list[SyncReport]


@pytest.fixture(scope="module")
def running(tiny_config: Config, base_model: Path) -> Iterator[Fixture]:
    config = replace(
        tiny_config,
        learner=replace(
            tiny_config.learner, num_ranks=2, zero_stage=3, cpus_per_rank=0.25, threads_per_rank=1
        ),
    )
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
    syncs: list[SyncReport] = []
    models: dict[Role, Path] = {"challenger": base_model, "solver": base_model}
    cluster = asyncio.run(
        start_cluster(
            config,
            disaggregated(config),
            models,
            TASK,
            base_model,
        )
    )
    cast = cluster.cast(config, TASK, StageClock(), syncs.append)
    yield Fixture(cluster, cast, config, base_model, syncs)
    asyncio.run(cluster.close())
    ray.shutdown()


def _phase(running: Fixture, role: Role, folder: Path) -> Phase:
    return Phase(
        iteration=1,
        role=role,
        initial_model=running.base_model,
        checkpoint=None,
        num_finished_steps=0,
        final_model=folder / "final",
    )


def _request(question: str, num_samples: int = 4, seed: int = 5) -> SampleRequest:
    return SampleRequest(
        messages=TASK.solver_messages(question),
        num_samples=num_samples,
        seed=seed,
        sampling=SAMPLING,
    )


def _weights_of(completions: list[Completion]) -> set[str]:
    """Return the names of the weights that sampled the last tokens."""
    weights = [completion.weight_versions[-1][0] for completion in completions]
    return {"" if of_one is None else of_one.name for of_one in weights}


def test_dashboard_lists_the_roles_by_name(running: Fixture):
    address = ray.get_runtime_context().gcs_address
    names = {actor.name for actor in list_actors(address, filters=[("state", "=", "ALIVE")])}
    assert names == {
        "challenger/sampler-0",
        "solver/sampler-0",
        "learner/rank-0",
        "learner/rank-1",
        "reward/worker-0",
    }


def test_samples_depend_on_their_seed_alone(running: Fixture):
    async def go() -> tuple[list[Completion], ...]:
        solver = running.cast.solver
        alone = await solver.sample(_request("7+5-6"))
        crowd = await asyncio.gather(*(solver.sample(_request(f"{i}+5")) for i in range(1, 9)))
        again = await solver.sample(_request("7+5-6"))
        shifted = await solver.sample(_request("7+5-6", num_samples=1, seed=7))
        return alone, again, shifted, crowd[0]

    alone, again, shifted, _ = asyncio.run(go())
    assert [c.text for c in again] == [c.text for c in alone]
    assert shifted[0].text == alone[2].text  # sample k of a request draws with seed + k
    assert len({c.text for c in alone}) > 1
    for completion in alone:
        assert completion.prompt_ids.tolist() == alone[0].prompt_ids.tolist()
        assert len(completion.token_ids) == len(completion.logprobs)
        assert completion.finished
        assert "\\boxed{" in completion.text


def test_what_is_read_does_not_change_what_is_sampled(running: Fixture):
    async def go() -> tuple[list[list[Completion]], list[list[Completion]]]:
        solver = running.cast.solver
        requests = [_request(f"{i}+5-6+{i}", 8, seed=10 * i) for i in range(16)]
        full = await asyncio.gather(*(solver.sample(request) for request in requests))
        mixed = [replace(r, reads_tokens=bool(i % 2)) for i, r in enumerate(requests)]
        return full, await asyncio.gather(*(solver.sample(request) for request in mixed))

    full, mixed = asyncio.run(go())
    for number, (all_read, found) in enumerate(zip(full, mixed, strict=True)):
        for ours, theirs in zip(all_read, found, strict=True):
            assert (ours.text, ours.num_tokens, ours.finished) == (
                theirs.text,
                theirs.num_tokens,
                theirs.finished,
            )
            assert ours.num_tokens == len(ours.token_ids) == len(ours.logprobs)
            read = ours.token_ids.tolist() if number % 2 else []
            assert theirs.token_ids.tolist() == read
            assert len(theirs.logprobs) == len(read)


def test_a_burst_of_prompts_beyond_one_engine_step_is_served(running: Fixture):
    async def go() -> None:
        solver = running.cast.solver
        question = "20+19-18+17-16+15-14+13"
        batches = await asyncio.gather(
            *(solver.sample(_request(question, 10, seed=100 * i)) for i in range(60))
        )
        assert all(len(batch) == 10 for batch in batches)

    # 600 prompts of 27 tokens are some 16,000; a step on a CPU takes 4,096, and never a part
    # of a prompt: vLLM cannot rewind the random generator of a seeded request there.
    asyncio.run(go())


def test_cancelled_requests_end_in_the_engine(running: Fixture):
    async def go() -> None:
        engine = running.cluster.pool.samplers_of("solver")[0]
        solver, clock = running.cast.solver, asyncio.get_running_loop().time

        async def start() -> list[asyncio.Task[list[Completion]]]:
            """Ask for 2,000 samples, and return once they are in the engine."""
            requests = [_request("20+19-18+17-16+15", 10, seed=100 * i) for i in range(200)]
            tasks = [asyncio.create_task(solver.sample(request)) for request in requests]
            while await engine.actor.num_unfinished.remote() < 1000:
                assert not all(task.done() for task in tasks)
            return tasks

        async def drain() -> float:
            """Return the seconds until the engine has nothing left to do."""
            begin = clock()
            while await engine.actor.num_unfinished.remote():
                await asyncio.sleep(0.02)
            return clock() - begin

        await asyncio.gather(*await start())  # warm
        tasks = await start()
        in_full = await drain()
        await asyncio.gather(*tasks)
        tasks = await start()
        for task in tasks:
            task.cancel()
        assert await drain() < in_full / 2
        await asyncio.gather(*tasks, return_exceptions=True)
        assert any(task.cancelled() for task in tasks)
        assert engine.outstanding_tokens == 0
        assert len(await solver.sample(_request("7+5-6"))) == 4  # and it goes on sampling

    asyncio.run(go())


def test_weights_move_are_versioned_and_verified(running: Fixture, tmp_path: Path):
    async def go() -> None:
        solver = running.cast.solver
        phase = _phase(running, "solver", tmp_path)
        running.syncs.clear()
        await solver.start_phase(phase)
        before = await solver.sample(_request("9+8-3+6"))
        step = Step(iteration=1, phase="solver", index=1)
        report = await solver.update(opposed_rollouts(before), step)
        assert report.sync.version.name == "solver-01-001"
        assert report.learning.logprob_difference_max < 1e-3
        assert report.sync.probe.max_difference < 1e-3
        # Both engines hold the Solver now: the Challenger's is lent for the phase.
        assert [sync.transfer.num_engines for sync in running.syncs] == [2, 2]
        after = await asyncio.gather(*(solver.sample(_request("9+8-3+6")) for _ in range(2)))
        for completions in after:
            assert _weights_of(completions) == {"solver-01-001"}
        assert _weights_of(before) == {"solver-01-000"}
        moved = max(
            np.abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(after[0], before, strict=True)
        )
        assert moved > 1e-4  # far above the difference between trainer and sampler
        # The next update sees samples of the new weights and agrees with them.
        second = await solver.update(
            opposed_rollouts(after[0]), Step(iteration=1, phase="solver", index=2)
        )
        assert second.learning.logprob_difference_max < 1e-3

    asyncio.run(go())


def test_an_engine_with_other_weights_stops_the_run(running: Fixture, tmp_path: Path):
    async def go() -> None:
        challenger = running.cast.challenger
        await challenger.start_phase(_phase(running, "challenger", tmp_path))
        completions = await challenger.sample(_request("7+5-6"))
        # Learn without publishing, as if the sync had silently failed.
        await running.cluster.learner.update(opposed_rollouts(completions))
        engines = running.cluster.pool.samplers_of("challenger")
        version = WeightVersion(role="challenger", iteration=1, num_steps=1)
        with pytest.raises(WeightMismatchError, match="challenger/sampler-0 does not sample from"):
            await challenger._verify(version, engines)

    asyncio.run(go())


def test_the_distance_to_the_base_is_zero_before_learning_and_that_of_transformers_after(
    running: Fixture, tmp_path: Path
):
    questions = ["7+5-6", "9+8-3+6", "4+4+4", "12-3+8-1", "5+6", "17-9+2"]

    async def sample() -> list[Completion]:
        batches = await asyncio.gather(
            *(running.cast.solver.sample(_request(q, 8)) for q in questions)
        )
        return [completion for batch in batches for completion in batch]

    async def go() -> tuple[list[Completion], list[Completion], list[NDArray[np.float32]]]:
        challenger, solver = running.cast.challenger, running.cast.solver
        phase = _phase(running, "solver", tmp_path)
        await solver.start_phase(phase)
        before = await sample()
        for index in range(1, 7):  # towards short answers, which moves every probability
            completions = await sample()
            length = np.mean([len(c.token_ids) for c in completions])
            rollouts = [
                replace(r, advantage=float(np.sign(length - len(r.token_ids))))
                for r in opposed_rollouts(completions)
            ]
            await solver.update(rollouts, Step(iteration=1, phase="solver", index=index))
        after = await sample()
        await solver.finish_phase(phase)
        await challenger.hold(running.base_model)
        pairs = [(c.prompt_ids, c.token_ids) for c in (*before, *after)]
        scores = await challenger.score(pairs)
        # The Solver's own engine still holds what it has learned.
        assert _weights_of(await sample()) == {"solver-01-006"}
        # The last token of a text that fills the model has no room to be scored.
        whole = np.resize(pairs[0][0], running.config.model.max_model_len)
        (short,) = await challenger.score([(whole[:100], whole[100:])])
        assert len(short) == len(whole) - 100 - 1
        return before, after, scores

    before, after, scores = asyncio.run(go())
    untrained = kl_to_base([c.logprobs for c in before], scores[: len(before)])
    assert abs(untrained.value) < 1e-5
    trained = kl_to_base([c.logprobs for c in after], scores[len(before) :])
    base, final = (
        _transformers_logprobs(folder, after) for folder in (running.base_model, tmp_path / "final")
    )
    expected = float(np.mean(np.concatenate(final) - np.concatenate(base)))
    assert expected > 0.005  # far above the difference between the engine and transformers
    assert trained.value == pytest.approx(expected, abs=1e-4)
    assert trained.num_tokens == sum(len(c.token_ids) for c in after)


def _transformers_logprobs(
    folder: Path, completions: list[Completion]
) -> list[NDArray[np.float32]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for completion in completions:
        ids = torch.tensor(np.concatenate([completion.prompt_ids, completion.token_ids])).long()
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        start = len(completion.prompt_ids)
        found.append(logprobs[start - 1 : -1].gather(1, ids[start:, None])[:, 0].numpy())
    return found


def test_judge_votes_grades_and_clusters(running: Fixture):
    async def go() -> None:
        judge = running.cast.judge
        ballot = await judge.vote(["\\boxed{1/2}", "x;\\boxed{0.5}", "\\boxed{3}", "no box"])
        assert (ballot.num_agree, ballot.num_votes, len(ballot.answers)) == (2, 3, 4)
        graded = await judge.grade(["\\boxed{\\frac{1}{2}}", "\\boxed{3}", "none"], "0.5")
        assert graded == ["0.5", "3", None]
        shares = await judge.repetition_shares(["1+2+3+4"] * 3 + ["90-81-7-1-1"], 0.5)
        assert shares == [0.75, 0.75, 0.75, 0.25]

    asyncio.run(go())


def test_actors_that_find_no_place_are_an_error_with_a_table(running: Fixture):
    from actors.placement import demands

    with pytest.raises(UserError) as caught:  # the running cluster holds 1.75 of 2 CPUs
        needed = demands(running.config, disaggregated(running.config))
        asyncio.run(reserve(needed, deadline_s=2.0))
    assert "found no place in 2 s" in str(caught.value)
    assert "1 x challenger/sampler" in str(caught.value)
