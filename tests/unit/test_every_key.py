"""Every key of every command, with values that mean nothing: refused in one line, or loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from rzero_ray.config.arguments import AuditArguments, CompareArguments, ReportArguments
from rzero_ray.config.audits import AuditConfig
from rzero_ray.config.config import Config
from rzero_ray.config.evaluation import EvaluationConfig, load_evaluation_config
from rzero_ray.config.load import load_config
from rzero_ray.config.rules import declared_keys
from rzero_ray.driver import _check_and_run, _dry_run
from rzero_ray.evaluation.compare import _split
from rzero_ray.evaluation.labels.command import _parse
from rzero_ray.run.directory import prepare_run_dir
from rzero_ray.run.report.command import main as report
from rzero_ray.types import UserError

SCHEMAS = (Config, EvaluationConfig, AuditArguments, CompareArguments, ReportArguments)
NUMBERS = (".nan", ".inf", "-1", "0", "1" * 30, "[1]")
TEXTS = ("", "x" * 300, "a\nb\x1b", "\udcff", "~nobody-here/x", "${oc.env:HOME}", "${x}")
OTHERS = ("nan", "-1", "x")


def _type_of(schema: type, name: str) -> Any:
    return get_type_hints(declared_keys(schema)[name].section)[name.rpartition(".")[2]]


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


def _tried(schema: type, section: str) -> Iterator[tuple[str, str]]:
    for name in declared_keys(schema):
        if name.rpartition(".")[0] == section:
            yield from ((name, value) for value in _values(schema, name))


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


@pytest.mark.parametrize("section", _sections(Config))
def test_train_refuses_or_plans(section: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in _tried(Config, section):

        def load(argument: str) -> None:
            _dry_run(load_config(["conf=qwen3_8b", argument]))

        _check(name, value, load)
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("section", _sections(EvaluationConfig))
def test_evaluate_refuses_or_loads(section: str):
    for name, value in _tried(EvaluationConfig, section):
        _check(name, value, lambda argument: load_evaluation_config(["model=m/x", argument]))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "run"
    with prepare_run_dir(load_config(["conf=tiny"]), root):
        return root


@pytest.mark.parametrize("schema", [AuditArguments, AuditConfig])
def test_audit_refuses_or_loads(schema: type, run_dir: Path):
    for name in declared_keys(schema):
        for value in _values(schema, name):
            given = [f"run_dir={run_dir}", "oracle=exact"]
            _check(name, value, lambda argument, given=given: _parse([*given, argument]))


def test_compare_refuses_or_loads():
    for name, value in _tried(CompareArguments, ""):
        _check(name, value, lambda argument: _split([argument]))


def test_report_refuses(capsys):
    for name, value in _tried(ReportArguments, ""):
        assert report([f"{name}={value}"]) == 2
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
    _check_and_run(["conf=qwen3_8b", "num_iterations=10000", "--dry-run"])
    assert "x 10000 and the base's evaluation" in capsys.readouterr().out
