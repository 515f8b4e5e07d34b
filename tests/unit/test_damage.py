"""Whatever is wrong with a file of a run or an evaluation: one line, and nothing is changed.

Every file of a run directory is damaged in every way, and each command is given the run. It may go
on (exit 0), or refuse in one line (exit 2) without having changed a byte anywhere. Ray and the
engines are left out, at the place where the driver joins them; all else is the program itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from rzero_ray import driver
from rzero_ray.__main__ import main
from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.config import Config
from rzero_ray.config.layout import engines_alone
from rzero_ray.config.load import load_config
from rzero_ray.driver import coevolve
from rzero_ray.evaluation.benchmarks import command as evaluate_command
from rzero_ray.evaluation.benchmarks.jobs import write_settings
from rzero_ray.evaluation.benchmarks.measuring import answer_benchmark
from rzero_ray.evaluation.labels import command as audit_command
from rzero_ray.protocols import Cast
from rzero_ray.run import recording
from rzero_ray.run.report import candidate_plots, drawing, plots, timeline
from rzero_ray.run.report import command as report_command
from rzero_ray.run.trace import TraceFile
from rzero_ray.types import Phase, Rollout, Step, UpdateReport, Vocabulary
from tests.marks import long, slow
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver
from tests.unit.test_coevolution import Attempt, Killed, SmallTask

OVERRIDES = [
    "conf=tiny",
    "num_iterations=2",
    "challenger.num_steps=1",
    "challenger.num_prompts=8",
    "curriculum.num_candidates=12",
    "curriculum.candidates_per_step=12",
    "solver.num_steps=2",
    "solver.num_prompts=2",
    "solver.samples_per_prompt=3",
    "eval.num_samples=2",
    "audit.oracle=exact",
    "audit.num_questions=3",
]


class Writer(FakePolicy):
    """A fake that leaves the files of a learner."""

    async def update(
        self, rollouts: Sequence[Rollout], step: Step, vocabulary: Vocabulary | None = None
    ) -> UpdateReport:
        if step.checkpoint is not None:
            shutil.rmtree(step.checkpoint, ignore_errors=True)
        report = await super().update(rollouts, step, vocabulary)
        if step.checkpoint is not None:
            (step.checkpoint / "mp_rank_00_model_states.pt").write_bytes(b"state")
        return report

    async def finish_phase(self, phase: Phase) -> None:
        await super().finish_phase(phase)
        write_model(phase.final_model)


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"w": np.zeros(9, np.float32)}, folder / "model.safetensors")


class OfModels(Attempt):
    """A start of the driver on fakes that write models."""

    def __init__(self, root: Path) -> None:
        super().__init__(load_config([*OVERRIDES, f"run_dir={root}"]), root)
        self.challenger, self.solver = Writer("challenger"), Writer("solver")
        self.solver.borrows_from = self.challenger


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in the last step of the second iteration's Solver phase."""
    root = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(Killed):
        OfModels(root).go(kill_at=15)
    assert "iteration-02/solver/step-001" in (root / "manifest.json").read_text()
    assert "iteration-02/solver/step-002" not in (root / "manifest.json").read_text()
    TraceFile(root).close()
    assert main(["report", f"run_dir={root}"]) == 0
    assert main(["audit", f"run_dir={root}", "oracle=human"]) == 0
    return root


async def measure(config, subject, jobs, console) -> None:
    """Answer by a fake, and keep what the program itself keeps of that."""
    write_settings(config, subject, Path(subject.path))
    for job in jobs:
        answered = await answer_benchmark(
            job,
            FakePolicy("solver"),
            FakeJudge(),
            SmallTask(),
            seed=0,
            settings=EvalConfig(num_samples=job.num_samples, max_tokens=32),
            limit=2,
        )
        subject.write_answers(job, answered, seconds=1.0)


