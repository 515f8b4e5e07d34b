"""Every key of every command, with values that mean nothing: refused in one line, or loaded."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rzero_ray.config import evaluation, load
from rzero_ray.config.arguments import (
    AuditArguments,
    CompareArguments,
    ReportArguments,
    StudyArguments,
)
from rzero_ray.config.audits import AuditConfig
from rzero_ray.config.config import Config
from rzero_ray.config.evaluation import EvaluationConfig, load_evaluation_config
from rzero_ray.config.load import load_config
from rzero_ray.config.rules import check_value, declared_keys
from rzero_ray.config.sources import as_written, read_arguments
from rzero_ray.driver import _dry_run, check_and_run
from rzero_ray.evaluation.labels.command import _parse
from rzero_ray.run import directory
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.report.command import main as report
from rzero_ray.study.command import parse
from rzero_ray.study.compare import _split
from rzero_ray.types import UserError

SCHEMAS = (
    Config,
    EvaluationConfig,
    AuditArguments,
    CompareArguments,
    ReportArguments,
    StudyArguments,
)
NUMBERS = (".nan", ".inf", "-1", "0", "1" * 30, "[1]")
TEXTS = ("", "x" * 300, "a\nb\x1b", "\udcff", "~nobody-here/x", "${oc.env:HOME}", "${x}")
OTHERS = ("nan", "-1", "x")


@pytest.fixture(autouse=True, scope="module")
def each_file_read_once() -> Iterator[None]:
    """Reading the files of `conf/` takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (load, evaluation, directory):
            patch.setattr(module, "read_yaml", cache(module.read_yaml))
        yield


def _type_of(schema: type, name: str) -> Any:
    return declared_keys(schema)[name].type


def _values(schema: type, name: str) -> tuple[str, ...]:
    kind = _type_of(schema, name)
    return NUMBERS if kind in (int, float) else TEXTS if kind is str else OTHERS


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_number_and_text_declares_its_rule(schema: type):
    names = [
        name
        for name, key in declared_keys(schema).items()
        if _type_of(schema, name) in (int, float, str) and key.rule is None
    ]
    assert not names, f"without a rule: {', '.join(names)}"


def _sections(schema: type) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in declared_keys(schema)})


def _keys(schema: type, section: str) -> list[str]:
    return [name for name in declared_keys(schema) if name.rpartition(".")[0] == section]


def _check(name: str, value: str, load: Callable[[str], object]) -> bool:
    """Return whether `name=value` is accepted; it must be that or one line, whatever it is."""
    try:
        load(f"{name}={value}")
    except UserError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 700, (name, value, line)
        last = name.rpartition(".")[2]
        assert last in line, (name, value, line)
        return False
    return True


def _check_values(schema: type, name: str, load: Callable[[str], object]) -> None:
    """Check each value of a key by the key's own type and rule, which takes a millisecond. The
    first value, and all that are accepted, go the whole way of the command as well."""

    def by_the_rule(argument: str) -> None:
        tree = as_written(read_arguments([(name, argument.partition("=")[2])], schema))
        rule = declared_keys(schema)[name].rule
        if rule is not None:
            check_value(name, tree[name], rule)

    for index, value in enumerate(_values(schema, name)):
        if _check(name, value, by_the_rule) or index == 0:
            _check(name, value, load)


@pytest.mark.slow
@pytest.mark.parametrize("section", _sections(Config))
def test_train_refuses_or_plans(section: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in _keys(Config, section):
        _check_values(Config, name, lambda a: _dry_run(load_config(["conf=qwen3_8b", a])))
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("section", _sections(EvaluationConfig))
def test_evaluate_refuses_or_loads(section: str):
    for name in _keys(EvaluationConfig, section):
        _check_values(EvaluationConfig, name, lambda a: load_evaluation_config(["model=m/x", a]))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "run"
    prepare_run_dir(load_config(["conf=tiny"]), root)
    return root


@pytest.mark.parametrize("schema", [AuditArguments, AuditConfig])
def test_audit_refuses_or_loads(schema: type, run_dir: Path):
    given = [f"run_dir={run_dir}", "oracle=exact"]
    for name in declared_keys(schema):
        _check_values(schema, name, lambda argument: _parse([*given, argument]))


def test_compare_refuses_or_loads():
    for name in _keys(CompareArguments, ""):
        _check_values(CompareArguments, name, lambda argument: _split([argument]))


def test_study_refuses_or_loads():
    for name in _keys(StudyArguments, ""):
        _check_values(StudyArguments, name, lambda argument: parse([argument]))


def test_report_refuses(capsys):
    for value in TEXTS:
        assert report([f"run_dir={value}"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_can_be_meant_is_accepted():
    for argument in (
        "challenger.sampling.top_k=-1",
        "drift.max_kl=.inf",
        "solver.loss.dual_clip=0",
    ):
        assert _check(*argument.split("="), lambda a: load_config(["conf=tiny", a]))


def test_a_plan_of_a_command_is_printed_to_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_and_run(["conf=qwen3_8b", "num_iterations=10000", "--dry-run"])
    assert "x 10000 and the base's evaluation" in capsys.readouterr().out
