"""The import contract: which package imports which, and where Ray, vLLM and DeepSpeed may appear.

The algorithm stays free of the cluster, so that it can be read and tested without one. Every import
counts, also one inside a function or under TYPE_CHECKING. The rules are data at the top: a row per
package, and a new package needs one. `python -m tests.unit.test_import_contract` prints the graph.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "rzero_ray.types": "",
    "rzero_ray.text": "types",
    "rzero_ray.disk": "types text",
    "rzero_ray.config": "types text disk",
    "rzero_ray.protocols": "types",
    "rzero_ray.answers": "types",
    "rzero_ray.tasks": "types text disk config protocols",
    "rzero_ray.method": "types text disk config protocols answers tasks",
    "rzero_ray.run.report": "types text disk config protocols tasks run evaluation",
    "rzero_ray.run": "types text disk config protocols tasks",
    "rzero_ray.phases": "types text disk config protocols answers tasks method run",
    "rzero_ray.evaluation": "types text disk config protocols answers tasks method run",
    "rzero_ray.driver": (
        "types text disk config protocols answers tasks method run run.report phases evaluation"
    ),
    "rzero_ray.preflight": "types config method run tasks driver",
    "rzero_ray.study": (
        "types text disk config protocols answers tasks method run run.report phases evaluation "
        "driver"
    ),
    "rzero_ray.__main__": "config run run.report evaluation driver preflight study",
    "actors": "types text disk config protocols tasks method",
}
"""Of our packages, those (of `rzero_ray`) that each may import beside itself; the first row that a
module is under counts; between modules there
is no import cycle either. The algorithm's phases and the actors do not know each other."""

OPENS_THE_CLUSTER = (
    "rzero_ray.driver",
    "rzero_ray.evaluation.benchmarks.measuring",
    "rzero_ray.run.scale",
    "rzero_ray.study.gate",
    "rzero_ray.study.runs",
)
"""The modules that may import `actors.cluster`, and nothing else of `actors`."""

# Import names and the modules that may use them; a prefix ending in "." stands for a whole package.
ALLOWED_IN = {
    "ray": ("actors.",),
    "vllm": (
        "actors.weights.vllm_trainers",
        "actors.sampling.vllm_engine",
        "actors.sampling.vllm_metrics",
        "actors.sampling.vllm_process",
        "actors.sampling.vllm_thread",
        "actors.weights.vllm_backend",
    ),
    "deepspeed": ("actors.learning.deepspeed_rank",),
    "peft": ("actors.learning.lora",),
    "torch.distributed": ("actors.",),
    "transformers": (
        "rzero_ray.tasks.model_building",
        "rzero_ray.tasks.document_training",
        "rzero_ray.tasks.tiny_model",
        "rzero_ray.tasks.ladder.pretraining",
        "rzero_ray.tasks.bouquet.pretraining",
        "actors.",
    ),
}


def module_name(path: Path) -> str:
    """`rzero_ray/answers/parsing.py` -> `rzero_ray.answers.parsing`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_package(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


def our_files() -> list[Path]:
    return sorted(path for top in ("rzero_ray", "actors") for path in (ROOT / top).rglob("*.py"))


SOURCES = {module_name(p): p.read_text() for p in our_files() if p.name != "__init__.py"}
MODULES = SOURCES.keys()


def package_of(module: str) -> str | None:
    """The row of MAY_IMPORT that a module belongs to."""
    return next((row for row in MAY_IMPORT if f"{module}.".startswith(f"{row}.")), None)


def imported_names(source: str, module: str) -> set[str]:
    """Every dotted name that `source` imports: `package.module` or `package.module.name`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                above = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                names |= {f"{base}.{alias.name}" for alias in node.names}
            case ast.Attribute(value=ast.Name(id="torch"), attr="distributed"):
                names.add("torch.distributed")  # `import torch` alone reaches it
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def our_imports(source: str, module: str) -> set[str]:
    """Our modules that `source` imports; bare packages have empty inits and are left out."""
    found: set[str] = set()
    for name in imported_names(source, module):
        parent = name.rpartition(".")[0]
        if name in MODULES:
            found.add(name)
        elif parent in MODULES:
            found.add(parent)
        elif name.startswith(("rzero_ray.", "actors.")) and not is_package(name):
            found.add(name)  # no such module, which is what gets reported
    return found