@pytest.fixture(autouse=True)
def without_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put fakes where the commands join Ray, and draw no plots: they take a second each."""

    async def on_cluster(config, layout, run, clock, pace) -> None:
        challenger, solver = Writer("challenger"), Writer("solver")
        solver.borrows_from = challenger
        challenger.weights = run.stored.current_model("challenger")
        solver.weights = run.stored.current_model("solver")
        await coevolve(config, Cast(challenger, solver, FakeJudge(), SmallTask()), run)

    monkeypatch.setattr(
        driver, "join_cluster", lambda config: ("nowhere", engines_alone(config.sampler))
    )
    monkeypatch.setattr(driver, "_run_on_cluster", on_cluster)
    monkeypatch.setattr(driver, "obtain_model", lambda model: Path("/base"))
    check = driver.checked_shape
    monkeypatch.setattr(
        driver,
        "checked_shape",
        lambda config, at: None if at == Path("/base") else check(config, at),
    )
    monkeypatch.setattr(recording, "ScalarLog", lambda root: SilentObserver())
    for module in (plots, candidate_plots, timeline, drawing):
        monkeypatch.setattr(module, "draw", lambda size, paint, num_axes=1: "<svg></svg>")
    monkeypatch.setattr(evaluate_command, "measure", measure)


# Damages. Each gets a file and a folder outside of the run.


def missing(path: Path, outside: Path) -> None:
    path.unlink()


def empty(path: Path, outside: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path, outside: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_byte_changed(path: Path, outside: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x15
    path.write_bytes(content)


def nested(path: Path, outside: Path) -> None:
    path.write_text("[" * 100_000)


def another_object(path: Path, outside: Path) -> None:
    path.write_text('{"a": 1}\n')


def a_link(path: Path, outside: Path) -> None:
    target = outside / "target"
    path.rename(target)
    path.symlink_to(target)


def a_link_to_nothing(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / "nothing")


def a_folder(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("precious")


def a_pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def not_readable(path: Path, outside: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads whatever it likes; a folder in its place stands for it")
    path.chmod(0)


DAMAGES = [
    missing,
    truncated,
    long(empty),
    slow(one_byte_changed),
    long(nested),
    slow(another_object),
    slow(a_link),
    long(a_link_to_nothing),
    slow(a_folder),
    slow(a_pipe),
    slow(not_readable),
]


def snapshot(*folders: Path) -> dict[Path, object]:
    """Return what lies in folders; a lock that was held is no change."""
    found: dict[Path, object] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_symlink():
                found[path] = os.readlink(path)
            elif path.is_file():
                found[path] = path.read_bytes()
            else:
                found[path] = path.stat().st_mode
    return {path: what for path, what in found.items() if not path.name.endswith(".lock")}


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "train": lambda run, out: ["train", *OVERRIDES, f"run_dir={run}"],
    "report": lambda run, out: ["report", f"run_dir={run}"],
    "audit": lambda run, out: ["audit", f"run_dir={run}", "oracle=exact"],
    "audit by a person": lambda run, out: ["audit", f"run_dir={run}", "oracle=human"],
    "evaluate": lambda run, out: [
        "evaluate",
        f"model={run}/models/solver-iteration-01",
        "task=arithmetic",
        f"suite={out.parent / 'suite.jsonl'}",
        "num_samples=2",
        f"output_dir={out}",
    ],
}


def files_of(root: Path) -> list[Path]:
    """Return a file of each kind, the latest where there are several."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    names = [path.relative_to(root) for path in files if not path.name.endswith(".lock")]
    return list({re.sub(r"\d+", "N", str(name)): name for name in names}.values())


