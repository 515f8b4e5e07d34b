"""The driver as a user runs it: killed in every phase, resumed, and held to what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.learning.deepspeed_rank import DeepSpeedLearner
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.process import held_port
from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.phases.asking import to_rollout
from rzero_ray.run.parquet import read_records
from rzero_ray.run.report.lanes import TraceReader
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import ChallengerSample, Phase, Role, SolverSample
from tests.cluster.conftest import REPOSITORY, driver_command, run_driver

_LOST_S = 30.0
"""What a start may have done after the last step that it finished: a step or two."""
START_LIMIT_S = 400.0
"""Until a started driver has reached a phase; a laptop needs a tenth of it."""


@dataclass
class KilledRun:
    """One iteration of `conf=tiny`, killed in the Solver's phase and finished by a second start
    (`test_kills` has the other phases)."""

    arguments: list[str]
    config: Config
    root: Path
    was_killed: bool
    output: str
    summary: dict


@pytest.fixture(scope="module")
def run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    root = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["conf=tiny", f"model.path={base_model}", f"run_dir={root}", "num_iterations=1"]
    arguments += ["challenger.num_steps=2"]  # of five, which take a minute
    was_killed = _start_and_kill(arguments, root, "iteration-01/solver/step-003")
    finished = run_driver(arguments, timeout_s=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return KilledRun(
        arguments=arguments,
        config=load_config(arguments),
        root=root,
        was_killed=was_killed,
        output=finished.stdout,
        summary=json.loads((root / "summary.json").read_text()),
    )


def _start_and_kill(arguments: list[str], root: Path, key: str) -> bool:
    """Start a driver and `kill -9` it once `key` is finished; returns whether it ran until then."""
    driver = subprocess.Popen(
        driver_command(arguments),
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_LIMIT_S
    try:
        while driver.poll() is None and key not in _finished(root):
            assert time.monotonic() < deadline, "the driver did not reach the moment in time"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    return driver.returncode == -signal.SIGKILL


def _finished(root: Path) -> set[str]:
    manifest = root / "manifest.json"
    return set(json.loads(manifest.read_text())["finished"]) if manifest.exists() else set()


def _rows(run: KilledRun) -> list[dict]:
    return [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]


def test_a_kill_loses_no_step_and_repeats_none(run: KilledRun):
    assert run.was_killed
    steps = [(row["phase"], row["step"]) for row in _rows(run)]
    config = run.config
    assert steps == [
        *(("challenger", i + 1) for i in range(config.challenger.num_steps)),
        ("curriculum", 1),
        *(("solver", i + 1) for i in range(config.solver.num_steps)),
        ("drift", 1),
    ]
    assert {"kl_solver", "kl_challenger", "answer_length_ratio", "gini"} <= _rows(run)[-1].keys()


@pytest.mark.parametrize(
    ("role", "record_type"), [("challenger", ChallengerSample), ("solver", SolverSample)]
)
def test_every_batch_was_sampled_by_the_weights_before_its_update(
    run: KilledRun, role: Role, record_type: type
):
    for folder in sorted((run.root / f"iteration-01/{role}").iterdir()):
        step = int(folder.name.removeprefix("step-"))
        samples = read_records(folder / "rollouts.parquet", record_type)
        assert {s.weight_version for s in samples} == {f"{role}-01-{step - 1:03d}"}


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    os.environ["DS_ACCELERATOR"] = "cpu"
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("role", "record_type"), [("challenger", ChallengerSample), ("solver", SolverSample)]
)
def test_final_weights_are_the_stored_rollouts_applied_once_each(
    run: KilledRun, process_group: None, role: Role, record_type: type
):
    config = run.config
    settings = config.challenger if role == "challenger" else config.solver
    meeting_point = held_port("127.0.0.1")
    learner = DeepSpeedLearner(
        LearnerOptions(
            rank=0,
            world_size=1,
            device="cpu",
            dtype="float32",
            zero_stage=config.learner.zero_stage,
            tokens_per_micro_batch=config.learner.tokens_per_micro_batch,
            num_threads=config.learner.threads_per_rank,
            weight_backend="object_store",
        ),
        *meeting_point.getsockname(),
        meeting_point,
    )
    base = Path(config.model.path)
    phase = Phase(
        iteration=1,
        role=role,
        initial_model=base,
        checkpoint=None,
        num_finished_steps=0,
        final_model=base,
    )
    learner.start_phase(phase, PhaseOptions.of(settings))
    start = {name: tensor.clone() for name, tensor in learner}
    for folder in sorted((run.root / f"iteration-01/{role}").iterdir()):
        samples = read_records(folder / "rollouts.parquet", record_type)
        learner.update([to_rollout(sample) for sample in samples])
    model = AutoModelForCausalLM.from_pretrained(
        run.root / f"models/{role}-iteration-01", dtype=torch.float32
    )
    saved = dict(model.named_parameters())
    off = sum(float((saved[n] - t).detach().pow(2).sum()) for n, t in learner) ** 0.5
    way = sum(float((saved[n] - t).detach().pow(2).sum()) for n, t in start.items()) ** 0.5
    assert way > 0.1
    assert off < 1e-3 * way  # one update too many or too few is a fifteenth of the way


def test_weight_syncs_were_verified_and_close(run: KilledRun):
    summary = run.summary
    steps = run.config.challenger.num_steps + run.config.solver.num_steps
    assert summary["weight_syncs"] >= steps + 2
    assert 0 < summary["max_logprob_difference"] < 1e-3


def test_solver_improves_beyond_the_noise(run: KilledRun):
    base, first = run.summary["heldout"]
    assert first["mean@8"] - base["mean@8"] >= 0.05
    assert first["mean@8_ci95"][0] > base["mean@8_ci95"][1]
    assert first["greedy"] - base["greedy"] >= 0.2
    assert first["cot_share"] > base["cot_share"]


def test_summary_and_report_are_complete(run: KilledRun):
    summary = run.summary
    assert [row["iteration"] for row in summary["heldout"]] == [0, 1]
    assert len(summary["label_accuracy"]) == 1
    assert 0 < summary["label_accuracy"][0] <= 1
    assert len(summary["challenger_reward"]) == 1
    assert summary["tokens_sampled"] > 100_000
    assert {"sampling", "learning", "weight_sync", "grading"} <= set(summary["wall_clock_s"])
    report = (run.root / "report.html").read_text()
    assert "<svg" in report or "data:image/png" in report
    assert str(run.root / "report.html") in run.output.replace("\n", "")


def test_each_engine_and_rank_has_a_lane_that_agrees_with_the_clock(run: KilledRun):
    """The lanes of both starts, against the seconds of the stages of what is finished; the first
    start had some more, which it lost."""
    reader = TraceReader(run.root)
    reader.read_on()
    assert not reader.problem and reader.num_damaged == 0
    lanes = {name: lane.busy_s for name, lane in reader.lanes.items()}
    engines = {"challenger/sampler-0", "solver/sampler-0"}
    assert lanes.keys() >= {*engines, "learner/rank-0", "reward/worker-0"}
    assert all(lane.node for lane in reader.lanes.values())
    evaluations = sorted(run.root.glob("iteration-*/evaluation.json"))
    rows = [*_rows(run), *(json.loads(path.read_text()) for path in evaluations)]
    stages = {
        stage: sum(row.get("seconds", {}).get(stage, 0.0) for row in rows)
        for stage in ("sampling", "learning", "weight_sync", "grading")
    }
    sampled = ("questions", "votes", "answers", "evaluation")
    busy = {name: sum(lanes[name].get(of, 0.0) for of in sampled) for name in engines}
    assert 0.95 * stages["sampling"] < sum(busy.values())  # both at a time are counted twice
    assert max(busy.values()) < 1.1 * stages["sampling"] + _LOST_S
    rank = lanes["learner/rank-0"]
    assert 0.9 * stages["learning"] < rank["learning"] < 1.1 * stages["learning"] + _LOST_S
    assert 0 < rank["weight sync"] < 1.1 * stages["weight_sync"] + _LOST_S
    worker = lanes["reward/worker-0"]["grading"]
    assert 0.9 * stages["grading"] < worker < 1.1 * stages["grading"] + _LOST_S
    for lane in lanes.values():
        assert 0 < sum(lane.values()) <= reader.work_seconds
    assert {*lanes["challenger/sampler-0"]} >= {"questions", "answers"}  # which the Solver borrows
    phases = {of.phase for of in reader.phases if of.iteration == 1}
    assert phases == {"challenger", "curriculum", "solver", "evaluation", "drift"}


def test_written_model_gives_the_stated_accuracy_in_transformers(run: KilledRun):
    folder = run.root / "models/solver-iteration-01"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = ArithmeticTask()
    problems = task.heldout()
    prompts = [
        tokenizer.apply_chat_template(
            list(task.solver_messages(p.question)), add_generation_prompt=True, tokenize=False
        )
        for p in problems
    ]
    batch = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with torch.no_grad():
        output = model.generate(**batch, do_sample=False, max_new_tokens=run.config.eval.max_tokens)
    texts = tokenizer.batch_decode(
        output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    answers = [parse_answer(text) for text in texts]
    right = [
        answer is not None and equivalent(answer, problem.answer)
        for answer, problem in zip(answers, problems, strict=True)
    ]
    # Greedy decoding differs only where two tokens tie to the last bits of float32.
    assert np.mean(right) == pytest.approx(run.summary["heldout"][1]["greedy"], abs=1.5 / 360)


@pytest.mark.long
def test_written_model_gives_the_stated_accuracy_in_a_fresh_vllm(run: KilledRun, tmp_path: Path):
    arguments = [
        "conf=tiny",
        f"model.path={run.root / 'models/solver-iteration-01'}",
        f"run_dir={tmp_path / 'again'}",
        "num_iterations=1",
        "challenger.num_steps=1",
        "challenger.num_prompts=2",
        "curriculum.num_candidates=2",
        "curriculum.candidates_per_step=2",
        "solver.num_steps=1",
    ]
    again = run_driver(arguments, timeout_s=600)
    assert again.returncode == 0, again.stdout + again.stderr
    # The base of this run is the Solver of the other, in engines that loaded it from disk.
    fresh = json.loads((tmp_path / "again/summary.json").read_text())["heldout"][0]
    stated = run.summary["heldout"][1]
    assert fresh["greedy"] == pytest.approx(stated["greedy"], abs=1.5 / 360)
    assert fresh["mean@8"] == pytest.approx(stated["mean@8"], abs=0.01)


def test_a_finished_run_started_again_does_nothing_and_says_so(run: KilledRun):
    before = (run.root / "metrics.jsonl").read_bytes()
    again = run_driver(run.arguments, timeout_s=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "finished already" in again.stdout
    assert (run.root / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_iteration=1"], "unknown key"),
        (["conf=tinny"], "no tinny.yaml"),
        (["model.path=/no/such/model"], "model.path=/no/such/model: no such folder"),
        (["sampler.num_solver=64"], "not enough CPU and memory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments, message):
    root = tmp_path / "run"
    result = run_driver(["conf=tiny", f"run_dir={root}", *arguments], timeout_s=60)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not root.exists()


def test_a_run_of_another_config_and_a_truncated_manifest_are_left_alone(run: KilledRun):
    before = {p: p.read_bytes() for p in run.root.glob("*") if p.is_file()}
    other = run_driver([*run.arguments, "seed=9"], timeout_s=60)
    assert (other.returncode, "seed was 0, now 9" in other.stderr) == (2, True)
    manifest = run.root / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:50])
    try:
        damaged = run_driver(run.arguments, timeout_s=60)
        assert (damaged.returncode, "manifest.json is damaged" in damaged.stderr) == (2, True)
        assert manifest.read_bytes() == whole[:50]
    finally:
        manifest.write_bytes(whole)
    assert {p: p.read_bytes() for p in run.root.glob("*") if p.is_file()} == before