def violations(source: str, module: str) -> list[str]:
    """What in `source` breaks the contract if it were the file of `module`, one line each."""
    problems: list[str] = []
    for name in sorted(imported_names(source, module)):
        for library, owners in ALLOWED_IN.items():
            if (f"{name}.").startswith(f"{library}.") and not (f"{module}.").startswith(
                tuple(owner if owner.endswith(".") else f"{owner}." for owner in owners)
            ):
                problems.append(f"{module} imports {name}: only {', '.join(owners)} may")
    own = package_of(module)
    if own is None:
        return [*problems, f"{module} belongs to no row of MAY_IMPORT"]
    allowed = {own, *(f"rzero_ray.{name}" for name in MAY_IMPORT[own].split())}
    for target in sorted(our_imports(source, module)):
        theirs = package_of(target)
        if target == "actors.cluster" and module in OPENS_THE_CLUSTER:
            continue
        if target not in MODULES:
            problems.append(f"{module} imports {target}: no such module")
        elif theirs not in allowed:
            problems.append(f"{module} imports {target}: {own} may import {MAY_IMPORT[own]}")
    return problems


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle in order, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_the_rules_are_of_packages_that_exist():
    assert SOURCES, f"no modules found under {ROOT}"
    assert {package_of(module) for module in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", SOURCES)
def test_module_keeps_the_contract(module: str):
    problems = violations(SOURCES[module], module)
    assert not problems, "\n".join(problems)


def test_modules_import_without_cycles():
    graph = {module: our_imports(source, module) - {module} for module, source in SOURCES.items()}
    cycle = find_cycle(graph)
    assert not cycle, " -> ".join(cycle)


def test_the_driver_loads_nothing_that_only_actors_use():
    """Each would cost seconds at every start."""
    heavy = ("torch", "transformers", "vllm", "deepspeed", "pandas", "datasets", "matplotlib")
    script = (
        "import sys, rzero_ray.driver, actors.cluster\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_init_files_are_empty():
    inits = [path for path in our_files() if path.name == "__init__.py"]
    full = [str(path.relative_to(ROOT)) for path in inits if path.read_text().strip()]
    assert not full, f"code in {full}: importing a package must import nothing else"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rzero_ray.method.losses", "import ray"),
        ("rzero_ray.method.losses", "def f():\n    from vllm import LLM"),
        ("rzero_ray.method.losses", "import torch.distributed as dist"),
        ("rzero_ray.method.losses", "from torch import distributed"),
        ("rzero_ray.method.losses", "import torch\ntorch.distributed.barrier()"),
        ("rzero_ray.method.losses", "import importlib\nimportlib.import_module('deepspeed')"),
        ("rzero_ray.method.losses", "from rzero_ray.phases.solver import train_solver"),
        ("rzero_ray.method.losses", "from rzero_ray.phases import solver"),
        ("rzero_ray.method.losses", "from ..phases import solver"),
        ("rzero_ray.method.losses", "from rzero_ray.run import run"),
        ("rzero_ray.method.losses", "from transformers import AutoTokenizer"),
        ("rzero_ray.method.losses", "from rzero_ray.method.no_such_module import f"),
        ("rzero_ray.answers.voting", "from rzero_ray.tasks.registry import make_task"),
        ("rzero_ray.answers.parsing", "from rzero_ray.config.config import Config"),
        ("rzero_ray.tasks.arithmetic", "from ..phases.solver import train_solver"),
        ("rzero_ray.types", "from rzero_ray.method.rewards import f"),
        ("rzero_ray.run.run", "from rzero_ray.evaluation.answering import evaluate"),
        ("rzero_ray.run.run", "from rzero_ray.run.report.page import make_page"),
        ("rzero_ray.evaluation.scores", "from rzero_ray.run.report.markup import escape"),
        ("rzero_ray.phases.solver", "from rzero_ray.evaluation.answering import evaluate"),
        ("rzero_ray.evaluation.answering", "from rzero_ray.phases.solver import train_solver"),
        ("rzero_ray.evaluation.answering", "from actors.cluster import start_sampling"),
        ("rzero_ray.phases.solver", "from actors.cluster import start_cluster"),
        ("rzero_ray.phases.solver", "from actors import cluster"),
        ("rzero_ray.driver", "import ray"),
        ("rzero_ray.driver", "from actors.sampling.sampler import Sampler"),
        ("rzero_ray.unlisted", "from rzero_ray.types import Rollout"),
        ("actors.sampling.sampler", "from rzero_ray.run.run import Run"),
        ("actors.sampling.sampler", "from rzero_ray.phases.solver import train_solver"),
        ("actors.sampling.sampler", "import rzero_ray.driver"),
        ("actors.sampling.sampler", "from vllm import SamplingParams"),
        ("actors.sampling.vllm_engine", "import deepspeed"),
        ("actors.learning.deepspeed_rank", "from peft import LoraConfig"),
    ],
)
def test_checker_finds(module: str, source: str):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rzero_ray.method.losses", "import torch\nfrom rzero_ray.types import Rollout"),
        ("rzero_ray.method.losses", "from . import logprobs"),
        ("rzero_ray.tasks.tiny_model", "import transformers\nfrom .arithmetic import f"),
        ("rzero_ray.phases.solver", "import rayon, vllm_notes\nfrom rzero_ray import types"),
        ("rzero_ray.run.report.page", "from rzero_ray.evaluation.scores import difference"),
        ("rzero_ray.driver", "from actors.cluster import f\nfrom rzero_ray.phases import solver"),
        ("actors.sampling.vllm_engine", "import ray\nfrom vllm.config import VllmConfig"),
        ("actors.sampling.vllm_engine", "from rzero_ray.protocols import Policy"),
        ("actors.learning.deepspeed_rank", "import deepspeed\nimport torch.distributed as dist"),
    ],
)
def test_checker_allows(module: str, source: str):
    assert violations(source, module) == []


def test_checker_finds_a_cycle():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not find_cycle({"a": {"b", "c"}, "b": {"c"}})
