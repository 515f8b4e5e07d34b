"""The command `study`: its errors in one line each, and what it does when runs fail or stop."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from actors import cluster as cluster_module
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.config.showing import TrackersConfig
from rzero_ray.protocols import Cast, Observer, Task
from rzero_ray.run import recording
from rzero_ray.run.shape import checked_shape
from rzero_ray.study import command as module
from rzero_ray.study import page
from rzero_ray.study.command import main
from rzero_ray.types import RunError
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver
from tests.unit.studies import BASE, OVERRIDES
from tests.unit.test_coevolution import SmallTask

ARMS = ("plain", "frozen_challenger", "ground_truth_labels")


class FakeCluster:
    """Roles that sample from a rule; `fails` says which run they do not survive."""

    def __init__(self, fails: Callable[[Config], BaseException | None]) -> None:
        self.runs: list[str] = []
        self.is_closed = False
        self._fails = fails

    def cast(self, config: Config, task: Task, *_: Any, **__: Any) -> Cast:
        assert not self.is_closed
        self.runs.append(Path(config.run_dir).name)
        error = self._fails(config)
        if error is not None:
            raise error
        challenger, solver = FakePolicy("challenger"), FakePolicy("solver")
        solver.borrows_from = challenger
        challenger.weights = solver.weights = "another run's"
        return Cast(challenger, solver, FakeJudge(), SmallTask())

    def shown(self, config: Config, run: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def told(self, tell: Callable[..., None]) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def close(self) -> None:
        self.is_closed = True


class Clusters:
    """The clusters that a command starts."""

    def __init__(self) -> None:
        self.started: list[FakeCluster] = []
        self.fails: Callable[[Config], BaseException | None] = lambda config: None
        self.start_fails: BaseException | None = None

    async def start(self, *_: Any) -> FakeCluster:
        await asyncio.sleep(0)
        if self.start_fails is not None:
            raise self.start_fails
        self.started.append(FakeCluster(self.fails))
        return self.started[-1]

    @property
    def runs(self) -> list[list[str]]:
        return [cluster.runs for cluster in self.started]


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    found = Clusters()
    monkeypatch.setattr(cluster_module, "start_cluster", found.start)
    monkeypatch.setattr(module, "join_cluster", lambda config, n: ("here", disaggregated(config)))
    monkeypatch.setattr(module, "obtain_model", lambda model: BASE)
    monkeypatch.setattr(module, "checked_shape", lambda config, folder: None)  # of no folder
    # A plot takes a second; `test_study_results` draws them.
    monkeypatch.setattr(page, "draw", lambda size, paint: "<svg></svg>")
    return found


def _command(root: Path, *others: str, arms: tuple[str, ...] = ARMS[:2]) -> list[str]:
    return [
        f"folder={root}",
        "conf=tiny",
        f"arms={','.join(arms)}",
        "bases=0,1",
        *OVERRIDES,
        *others,
    ]


def test_one_cluster_serves_all_runs_and_the_same_command_has_nothing_left(
    clusters: Clusters, tmp_path: Path, capsys
):
    assert main(_command(tmp_path)) == 0
    assert clusters.runs == [
        [f"{arm}-base-{base}-seed-0" for base in (0, 1) for arm in ARMS[:2]],
    ]
    assert clusters.started[0].is_closed
    lines = [line for line in capsys.readouterr().out.splitlines() if "iteration" in line]
    assert sum("plain base 0 seed 0: iteration 2/2  mean@2" in line for line in lines) == 1
    before = (tmp_path / "plan.json").read_text()
    assert main([f"folder={tmp_path}"]) == 0
    assert len(clusters.started) == 1 and (tmp_path / "plan.json").read_text() == before


def test_actors_that_cannot_hold_the_base_model_are_one_line_before_any_starts(
    clusters: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (tmp_path / "base").mkdir()
    shape = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
    config = {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, **shape}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    monkeypatch.setattr(module, "obtain_model", lambda model: tmp_path / "base")
    monkeypatch.setattr(module, "checked_shape", checked_shape)
    assert main(_command(tmp_path / "study", "sampler.tensor_parallel=3")) == 2
    assert "does not divide the 4 attention heads" in capsys.readouterr().err
    assert not clusters.started


def test_each_run_begins_with_its_own_models(clusters: Clusters, tmp_path: Path):
    """The fakes refuse to sample from weights that nobody has published or held."""
    assert main(_command(tmp_path, arms=("plain",))) == 0
    for base in (0, 1):
        events = (tmp_path / f"runs/plain-base-{base}-seed-0/events.jsonl").read_text()
        assert json.loads(events.splitlines()[0])["event"] == "start"


def test_a_run_of_a_study_is_written_down_like_any_other(
    clusters: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trackers: dict[Path, SilentObserver] = {}

    @contextmanager
    def opened(wanted: TrackersConfig, config: Config, root: Path) -> Iterator[list[Observer]]:
        assert wanted.wandb == "here"
        trackers[root] = SilentObserver()
        yield [trackers[root]]

    monkeypatch.setattr(recording, "opened_trackers", opened)
    command = _command(tmp_path, "trackers.wandb=here", arms=("plain",))
    assert main(command) == 0
    root = tmp_path / "runs/plain-base-0-seed-0"
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    assert trackers[root].rows == rows and len(trackers[root].evaluations) == 3
    trace = json.loads((root / "trace.json").read_text().rstrip(",\n") + "]")
    steps = [event["name"] for event in trace if event.get("args", {}).get("step")]
    assert steps == [f"iteration {r['iteration']} {r['phase']} step {r['step']}" for r in rows]
    assert {"grading", "write"} & {event.get("name") for event in trace}  # the clock is in it
    assert len(list((root / "tensorboard").iterdir())) == 1


def test_a_tracker_that_is_not_installed_ends_a_study_before_its_first_run(
    clusters: Clusters, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rzero_ray.run.trackers.find_spec", lambda package: None)
    assert main(_command(tmp_path, "trackers.wandb=here")) == 2
    assert "needs the package wandb" in capsys.readouterr().err
    assert not clusters.started and not (tmp_path / "plan.json").exists()


def test_workers_share_the_runs(clusters: Clusters, tmp_path: Path):
    assert main(_command(tmp_path, "workers=3")) == 0
    assert len(clusters.started) == 3 and sum(map(len, clusters.runs)) == 4
    assert all(cluster.is_closed for cluster in clusters.started)


def test_a_failed_run_is_one_line_and_the_others_go_on_on_a_new_cluster(
    clusters: Clusters, tmp_path: Path, capsys
):
    clusters.fails = lambda config: (
        RunError("an actor was lost")
        if config.challenger.frozen and config.model.base_seed == 0
        else None
    )
    assert main(_command(tmp_path)) == 1
    assert [len(runs) for runs in clusters.runs] == [2, 2]
    error = capsys.readouterr().err.splitlines()
    assert error == [
        "rzero_ray: failed: frozen_challenger base 0 seed 0: an actor was lost",
        "rzero_ray: failed: a run did not finish; the first: frozen_challenger base 0 seed 0: an "
        "actor was lost; the same command goes on",
    ]
    table = (tmp_path / "study.md").read_text()
    assert "| frozen_challenger | 1 of 2 |" in table and "| plain | 2 of 2 |" in table
    clusters.fails = lambda config: None
    assert main([f"folder={tmp_path}"]) == 0
    assert clusters.runs[2:] == [["frozen_challenger-base-0-seed-0"]]


def test_an_arm_that_takes_questions_waits_for_those_who_pose_them(
    clusters: Clusters, tmp_path: Path, capsys
):
    arms = ("yoked", "rzero")
    assert main(_command(tmp_path, "workers=2", arms=arms)) == 0
    order = [run for runs in clusters.runs for run in runs]
    assert sorted(order) == sorted(f"{arm}-base-{base}-seed-0" for arm in arms for base in (0, 1))
    for runs in clusters.runs:  # each on the cluster that has made the other
        assert [run.partition("-")[0] for run in runs] == ["rzero", "yoked"] * (len(runs) // 2)
    assert main(_command(tmp_path / "alone", arms=("yoked",))) == 2
    assert "takes the questions of arm rzero" in capsys.readouterr().err


def test_who_takes_the_questions_of_a_failed_run_is_not_begun(
    clusters: Clusters, tmp_path: Path, capsys
):
    clusters.fails = lambda config: RunError("no") if config.name == "rzero-base-0-seed-0" else None
    assert main(_command(tmp_path, arms=("rzero", "yoked"))) == 1
    assert [run for runs in clusters.runs for run in runs] == [
        "rzero-base-0-seed-0",
        "rzero-base-1-seed-0",
        "yoked-base-1-seed-0",
    ]
    error = capsys.readouterr().err
    assert "yoked base 0 seed 0: not begun, because the run whose questions it takes" in error


def test_two_failures_in_a_row_end_a_worker(clusters: Clusters, tmp_path: Path, capsys):
    clusters.fails = lambda config: RunError("no")
    assert main(_command(tmp_path)) == 1
    assert [len(runs) for runs in clusters.runs] == [1, 1]
    error = capsys.readouterr().err
    assert error.count("not begun, because all workers have ended") == 2
    assert "4 runs did not finish" in error


def test_a_cluster_that_does_not_start_ends_a_worker(clusters: Clusters, tmp_path: Path, capsys):
    clusters.start_fails = RunError("waited 9 s for all actors to start")
    assert main(_command(tmp_path)) == 1
    assert capsys.readouterr().err.count("waited 9 s") == 3  # two tries, and the last line
    assert (tmp_path / "study.html").exists()


def test_a_bug_shows_its_traceback_and_the_others_go_on(clusters: Clusters, tmp_path: Path, capsys):
    clusters.fails = lambda config: (
        ZeroDivisionError("x") if config.model.base_seed == 0 and config.challenger.frozen else None
    )
    assert main(_command(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "a bug, whose traceback is above: ZeroDivisionError" in error
    assert sum(map(len, clusters.runs)) == 4


def test_a_stop_is_a_stop_and_the_same_command_goes_on(clusters: Clusters, tmp_path: Path, capsys):
    clusters.fails = lambda config: KeyboardInterrupt() if config.challenger.frozen else None
    assert main(_command(tmp_path)) == 130
    assert clusters.started[0].is_closed
    assert capsys.readouterr().err == "rzero_ray: stopped; the same command goes on\n"
    clusters.fails = lambda config: None
    assert main([f"folder={tmp_path}"]) == 0
    assert clusters.runs[1][0] == "frozen_challenger-base-0-seed-0" and len(clusters.runs[1]) == 3


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "metrics.jsonl"])
def test_a_damaged_run_is_one_line_and_the_others_are_told(
    clusters: Clusters, tmp_path: Path, name: str, capsys
):
    assert main(_command(tmp_path, arms=("plain",))) == 0
    capsys.readouterr()
    damaged = tmp_path / "runs/plain-base-1-seed-0" / name
    damaged.write_text("{\n{")
    assert main([f"folder={tmp_path}", "report=true"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("rzero_ray: warning: left out: plain base 1 seed 0: ")
    assert str(damaged) in error and len(error.splitlines()) == 1
    assert damaged.read_text() == "{\n{"
    assert "| plain | 1 of 2 |" in (tmp_path / "study.md").read_text()


def test_a_run_that_cannot_go_on_does_not_keep_others_from_it(
    clusters: Clusters, tmp_path: Path, capsys
):
    clusters.fails = lambda config: RunError("no") if config.challenger.frozen else None
    main(_command(tmp_path))
    clusters.fails = lambda config: None
    (tmp_path / "runs/frozen_challenger-base-0-seed-0/events.jsonl").write_text("{\n{\n")
    capsys.readouterr()
    assert main([f"folder={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "frozen_challenger base 0 seed 0" in error and "Traceback" not in error
    assert clusters.runs[-1] == ["frozen_challenger-base-1-seed-0"]


def test_an_arm_that_is_added_is_marked(clusters: Clusters, tmp_path: Path):
    assert main(_command(tmp_path)) == 0
    assert main(_command(tmp_path, arms=ARMS)) == 0
    assert clusters.runs[1] == [f"ground_truth_labels-base-{base}-seed-0" for base in (0, 1)]
    table = (tmp_path / "study.md").read_text()
    (line,) = [text for text in table.splitlines() if "added after 4 runs" in text]
    assert line.startswith("| ground_truth_labels - plain |")


def test_one_base_and_arms_that_keep_nothing_are_told(clusters: Clusters, tmp_path: Path):
    nothing = ("curriculum.min_agreement=0", "curriculum.max_agreement=0", "bases=0")
    assert main(_command(tmp_path, *nothing, arms=("plain", "frozen_challenger"))) == 0
    table = (tmp_path / "study.md").read_text()
    assert "nan" not in table and "| frozen_challenger - plain | " in table
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored["arms"][0]["series"]["kept"][2]["value"] == 0
    assert "labels" not in stored["arms"][0]["series"]
    assert stored["comparisons"][0]["primary"]["low"] is None
    assert "<svg" in (tmp_path / "study.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "folder=... is missing; usage: "),
        (["folder=F"], "a new study needs conf=NAME, arms="),
        (["folder=F", "report=true", "conf=tiny", "arms=plain", "bases=0"], "holds no study yet"),
        (["folder=F", "conf=tiny", "arms=plian", "bases=0"], "the nearest is "),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0", "sover.n=1"], "nearest is solver."),
        (["folder=F", "conf=tny", "arms=plain", "bases=0"], "no tny.yaml in conf/; the nearest"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0,x"], "bases=0,x must be empty, or whole"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=3..1"], "bases=3..1 must be"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0,0"], "none twice"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0", "workers=0"], "workers=0 must be"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0", "seed=1"], "has its own; use arms"),
        (["folder=F", "conf=tiny", "arms=plain", "bases=0", "compare=plain:x"], "x is none of"),
        (["folder=F", "conf=tiny,labelled_grpo", "arms=plain", "bases=0"], "do not fit"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], complaint: str, tmp_path: Path, capsys):
    folder = f"folder={tmp_path / 'study'}"
    assert main([folder if a == "folder=F" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error and len(error.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(_command(tmp_path)) == 2
    assert "holds other files (letter.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_study_may_hold_files_that_are_not_its_own(clusters: Clusters, tmp_path: Path):
    assert main(_command(tmp_path, arms=("plain",))) == 0
    (tmp_path / "notes.md").write_text("mine")
    assert main([f"folder={tmp_path}"]) == 0
    assert main([f"folder={tmp_path}", "report=true"]) == 0
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_a_run_is_no_study(clusters: Clusters, tmp_path: Path, capsys):
    assert main(_command(tmp_path / "study", arms=("plain",))) == 0
    shutil.copytree(tmp_path / "study/runs/plain-base-0-seed-0", tmp_path / "run")
    assert main(_command(tmp_path / "run")) == 2
    assert "holds other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["arms=plain,frozen_challenger,ground_truth_labels"], "leave report=true out"),
        (["bases=0..2"], "leave report=true out"),
        (["conf=tiny", "challenger.num_steps=7"], "was planned with"),
    ],
)
def test_a_report_is_of_the_plan(
    clusters: Clusters, arguments: list[str], complaint: str, tmp_path: Path, capsys
):
    assert main(_command(tmp_path)) == 0
    before = (tmp_path / "study.json").read_text()
    capsys.readouterr()
    assert main([f"folder={tmp_path}", "report=true", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and (tmp_path / "study.json").read_text() == before


def test_a_plan_that_is_a_link_to_nothing_is_damaged(tmp_path: Path, capsys):
    (tmp_path / "plan.json").symlink_to("nowhere")
    assert main(_command(tmp_path)) == 2
    assert "plan.json is damaged" in capsys.readouterr().err


def test_a_study_may_be_moved(clusters: Clusters, tmp_path: Path, capsys):
    assert main(_command(tmp_path / "here", arms=("rzero", "yoked"))) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    capsys.readouterr()
    assert main([f"folder={tmp_path / 'there'}"]) == 0
    assert "4 runs are finished, 0 are to be made" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["curriculum/step-001/candidates", "challenger/step-001/rollouts"])
def test_votes_that_are_gone_are_not_taken_for_none(
    clusters: Clusters, name: str, tmp_path: Path, capsys
):
    assert main(_command(tmp_path)) == 0
    (tmp_path / f"runs/plain-base-0-seed-0/iteration-01/{name}.parquet").unlink()
    capsys.readouterr()
    assert main([f"folder={tmp_path}", "report=true"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "left out: plain base 0 seed 0" in line and "it is missing" in line
