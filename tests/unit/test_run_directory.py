"""A run directory goes on under later versions of the program, and knows its own format."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rzero_ray import driver
from rzero_ray.__main__ import main
from rzero_ray.config.load import load_config
from rzero_ray.disk.files import append_line, remove_folder, replacing, write_text_durably
from rzero_ray.disk.folder import held
from rzero_ray.driver import load_run
from rzero_ray.run import directory
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import (
    check_run_dir,
    hold_run_dir,
    how_it_began,
    load_stored_config,
    prepare_run_dir,
)
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.run import Run
from rzero_ray.run.stored import StoredRun, by_number
from rzero_ray.types import Step, UserError
from tests.unit.fakes import SilentObserver
from tests.unit.test_coevolution import OVERRIDES, Attempt
from tests.unit.test_installed import ROOT

STORED = Path(__file__).parent / "data/run-of-the-flat-layout.tar.gz"
"""A run on the fakes, killed in the last step of the second iteration's Solver phase, and the
metrics of the same run without a stop; made by the program when its modules lay flat."""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "old-run"


def _figures(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # The clock's, what rows have said since, and what the stored rollouts do not say: how many
    # updates their weights had.
    varying = ("seconds", "limits", "staleness")
    return [{k: v for k, v in row.items() if not k.startswith(varying)} for row in rows]


def _added(root: Path) -> Mapping[str, object]:
    begun = how_it_began(root)
    assert begun is not None
    return begun.added


def _set_stored(root: Path, key: str, value: object) -> None:
    tree = yaml.safe_load((root / "config.yaml").read_text())
    *sections, name = key.split(".")
    inner = tree
    for section in sections:
        inner = inner[section]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    (root / "config.yaml").write_text(yaml.safe_dump(tree))


def test_a_run_directory_of_the_flat_layout_goes_on_to_the_same_figures(stored: Path):
    attempt = Attempt(load_run([*OVERRIDES, f"run_dir={stored}"]), stored)
    attempt.go()
    assert attempt.solver.updates[0][0] == "iteration-02/solver/step-003"
    assert not attempt.challenger.updates
    again = _figures(stored / "metrics.jsonl")
    assert again == _figures(stored.parent / "metrics.whole.jsonl")


def test_a_stored_run_is_reported_without_being_changed(stored: Path, capsys):
    before = {p: p.read_bytes() for p in stored.rglob("*") if p.is_file()}
    assert main(["report", f"run_dir={stored}"]) == 0
    made = {stored / "summary.json", stored / "report.html"}
    after = {p: p.read_bytes() for p in stored.rglob("*") if p.is_file() and p not in made}
    assert after == before
    assert str(stored / "report.html") in capsys.readouterr().out
    summary = json.loads((stored / "summary.json").read_text())
    assert summary["num_finished_iterations"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "run_dir=... is missing"),
        (["run_dir=/nowhere"], "has no config.yaml"),
        (["rundir=x"], "the nearest is run_dir"),
    ],
)
def test_report_refuses_in_one_line(arguments: list[str], text: str, capsys):
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_key_that_was_added_resumes_at_its_default(stored: Path):
    # As if the key had come after the run began, and a preset had then set a new value.
    _set_stored(stored, "challenger.normalize_std", None)
    arguments = [*OVERRIDES, f"run_dir={stored}"]
    assert _added(stored)["challenger.normalize_std"] is True
    conf = stored.parent / "later.yaml"
    conf.write_text("challenger:\n  normalize_std: false\n")
    later = ["conf=tiny," + str(conf), *arguments[1:]]
    assert load_config(later).challenger.normalize_std is False
    config = load_run(later)
    assert config.challenger.normalize_std is True
    check_run_dir(config, stored)
    assert load_stored_config(stored).challenger.normalize_std is True
    # An argument that contradicts it is refused, with the key and both values.
    given = load_run([*arguments, "challenger.normalize_std=false"])
    with pytest.raises(UserError, match=r"before challenger.normalize_std existed.*=True, not Fal"):
        check_run_dir(given, stored)


def test_a_preset_that_says_something_else_now_counts_as_it_was(stored: Path):
    arguments = [*OVERRIDES, f"run_dir={stored}"]
    config = load_run(arguments)
    assert load_config(arguments).challenger.reward == "discounted"
    assert config.challenger.reward == "paper"  # what `recommended` was when this run began
    assert config.solver.loss.kl_estimator == "k3"
    check_run_dir(config, stored)
    # Another preset is another method: refused, with the key.
    with pytest.raises(UserError, match="algorithm was recommended, now paper"):
        check_run_dir(load_run([*arguments, "algorithm=paper"]), stored)
    _set_stored(stored, "ablation", "no_band_filter")
    with pytest.raises(UserError, match="ablation was no_band_filter, now ;"):
        check_run_dir(load_run([*arguments, "ablation="]), stored)
    _set_stored(stored, "ablation", "")
    # So is an argument, or an experiment, that says something else than it did.
    with pytest.raises(UserError, match=r"solver.num_steps was 3, now 4"):
        check_run_dir(load_run([*arguments, "solver.num_steps=4"]), stored)


def test_a_whole_section_that_was_added_resumes_at_its_defaults(stored: Path):
    _set_stored(stored, "pipeline", None)
    assert _added(stored)["pipeline.staleness"] == 0
    check_run_dir(load_run([*OVERRIDES, f"run_dir={stored}"]), stored)


def test_a_key_that_was_renamed_is_found(stored: Path, monkeypatch):
    _set_stored(stored, "solver.num_steps", None)
    _set_stored(stored, "solver.steps", 3)
    monkeypatch.setitem(directory.RENAMED_KEYS, "solver.steps", "solver.num_steps")
    check_run_dir(load_run([*OVERRIDES, f"run_dir={stored}"]), stored)
    assert load_stored_config(stored).solver.num_steps == 3
    with pytest.raises(UserError, match=r"solver.num_steps was 3, now 4"):
        check_run_dir(load_run([*OVERRIDES, "solver.num_steps=4", f"run_dir={stored}"]), stored)


def test_a_run_with_a_seed_of_the_tiny_model_resumes(stored: Path):
    _set_stored(stored, "model.tiny_seed", 3)
    check_run_dir(_load([*OVERRIDES, "model.base_seed=3", f"run_dir={stored}"]), stored)
    assert load_stored_config(stored).model.base_seed == 3
    with pytest.raises(UserError, match=r"model\.tiny_seed is now model\.base_seed"):
        load_config(["conf=tiny", "model.tiny_seed=3"])
    with pytest.raises(UserError, match="unknown key: argument tiny_seed"):
        load_config(["conf=tiny", "tiny_seed=3"])


def test_an_old_name_is_refused_with_the_new_one(monkeypatch):
    monkeypatch.setitem(directory.RENAMED_KEYS, "solver.steps", "solver.num_steps")
    with pytest.raises(UserError, match=r"solver.steps: solver.steps is now solver.num_steps"):
        load_config(["conf=tiny", "solver.steps=4"])


def test_a_key_that_is_gone_is_refused_by_name(stored: Path):
    _set_stored(stored, "solver.num_dreams", "a secret")
    with pytest.raises(UserError, match=r"solver.num_dreams, a .*nearest is solver.num_") as found:
        check_run_dir(load_config([*OVERRIDES, f"run_dir={stored}"]), stored)
    assert "\n" not in str(found.value) and "a secret" not in str(found.value)


def test_a_gone_key_that_changes_no_result_is_passed_over(stored: Path):
    _set_stored(stored, "sampler.num_dreams", 3)
    check_run_dir(load_run([*OVERRIDES, f"run_dir={stored}"]), stored)
    load_stored_config(stored)


def test_a_damaged_config_is_one_line(stored: Path):
    for text, reason in (
        ("solver: [", "it is not valid YAML: line 2: "),
        ("solver: 1\nsolver: 2\n", "it is not valid YAML: line 2: .*duplicate key"),
        ("{" * 100_000, "it is nested in more than 20 levels"),
        ("", "it holds no keys"),
        ("seed: null\n", "seed has no value"),
    ):
        (stored / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"config.yaml is damaged .{reason}"):
            load_run([*OVERRIDES, f"run_dir={stored}"])


@pytest.mark.parametrize(
    "content",
    [
        '{"format": 1, "finished": "iteration-00", "checkpoint": null}',
        '{"format": 1, "finished": {"iteration-00": 1}, "checkpoint": null}',
        '{"format": 1, "finished": [1], "checkpoint": null}',
        '{"format": 1, "finished": ["iteration-01/solver/step-x"], "checkpoint": null}',
        '{"format": 1, "finished": ["iteration-01/dreamer"], "checkpoint": null}',
        '{"format": 1, "finished": ["iteration-00", "iteration-1"], "checkpoint": null}',
        '{"format": 1, "finished": ["iteration-00/solver/step-0001"], "checkpoint": null}',
        f'{{"format": 1, "finished": ["iteration-{"9" * 5000}"], "checkpoint": null}}',
        '{"format": 1, "finished": [], "checkpoint": 3}',
        "null",
        "",
        None,
    ],
)
def test_a_manifest_that_is_none_is_one_line(stored: Path, content: str | None, capsys):
    path = stored / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
        with pytest.raises(UserError, match=r"manifest.json is damaged"):
            check_run_dir(load_stored_config(stored), stored)
    assert main(["report", f"run_dir={stored}"]) == 2
    error = capsys.readouterr().err
    assert "manifest.json is damaged" in error and error.count("\n") == 1


def test_finished_keys_are_a_set_and_sort_as_numbers(tmp_path: Path):
    path = tmp_path / "manifest.json"
    iterations = [f"iteration-{i:02d}" for i in range(100)]
    steps = [f"iteration-100/solver/step-{i:03d}" for i in range(1, 1000)]
    manifest = Manifest(path, [*steps, *iterations])
    for key in (
        "iteration-100",
        "iteration-100/solver/step-1000",
        "iteration-100/solver/step-999",
        "iteration-100/challenger",
        "iteration-100/solver",
        "iteration-09/solver",
    ):
        manifest.finish(key)
    assert json.loads(path.read_text())["finished"] == [
        *iterations[:9],
        "iteration-09/solver",
        *iterations[9:],
        "iteration-100/challenger",
        *steps,
        "iteration-100/solver/step-1000",
        "iteration-100/solver",
        "iteration-100",
    ]
    again = Manifest.read(path)
    assert [step.index for step in again.steps("solver", 100)] == list(range(1, 1001))
    assert again.last_learned(("challenger", "solver")) == ("solver", 100)
    assert again.last_learned(("challenger",)) == ("challenger", 100)
    assert Manifest(path).last_learned(("solver",)) is None


def test_folders_sort_as_numbers(tmp_path: Path):
    for name in ("step-1000", "step-999", "step-x", "step-002"):
        (tmp_path / name).mkdir()
    assert [p.name for p in by_number(tmp_path, "step-*")] == ["step-002", "step-999", "step-1000"]


def test_old_checkpoints_go_by_number(tmp_path: Path):
    config = load_config([*OVERRIDES, "checkpoint.keep=2", f"run_dir={tmp_path}"])
    prepare_run_dir(config, tmp_path)
    run = Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())
    folder = tmp_path / "checkpoints/iteration-01/solver"
    for index in (998, 999, 1000):
        (folder / f"step-{index}").mkdir(parents=True)
    checkpoint = folder / "step-1000"
    step = Step(iteration=1, phase="solver", index=1000, checkpoint=checkpoint)
    run.finish_step(step, {})
    run.close()
    assert {p.name for p in folder.iterdir()} == {"step-999", "step-1000"}


def test_with_shared_weights_the_role_that_learned_last_counts(tmp_path: Path):
    config = replace(load_config(OVERRIDES), shared_weights=True)
    prepare_run_dir(config, tmp_path)
    stored = StoredRun(config, tmp_path, Path("/base"))
    assert stored.current_model("solver") == Path("/base")
    stored.manifest.finish("iteration-01/solver")
    stored.manifest.finish("iteration-01/challenger")
    assert stored.current_model("challenger").name == "solver-iteration-01"
    stored.manifest.finish("iteration-02/challenger")
    assert stored.current_model("solver").name == "challenger-iteration-02"


def test_a_new_run_directory_has_all_keys(tmp_path: Path):
    config = load_config(OVERRIDES)
    prepare_run_dir(config, tmp_path)
    assert _added(tmp_path) == {}
    assert load_stored_config(tmp_path) == config
    shutil.rmtree(tmp_path)
    assert how_it_began(tmp_path) is None


def _run_of(tmp_path: Path, *more: str) -> Run:
    config = load_config([*OVERRIDES, *more, f"run_dir={tmp_path}"])
    prepare_run_dir(config, tmp_path)
    return Run(config, tmp_path, Path("/base"), StageClock(), SilentObserver())


def _finish_iterations(run: Run, accuracies: list[float]) -> set[str]:
    """Finish iterations with these mean@2 and return the models that are left."""
    models = run.stored.root / "models"
    for iteration, accuracy in enumerate(accuracies):
        for role in ("challenger", "solver") if iteration else ():
            (models / f"{role}-iteration-{iteration:02d}").mkdir(parents=True)
            run.stored.manifest.finish(f"iteration-{iteration:02d}/{role}")
        row = {"iteration": iteration, "num_problems": 3, "greedy": 0.0, "cot_share": 0.0}
        row |= {"accuracy_given_cot": 0.0, "mean@2": accuracy, "mean@2_ci95": [0.0, 1.0]}
        run.finish_iteration(iteration, {**row, "maj@2": 0.0})
    run.close()
    return {path.name for path in models.iterdir()}


def test_the_last_models_stay_and_every_nth_and_the_best(tmp_path: Path):
    run = _run_of(tmp_path, "checkpoint.keep_models.every=4")
    assert _finish_iterations(run, [0.9, 0.1, 0.2, 0.8, 0.3, 0.4, 0.5]) == {
        "challenger-iteration-04",
        "solver-iteration-04",
        "solver-iteration-03",  # the best; the base does not count
        "challenger-iteration-06",
        "solver-iteration-06",
    }


def test_a_model_that_was_removed_is_one_line_that_names_those_that_are_kept(tmp_path, capsys):
    run = _run_of(tmp_path / "run", "checkpoint.keep_models.every=0")
    left = _finish_iterations(run, [0.1, 0.2, 0.3])
    gone = tmp_path / "run/models/solver-iteration-01"
    assert gone.name not in left
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"question": "1+1", "answer": "2"}\n')
    given = ["evaluate", f"model={gone}", "task=arithmetic", f"suite={suite}"]
    assert main([*given, f"output_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{gone}: no such folder" in error
    assert f"this run has kept (checkpoint.keep_models) {', '.join(sorted(left))}" in error
    assert not (tmp_path / "out").exists()


def test_fewest_and_all_models(tmp_path: Path):
    fewest = ["checkpoint.keep_models.every=0", "checkpoint.keep_models.best=false"]
    left = _finish_iterations(_run_of(tmp_path / "a", *fewest), [0.1, 0.9, 0.2, 0.3])
    assert left == {"challenger-iteration-03", "solver-iteration-03"}
    every = _run_of(tmp_path / "b", "checkpoint.keep_models.every=1")
    assert len(_finish_iterations(every, [0.1, 0.9, 0.2, 0.3])) == 6


def test_the_tiny_experiment_and_runs_from_before_the_rule_keep_all_models(stored: Path):
    assert load_config(["conf=tiny"]).checkpoint.keep_models.every == 1
    assert load_config(["conf=qwen3_8b"]).checkpoint.keep_models.every == 5
    conf = stored.parent / "later.yaml"
    conf.write_text("checkpoint: {keep_models: {every: 3}}\n")
    config = load_run(["conf=tiny," + str(conf), *OVERRIDES[1:], f"run_dir={stored}"])
    assert config.checkpoint.keep_models.every == 1
    given = [*OVERRIDES, "checkpoint.keep_models.every=2", f"run_dir={stored}"]
    assert load_run(given).checkpoint.keep_models.every == 2


def test_removing_follows_no_link(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "run"
    for index in (1, 2, 3):
        (outside / f"step-00{index}").mkdir(parents=True)
    run = _run_of(root, "checkpoint.keep=1")
    folder = root / "checkpoints/iteration-01/solver"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(outside)
    step = Step(iteration=1, phase="solver", index=3, checkpoint=folder / "step-003")
    run.finish_step(step, {})
    (root / "models").mkdir()
    (root / "models/link").symlink_to(outside)
    remove_folder(root / "models/link", root)
    run.close()
    assert len(list(outside.iterdir())) == 3
    assert not list((root / "models").iterdir())


def test_replacing_and_appending_write_through_no_link(tmp_path: Path):
    other = tmp_path / "precious"
    other.write_text("mine")
    partial = tmp_path / f".report.html.{os.getpid()}.partial"
    partial.symlink_to(other)
    (tmp_path / "log.jsonl").symlink_to(other)
    write_text_durably(tmp_path / "report.html", "page")
    with pytest.raises(OSError):
        append_line(tmp_path / "log.jsonl", "{}")
    assert other.read_text() == "mine"
    assert (tmp_path / "report.html").read_text() == "page"
    assert not os.path.lexists(partial)


def test_two_that_replace_one_file_at_once_leave_a_whole_one(tmp_path: Path):
    """A report may be asked for while the run's driver writes its own."""
    path = tmp_path / "report.html"
    other = "import sys\nfrom pathlib import Path\nfrom rzero_ray.disk.files import *\n"
    other += "write_text_durably(Path(sys.argv[1]), 'other')"
    with replacing(path) as stream:
        stream.write(b"first ")
        stream.flush()
        subprocess.run([sys.executable, "-c", other, str(path)], check=True, cwd=ROOT)
        assert path.read_text() == "other"
        stream.write(b"half")
    assert path.read_text() == "first half"
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_a_refused_command_leaves_no_folder_that_it_made(tmp_path: Path):
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(UserError), held(there / "a/b/c", "run_dir", 0):
        raise UserError("no room for the engines")
    assert there.is_dir() and not list(there.iterdir())
    with pytest.raises(UserError), held(there / "a/b/c", "run_dir", 0):
        (there / "a/mine").write_text("precious")
        raise UserError("no room for the engines")
    assert [path.name for path in there.rglob("*")] == ["a", "mine"]


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in (
        ["report", "run_dir=x"],
        ["compare", "conf=tiny", "labelled.path=tiny", "root=x"],
        ["evaluate", "model=tiny", "suite=heldout", "output_dir=x"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "has been removed since" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_damaged_line_is_named_and_no_line_after_it_is_lost(stored: Path, name: str, capsys):
    path = stored / name
    lines = (stored / "metrics.jsonl").read_text().splitlines()
    if name == "events.jsonl":
        lines = [json.dumps({"time": 1.0, "event": "start"})] * 6
    lines[3] = f"#{lines[3][1:]}"
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    for command in (["train", *OVERRIDES], ["report"]):
        assert main([*command, f"run_dir={stored}"]) == 2
        error = capsys.readouterr().err
        assert f"{path}, line 4, is damaged" in error and error.count("\n") == 1
    assert path.read_bytes() == before
    assert not (stored / "summary.json").exists()


def test_a_cut_last_line_is_what_a_stop_leaves(stored: Path):
    path = stored / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-10])
    run = Run(load_stored_config(stored), stored, Path("/base"), StageClock(), SilentObserver())
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:-1])
    run.add_event("start")
    with (stored / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1.0, "ev')
    Run(load_stored_config(stored), stored, Path("/base"), StageClock(), SilentObserver())
    assert [event["event"] for event in run.stored.log.events()] == ["start"]
    assert (stored / "events.jsonl").read_text().endswith("}\n")


def test_a_finished_step_without_a_row_is_told(stored: Path, capsys):
    path = stored / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert main(["report", f"run_dir={stored}"]) == 0
    told = capsys.readouterr().err
    assert (
        "has lost the lines of 1 finished steps, the first of iteration-01/challenger/step-001"
        in told
    )


@pytest.mark.parametrize(
    "finished",
    [
        ["iteration-00", "iteration-01/solver/step-002"],
        ["iteration-00", "iteration-99999"],
        ["iteration-01/solver/step-001"],
        ["iteration-00", "iteration-01", "iteration-01/solver/step-001"],
    ],
)
def test_a_manifest_with_a_gap_is_one_line(stored: Path, finished: list[str], capsys):
    content = {"format": 1, "finished": finished, "checkpoint": None}
    (stored / "manifest.json").write_text(json.dumps(content))
    assert main(["report", f"run_dir={stored}"]) == 2
    assert "which comes before it, is not" in capsys.readouterr().err


def test_the_folder_is_looked_at_before_ray(tmp_path: Path, monkeypatch, capsys):
    def join(config):
        raise AssertionError("Ray was reached")

    monkeypatch.setattr(driver, "join_cluster", join)
    root = tmp_path / "run"
    config = load_config([*OVERRIDES, f"run_dir={root}"])
    arguments = ["train", *OVERRIDES]
    with hold_run_dir(config, root):
        assert main([*arguments, f"run_dir={root}"]) == 2
        assert "is in use" in capsys.readouterr().err
    assert not root.exists()  # nothing was begun in it
    for place in ("/proc/x", "/dev/null", "/dev/null/x", "x" * 300, "~nobody-of-this-name/x"):
        assert main([*arguments, f"run_dir={place}"]) == 2
        error = capsys.readouterr().err
        assert (
            f"run_dir={place}"[:40] in error.replace(f"{Path.cwd()}/", "")
            and error.count("\n") == 1
        )
    full = shutil.disk_usage(tmp_path)._replace(free=20 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert main([*arguments, f"run_dir={root}"]) == 2
    assert "0.0 GiB free on its disk, needs at least 1.0" in capsys.readouterr().err
    assert not root.exists()


@pytest.mark.parametrize(
    "name", ["config.yaml", "table.md", "manifest.json.old", "comparison.md", "comparison.json"]
)
def test_a_users_folder_is_no_run_and_no_evaluation(tmp_path: Path, name: str, capsys):
    (tmp_path / name).write_text("precious: mine\n")
    for command in (
        ["train", *OVERRIDES, f"run_dir={tmp_path}"],
        ["evaluate", "model=tiny", "suite=heldout", f"output_dir={tmp_path}"],
        ["compare", "conf=tiny", "labelled.path=tiny", f"root={tmp_path}"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path} holds other files ({name})" in error and error.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious: mine\n"]


def test_a_users_conf_in_the_output_folder_is_not_overwritten(tmp_path: Path, capsys):
    conf = tmp_path / "config.yaml"
    text = f"model: tiny\nsuite: heldout\ntask: arithmetic\noutput_dir: {tmp_path}\n"
    conf.write_text(text)
    assert main(["evaluate", f"conf={conf}"]) == 2
    error = capsys.readouterr().err
    assert "holds other files (config.yaml)" in error and error.count("\n") == 1
    assert conf.read_text() == text


def test_a_run_is_no_evaluation_and_no_comparison(stored: Path, capsys):
    before = {p: p.read_bytes() for p in stored.rglob("*") if p.is_file()}
    for command in (
        ["evaluate", "model=tiny", "suite=heldout", f"output_dir={stored}"],
        ["compare", "conf=tiny", "labelled.path=tiny", f"root={stored}"],
    ):
        assert main(command) == 2
        assert "holds other files" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in stored.rglob("*") if p.is_file()} == before