READ_BY: dict[str, Callable[[Path], bool]] = {
    "evaluate": lambda name: name.parts[0] == "models",
    "audit by a person": lambda name: "audit" in name.name or name.name.startswith("curr"),
}
"""The files that a command could open, where that is not any."""


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    """The configuration of each command: reading it anew takes longer than all else."""
    config = load_config([*OVERRIDES, "run_dir=/"])
    by_a_person = replace(config, audit=replace(config.audit, oracle="human"))
    return {**dict.fromkeys(COMMANDS, config), "audit by a person": by_a_person}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    """A finished evaluation of a model of the run and of an earlier one."""
    place = tmp_path_factory.mktemp("evaluated")
    (place / "suite.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_command, "measure", measure)
        assert main(evaluate_again(whole, place)) == 0
    return place / "out"


def evaluate_again(run: Path, place: Path) -> list[str]:
    """Return the command that makes `evaluated`; once done, it measures nothing again."""
    return [
        "evaluate",
        f"model={run}/models/solver-iteration-01",
        f"base={run}/models/challenger-iteration-01",
        "task=arithmetic",
        f"suite={place / 'suite.jsonl'}",
        "num_samples=2",
        f"output_dir={place / 'out'}",
    ]


def finds_damage(name: Path, place: Path, arguments: list[str], capsys) -> None:
    """Give a command what was damaged: it goes on, or says so in one line and changes nothing. What
    lies behind a link stays as it is whatever comes."""
    before = snapshot(place)
    code = main(arguments)
    errors = capsys.readouterr().err.splitlines()
    told = [line for line in errors if not line.startswith("rzero_ray: warning")]
    assert code in (0, 2), f"{name}: exit {code}: {told}"
    assert len(told) == (code == 2), f"{name}: {told}"
    after = snapshot(place)
    if code == 2:
        assert str(place) in told[0], f"{name}: {told}"
        assert after == before, f"{name}: changed though refused"
    behind_links = {path for path in before if path.name == "target"}
    assert all(after.get(path) == before[path] for path in behind_links), f"{name}: written through"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_of_an_evaluation_is_one_line_or_does_not_matter(
    whole: Path, evaluated: Path, tmp_path: Path, damage, capsys
):
    names = files_of(evaluated)
    kinds = {"config.yaml", ".settings.json", "suite.json", "suite.parquet", "summary.json"}
    assert kinds <= {name.name for name in names}
    for name in names:
        place, outside = tmp_path / name.as_posix().replace("/", "_"), tmp_path / "outside"
        shutil.copytree(evaluated.parent, place)
        outside.mkdir()
        damage(place / "out" / name, outside)
        finds_damage(name, tmp_path, evaluate_again(whole, place), capsys)
        shutil.rmtree(place)
        shutil.rmtree(outside)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_of_a_run_is_one_line_or_does_not_matter(
    whole: Path, tmp_path: Path, damage, command: str, configs, capsys, monkeypatch
):
    names = filter(READ_BY.get(command, lambda name: True), files_of(whole))
    for name in sorted(names, key=lambda name: name.name not in ("config.yaml", "manifest.json")):
        place = tmp_path / name.as_posix().replace("/", "_")
        run, outside = place / "run", place / "outside"
        outside.mkdir(parents=True)
        shutil.copytree(whole, run)
        (outside / "suite.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
        damage(run / name, outside)
        if name.name not in ("config.yaml", "manifest.json"):
            config = replace(configs[command], run_dir=str(run))
            for module, function in (
                (driver, "load_run"),
                (report_command, "load_stored_config"),
                (audit_command, "load_stored_config"),
            ):
                monkeypatch.setattr(module, function, lambda *_, config=config: config)
        finds_damage(name, place, COMMANDS[command](run, outside / "out"), capsys)
        shutil.rmtree(place)


@pytest.mark.parametrize("texts", [[], ["one alone"]])
def test_answers_of_another_number_are_one_line(
    whole: Path, evaluated: Path, tmp_path: Path, texts: list[str], capsys
):
    shutil.copytree(evaluated.parent, tmp_path / "place")
    path = tmp_path / "place/out/model/suite.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["texts"] = texts
        if not texts:
            row |= {"answers": [], "truncated": [], "num_tokens": []}
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    finds_damage(path, tmp_path, evaluate_again(whole, tmp_path / "place"), capsys)
    assert main(evaluate_again(whole, tmp_path / "place")) == 2
    assert "sampled answers to a problem" in capsys.readouterr().err


def test_a_file_in_the_place_of_a_models_answers_is_one_line(
    whole: Path, evaluated: Path, tmp_path: Path, capsys
):
    shutil.copytree(evaluated.parent, tmp_path / "place")
    folder = tmp_path / "place/out/base"
    shutil.rmtree(folder)
    for make in (folder.write_text, folder.symlink_to):
        folder.unlink(missing_ok=True)
        make("nothing")
        finds_damage(folder, tmp_path, evaluate_again(whole, tmp_path / "place"), capsys)
        assert main(evaluate_again(whole, tmp_path / "place")) == 2
        assert f"{folder} is damaged (it is no folder)" in capsys.readouterr().err


def test_a_model_without_one_of_its_shards_is_one_line(whole: Path, tmp_path: Path, capsys):
    model = tmp_path / "run/models/solver-iteration-01"
    shutil.copytree(whole, tmp_path / "run")
    shutil.copyfile(model / "model.safetensors", tmp_path / "run/models/elsewhere.safetensors")
    for other in ("model-00002-of-00002.safetensors", "../elsewhere.safetensors"):
        index = {"metadata": {}, "weight_map": {"w": "model.safetensors", "v": other}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        before = snapshot(tmp_path)
        for command in ("train", "evaluate"):
            arguments = COMMANDS[command](tmp_path / "run", tmp_path / "out")
            (tmp_path / "suite.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
            assert main(arguments) == 2
            error = capsys.readouterr().err
            assert f"{other} is not in this folder" in error and error.count("\n") == 1
        (tmp_path / "suite.jsonl").unlink()
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("metrics.jsonl", {"kept": 10**25}, "kept"),
        ("metrics.jsonl", {"kept": -1}, "kept"),
        ("metrics.jsonl", {"seconds": {"wall": float("nan")}}, "seconds.wall"),
        ("metrics.jsonl", {"tokens_sampled": -5}, "tokens_sampled"),
        ("metrics.jsonl", {"dropped/easy": None}, "dropped/easy is no number"),
        ("iteration-01/evaluation.json", {"mean@2": float("nan")}, "finite number"),
        ("iteration-01/evaluation.json", {"greedy": float("inf")}, "finite number"),
        ("iteration-01/evaluation.json", {"mean@2_ci95": [0.0, float("nan")]}, "mean@2_ci95"),
        ("iteration-01/evaluation.json", {"tokens_sampled": 10**25}, "tokens_sampled"),
    ],
)
def test_a_figure_that_cannot_be_is_one_line(
    whole: Path, tmp_path: Path, name: str, changes: dict, reason: str, capsys
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if name == "metrics.jsonl":
        next(row for row in rows if row["phase"] == "curriculum").update(changes)
        (run / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | changes))
    for command in ("train", "report"):
        finds_damage(Path(name), tmp_path, COMMANDS[command](run, tmp_path / "out"), capsys)
    assert main(["report", f"run_dir={run}"]) == 2
    assert reason in capsys.readouterr().err
