"""One iteration of `conf=tiny` with all roles on shared devices, which here are CPUs.

Nothing is gained by sleeping on a CPU, but placement, turns and the learner's empty tensors are the
real ones: an engine that sleeps refuses work, and a learner that is away has no weights to compute
with.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group_table

from actors import cluster
from actors.sampling.options import PARTS
from rzero_ray import driver

pytestmark = pytest.mark.slow  # a run of its own, which shares every place

SHORT = [
    "conf=tiny",
    "layout=colocated",
    "num_iterations=1",
    "challenger.num_steps=1",
    "challenger.num_prompts=32",
    "challenger.prompts_per_update=16",
    "curriculum.num_candidates=64",
    "curriculum.candidates_per_step=64",
    "solver.num_steps=2",
    "solver.num_prompts=8",
    "solver.prompts_per_update=4",
    "eval.num_samples=1",
    "drift.num_sequences=4",
]


def _itself(handle: Any) -> Any:
    return handle


class _Recorded:
    """An actor handle that notes its calls in the order in which the driver makes them."""

    def __init__(self, name: str, handle: Any, log: list[tuple[str, str, tuple]]) -> None:
        self._name, self._handle, self._log = name, handle, log

    def __getattr__(self, method: str) -> Any:
        recorded = self

        class Method:
            def remote(self, *arguments: Any) -> Any:
                recorded._log.append((recorded._name, method, arguments))
                return getattr(recorded._handle, method).remote(*arguments)

        return Method()

    def __reduce__(self) -> Any:
        return _itself, (self._handle,)  # actors get the handle itself


@dataclass
class Recorded:
    """What a run has left."""

    calls: list[tuple[str, str, tuple]]
    root: Path
    bundles: list[dict[str, float]]


@pytest.fixture(scope="module")
def run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    root = tmp_path_factory.mktemp("runs") / "colocated"
    calls: list[tuple[str, str, tuple]] = []
    bundles: list[dict[str, float]] = []
    start = cluster.start_cluster

    async def start_recorded(*arguments: Any) -> cluster.Cluster:
        running = await start(*arguments)
        for group in placement_group_table().values():
            bundles.extend(group["bundles"].values())
        for engine in running.pool.samplers:
            recorded: Any = _Recorded(engine.name, engine.actor, calls)
            engine.member.actor = recorded
        for rank in running.learner.ranks:  # of the group that turns and both roles share
            of_learner: Any = _Recorded("learner", rank.actor, calls)
            rank.actor = of_learner
        return running

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setattr(cluster, "start_cluster", start_recorded)
        try:
            code = driver.main([*SHORT, f"model.path={base_model}", f"run_dir={root}"])
        finally:
            ray.shutdown()
    assert code == 0
    return Recorded(calls, root, bundles)


def test_all_three_roles_share_one_place(run: Recorded):
    shared, reward = sorted(run.bundles, key=lambda bundle: -bundle["CPU"])
    assert (shared["CPU"], reward["CPU"]) == (1.5, 0.25)


def test_the_learner_never_works_while_an_engine_is_awake(run: Recorded):
    awake = {name: set(PARTS) for name in ("challenger/sampler-0", "solver/sampler-0")}
    away: bool | str = True  # the learner holds nothing before the first phase
    counts: Counter[str] = Counter()
    for name, method, arguments in run.calls:
        if name == "learner":
            counts[method] += 1
        match method:
            case "sleep":
                awake[name] = set()
            case "wake":
                assert away, f"{name} takes memory before the learner has given any"
                awake[name] |= set(arguments[0])
                if "kv_cache" in awake[name]:
                    assert away is True
            case "return_to_device":
                assert not any(awake.values())
                away = False
            case "leave_device":
                away = "in part" if arguments[0] else True
            case "start_phase" | "load_model" | "update" | "save_checkpoint" | "save_model":
                assert away is False and not any(awake.values()), method
            case "publish":
                assert away == "in part"
                assert {"weights"} in awake.values()
            case "prompt_logprobs" if name == "learner":
                assert away == "in part"
            case "sample" | "score" | "prompt_logprobs":
                assert away is True and awake[name] == set(PARTS), method
    assert counts["update"] == 3
    assert counts["save_model"] == 2
    assert counts["save_checkpoint"] == 3
    # Two phases, three updates, and at the end the base model for the drift monitor.
    assert (counts["start_phase"], counts["load_model"]) == (2, 1)
    assert counts["publish"] == 2 + 3 + 1


def test_every_publication_was_verified_and_the_policies_moved(run: Recorded):
    events = [json.loads(line) for line in (run.root / "events.jsonl").read_text().splitlines()]
    start, syncs = events[0], [e for e in events if e["event"] == "weight sync"]
    assert start["layout"].startswith("layout colocated: as configured; 1 + 1 engines, 1 learner")
    assert len(syncs) == 6
    assert all(sync["max_logprob_difference"] < 1e-3 for sync in syncs)
    turns = [e["holder"] for e in events if e["event"] == "turn"]
    assert set(itertools.pairwise(turns)) == {
        ("learner", "handover"),
        ("handover", "samplers"),
        ("learner", "samplers"),  # after a phase whose model was saved
        ("samplers", "learner"),
    }
    rows = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    learned = [row for row in rows if row["phase"] in ("challenger", "solver")]
    assert [row["phase"] for row in learned] == ["challenger", "solver", "solver"]
    # Trainer and sampler agree on the tokens that the engines sampled from the weights they got.
    assert all(row["logprob_difference_max"] < 1e-3 for row in learned)
    assert all(row["grad_norm"] > 0 for row in learned)
    assert (run.root / "models/solver-iteration-01/model.safetensors").exists()
