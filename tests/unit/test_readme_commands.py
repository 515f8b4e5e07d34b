"""Every command of a README: a test runs it, or it needs what is not here and says so.

`ROWS` names, by patterns, what runs each command of the code blocks of all .md files; what nothing
runs is listed in CONTRIBUTING.md. A command without a row fails, a row without a command, too. All
of them are parsed: keys are such that the program takes, and shell is bash.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.readme_commands import (
    ROOT,
    Command,
    blocks,
    command_blocks,
    commands,
    commands_of,
    is_of_commands,
    parsed,
)

GPUS = "GPUs and a model of that size"
HUB = "a GPU and the internet"
MODEL = "a model of your own"
HOURS = "hours"
ITSELF = "to be run by hand: they run the tests"
INTERNET = "the internet"
BUCKET = "a bucket in a cloud"
KUBERNETES = "Kubernetes and a registry of images"
SLURM = "Slurm"
AWS = "an account of AWS"
GRAFANA = "Grafana"


@dataclass(frozen=True)
class Row:
    """Commands that match a pattern as a whole, without comments and line breaks."""

    pattern: str
    test: str = ""
    """`file::name` of what runs them, maybe in another size."""
    needs: str = ""
    """Why nothing runs them."""
    listed: str = ""
    """How the list of CONTRIBUTING.md names them."""


LOCAL = "tests/unit/test_readme_commands.py::test_local_sh_becomes_the_driver"
DRIVER = "tests/cluster/test_driver.py::test_summary_and_report_are_complete"
STUDY = "tests/cluster/test_study.py::test_a_stopped_study_goes_on_where_it_was"
SLURM_JOB = (
    "tests/cluster/test_launch_clusters.py::"
    "test_a_slurm_job_whose_time_is_up_is_queued_again_and_goes_on"
)
JOINED = (
    "tests/cluster/test_launch_clusters.py::"
    "test_the_commands_of_ray_up_join_hosts_and_a_slurm_job_joins_them"
)
AUDIT = "tests/cluster/test_audit.py::test_a_served_model_the_exact_oracle_and_a_filled_in_sheet"
SCALE = "tests/cluster/test_elastic.py::test_the_command_reaches_the_driver"
PROMETHEUS = "tests/cluster/test_metrics.py::test_every_panel_of_the_dashboard_has_data_in_a_run"
JOBS = "tests/faults/jobs.py::run"
RZERO = r"(\.venv/bin/|RAY_ADDRESS=local )?(rzero|python -m rzero_ray)"

ROWS = (
    # A run on this machine.
    Row(r"bash launch/local\.sh( conf=tiny)?( --dry-run| num_iterations=1 seed=3)?", test=LOCAL),
    Row(
        r"bash launch/local\.sh conf=tiny ablation=frozen_challenger name=\S+",
        test="tests/unit/test_coevolution.py::"
        "test_a_frozen_challenger_poses_every_curriculum_and_never_learns",
    ),
    Row(
        r"bash launch/local\.sh conf=tiny algorithm=paper ablation=\S+ name=\S+",
        test="tests/unit/test_coevolution.py::test_labels_of_the_oracle_are_the_true_answers",
    ),
    Row(
        r"bash launch/local\.sh seed=S pipeline\.staleness=1 name=stale",
        test="tests/unit/test_coevolution.py::test_rollouts_are_at_most_as_stale_as_configured",
    ),
    Row(
        r"bash launch/local\.sh conf=my\.yaml .*",
        needs=MODEL,
        listed="bash launch/local.sh conf=my.yaml model.path=...",
    ),
    Row(
        r"bash launch/local\.sh conf=tiny storage_path=s3://.*",
        needs=BUCKET,
        listed="storage_path=s3://...",
    ),
    Row(rf"{RZERO} train conf=tiny( --dry-run)?", test=DRIVER),
    Row(
        rf"({RZERO} train|bash launch/local\.sh) conf=(ladder|bouquet)\b.*",
        needs=HOURS,
        listed="rzero train conf=ladder, conf=bouquet",
    ),
    Row(rf"{RZERO} train conf=qwen3_8b.*", needs=GPUS, listed="rzero train conf=qwen3_8b"),
    # What is done with runs and models.
    Row(
        rf"{RZERO} report run_dir=\S+.*",
        test="tests/unit/test_run_directory.py::test_a_stored_run_is_reported_without_being_changed",
    ),
    Row(
        r"\.venv/bin/tensorboard --logdir \S+",
        test="tests/unit/test_scalars.py::test_steps_go_on_over_iterations",
    ),
    Row(
        rf"{RZERO} evaluate model=(tiny|runs/tiny\S+) .*suite=heldout.*",
        test="tests/cluster/test_evaluate.py::test_every_benchmark_is_answered_graded_and_kept",
    ),
    Row(rf"{RZERO} evaluate .*Qwen.*", needs=HUB, listed="rzero evaluate with suite=math or all"),
    Row(rf"{RZERO} audit run_dir=runs/tiny-seed0 oracle=(exact|human|openai .*)", test=AUDIT),
    Row(r"\.venv/bin/python -m vllm\.entrypoints\.openai\.api_server .*", test=AUDIT),
    Row(
        rf"{RZERO} compare conf=tiny .*",
        test="tests/unit/test_compare.py::test_arms_have_equal_budgets_and_start_where_they_should",
    ),
    Row(rf"{RZERO} study folder=studies/first( report=true| compare=\S+)?", test=STUDY),
    Row(
        rf"{RZERO} study gate=ladder .*",
        test="tests/unit/test_gate.py::test_the_command_prints_the_table_and_refuses_what_are_no_seeds",
    ),
    Row(rf"{RZERO} study .*", needs=HOURS, listed="rzero study conf=ladder, conf=bouquet"),
    # A Ray cluster.
    Row(
        r"source launch/env\.sh",
        test="tests/unit/test_launch_files.py::test_env_sh_is_read_here_as_a_shell_reads_it",
    ),
    Row(r"ray (start --head|stop)", test=JOINED),
    Row(r"ray job submit --working-dir \. -- python -m rzero_ray\.driver conf=tiny", test=JOBS),
    Row(r"prometheus --config\.file .*", test=PROMETHEUS),
    Row(r"curl -s 'http://127\.0\.0\.1:9090/api/v1/query.*", test=PROMETHEUS),
    Row(r"grafana-server .*", needs=GRAFANA, listed="grafana-server"),
    Row(r"(docker build|sed -i) .*", needs=KUBERNETES, listed="docker build"),
    Row(r"(\w+=\$\()?kubectl .*", needs=KUBERNETES, listed="kubectl"),
    Row(
        r"ACCELERATOR=cuda bash launch/setup\.sh",
        test="tests/unit/test_environment.py::test_a_dry_run_says_what_would_be_installed_and_makes_nothing",
    ),
    Row(r"sbatch .* launch/slurm\.sh .*", test=SLURM_JOB),
    Row(r"sbatch .* launch/slurm-join\.sh .*", test=JOINED),
    Row(r"RAY_ADDRESS=auto srun .* rzero scale .*", needs=SLURM, listed="srun ... rzero scale"),
    Row(r"python -m pip install boto3|mkdir -p build && git archive .*", needs=AWS, listed="boto3"),
    Row(
        r"ray (up|exec|dashboard) .*|export RAY_ADDRESS=http://\S+|ray job submit --no-wait .*",
        needs=AWS,
        listed="ray up launch/cluster.yaml",
    ),
    # Tests and measurements.
    Row(
        r"bash (launch/test\.sh.*|\.ci/run)|\.venv/bin/python -m pytest -m long",
        needs=ITSELF,
        listed="bash launch/test.sh, bash .ci/run, pytest -m long",
    ),
    Row(r"\.venv/bin/pre-commit install", needs=INTERNET, listed="pre-commit install"),
    Row(
        r"bash launch/setup\.sh tests",
        test="tests/unit/test_environment.py::test_a_dry_run_says_what_would_be_installed_and_makes_nothing",
    ),
    Row(
        r"(\.venv/bin/)?python -m tests\.faults kills .*",
        test="tests/cluster/test_kills.py::test_a_run_goes_on_without_whom_it_has_lost",
    ),
    Row(r"(\.venv/bin/)?python -m tests\.faults.*", needs=HOURS, listed="python -m tests.faults"),
    Row(
        r"((RAY_ADDRESS|RZERO_BENCH_RUNS)=\S+ |for .*)?python -m tests\.bench.*",
        needs=HOURS,
        listed="python -m tests.bench",
    ),
)


def row_of(command: Command) -> Row | None:
    """Return the first row whose pattern a command matches."""
    return next((row for row in ROWS if re.fullmatch(row.pattern, command.text)), None)


def test_blocks_and_commands_are_found():
    text = "a\n\n    bash x \\\n        y   # why\n\n    ray stop\n\n```sh\nrzero train\n```\n\n"
    text += "    A -> B\n"
    found = list(blocks(text))
    assert [[line for _, line in block] for block in found] == [
        ["bash x \\", "    y   # why", "ray stop"],
        ["rzero train"],
        ["A -> B"],
    ]
    assert [is_of_commands(block) for block in found] == [True, True, False]
    assert [str(c) for c in commands_of("f", found[0])] == ["f:3: bash x y", "f:6: ray stop"]
    assert len(commands()) > 100
    assert {command.place.partition(":")[0] for command in commands()} > {
        "README.md",
        "CONTRIBUTING.md",
        "conf/README.md",
        "launch/clusters.md",
        "tests/bench/README.md",
    }


# The table.


def test_every_command_has_a_row():
    alone = [str(command) for command in commands() if row_of(command) is None]
    assert not alone, "no row for " + "\n".join(alone)


def test_every_row_has_a_command():
    used = {row_of(command) for command in commands()}
    assert not [row.pattern for row in ROWS if row not in used]


def test_what_rows_name_is_there():
    for row in ROWS:
        assert bool(row.test) != bool(row.needs) and bool(row.needs) == bool(row.listed), row
        if row.test:
            file, _, name = row.test.partition("::")
            tree = ast.parse((ROOT / file).read_text())
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in names, row.test


def test_the_list_of_what_nothing_runs_is_that_of_the_rows():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## Commands that no test runs")[2].partition("\n## ")[0]
    stated = {
        found[1]: set(re.findall(r"`([^`]+)`", found[2]))
        for found in re.finditer(r"^- \*\*(.+?):\*\* ((?:.|\n  )+)", section, re.M)
    }
    expected: dict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        if row.needs:
            expected[row.needs].add(row.listed)
    assert stated == expected


# Parsing.


@pytest.mark.parametrize(("name", "block"), command_blocks(), ids=lambda of: str(of)[:40])
def test_a_block_is_bash(name: str, block: list[tuple[int, str]]):
    script = "\n".join(line for _, line in block).replace("<those above>", "rzero")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), name


def test_all_keys_are_such_that_the_program_takes(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("name: mine\n")
    stands_for = {
        "conf=my.yaml": f"conf={tmp_path / 'my.yaml'}",
        "<those above>": "rzero",
        "seed=S": "seed=0",
        " FOLDER": " /tmp/models",
    }
    count = 0
    for command in commands():
        text = command.text
        for given, real in stands_for.items():
            text = text.replace(given, real)
        try:
            count += parsed(shlex.split(text.replace("&&", "").replace(";", " ")))
        except Exception as error:
            pytest.fail(f"{command}: {error}")
    assert count > 60


@pytest.mark.parametrize(
    "text",
    [
        "rzero train conf=tiny num_iteration=1",
        "bash launch/local.sh sover.num_steps=1",
        "rzero study folder=x conf=ladder arms=rzeo",
        "rzero evaluate model=tiny siute=heldout",
        "rzero audit run_dir=x orcale=exact",
        "rzero report run_dir=x srve=true",
        "rzero scale run_dir=x slover=1",
        "python -m tests.bench polo",
        "python -m tests.bench pool promts=1",
        "python -m tests.faults soak minuets=1",
        "python -m tests.no_such_module",
        "bash launch/no_such_script.sh",
    ],
)
def test_a_mistyped_key_would_be_found(text: str):
    with pytest.raises(Exception):  # noqa: B017 - each program refuses in its own way
        parsed(shlex.split(text))


# Running.


def test_local_sh_becomes_the_driver(tmp_path: Path):
    """As it is, in a copy of the checkout whose set-up is done."""
    for name in ("rzero_ray", "actors", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "launch").mkdir()
    for name in ("local.sh", "token.sh"):
        shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
    (tmp_path / "launch/setup.sh").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/ray").symlink_to(Path(sys.executable).parent / "ray")
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    command = ["bash", "launch/local.sh", "num_iterations=1", "seed=3", "--dry-run"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "name: tiny" in done.stdout and "seed: 3" in done.stdout  # conf=tiny is its own
    assert "learner/rank" in done.stdout
